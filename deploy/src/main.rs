//! The program `apcera`: the whole cluster in one process, or one role of it.
//!
//! ```text
//!  apcera [up]             everything on embedded parts, state in one directory
//!  apcera ROLE -c FILE     router, api, jm, hm, pm or im, over NATS and PostgreSQL as cluster.conf says
//!  apcera run A,B -c FILE  several roles, one process, one runtime
//!  apcera check -c FILE    is the file good?
//! ```
//!
//! Deliberately absent: whatever a role does; this program only starts and stops them in order.

mod arguments;
mod edge;
mod failure;
mod greeting;
mod joined;
mod machine;
mod managers;
mod roles;
mod secrets;
mod up;
mod worlds;

use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;
use failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A supervisor of one instance is this program under another name: it must not start anything else.
    runtime::shim::maybe_run();
    // One crypto provider in the process, before anybody asks for one. An error means that it is there already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let arguments = Arguments::parse();
    log_to_stderr(arguments.verbose);
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn serve(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        None => on_runtime(up::up(arguments.up)),
        Some(Command::Up(options)) => on_runtime(up::up(options)),
        Some(Command::Check(which)) => roles::check(&which.config),
        Some(Command::Version) => {
            println!("apcera {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Some(Command::Run(options)) => on_runtime(roles::run(&options.roles, options.role)),
        Some(Command::Role(role)) => {
            let (role, options) = role.split();
            on_runtime(roles::run(&[role], options))
        }
    }
}

/// Everything that is not a core of the router shares these threads.
fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    const THREADS_MAX: usize = 4;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|why| Failure::new("no threads for the runtime", why))?
        .block_on(work)
}

fn log_to_stderr(verbose: bool) {
    use tracing_subscriber::EnvFilter;
    let level = if verbose { "info,async_nats=warn" } else { "warn,async_nats=off" };
    let filter = EnvFilter::try_from_env("APCERA_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let json = std::env::var("APCERA_LOG_FORMAT").is_ok_and(|form| form == "json");
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that somebody else logs already.
    drop(if json {
        log.json().try_init()
    } else {
        log.with_target(false)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init()
    });
}
