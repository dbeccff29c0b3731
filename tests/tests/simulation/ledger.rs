//! What the judge knows: only what was said on the bus, done to a driver, or served by a core.
//!
//! Deliberately absent: anything from inside a service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;
use wire::health::InstanceSeen;
use wire::placement::Start;
use wire::{InstanceId, InstanceState, JobId, RouterId};

/// Lines of the story that are kept for a failure.
const STORY_MAX: usize = 20_000;
/// A beat of a router must have been heard this recently for the instance manager to wait for it,
pub(crate) const HEARD_MS_MAX: u64 = 3_400;
/// and at least so long ago, so that a router that appears this moment is no trap.
pub(crate) const HEARD_MS_MIN: u64 = 100;

/// One instance.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) job: JobId,
    /// As its instance manager said last.
    pub(crate) version: u64,
    /// Tags that its host had to have when it was asked for.
    pub(crate) hard_tags: BTreeMap<String, bool>,
    pub(crate) stop_ms: u64,
    /// Times that its process was begun.
    pub(crate) begun: u32,
    pub(crate) host: usize,
    pub(crate) addr: Option<SocketAddr>,
    /// When its instance manager first said that it ends.
    pub(crate) stopping_since_ms: Option<u64>,
}

/// One incarnation of an instance manager, by its node on the bus.
pub(crate) type Node = String;

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) instances: BTreeMap<InstanceId, Known>,
    /// When an instance manager read a beat of a router: the last two, because one may be this moment's.
    heard: BTreeMap<Node, BTreeMap<RouterId, [u64; 2]>>,
    pub(crate) violations: Vec<String>,
    pub(crate) story: Vec<String>,
    pub(crate) hash: u64,
    pub(crate) began: Option<Instant>,
    /// Last change of what runs.
    pub(crate) changed: Option<Instant>,
    /// Table jobs that must not be empty, on these cores, and since when they are.
    pub(crate) protected: BTreeMap<String, BTreeSet<(Node, usize)>>,
    pub(crate) starts: u64,
    pub(crate) stops: u64,
    pub(crate) requests: u64,
}

/// One for the whole simulation.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Ledger>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, line: String) {
        self.lock().tell(line);
    }
}

impl Ledger {
    /// One more line of the story.
    pub(crate) fn tell(&mut self, line: String) {
        let at = self.began.map_or(0, |began| began.elapsed().as_millis());
        let line = format!("{at:>7} {line}");
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if self.story.len() < STORY_MAX {
            self.story.push(line);
        }
    }

    pub(crate) fn accuse(&mut self, what: String) {
        self.tell(format!("VIOLATION {what}"));
        self.violations.push(what);
    }

    fn changed(&mut self) {
        self.changed = Some(Instant::now());
    }

    /// A job manager asks for an instance.
    pub(crate) fn asked(&mut self, start: Start) {
        let Start { instance, job, .. } = start;
        let stop_ms = job.process().map_or(0, |process| process.stop_timeout * 1_000);
        self.instances.entry(instance).or_insert_with(|| Known {
            job: job.uuid,
            version: job.version_id,
            hard_tags: job.hard_scheduling_tags.clone(),
            stop_ms,
            begun: 0,
            host: usize::MAX,
            addr: None,
            stopping_since_ms: None,
        });
    }

    /// An instance manager says where an instance stands.
    pub(crate) fn said(&mut self, seen: &InstanceSeen, now_ms: u64) {
        let Some(known) = self.instances.get_mut(&seen.id) else { return };
        known.version = known.version.max(seen.job_version);
        if seen.state >= InstanceState::StoppingWait {
            known.stopping_since_ms.get_or_insert(now_ms);
        }
    }

    /// A process is begun.
    pub(crate) fn begun(&mut self, instance: InstanceId, host: usize, addr: Option<SocketAddr>) {
        self.tell(format!("host {host} begins {}", instance.short()));
        self.changed();
        self.starts += 1;
        let Some(known) = self.instances.get_mut(&instance) else {
            return self.accuse(format!("{instance} was begun and never asked for"));
        };
        known.begun += 1;
        (known.host, known.addr) = (host, addr);
        if known.begun > 1 {
            self.accuse(format!("{instance} was started twice"));
        }
    }

    /// A process is gone, whatever the reason.
    pub(crate) fn ended(&mut self, instance: InstanceId, how: &str) {
        self.tell(format!("{how} {}", instance.short()));
        self.changed();
    }

    /// A core serves another table.
    pub(crate) fn served(&mut self, router: &str, core: usize, table: &route::Table) {
        let at = (router.to_owned(), core);
        let empty = |name: &str| table.job_by_name(name).is_none_or(|job| job.instances.is_empty());
        let failed =
            self.protected.iter().filter(|(name, cores)| cores.contains(&at) && empty(name));
        let failed: Vec<String> = failed.map(|(name, _)| name.clone()).collect();
        for name in failed {
            self.protected.remove(&name);
            self.accuse(format!(
                "core {core} of {router} has no instance of {name}, which has been sound"
            ));
        }
    }

    /// A process of an instance manager read a router's beat.
    pub(crate) fn heard(&mut self, node: &str, router: RouterId, leaving: bool, now_ms: u64) {
        let routers = self.heard.entry(node.to_owned()).or_default();
        if leaving {
            routers.remove(&router);
        } else {
            let last = routers.entry(router).or_default();
            *last = [last[1], now_ms];
        }
    }

    /// Routers for which this process of an instance manager must wait now.
    pub(crate) fn waits_for(&self, node: &str, now_ms: u64) -> BTreeSet<RouterId> {
        let lately = |at: &u64| (HEARD_MS_MIN..=HEARD_MS_MAX).contains(&now_ms.saturating_sub(*at));
        let routers = self.heard.get(node).into_iter().flatten();
        routers.filter(|(_, last)| last.iter().any(lately)).map(|(router, _)| *router).collect()
    }
}

/// Whether a host may run a job.
pub(crate) fn tags_allow(wanted: &BTreeMap<String, bool>, has: &[String]) -> bool {
    wanted.iter().all(|(tag, must)| has.contains(tag) == *must)
}
