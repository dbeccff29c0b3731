//! API server, job manager, health manager, package manager: pure planners and dull loops.
//!
//! Each is started by a `start` of its own and runs until its token is cancelled. Deliberately absent: the instance
//! manager and the routers, which are crates of their own, and files of settings, which the caller reads.

pub mod api;
pub mod authorize;
mod follow;
pub mod hm;
pub mod jm;
pub mod jobs;
pub mod pm;

use rand::SeedableRng as _;
use rand::rngs::{StdRng, SysRng};
use tokio::task::JoinSet;

/// Random numbers from a seed, or from the operating system, which may have none.
fn random(seed: Option<u64>) -> Result<StdRng, String> {
    match seed {
        Some(seed) => Ok(StdRng::seed_from_u64(seed)),
        None => StdRng::try_from_rng(&mut SysRng).map_err(|mistake| mistake.to_string()),
    }
}

/// Returns when all tasks of `service` have stopped.
async fn ended(mut tasks: JoinSet<()>, service: &str) {
    while let Some(task) = tasks.join_next().await {
        if let Err(mistake) = task {
            tracing::error!(%mistake, "a task of the {service} broke");
        }
    }
}
