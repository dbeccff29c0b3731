//! Takes snapshots of the histograms every few seconds, so that percentiles can speak of the last seconds.
//!
//! Runs on the side thread; the cores notice nothing. Deliberately absent: history. That is Prometheus' business.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use route::{InstanceSlot, RouteSlot};

use crate::hub::Hub;
use crate::stats::recent::{Counts, Recent};
use crate::stats::{CoreStats, Counter, Histogram, InstanceStats, RouteStats, Snapshot};

/// See the module head.
pub(super) struct Sampler(Mutex<Samples>);

pub(super) struct Samples {
    routes: Recent<RouteSlot>,
    instances: Recent<InstanceSlot>,
    total: Recent<()>,
    older: Instant,
    newer: Instant,
}

impl Default for Sampler {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Samples {
            routes: Recent::default(),
            instances: Recent::default(),
            total: Recent::default(),
            older: now,
            newer: now,
        }))
    }
}

impl Sampler {
    pub(super) fn tick(&self, hub: &Hub) {
        let table = hub.table();
        let cores = cores(hub);
        let mut samples = self.read();
        samples.older = std::mem::replace(&mut samples.newer, Instant::now());
        let routes = table.routes().map(|route| {
            let counts =
                routes_of(&cores, route.slot).map(|one| counts(&one.requests, &one.latency));
            (route.slot, sum(counts))
        });
        samples.routes.tick(routes, |slot| route_latency(&cores, *slot));
        let instances = table.jobs().flat_map(|job| job.instances.iter()).map(|instance| {
            let list = instances_of(&cores, instance.slot);
            (instance.slot, sum(list.map(|one| counts(&one.requests, &one.latency))))
        });
        samples.instances.tick(instances, |slot| instance_latency(&cores, *slot));
        let total = sum(cores.iter().map(|core| counts(&core.requests, &core.latency)));
        samples.total.tick(std::iter::once(((), total)), |()| crate::metrics::latency(&cores));
    }

    pub(super) fn read(&self) -> MutexGuard<'_, Samples> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn counts(requests: &Counter, durations: &Histogram) -> Counts {
    Counts { requests: requests.read(), durations: durations.count() }
}

fn sum(list: impl Iterator<Item = Counts>) -> Counts {
    list.fold(Counts::default(), |sum, one| Counts {
        requests: sum.requests + one.requests,
        durations: sum.durations + one.durations,
    })
}

impl Samples {
    /// How long the window is: since the tick before the last.
    pub(super) fn window(&self) -> Duration {
        self.older.elapsed()
    }

    pub(super) fn route(&self, slot: RouteSlot, now: &Snapshot) -> Option<Snapshot> {
        self.routes.since(&slot, now)
    }

    pub(super) fn instance(&self, slot: InstanceSlot, now: &Snapshot) -> Option<Snapshot> {
        self.instances.since(&slot, now)
    }

    pub(super) fn route_requests(&self, slot: RouteSlot, now: u64) -> Option<u64> {
        self.routes.requests_since(&slot, now)
    }

    pub(super) fn instance_requests(&self, slot: InstanceSlot, now: u64) -> Option<u64> {
        self.instances.requests_since(&slot, now)
    }

    pub(super) fn total(&self, now: &Snapshot) -> Snapshot {
        self.total.since(&(), now).unwrap_or_default()
    }
}

/// The numbers of every core.
pub(super) fn cores(hub: &Hub) -> Vec<&CoreStats> {
    hub.cores().iter().map(|core| &core.stats).collect()
}

/// The numbers of a route on the cores that served it.
pub(super) fn routes_of<'c>(
    cores: &[&'c CoreStats],
    slot: RouteSlot,
) -> impl Iterator<Item = &'c RouteStats> {
    cores.iter().filter_map(move |core| core.routes.read(slot.0.index, slot.0.generation))
}

/// The numbers of an instance on the cores that used it.
pub(super) fn instances_of<'c>(
    cores: &[&'c CoreStats],
    slot: InstanceSlot,
) -> impl Iterator<Item = &'c InstanceStats> {
    cores.iter().filter_map(move |core| core.instances.read(slot.0.index, slot.0.generation))
}

pub(super) fn route_latency(cores: &[&CoreStats], slot: RouteSlot) -> Snapshot {
    let mut total = Snapshot::default();
    routes_of(cores, slot).for_each(|stats| stats.latency.add_to(&mut total));
    total
}

pub(super) fn instance_latency(cores: &[&CoreStats], slot: InstanceSlot) -> Snapshot {
    let mut total = Snapshot::default();
    instances_of(cores, slot).for_each(|stats| stats.latency.add_to(&mut total));
    total
}
