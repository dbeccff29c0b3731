//! Each service of the cluster in isolation: how much it does in a second, and how long one thing takes.
//!
//! ```text
//! services                    all rows, a few seconds each
//! services --quick            the same with small sizes, so that it cannot rot
//! services --only store       rows whose names contain a word
//! services --postgres URL --nats URL    rows over real servers too
//! ```
//!
//! Everything runs in this process on one Tokio runtime of two threads, client and service sharing the processors: the
//! numbers say what a small machine does, not what a service could do alone. Deliberately absent: gates; machines differ.

mod api;
mod edge;
mod health;
mod messages;
mod placement;
mod records;
mod row;

use clap::Parser;
use row::Report;

/// Each service of the cluster in isolation.
#[derive(Parser)]
struct Arguments {
    /// Small sizes.
    #[arg(long)]
    quick: bool,
    /// Only rows whose names contain this.
    #[arg(long, value_name = "WORD", default_value = "")]
    only: String,
    /// Rows over this PostgreSQL too.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// Rows over this nats-server too.
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
}

fn main() {
    let arguments = Arguments::parse();
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads for the runtime");
    let mut report = Report::new(arguments.quick, &arguments.only);
    runtime.block_on(async {
        records::run(&mut report, arguments.postgres.as_deref()).await;
        messages::run(&mut report, arguments.nats.as_deref()).await;
        health::run(&mut report).await;
        placement::run(&mut report).await;
        api::run(&mut report).await;
        edge::run(&mut report).await;
    });
}
