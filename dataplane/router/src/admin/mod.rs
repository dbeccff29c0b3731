//! The admin API: read the table, change it, wait until every core serves the change, see what happens.
//!
//! ```text
//!  GET  /                     dashboard            GET  /metrics              Prometheus
//!  GET  /healthz  /readyz     for balancers        GET  /v1/status            what runs, where, since when
//!  GET  /v1/table             routes and jobs      POST /v1/changes           one atomic set of changes
//!  GET  /v1/explain?url=&from=  why a URL goes where it goes
//!  GET  /v1/stats?by=route|job|instance            percentiles of the last seconds and since the start
//!  GET  /v1/draining          GET /v1/drain?job=&instance=&timeout_ms=
//! ```
//!
//! Runs on the side thread and touches the cores only through the [`Hub`]. Errors are JSON: `code`, `what`, `why`, `try`.
//! Deliberately absent: passwords. Who may connect decides: loopback, or a unix socket of mode 0600 (`guard.rs` keeps
//! other web pages out).

mod answer;
mod changes;
mod dashboard;
mod drain;
mod explain;
mod guard;
mod listen;
mod metrics;
mod sampler;
mod stats;
mod status;
mod table;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};

use crate::access_log::LogWriter;
use crate::hub::Hub;
use crate::watch::Source;

pub use explain::{BadUrl, Told, tell};
pub use listen::AdminListener;
use sampler::Sampler;

/// The largest set of changes, in bytes of JSON: about 100,000 changes.
pub const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What the handlers know.
pub struct Admin {
    hub: Arc<Hub>,
    engine: &'static str,
    source: Arc<Source>,
    log: Option<Arc<LogWriter>>,
    sampler: Sampler,
    ready: AtomicBool,
    more_metrics: OnceLock<Box<dyn Fn() -> String + Send + Sync>>,
}

impl Admin {
    /// For a router whose cores run on `engine`.
    pub fn new(
        hub: Arc<Hub>,
        engine: &'static str,
        source: Arc<Source>,
        log: Option<Arc<LogWriter>>,
    ) -> Arc<Self> {
        let (sampler, ready) = (Sampler::default(), AtomicBool::new(false));
        let more_metrics = OnceLock::new();
        Arc::new(Self { hub, engine, source, log, sampler, ready, more_metrics })
    }

    /// Add the metrics of whatever feeds this router to the page, in the exposition format. The first caller counts.
    pub fn add_metrics(&self, more: impl Fn() -> String + Send + Sync + 'static) {
        drop(self.more_metrics.set(Box::new(more)));
    }

    /// Serve until the task is dropped. Also takes the samples for the percentiles of the last seconds.
    pub async fn serve(self: Arc<Self>, listener: AdminListener) {
        let guard = guard::Guard { loopback: listener.is_loopback() };
        let routes = routes(Arc::clone(&self), guard);
        tokio::select! {
            () = listener.serve(routes) => {}
            () = Arc::clone(&self).sample_for_ever() => {}
        }
    }

    async fn sample_for_ever(self: Arc<Self>) {
        let every = std::time::Duration::from_millis(crate::stats::recent::TICK_MS);
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sampler.tick(&self.hub);
        }
    }
}

fn routes(admin: Arc<Admin>, guard: guard::Guard) -> axum::Router {
    axum::Router::new()
        .route("/", get(dashboard::page))
        .route("/dashboard.css", get(dashboard::style))
        .route("/dashboard.js", get(dashboard::script))
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(metrics::page))
        .route("/v1/status", get(status::status))
        .route("/v1/table", get(table::table))
        .route("/v1/changes", post(changes::changes))
        .route("/v1/explain", get(explain::explain))
        .route("/v1/stats", get(stats::stats))
        .route("/v1/draining", get(drain::draining))
        .route("/v1/drain", get(drain::drain))
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .with_state(admin)
}

#[cfg(test)]
mod tests;
