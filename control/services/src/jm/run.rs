//! The loop of the job manager: what wakes it, what it looks at, what it hands out to be done.
//!
//! ```text
//!  store watch jobs/ ─┐                 ┌─▶ view (≤ 64 jobs) ─▶ plan ─▶ act ─┐
//!  HM_LOOK ───────────┼─▶ agenda ─ due ─┤                                     ├─▶ agenda
//!  leases, period ────┘                 └─────────────── settled ─────────────┘
//! ```
//!
//! One task owns all of the state; views and acts run beside it and come back as outcomes. No event costs work for all
//! jobs, except a change of the leases. Deliberately absent: what to do about a job (`plan.rs`).

use super::act::{Env, Outcome, PERIOD_MS, VIEW_TIMEOUT, Work, act, branch};
use super::agenda::Agenda;
use super::leases::{Held, SHARDS, shard};
use super::mind::Mind;
use super::plan::{Situation, plan};
use super::routes::subscribe;
use crate::follow::{Told, follow};
use crate::jobs::{self, Deleted};
use bus::{BusError, Next};
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Change, Expect, Record, StoreError, Write};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::health::{Look, VIEW_JOBS_MAX, View, ViewRequest};
use wire::{Job, JobId, subject};

/// Jobs that are viewed or acted upon at the same time.
pub const JOBS_IN_HAND_MAX: usize = 512;
/// Questions to the health manager at the same time.
pub const VIEWS_IN_FLIGHT_MAX: usize = 8;
/// A settled job is looked at after this time even if nobody asked for it: a message may have been lost.
pub const SWEEP_MS: u64 = 45_000;
/// Sweeps are spread over this much more.
const SWEEP_SPREAD_MS: u64 = 30_000;
/// How soon an incomplete view is asked for again.
const INCOMPLETE_WAIT_MS: u64 = 250;
/// Looks at a job with `n` instances are at least 2 + n / 4 milliseconds apart, because each costs a view of all.
const LOOK_WAIT_MS: u64 = 2;
/// How long the mark of a deleted job stays: an instance manager that was away for less finds its instances stopped.
pub const DELETED_KEPT_MS: u64 = 10 * 60 * 1_000;
/// How often deleted jobs are looked at.
const DELETED_LOOK_MS: u64 = 60_000;
/// How long work that has begun may go on after the stop.
const FAREWELL: Duration = Duration::from_secs(1);

/// The state of the loop.
pub(super) struct Loop {
    env: Arc<Env>,
    held: watch::Receiver<Held>,
    known_held: Held,
    rng: StdRng,
    jobs: BTreeMap<JobId, Arc<Job>>,
    /// Both listings were heard: what is not known does not exist.
    listed: bool,
    deleted: BTreeMap<JobId, Deleted>,
    agenda: Agenda,
    minds: BTreeMap<JobId, Mind>,
    views: JoinSet<(Vec<JobId>, Result<View, BusError>)>,
    acts: JoinSet<Outcome>,
    view_failures: u32,
}

impl Loop {
    pub(super) fn new(env: Arc<Env>, rng: StdRng) -> Self {
        let held = env.held.clone();
        Self {
            env,
            held,
            known_held: Held::default(),
            rng,
            jobs: BTreeMap::new(),
            listed: false,
            deleted: BTreeMap::new(),
            agenda: Agenda::default(),
            minds: BTreeMap::new(),
            views: JoinSet::new(),
            acts: JoinSet::new(),
            view_failures: 0,
        }
    }

    /// Runs until `stop`; then lets what has begun come to its end.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut follows = JoinSet::new();
        let mut records = follow(&mut follows, &self.env.store, jobs::JOBS);
        let mut marks = follow(&mut follows, &self.env.store, jobs::DELETED);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.turn(&mut records, &mut marks) => {}
        }
        let farewell = async { while self.acts.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::warn!("work on some jobs was broken off");
        }
    }

    async fn turn(&mut self, records: &mut mpsc::Receiver<Told>, marks: &mut mpsc::Receiver<Told>) {
        let mut looks = subscribe(&self.env.bus, subject::HM_LOOK, None).await;
        loop {
            self.hand_out();
            let pause = self.pause();
            tokio::select! {
                // What was begun first: a flood of looks must not keep its outcome back.
                biased;
                Some(viewed) = self.views.join_next() => match viewed {
                    Ok((jobs, view)) => self.viewed(jobs, view),
                    Err(mistake) => tracing::error!(%mistake, "a view broke"),
                },
                Some(outcome) = self.acts.join_next() => match outcome {
                    Ok(outcome) => self.acted(outcome),
                    Err(mistake) => tracing::error!(%mistake, "work on a job broke"),
                },
                told = records.recv() => match told {
                    Some(told) => self.told_jobs(told),
                    None => return,
                },
                told = marks.recv() => match told {
                    Some(told) => self.told_deleted(told),
                    None => return,
                },
                look = looks.next() => match look {
                    Some(Next::Message(message)) => match message.decode::<Look>() {
                        Ok(look) => self.look(&look.jobs),
                        Err(mistake) => tracing::warn!(%mistake, "a look was not understood"),
                    },
                    Some(Next::Lost(_)) => self.look_at_all(),
                    None => return,
                },
                changed = self.held.changed() => match changed {
                    Ok(()) => self.held_changed(),
                    Err(_) => return,
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.env.now_ms()
    }

    /// Until the next job is due; long when there is no room for it anyway.
    fn pause(&self) -> Duration {
        let room = self.views.len() < VIEWS_IN_FLIGHT_MAX && self.agenda.taken() < JOBS_IN_HAND_MAX;
        let next = self.agenda.next_ms().filter(|_| room && self.listed);
        let wait_ms = next.map_or(PERIOD_MS, |at| at.saturating_sub(self.now_ms()));
        Duration::from_millis(wait_ms.max(1))
    }

    // === what wakes ===

    fn told_jobs(&mut self, told: Told) {
        match told {
            Told::All(records, _) => {
                let before = std::mem::take(&mut self.jobs);
                self.jobs = records.iter().filter_map(decode).collect();
                self.listed = true;
                let now_ms = self.now_ms();
                let gone = before.keys().filter(|job| !self.jobs.contains_key(*job));
                let gone: Vec<_> = gone.copied().collect();
                gone.into_iter().for_each(|job| self.mark(job, now_ms));
                self.look_at_all();
            }
            Told::Change(Change { key, record, .. }) => {
                let Some(job) = jobs::job_of_key(&key) else { return };
                match record.as_ref().and_then(decode) {
                    Some((job, record)) => drop(self.jobs.insert(job, record)),
                    // A record that cannot be read is left alone, with its instances.
                    None if record.is_some() => return,
                    None => drop(self.jobs.remove(&job)),
                }
                let now_ms = self.now_ms();
                self.mark(job, now_ms);
            }
        }
    }

    fn told_deleted(&mut self, told: Told) {
        let now_ms = self.now_ms();
        match told {
            Told::All(records, _) => {
                self.deleted = records.iter().filter_map(decode_mark).collect();
                let deleted: Vec<_> = self.deleted.keys().copied().collect();
                deleted.into_iter().for_each(|job| self.mark(job, now_ms));
            }
            Told::Change(Change { key, record, .. }) => match record.as_ref().and_then(decode_mark)
            {
                Some((job, mark)) => {
                    self.deleted.insert(job, mark);
                    self.mark(job, now_ms);
                }
                None => {
                    if let Some(job) = marked_job(&key) {
                        self.deleted.remove(&job);
                    }
                }
            },
        }
    }

    fn look(&mut self, jobs: &[JobId]) {
        let now_ms = self.now_ms();
        for job in jobs {
            let instances = self.jobs.get(job).map_or(0, |job| u64::from(job.num_instances));
            self.mark(*job, now_ms + LOOK_WAIT_MS + instances / 4);
        }
    }

    fn look_at_all(&mut self) {
        let now_ms = self.now_ms();
        let all: Vec<_> = self.jobs.keys().chain(self.deleted.keys()).copied().collect();
        all.into_iter().for_each(|job| self.mark(job, now_ms));
    }

    fn held_changed(&mut self) {
        let held = *self.held.borrow_and_update();
        let before = std::mem::replace(&mut self.known_held, held);
        let gained: Vec<_> =
            (0..SHARDS).filter(|s| held.0[*s].is_some() && before.0[*s].is_none()).collect();
        if !gained.is_empty() {
            tracing::info!(?gained, "acting for more shards");
            let all = self.jobs.keys().chain(self.deleted.keys());
            let ours: Vec<_> = all.filter(|job| gained.contains(&shard(**job))).copied().collect();
            let now_ms = self.now_ms();
            ours.into_iter().for_each(|job| self.mark(job, now_ms));
        }
        // What was remembered for others' jobs may be wrong by the time they are ours again.
        self.minds.retain(|job, _| held.0[shard(*job)].is_some());
    }

    fn mark(&mut self, job: JobId, at_ms: u64) {
        if self.known_held.0[shard(job)].is_some() {
            self.agenda.mark(job, at_ms);
        }
    }

    // === look, plan, act ===

    /// Asks for views of the jobs that are due.
    fn hand_out(&mut self) {
        while self.listed && self.views.len() < VIEWS_IN_FLIGHT_MAX {
            let room = JOBS_IN_HAND_MAX.saturating_sub(self.agenda.taken());
            let jobs = self.agenda.take(self.now_ms(), room.min(VIEW_JOBS_MAX));
            if jobs.is_empty() {
                return;
            }
            let bus = self.env.bus.clone();
            self.views.spawn(async move {
                let request = ViewRequest { jobs: jobs.clone(), ims: false };
                let view = bus.request(subject::HM_VIEW, &request, VIEW_TIMEOUT).await;
                (jobs, view)
            });
        }
    }

    fn viewed(&mut self, jobs: Vec<JobId>, view: Result<View, BusError>) {
        let now_ms = self.now_ms();
        match view {
            Ok(mut view) => {
                self.view_failures = 0;
                for job in jobs {
                    match view.jobs.remove(&job) {
                        Some(seen) => self.decide(job, seen, view.complete, now_ms),
                        // It did not fit the answer.
                        None => self.agenda.give_back(job, Some(now_ms)),
                    }
                }
            }
            Err(mistake) => {
                let wait_ms = (100 << self.view_failures.min(5)).min(PERIOD_MS);
                self.view_failures = self.view_failures.saturating_add(1);
                tracing::warn!(%mistake, wait_ms, "no view of {} jobs", jobs.len());
                jobs.into_iter().for_each(|job| self.agenda.give_back(job, Some(now_ms + wait_ms)));
            }
        }
    }

    /// Plans for one job, and hands it out if there is something to do.
    fn decide(&mut self, id: JobId, view: wire::health::JobView, complete: bool, now_ms: u64) {
        let Some(holding) = self.held.borrow().of(id, now_ms) else {
            // Not ours, or ours again as soon as the store can be written: only then it must not be forgotten.
            let lapsed = self.known_held.0[shard(id)].is_some();
            self.minds.remove(&id);
            return self.agenda.give_back(id, lapsed.then_some(now_ms + PERIOD_MS));
        };
        let mut mind = self.minds.remove(&id).unwrap_or_default();
        mind.flights.expire(now_ms);
        let job = self.jobs.get(&id).cloned();
        let situation = Situation {
            job: job.as_deref(),
            view: &view,
            complete,
            flights: &mind.flights,
            quiet_until_ms: holding.quiet_until_ms,
        };
        let steps = plan(&situation, now_ms);
        if steps.is_empty() {
            let again_ms = self.settle(id, &mind, complete, view.instances.is_empty(), now_ms);
            if !mind.is_blank() {
                mind.prepared = None;
                self.minds.insert(id, mind);
            }
            return self.agenda.give_back(id, again_ms);
        }
        tracing::debug!(job = %id, ?steps, "to be done");
        let rng = branch(&mut self.rng);
        let work = Work { id, job, view, steps, mind, rng };
        self.acts.spawn(act(Arc::clone(&self.env), work));
    }

    /// When to look again at a job for which nothing is to be done.
    fn settle(
        &mut self,
        id: JobId,
        mind: &Mind,
        complete: bool,
        empty: bool,
        now_ms: u64,
    ) -> Option<u64> {
        if !complete {
            return Some(now_ms + INCOMPLETE_WAIT_MS);
        }
        if !mind.flights.is_empty() {
            return Some(now_ms + PERIOD_MS);
        }
        if self.jobs.contains_key(&id) {
            let spread_ms = u64::from(id.0.as_bytes()[1]) * SWEEP_SPREAD_MS / 256;
            return Some(now_ms + SWEEP_MS + spread_ms);
        }
        let mark = self.deleted.get(&id)?;
        if empty && now_ms >= mark.at_ms.saturating_add(DELETED_KEPT_MS) {
            self.forget_deleted(id);
        }
        Some(now_ms + DELETED_LOOK_MS)
    }

    /// Nothing of it can be left: its mark goes.
    fn forget_deleted(&mut self, id: JobId) {
        let store = self.env.store.clone();
        let again_ms = self.now_ms() + DELETED_LOOK_MS;
        self.deleted.remove(&id);
        // Beside the loop; its outcome finds a job that was given back already, which does nothing.
        self.acts.spawn(async move {
            let write = Write::Delete { key: jobs::deleted_key(id), expect: Expect::Any };
            match store.commit(&[write]).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(mistake) => tracing::warn!(job = %id, %mistake, "a mark was not removed"),
            }
            Outcome { id, mind: Mind::default(), again_ms }
        });
    }

    fn acted(&mut self, outcome: Outcome) {
        let Outcome { id, mind, again_ms } = outcome;
        if !mind.is_blank() {
            self.minds.insert(id, mind);
        }
        self.agenda.give_back(id, Some(again_ms));
    }
}

fn decode(record: &Record) -> Option<(JobId, Arc<Job>)> {
    let id = jobs::job_of_key(&record.key)?;
    match jobs::decode(record) {
        Ok(job) => Some((id, Arc::new(job))),
        Err(mistake) => {
            tracing::error!(key = record.key, why = mistake.why, "{}", mistake.message);
            None
        }
    }
}

fn marked_job(key: &str) -> Option<JobId> {
    key.strip_prefix(jobs::DELETED)?.parse().ok()
}

fn decode_mark(record: &Record) -> Option<(JobId, Deleted)> {
    Some((marked_job(&record.key)?, serde_json::from_slice(&record.value).ok()?))
}
