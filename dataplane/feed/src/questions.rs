//! Questions that take time: "is this live?", "is this idle?". Each waits for the state, then for the cores, then answers
//! once; at its deadline it answers with what is true then.
//!
//! ```text
//!  asked ─▶ waits for the state (revision known, endpoint out of the table) ─▶ waits for the cores ─▶ answered
//!              └── deadline: answered with no cores, not idle ───────────────────┘
//! ```
//!
//! A repeated question is one more waiter, nothing else. Deliberately absent: asking for what is missing; the state does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bus::Delivery;
use router::hub::Hub;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use wire::RouterId;
use wire::announce::{Drain, Drained};
use wire::routing::{Await, Awaited};

use crate::applied::{Applied, Key};
use crate::state::State;

/// Questions that wait at once; further ones get no answer and are asked again.
pub const QUESTIONS_MAX: usize = 4_096;
/// No question waits longer.
pub const TIMEOUT_MS_MAX: u64 = 600_000;

#[derive(Debug)]
enum What {
    Await(Await),
    Drain(Drain),
}

struct Waiting {
    what: What,
    from: Delivery,
    asked: Instant,
    deadline: Instant,
    permit: OwnedSemaphorePermit,
}

/// See the module head.
pub(crate) struct Questions {
    router: RouterId,
    hub: Arc<Hub>,
    permits: Arc<Semaphore>,
    waiting: Vec<Waiting>,
    pub(crate) awaits: u64,
    pub(crate) drains: u64,
    drains_idle: Arc<AtomicU64>,
    pub(crate) refused: u64,
}

impl Questions {
    pub(crate) fn new(router: RouterId, hub: Arc<Hub>, drains_idle: Arc<AtomicU64>) -> Self {
        Self {
            router,
            hub,
            permits: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            waiting: Vec::new(),
            awaits: 0,
            drains: 0,
            drains_idle,
            refused: 0,
        }
    }

    pub(crate) fn wait(&mut self, from: Delivery, question: Await) {
        self.awaits += 1;
        self.take(from, question.timeout_ms, What::Await(question));
    }

    pub(crate) fn drain(&mut self, from: Delivery, question: Drain) {
        self.drains += 1;
        self.take(from, question.timeout_ms, What::Drain(question));
    }

    fn take(&mut self, from: Delivery, timeout_ms: u64, what: What) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.refused += 1;
            return;
        };
        let asked = Instant::now();
        let deadline = asked + Duration::from_millis(timeout_ms.min(TIMEOUT_MS_MAX));
        self.waiting.push(Waiting { what, from, asked, deadline, permit });
    }

    /// The nearest deadline.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|one| one.deadline).min()
    }

    /// Hand on what the state has reached, answer what is over. Call after each commit.
    pub(crate) fn look(&mut self, state: &State, applied: &Applied) {
        let now = Instant::now();
        let mut at = 0;
        while at < self.waiting.len() {
            let one = &self.waiting[at];
            let reached = match &one.what {
                What::Await(question) => is_known(question, state, applied),
                What::Drain(question) => is_out(question, state, applied),
            };
            if !reached && one.deadline > now {
                at += 1;
                continue;
            }
            let one = self.waiting.swap_remove(at);
            let version = reached.then(|| self.hub.version());
            let finish = Finish {
                router: self.router,
                hub: Arc::clone(&self.hub),
                drains_idle: Arc::clone(&self.drains_idle),
            };
            tokio::spawn(finish.answer(one, version));
        }
    }
}

/// The state has what is waited for, and the table took it.
fn is_known(question: &Await, state: &State, applied: &Applied) -> bool {
    let announced =
        question.announced.is_none_or(|(im, epoch, seq)| state.ims.reached(im, (epoch, seq)));
    let not_taken = || {
        applied.refused().any(|(key, _)| match key {
            Key::Route(endpoint) => state.join.wrote_route(question.revision, endpoint),
            Key::Job(name) => state.join.wrote_job(question.revision, name),
        })
    };
    let written = question
        .job
        .as_ref()
        .is_none_or(|job| state.jobs.knows(job.id, question.revision, job.routes.as_ref()));
    question.revision <= state.jobs.head() && written && announced && !not_taken()
}

/// No endpoint of the question is in the table any more.
fn is_out(question: &Drain, state: &State, applied: &Applied) -> bool {
    question.endpoints.iter().all(|endpoint| {
        let name = state.join.name_of(endpoint.job, endpoint.port);
        let in_table = name.is_some_and(|name| applied.has(name, endpoint.addr));
        !in_table && !applied.is_stuck(endpoint.addr) && !state.ims.shows(question.im, endpoint)
    })
}

/// What an answer needs.
struct Finish {
    router: RouterId,
    hub: Arc<Hub>,
    drains_idle: Arc<AtomicU64>,
}

impl Finish {
    /// `version` is the table that holds it; none when the state did not get there in time.
    async fn answer(self, one: Waiting, version: Option<u64>) {
        let Waiting { what, from, asked, deadline, permit } = one;
        let cores = match version {
            Some(version) => self.cores(version, deadline).await,
            None => 0,
        };
        let total = number(self.hub.cores().len());
        let sent = match what {
            What::Await(_) => {
                let ms = millis(asked);
                from.reply(&Awaited { router: self.router, cores, cores_total: total, ms }).await
            }
            What::Drain(question) => {
                let addrs: Vec<SocketAddr> =
                    question.endpoints.iter().map(|endpoint| endpoint.addr).collect();
                let left = deadline.saturating_duration_since(Instant::now());
                let idle = cores == total && self.hub.wait_idle(&addrs, left).await.is_ok();
                self.drains_idle.fetch_add(u64::from(idle), Ordering::Relaxed);
                let ms = millis(asked);
                let router = self.router;
                from.reply(&Drained { router, cores, cores_total: total, idle, ms }).await
            }
        };
        if let Err(mistake) = sent {
            tracing::warn!(%mistake, "an answer could not be sent");
        }
        drop(permit);
    }

    async fn cores(&self, version: u64, deadline: Instant) -> u32 {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.hub.wait_live(version, left).await {
            Ok(live) => number(live.cores),
            Err(behind) => number(behind.live),
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
