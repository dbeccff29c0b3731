//! The cluster feed of the router: job records joined with announcements, confirmed drain, acknowledged commits.
//!
//! ```text
//!  job managers ── changes, beats, pages ──▶ jobs ─┐
//!                                                  ├─▶ join ─▶ applied ─▶ router::hub ─▶ cores
//!  instance managers ── announcements, beats ▶ ims ┘      └─▶ saver ─▶ table_file
//!  whoever asks ── await, drain, explain, proof ──▶ questions, proof
//! ```
//!
//! A message may be lost, doubled, late or early: numbers and digests show it, and the whole is asked for. Nothing that is
//! missing removes a route or an endpoint; only a later revision, a later announcement, or a health manager's word does.
//! Deliberately absent: placement, health of instances, the static file (`router::watch` feeds the same hub).

pub mod applied;
pub mod disk;
pub mod ims;
mod inbox;
pub mod jobs;
pub mod join;
pub mod lenient;
pub mod numbers;
mod proof;
pub mod questions;
mod saver;
mod service;
pub mod state;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bus::{Bus, Clock};
use router::hub::Hub;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::RouterId;

use numbers::Numbers;
use service::Service;

/// What the feed has to be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of this process; new at every start.
    pub router: RouterId,
    /// For people.
    pub hostname: String,
    /// Where the last good table is kept; none: nowhere.
    pub table_file: Option<PathBuf>,
}

/// Why the feed could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder of the file cannot be made.
    #[error("cannot make the folder of the table file {path}: {error}")]
    Folder {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

/// A feed that runs.
pub struct Running {
    /// Who this router is on the bus.
    pub router: RouterId,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Running {
    /// Waits until there is a table: from the file at once, else the first that is complete. Without a job manager there
    /// is none, however long that lasts. May be waited for beyond this value.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ready = self.shared.ready.subscribe();
        async move {
            // Who began to wait before the end waits for nothing after it.
            if ready.wait_for(|ready| *ready).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether [`Self::ready`] would return at once.
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready()
    }

    /// What is counted.
    pub fn numbers(&self) -> Numbers {
        self.shared.numbers()
    }

    /// Lines for the metrics page. May be kept beyond this value, for `router::admin::Admin::add_metrics`.
    pub fn metrics(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.metrics_text()
    }

    /// [`Self::metrics`], now.
    pub fn metrics_text(&self) -> String {
        self.shared.metrics_text()
    }

    /// Wait until the feed has ended, after its token was cancelled: farewell said, table saved.
    pub async fn ended(self) {
        if let Err(failed) = self.task.await
            && failed.is_panic()
        {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

/// What others read while the loop runs.
pub(crate) struct Shared {
    numbers: Mutex<Numbers>,
    /// Counted by the tasks that answer.
    pub(crate) drains_idle: Arc<AtomicU64>,
    ready: watch::Sender<bool>,
    clock: Clock,
}

impl Shared {
    pub(crate) fn set_ready(&self) {
        self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    pub(crate) fn set_numbers(&self, numbers: Numbers) {
        *self.numbers.lock().unwrap_or_else(PoisonError::into_inner) = numbers;
    }

    fn numbers(&self) -> Numbers {
        let numbers = *self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        Numbers { drains_idle: self.drains_idle.load(Ordering::Relaxed), ..numbers }
    }

    fn metrics_text(&self) -> String {
        self.numbers().text(self.clock.unix_ms(), lenient::unknown_routes())
    }
}

/// Serve what the file has, then follow the cluster until `stop` is cancelled. The bus may be away. Within a Tokio runtime;
/// reads the file before it returns.
pub fn start(
    settings: Settings,
    bus: Bus,
    hub: Arc<Hub>,
    stop: CancellationToken,
) -> Result<Running, StartError> {
    if let Some(path) = &settings.table_file
        && let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder)
            .map_err(|error| StartError::Folder { path: path.clone(), error })?;
    }
    let (ready, _) = watch::channel(false);
    let clock = bus.clock().clone();
    let shared =
        Arc::new(Shared { numbers: Mutex::default(), drains_idle: Arc::default(), ready, clock });
    let mut service = Service::new(&settings, bus, hub, Arc::clone(&shared), stop);
    service.restore();
    let task = tokio::spawn(service.run());
    Ok(Running { router: settings.router, shared, task })
}
