//! When to look at which job next. A job that is looked at is not taken a second time until it is given back.
//!
//! Pure. One entry per job, the earliest wish wins. Deliberately absent: why; a look is a look.

use std::collections::{BTreeMap, BTreeSet};
use wire::JobId;

/// The wishes.
#[derive(Debug, Default)]
pub struct Agenda {
    due: BTreeSet<(u64, JobId)>,
    at: BTreeMap<JobId, u64>,
    /// Taken, with the earliest wish that came meanwhile.
    taken: BTreeMap<JobId, Option<u64>>,
}

impl Agenda {
    /// Look at this job at `at_ms` at the latest.
    pub fn mark(&mut self, job: JobId, at_ms: u64) {
        if let Some(wish) = self.taken.get_mut(&job) {
            *wish = Some(wish.map_or(at_ms, |wish| wish.min(at_ms)));
            return;
        }
        if let Some(known) = self.at.get(&job).copied() {
            if known <= at_ms {
                return;
            }
            self.due.remove(&(known, job));
        }
        self.at.insert(job, at_ms);
        self.due.insert((at_ms, job));
    }

    /// At most `max` jobs whose time has come.
    pub fn take(&mut self, now_ms: u64, max: usize) -> Vec<JobId> {
        let mut jobs = Vec::new();
        while jobs.len() < max
            && let Some((at, job)) = self.due.first().copied()
            && at <= now_ms
        {
            self.due.pop_first();
            self.at.remove(&job);
            self.taken.insert(job, None);
            jobs.push(job);
        }
        jobs
    }

    /// Gives a job back, to be looked at again at `again_ms` (none = only when somebody wishes) or at the earliest wish
    /// that came meanwhile.
    pub fn give_back(&mut self, job: JobId, again_ms: Option<u64>) {
        let wish = self.taken.remove(&job).flatten();
        if let Some(at_ms) = wish.into_iter().chain(again_ms).min() {
            self.mark(job, at_ms);
        }
    }

    /// When the next job is due.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Jobs that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.len()
    }
}
