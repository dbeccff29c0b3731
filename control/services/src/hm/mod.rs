//! Health manager: hears heartbeats, agrees with its likes about who is lost, tells who should look.
//!
//! ```text
//!  beats, switches ─▶ listen ─▶ Seen ─▶ look   ─▶ "look at these jobs"
//!  reports         ─▶            │  ▲─▶ answer ─▶ views
//!                                ▼  │
//!                  agree, judge ─▶ store (ims/, job-health/) ─▶ "this one is lost", notes
//! ```
//!
//! What was seen is in memory only and heard anew at each start; what must be decided once is a compare-and-set in the
//! store. Any number of health managers may run. Answers go on while the store is away, agreements wait for it.
//!
//! Deliberately absent: what should run. That is the job manager's.

mod agreement;
mod flapping;
pub mod notes;
mod seen;
mod tasks;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_loop;

pub use agreement::{Agreement, FORGET_MS, Step, Verdict, due};
pub use flapping::{duration, flapping, line};
pub use seen::{Changed, IMS_MAX, Seen, VIEW_BYTES_MAX};

use bus::Bus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::health::BEAT_MS;

/// What a health manager may be told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Period of the instance managers' beats; three missed ones are a loss.
    pub beat: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { beat: Duration::from_millis(BEAT_MS) }
    }
}

/// Why a health manager cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A period that no timer can keep.
    #[error("a beat of {0:?} is not between 10 ms and one hour")]
    Beat(Duration),
}

/// A health manager that runs.
pub struct Running {
    /// As it speaks on the bus.
    pub id: String,
    seen: Arc<Hm>,
    tasks: JoinSet<()>,
}

impl Running {
    /// Returns when all of it has stopped.
    pub async fn ended(self) {
        crate::ended(self.tasks, "health manager").await;
    }

    /// Whether it has heard of every instance manager that the store knows.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.seen.seen().complete()
    }

    /// Returns as soon as [`Self::complete`] says yes.
    pub async fn heard_all(&self) {
        // The sender lives in what we hold.
        drop(self.seen.complete.subscribe().wait_for(|complete| *complete).await);
    }

    /// Returns as soon as it answers questions; by then it listens as well.
    pub async fn answering(&self) {
        drop(self.seen.answers.subscribe().wait_for(|answers| *answers).await);
    }
}

/// Starts one. It listens soon after; it answers as soon as it has heard everybody, or after a second.
pub fn start(
    settings: Settings,
    bus: Bus,
    store: Store,
    stop: CancellationToken,
) -> Result<Running, StartError> {
    if settings.beat < Duration::from_millis(10) || settings.beat > Duration::from_secs(3_600) {
        return Err(StartError::Beat(settings.beat));
    }
    let hm = Arc::new(Hm {
        beat_ms: u64::try_from(settings.beat.as_millis()).unwrap_or(BEAT_MS),
        seen: Mutex::new(Seen::new(bus.clock().unix_ms())),
        to_look: Mutex::default(),
        to_judge: Mutex::default(),
        look: Notify::new(),
        judge: Notify::new(),
        agree: Notify::new(),
        report: Notify::new(),
        losses: Notify::new(),
        complete: watch::Sender::new(false),
        answers: watch::Sender::new(false),
        bus,
        store,
    });
    let mut tasks = JoinSet::new();
    tasks::spawn(&mut tasks, &hm, &stop);
    Ok(Running { id: hm.bus.sender().id.clone(), seen: hm, tasks })
}

/// What the tasks of one health manager share. The locks are held for single calls, never over a wait.
struct Hm {
    beat_ms: u64,
    bus: Bus,
    store: Store,
    seen: Mutex<Seen>,
    to_look: Mutex<Changed>,
    to_judge: Mutex<Changed>,
    look: Notify,
    judge: Notify,
    agree: Notify,
    report: Notify,
    losses: Notify,
    complete: watch::Sender<bool>,
    /// Its subscription to questions is in force.
    answers: watch::Sender<bool>,
}

impl Hm {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    fn now_ms(&self) -> u64 {
        self.bus.clock().unix_ms()
    }

    /// Takes something in, and wakes whom it concerns.
    fn apply(&self, event: impl FnOnce(&mut Seen) -> Changed) {
        let mut seen = self.seen();
        let changed = event(&mut seen);
        let complete = seen.complete();
        let failed = |job: &&wire::JobId| seen.ends(**job).any(|end| end.failed);
        let suspects: Vec<_> = changed.iter().filter(failed).copied().collect();
        drop(seen);
        self.complete.send_if_modified(|known| std::mem::replace(known, complete) != complete);
        if !suspects.is_empty() {
            lock(&self.to_judge).extend(suspects);
            self.judge.notify_one();
        }
        if !changed.is_empty() {
            lock(&self.to_look).extend(changed);
            self.look.notify_one();
        }
    }
}

/// A lock whose holder broke is still a lock: what it guards is whole between calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
