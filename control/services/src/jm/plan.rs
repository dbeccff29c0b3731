//! What is to be done about one job, from its record and what is seen of it.
//!
//! ```text
//!  started, no old instances:   missing → Bid          surplus → StopSurplus
//!  started, old instances:      stop_all: Stop each old, when all are gone as above
//!                               rolling:  Bid one more ─▶ it runs ─▶ Stop one old ─▶ … ─▶ none is old
//!  errored:                     what lives may live, nothing is replaced
//!  stopped, finished, deleted …: Stop each
//! ```
//!
//! An instance is *old* when its version is below the record's `restart_version`. Pure and idempotent: the same facts
//! give the same steps, and when they are done, none. Deliberately absent: which instance manager (`choose.rs`), and
//! the asking itself (`act.rs`).

use super::ends::Ends;
use super::flights::Flights;
use std::fmt;
use wire::health::{InstanceOn, JobView};
use wire::job::RolloutMode;
use wire::{ImId, InstanceId, InstanceState, Job, JobState};

/// New instances that may fail early in a rolling update before it is given up.
pub const ROLLING_FAILURES_MAX: u32 = 3;

/// The facts.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The record; none = deleted.
    pub job: Option<&'a Job>,
    /// What the health manager sees.
    pub view: &'a JobView,
    /// Whether it sees everybody: what is not seen on an incomplete view may still be there.
    pub complete: bool,
    /// What was asked and is not seen yet.
    pub flights: &'a Flights,
    /// Somebody else may have asked for instances until a moment ago: none before this.
    pub quiet_until_ms: u64,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start so many.
    Bid {
        /// At least 1.
        count: u32,
    },
    /// Stop so many of those that go most gladly.
    StopSurplus {
        /// At least 1.
        count: u32,
        /// Copies that shall stay.
        keep: u32,
    },
    /// Stop this one.
    Stop {
        /// Where it is.
        im: ImId,
        /// Which.
        instance: InstanceId,
        /// Why.
        reason: Reason,
    },
    /// Tell this one of the new version.
    Update {
        /// Where it is.
        im: ImId,
        /// Which.
        instance: InstanceId,
    },
    /// Write the job's state.
    SetState {
        /// The new one.
        state: JobState,
        /// For the job's log; empty = nothing is worth saying.
        why: String,
    },
    /// Tell the user, once.
    Say(String),
    /// Nothing before this, milliseconds since 1970.
    Wait {
        /// Then look again.
        until_ms: u64,
    },
}

/// Why an instance is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its job is not to run.
    State(JobState),
    /// Its job is gone.
    Deleted,
    /// A newer version takes its place.
    OldVersion,
    /// There are more than wanted.
    Surplus,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => write!(f, "the job is {}", state.as_str()),
            Self::Deleted => f.write_str("the job was deleted"),
            Self::OldVersion => f.write_str("a newer version takes its place"),
            Self::Surplus => f.write_str("there are more instances than wanted"),
        }
    }
}

/// The steps, in the order in which they are to be done; none = all is as it should be.
#[must_use]
pub fn plan(situation: &Situation<'_>, now_ms: u64) -> Vec<Step> {
    let seen = Seen::of(situation, now_ms);
    let Some(job) = situation.job else { return stop_each(seen.live(), Reason::Deleted) };
    match job.state {
        JobState::Started => started(job, situation, &seen, now_ms),
        // Others of its instances may be sound: what lives may live.
        JobState::Errored | JobState::Invalid | JobState::Unknown => Vec::new(),
        JobState::Created
        | JobState::Staging
        | JobState::StagingFailed
        | JobState::Ready
        | JobState::Stopped
        | JobState::Finished => stop_each(seen.live(), Reason::State(job.state)),
    }
}

/// The instances, told apart. Those that were told to stop are neither old nor new.
struct Seen<'a> {
    old: Vec<&'a InstanceOn>,
    new: Vec<&'a InstanceOn>,
    /// Of an old version, on their way out, and not yet past it.
    old_leaving: bool,
    /// Asked for and not seen.
    unseen: u32,
    unseen_old: u32,
}

impl<'a> Seen<'a> {
    fn of(situation: &Situation<'a>, now_ms: u64) -> Self {
        let restart_version = situation.job.map_or(0, |job| job.restart_version);
        let mut seen =
            Self { old: Vec::new(), new: Vec::new(), old_leaving: false, unseen: 0, unseen_old: 0 };
        for on in &situation.view.instances {
            let old = on.seen.job_version < restart_version;
            if !on.seen.state.is_live() || situation.flights.is_stopping(on.seen.id, now_ms) {
                seen.old_leaving |= old && on.seen.state < InstanceState::Teardown;
            } else if old {
                seen.old.push(on);
            } else {
                seen.new.push(on);
            }
        }
        for (instance, version) in situation.flights.starts(now_ms) {
            let view = situation.view;
            let landed = view.instances.iter().any(|on| on.seen.id == instance)
                || view.ended.iter().any(|ended| ended.id == instance);
            if landed || situation.flights.is_stopping(instance, now_ms) {
                continue;
            }
            if version < restart_version {
                seen.unseen_old += 1;
            } else {
                seen.unseen += 1;
            }
        }
        seen
    }

    fn live(&self) -> impl Iterator<Item = &'a InstanceOn> {
        self.old.iter().chain(&self.new).copied()
    }

    fn total(&self) -> u32 {
        count(self.old.len()) + count(self.new.len()) + self.unseen + self.unseen_old
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn stop(on: &InstanceOn, reason: Reason) -> Step {
    Step::Stop { im: on.im, instance: on.seen.id, reason }
}

fn stop_each<'a>(live: impl Iterator<Item = &'a InstanceOn>, reason: Reason) -> Vec<Step> {
    live.map(|on| stop(on, reason)).collect()
}

fn started(job: &Job, situation: &Situation<'_>, seen: &Seen<'_>, now_ms: u64) -> Vec<Step> {
    let ends = Ends::of(job, &situation.view.ended);
    if let Some(step) = errored(job, situation, seen, &ends, now_ms) {
        return vec![step];
    }
    let wanted = job.num_instances.saturating_sub(ends.done);
    if job.num_instances > 0 && wanted == 0 && situation.complete && seen.total() == 0 {
        return vec![finished(&ends)];
    }
    if wanted == 0 {
        return stop_each(seen.live(), Reason::Surplus);
    }
    let mut steps = updates(job, situation, seen, now_ms);
    let bids = Bids { situation, ends: &ends, now_ms };
    match job.rollout.mode {
        RolloutMode::StopAll if !seen.old.is_empty() || seen.old_leaving || seen.unseen_old > 0 => {
            steps.extend(stop_each(seen.old.iter().copied(), Reason::OldVersion));
        }
        RolloutMode::Rolling if !seen.old.is_empty() || seen.unseen_old > 0 => {
            steps.extend(roll(job, wanted, seen, &bids));
        }
        _ => steps.extend(steady(wanted, seen, &bids)),
    }
    steps
}

/// A job that fails for too long, or as often in a row as it may.
fn errored(
    job: &Job,
    situation: &Situation<'_>,
    seen: &Seen<'_>,
    ends: &Ends,
    now_ms: u64,
) -> Option<Step> {
    let window_ms = job.rollout.errored_state_window.saturating_mul(1_000);
    let state = JobState::Errored;
    if let Some(since_ms) = situation.view.flapping_since_ms
        && window_ms > 0
        && now_ms >= since_ms.saturating_add(window_ms)
    {
        let window = job.rollout.errored_state_window;
        let why = format!("\"{}\" is errored, having flapped for {window} seconds", job.fqn);
        return Some(Step::SetState { state, why });
    }
    if ends.exhausted && situation.complete && seen.total() == 0 {
        let attempts = job.restart.maximum_attempts;
        let why = format!("\"{}\" is errored, having failed {attempts} times in a row", job.fqn);
        return Some(Step::SetState { state, why });
    }
    None
}

/// All copies ran to their end.
fn finished(ends: &Ends) -> Step {
    if ends.done_failed {
        let why = "an instance failed, and restart mode no does not replace it".to_owned();
        Step::SetState { state: JobState::Errored, why }
    } else {
        Step::SetState { state: JobState::Finished, why: String::new() }
    }
}

/// Instances that can take over a newer record as they are.
fn updates(job: &Job, situation: &Situation<'_>, seen: &Seen<'_>, now_ms: u64) -> Vec<Step> {
    let behind = |on: &&&InstanceOn| {
        on.seen.job_version < job.version_id
            && !situation.flights.is_updating(on.seen.id, job.version_id, now_ms)
    };
    let update = |on: &&InstanceOn| Step::Update { im: on.im, instance: on.seen.id };
    seen.new.iter().filter(behind).map(update).collect()
}

/// When a bid is in order.
struct Bids<'a> {
    situation: &'a Situation<'a>,
    ends: &'a Ends,
    now_ms: u64,
}

impl Bids<'_> {
    fn bid(&self, count: u32) -> Option<Step> {
        if count == 0 || !self.situation.complete || self.ends.exhausted {
            return None;
        }
        let until_ms = self.ends.not_before_ms.max(self.situation.quiet_until_ms);
        if self.now_ms < until_ms {
            Some(Step::Wait { until_ms })
        } else {
            Some(Step::Bid { count })
        }
    }
}

/// Only instances that may stay.
fn steady(wanted: u32, seen: &Seen<'_>, bids: &Bids<'_>) -> Option<Step> {
    let surplus = count(seen.new.len()).saturating_sub(wanted);
    if surplus > 0 {
        return Some(Step::StopSurplus { count: surplus, keep: wanted });
    }
    bids.bid(wanted.saturating_sub(seen.total()))
}

/// Make before break: never more than one beyond the wanted number, never fewer running than there were, up to it.
fn roll(job: &Job, wanted: u32, seen: &Seen<'_>, bids: &Bids<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut old = seen.old.clone();
    // Oldest version first, then the oldest: what runs longest has waited longest for its successor.
    old.sort_by_key(|on| (on.seen.job_version, on.seen.created_ms, on.seen.id));
    let (serving, idle): (Vec<_>, Vec<_>) =
        old.into_iter().partition(|on| on.seen.state.is_running());
    // An old instance that does not serve yet protects nothing.
    steps.extend(stop_each(idle.iter().copied(), Reason::OldVersion));
    // A successor counts when the routers know it, not when it merely listens.
    let running_new = count(seen.new.iter().filter(|on| on.seen.state.is_routed()).count());
    let spare = (running_new + count(serving.len())).saturating_sub(wanted);
    let leaving = (spare as usize).min(serving.len());
    steps.extend(stop_each(serving[..leaving].iter().copied(), Reason::OldVersion));
    let total = seen.total() - count(idle.len()) - count(leaving);
    if bids.ends.early_failures >= ROLLING_FAILURES_MAX {
        let text = format!(
            "the update to version {} is given up: {ROLLING_FAILURES_MAX} new instances failed, {} \
             of the old ones stay",
            job.restart_version,
            seen.old.len()
        );
        steps.push(Step::Say(text));
        steps.extend(bids.bid(wanted.saturating_sub(total)));
        return steps;
    }
    // The one beyond is for a successor; without an old one left there is nobody to succeed.
    let beyond = u32::from(serving.len() > leaving || seen.unseen_old > 0);
    steps.extend(bids.bid((wanted + beyond).saturating_sub(total)));
    let pending = count(seen.new.len()) - running_new + seen.unseen;
    if leaving == 0 && pending == 0 && running_new > 0 {
        steps.extend(force(job, &serving, seen, bids.now_ms));
    }
    steps
}

/// No successor finds a place although a new instance runs: after a while one old instance makes room.
fn force(job: &Job, serving: &[&InstanceOn], seen: &Seen<'_>, now_ms: u64) -> Option<Step> {
    let patience_ms = job.rollout.force_stop_old_instances_after.saturating_mul(1_000);
    let oldest = serving.first()?;
    let progress = seen.new.iter().filter(|on| on.seen.state.is_routed());
    let until_ms = progress.map(|on| on.seen.since_ms).max()?.saturating_add(patience_ms);
    match patience_ms {
        0 => None,
        _ if now_ms < until_ms => Some(Step::Wait { until_ms }),
        _ => Some(stop(oldest, Reason::OldVersion)),
    }
}
