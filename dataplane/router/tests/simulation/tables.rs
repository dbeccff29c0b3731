//! The wanted states that a life went through, and what each of them allows.
//!
//! The judge reads its own plain copy of every version, never the router's table.
//! Deliberately absent: how a state becomes a version; that is the hub's.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use route::{Desired, Endpoint};

use super::ledger::Request;

/// Below this prefix a host may have a route of its own.
pub(crate) const DEEP: &str = "/deep";

/// See the module head.
#[derive(Default)]
pub(crate) struct Tables {
    versions: Vec<(u64, Desired)>,
    /// The newest version.
    pub(crate) newest: u64,
    /// The oldest version that a core serves just now.
    pub(crate) served: u64,
}

impl Tables {
    /// A commit: from this version on, `wanted` holds.
    pub(crate) fn committed(&mut self, version: u64, wanted: &Desired) {
        self.versions.push((version, wanted.clone()));
        self.newest = version;
    }

    /// Whether some version that the request could have seen sends it to this instance. The job may have been chosen
    /// by one version and its instance, after a failed connect, by a later one.
    pub(crate) fn may_serve(&self, request: &Request, instance: SocketAddr) -> bool {
        let jobs: BTreeSet<_> = self.seen(request).flat_map(|at| jobs_for(at, request)).collect();
        self.seen(request).any(|at| {
            let has = |job: &&String| {
                at.jobs.get(*job).is_some_and(|job| job.instances.contains(&instance))
            };
            jobs.iter().any(has)
        })
    }

    pub(crate) fn may_have_no_route(&self, request: &Request) -> bool {
        self.seen(request).any(|at| route_for(at, request).is_none())
    }

    pub(crate) fn may_have_no_instance(&self, request: &Request) -> bool {
        let jobs: BTreeSet<_> = self.seen(request).flat_map(|at| jobs_for(at, request)).collect();
        let live = |at: &Desired, job: &String| {
            at.jobs.get(job).is_some_and(|job| !job.instances.is_empty())
        };
        self.seen(request).any(|at| {
            let none = !jobs_for(at, request).iter().any(|job| live(at, job));
            none && route_for(at, request).is_some() || jobs.iter().any(|job| !live(at, job))
        })
    }

    fn seen(&self, request: &Request) -> impl Iterator<Item = &Desired> {
        let from = request.seen_from.unwrap_or(u64::MAX);
        self.versions.iter().filter(move |(version, _)| *version >= from).map(|(_, wanted)| wanted)
    }
}

/// The route that a plain reader of the rules finds: the longer prefix first.
fn route_for<'a>(at: &'a Desired, request: &Request) -> Option<&'a route::DesiredRoute> {
    if let Some(addr) = request.tcp {
        return at.routes.get(&Endpoint::Tcp(addr));
    }
    let find = |prefix: &str| at.routes.get(&http(&request.host, prefix));
    let deep = request.path.starts_with("/deep/").then(|| find(DEEP)).flatten();
    deep.or_else(|| find(""))
}

fn jobs_for<'a>(at: &'a Desired, request: &Request) -> Vec<&'a String> {
    let Some(route) = route_for(at, request) else { return Vec::new() };
    let active = route.targets.iter().filter(|(_, weight)| weight.is_active());
    active.map(|(job, _)| job).collect()
}

/// The endpoint of a host and a prefix.
pub(crate) fn http(host: &str, prefix: &str) -> Endpoint {
    format!("http://{host}{prefix}").parse().expect("an endpoint of ours")
}
