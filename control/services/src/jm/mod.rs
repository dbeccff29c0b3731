//! Job manager: compares what shall run with what runs, and asks instance managers for the difference.
//!
//! ```text
//!  jobs/ ─▶ routes.rs ─▶ routers
//!  jobs/, HM_LOOK ─▶ run.rs ─▶ HM_VIEW ─▶ plan.rs ─▶ act.rs, place.rs ─▶ bids, starts, stops, states
//!                      ▲
//!  leases/jm/ ─▶ leases.rs: for which jobs
//! ```
//!
//! Any number of job managers may run: each job has one that acts for it, found by leases; all publish routes. What one
//! remembers may be lost at any time. Deliberately absent: what runs, which the health manager knows, and where it fits,
//! which the instance managers know.

mod act;
pub mod agenda;
pub mod choose;
pub mod ends;
pub mod flights;
pub mod leases;
mod mind;
mod packages;
mod place;
pub mod plan;
mod routes;
mod run;
#[cfg(test)]
mod tests;
pub mod why;

pub use act::{CALL_TIMEOUT, CALLS_IN_FLIGHT_MAX, PERIOD_MS, ROUNDS_IN_FLIGHT_MAX};
pub use place::{BID_WINDOW_MS, NO_PLACEMENT_MS, OFFERS_MAX};
pub use routes::Ledger;
pub use run::{DELETED_KEPT_MS, JOBS_IN_HAND_MAX, SWEEP_MS, VIEWS_IN_FLIGHT_MAX};

use bus::{Bus, Sender};
use leases::{Held, Keeper};
use routes::Publisher;
use run::Loop;
use std::sync::Arc;
use store::Store;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a job manager may be told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of ids; none = from the operating system.
    pub seed: Option<u64>,
    /// How long an offer with a score of 100 is delayed.
    pub bid_window_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { seed: None, bid_window_ms: BID_WINDOW_MS }
    }
}

/// Why a job manager cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operating system gives no random numbers.
    #[error("there are no random numbers: {0}")]
    Random(String),
}

/// A job manager that runs. Dropping it ends it at once, as if its process were killed.
pub struct Running {
    /// As it speaks on the bus, and as the owner of leases.
    pub id: String,
    held: watch::Receiver<Held>,
    bus: Bus,
    tasks: JoinSet<()>,
}

impl Running {
    /// Returns when all of it has stopped.
    pub async fn ended(self) {
        crate::ended(self.tasks, "job manager").await;
    }

    /// Shards that it acts for now.
    #[must_use]
    pub fn shards(&self) -> Vec<usize> {
        self.held.borrow().shards(self.bus.clock().unix_ms())
    }

    /// Returns as soon as it acts for so many shards at least; never after it has ended.
    pub async fn acts_for(&self, shards: usize) {
        let (mut held, clock) = (self.held.clone(), self.bus.clock());
        if held.wait_for(|held| held.shards(clock.unix_ms()).len() >= shards).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Starts one. The id of `bus`'s sender owns the leases: two that run at once must not share it, and one that comes back
/// under its old id goes on without waiting for its old leases to end.
pub fn start(
    settings: Settings,
    bus: Bus,
    store: Store,
    stop: CancellationToken,
) -> Result<Running, StartError> {
    let rng = crate::random(settings.seed).map_err(StartError::Random)?;
    let id = bus.sender().id.clone();
    let bus = bus.speaking_as(Sender::new("jm", &id));
    let (tell_held, held) = watch::channel(Held::default());
    let (tell_managers, managers) = watch::channel(1);
    let keeper = Keeper {
        me: id.clone(),
        bus: bus.clone(),
        store: store.clone(),
        managers,
        held: tell_held,
    };
    let publisher = Publisher {
        me: id.clone(),
        bus: bus.clone(),
        store: store.clone(),
        managers: tell_managers,
    };
    let env = Arc::new(act::Env {
        bus: bus.clone(),
        store,
        held: held.clone(),
        rounds: Semaphore::new(ROUNDS_IN_FLIGHT_MAX),
        bid_window_ms: settings.bid_window_ms,
        stop: stop.clone(),
    });
    let work = Loop::new(env, rng);
    let mut tasks = JoinSet::new();
    tasks.spawn(publisher.run(stop.clone()));
    // Leases go back when nobody acts on them any more.
    let idle = CancellationToken::new();
    tasks.spawn(keeper.run(idle.clone()));
    tasks.spawn(async move {
        work.run(stop).await;
        idle.cancel();
    });
    Ok(Running { id, held, bus, tasks })
}
