//! What a router proves about one route: exact counts by job, the shares that they should have, latency.
//!
//! Counts are those since the jobs or weights of the route last changed, because a split begins anew then; each core keeps
//! within one request of the shares. Deliberately absent: a verdict. Whoever asked adds up all routers.

use std::collections::HashMap;

use route::{Endpoint, Table};
use router::hub::Hub;
use router::stats::Snapshot;
use wire::RouterId;
use wire::job::RouteKind;
use wire::routing::{Proof, Proved, ProvedJob};

use crate::join::Join;

/// The endpoint that was asked for, if it is one.
fn endpoint_of(proof: &Proof) -> Option<Endpoint> {
    match proof.kind {
        RouteKind::Http => proof.endpoint.parse().ok().map(Endpoint::Http),
        RouteKind::Tcp => proof.endpoint.parse().ok().map(Endpoint::Tcp),
    }
}

/// What this router counted. A route that it does not have has no jobs.
pub(crate) fn prove(router: RouterId, proof: &Proof, join: &Join, hub: &Hub) -> Proved {
    let cores = u32::try_from(hub.cores().len()).unwrap_or(u32::MAX);
    let mut proved = Proved { router, cores, jobs: Vec::new(), latency_us: None };
    let table = hub.table();
    let endpoint = endpoint_of(proof);
    let Some(route) = endpoint.and_then(|at| table.route_by_endpoint(&at).cloned()) else {
        return proved;
    };
    let mut counts = vec![0; route.targets.list.len()];
    let mut latency = Snapshot::default();
    for core in hub.cores() {
        let slot = route.slot.0;
        let Some(stats) = core.stats.routes.read(slot.index, slot.generation) else { continue };
        let of_core = stats.picks.read(&route.targets);
        counts.iter_mut().zip(of_core).for_each(|(sum, one)| *sum += one);
        stats.latency.add_to(&mut latency);
    }
    let shares = shares(&table, &route);
    for (at, target) in route.targets.list.iter().enumerate() {
        let Some(name) = table.job(target.job).map(|job| &job.name) else { continue };
        // A job of another source than this feed has no id to be named by.
        let Some((job, port, fqn)) = join.named(name) else { continue };
        proved.jobs.push(ProvedJob {
            job,
            fqn: fqn.clone(),
            port,
            weight: target.weight.percent(),
            share: shares.get(&at).copied().unwrap_or_default(),
            requests: counts[at],
        });
    }
    let micros = |q| latency.quantile_nanos(q).map(|nanos| nanos.div_ceil(1_000));
    proved.latency_us =
        micros(0.5).zip(micros(0.99)).zip(micros(0.999)).map(|((a, b), c)| (a, b, c));
    proved
}

/// Shares 0..1 by place, among the jobs that are live now.
#[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
fn shares(table: &Table, route: &route::Route) -> HashMap<usize, f64> {
    let live = route.targets.list.iter().enumerate().fold(0_u64, |live, (at, target)| {
        let is_live = table.job(target.job).is_some_and(|job| !job.instances.is_empty());
        live | u64::from(is_live) << at
    });
    let (shares, whole) = route.targets.shares(live);
    shares
        .into_iter()
        .map(|share| (share.target, share.parts as f64 / whole.max(1) as f64))
        .collect()
}
