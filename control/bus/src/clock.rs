//! What time it is, for everybody on one bus.
//!
//! Runs on Tokio's clock, so that a paused runtime has virtual time here too. Deliberately absent: time zones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Milliseconds since 1970 that never run backwards within one process.
#[derive(Clone, Debug)]
pub struct Clock {
    origin: Instant,
    origin_unix_ms: u64,
}

impl Clock {
    /// The machine's time. Call within a Tokio runtime.
    #[must_use]
    pub fn system() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::starting_at(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// A time chosen by the caller, going on with Tokio's clock: for simulations.
    #[must_use]
    pub fn starting_at(unix_ms: u64) -> Self {
        Self { origin: Instant::now(), origin_unix_ms: unix_ms }
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        let passed = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.origin_unix_ms.saturating_add(passed)
    }
}
