//! When a job fails again and again, and the line that says so.
//!
//! Source: apcera.md 5.6. Pure: failures in, verdict out. Deliberately absent: what follows from it; the job manager
//! decides about `errored`.

use super::seen::Seen;
use wire::health::Ended;
use wire::{Job, JobId, JobState};

/// What is to become of the agreement about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It flaps, and is not yet known to.
    Flaps {
        /// That count.
        failures: usize,
    },
    /// It is known to flap, and does no more.
    Calm,
}

/// Compares what is seen of a job with what is agreed; none = nothing to change.
#[must_use]
pub(super) fn judge(
    seen: &Seen,
    job: &Job,
    id: JobId,
    now_ms: u64,
    slack_ms: u64,
) -> Option<Verdict> {
    match seen.flapping_since(id) {
        None => flapping(job, seen.ends(id), now_ms, 0).map(|failures| Verdict::Flaps { failures }),
        // Somebody else may have seen more; what was agreed a moment ago has not reached everybody.
        Some(since) if !seen.complete() || now_ms < since.saturating_add(slack_ms) => None,
        Some(_) => {
            flapping(job, seen.ends(id), now_ms, slack_ms).is_none().then_some(Verdict::Calm)
        }
    }
}

/// Whether `ended` makes `job` a flapping one at `now_ms`; the failures that count, if so. `slack_ms` widens the window:
/// a job that flaps is let off a little later than it was caught, so that two health managers, whose clocks and views
/// differ by a moment, never disagree to and fro.
pub fn flapping<'a>(
    job: &Job,
    ended: impl Iterator<Item = &'a Ended>,
    now_ms: u64,
    slack_ms: u64,
) -> Option<usize> {
    if job.state != JobState::Started {
        return None;
    }
    let window_ms = job.rollout.flapping_window.saturating_mul(1_000).saturating_add(slack_ms);
    let oldest = now_ms.saturating_sub(window_ms);
    // A change that needs a restart is a fresh start: what failed before it proves nothing about the new version.
    let counts =
        |end: &&Ended| end.failed && end.at_ms >= oldest && end.job_version >= job.restart_version;
    let failures = ended.filter(counts).count();
    let least = job.rollout.flapping_minimum_restarts.max(1) as usize;
    let share = failures as f64 / f64::from(job.num_instances.max(1));
    (failures >= least && share >= job.rollout.flapping_percent).then_some(failures)
}

/// The line in the job's own log, without `[system-error] `.
#[must_use]
pub fn line(job: &Job, failures: usize) -> String {
    let within = duration(job.rollout.flapping_window);
    format!(
        "\"{}\" now considered flapping, having failed {failures} times within {within}",
        job.fqn
    )
}

/// Seconds as the original prints them: `45s`, `5m0s`, `1h0m0s`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}
