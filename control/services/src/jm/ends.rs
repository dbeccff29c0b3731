//! What the ends of a job's instances mean for the next ones: how many are done for good, whether there were too many
//! failures, and how long to wait.
//!
//! Pure. Ends of versions before the last restart do not count. Deliberately absent: flapping, which is the health
//! manager's verdict.

use wire::Job;
use wire::health::{Ended, JOB_ENDED_MAX};
use wire::job::RestartMode;

/// An instance that ran for this long was sound: its end begins a new row.
pub const STABLE_MS: u64 = 60_000;
/// First wait before a replacement; doubles with each further end in a row.
pub const BACKOFF_MIN_MS: u64 = 1_000;
/// Longest wait.
pub const BACKOFF_MAX_MS: u64 = 60_000;

/// The verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Copies that ended for good and are not to be replaced.
    pub done: u32,
    /// Some of those failed.
    pub done_failed: bool,
    /// Too many failures in a row: nothing is to be replaced.
    pub exhausted: bool,
    /// No replacement before this, milliseconds since 1970.
    pub not_before_ms: u64,
    /// Ends of this version that were failures and came early.
    pub early_failures: u32,
}

impl Ends {
    /// Of `ended`, newest first.
    #[must_use]
    pub fn of(job: &Job, ended: &[Ended]) -> Self {
        let current = || ended.iter().filter(|e| e.job_version >= job.restart_version && !e.asked);
        let count = |pick: &dyn Fn(&Ended) -> bool| {
            u32::try_from(current().filter(|e| pick(e)).count()).unwrap_or(u32::MAX)
        };
        let (done, done_failed) = match job.restart.restart_mode {
            RestartMode::Always => (0, false),
            RestartMode::Failure => (count(&|e| !e.failed), false),
            RestartMode::No => (count(&|_| true), current().any(|e| e.failed)),
        };
        let failures = row(current(), |e| e.failed);
        let attempts_max = job.restart.maximum_attempts.saturating_mul(job.num_instances.max(1));
        // More ends than the view can hold cannot be counted.
        let attempts_max = attempts_max.min(u32::try_from(JOB_ENDED_MAX).unwrap_or(u32::MAX));
        let replaced = |e: &Ended| e.failed || job.restart.restart_mode == RestartMode::Always;
        let newest = current().find(|e| replaced(e)).map_or(0, |e| e.at_ms);
        Self {
            done,
            done_failed,
            exhausted: attempts_max > 0 && failures >= attempts_max,
            not_before_ms: newest.saturating_add(backoff(row(current(), replaced), job)),
            early_failures: count(&|e| e.failed && e.ran_ms < STABLE_MS),
        }
    }
}

/// Ends that `counts`, from the newest back to the first that does not, or to one that had run long enough.
fn row<'a>(ended: impl Iterator<Item = &'a Ended>, counts: impl Fn(&Ended) -> bool) -> u32 {
    let mut row = 0;
    for end in ended {
        if !counts(end) {
            break;
        }
        row += 1;
        if end.ran_ms >= STABLE_MS {
            break;
        }
    }
    row
}

/// The first end of each copy is replaced at once, then 1, 2, 4 … 60 seconds pass.
fn backoff(row: u32, job: &Job) -> u64 {
    match row.div_ceil(job.num_instances.max(1)) {
        0 | 1 => 0,
        attempt => (BACKOFF_MIN_MS << (attempt - 2).min(6)).min(BACKOFF_MAX_MS),
    }
}
