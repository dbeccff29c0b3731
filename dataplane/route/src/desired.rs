//! A wanted state as a whole, as a file or a feed describes it, and the way from one to the next.
//!
//! `diff` compares what the source said before with what it says now, not with the table: what
//! came in by another door, such as the admin API, is not in either and survives.
//! Deliberately absent: files and their syntax.

use crate::acl::ClientAcl;
use crate::change::Change;
use crate::endpoint::Endpoint;
use crate::table::Table;
use crate::weight::Weight;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// All jobs and routes that one source wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Jobs by name.
    pub jobs: BTreeMap<String, DesiredJob>,
    /// Routes by endpoint.
    pub routes: BTreeMap<Endpoint, DesiredRoute>,
}

/// A job as wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredJob {
    /// Which clients may reach it.
    pub client_acl: ClientAcl,
    /// All its addresses.
    pub instances: BTreeSet<SocketAddr>,
}

/// A route as wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredRoute {
    /// Whether plain HTTP is redirected.
    pub https_only: bool,
    /// Weights by name of the job; a route without targets is not wanted.
    pub targets: BTreeMap<String, Weight>,
}

/// What must change so that a table made from `old` becomes one made from `new`.
///
/// Ordered so that every change finds what it needs: jobs first, and gone last; a route keeps its
/// slot while one of its targets stays, and also when all are exchanged.
#[must_use]
pub fn diff(old: &Desired, new: &Desired) -> Vec<Change> {
    let mut changes = Vec::new();
    put_jobs(old, new, &mut changes);
    let nothing = DesiredRoute::default();
    for (endpoint, was) in old.routes.iter().filter(|(e, _)| !new.routes.contains_key(e)) {
        change_route(endpoint, was, &nothing, &mut changes);
    }
    for (endpoint, wanted) in &new.routes {
        match old.routes.get(endpoint) {
            Some(was) if was.https_only == wanted.https_only => {
                change_route(endpoint, was, wanted, &mut changes);
            }
            // The flag is fixed for the life of a route, so another flag is another life.
            Some(_) => {
                changes.push(Change::RemoveRoute { endpoint: endpoint.clone() });
                change_route(endpoint, &nothing, wanted, &mut changes);
            }
            None => change_route(endpoint, &nothing, wanted, &mut changes),
        }
    }
    let gone = old.jobs.keys().filter(|name| !new.jobs.contains_key(*name));
    changes.extend(gone.map(|name| Change::RemoveJob { name: name.clone() }));
    changes
}

fn put_jobs(old: &Desired, new: &Desired, changes: &mut Vec<Change>) {
    for (name, wanted) in &new.jobs {
        let Some(was) = old.jobs.get(name) else {
            changes.push(Change::PutJob {
                name: name.clone(),
                client_acl: wanted.client_acl.clone(),
                instances: wanted.instances.iter().copied().collect(),
            });
            continue;
        };
        if was.client_acl != wanted.client_acl {
            let client_acl = wanted.client_acl.clone();
            changes.push(Change::SetAcl { job: name.clone(), client_acl });
        }
        let gone = was.instances.difference(&wanted.instances);
        changes.extend(gone.map(|&addr| Change::RemoveInstance { job: name.clone(), addr }));
        let added = wanted.instances.difference(&was.instances);
        changes.extend(added.map(|&addr| Change::AddInstance { job: name.clone(), addr }));
    }
}

fn change_route(
    endpoint: &Endpoint,
    was: &DesiredRoute,
    wanted: &DesiredRoute,
    changes: &mut Vec<Change>,
) {
    let remove = |(job, _): (&String, &Weight)| Change::RemoveTarget {
        endpoint: endpoint.clone(),
        job: job.clone(),
    };
    let put = |(job, weight): (&String, &Weight)| Change::PutTarget {
        endpoint: endpoint.clone(),
        https_only: wanted.https_only,
        job: job.clone(),
        weight: *weight,
    };
    let mut gone = was.targets.iter().filter(|(job, _)| !wanted.targets.contains_key(*job));
    let last = gone.next_back();
    let mut put_ones =
        wanted.targets.iter().filter(|(job, weight)| was.targets.get(*job) != Some(*weight));
    // One goes after one has come: the route neither runs empty nor over its greatest number.
    changes.extend(gone.map(remove));
    changes.extend(put_ones.next().map(put));
    changes.extend(last.map(remove));
    changes.extend(put_ones.map(put));
}

impl Table {
    /// The whole table as a wanted state: `diff(&Desired::default(), &table.desired())` rebuilds
    /// it.
    #[must_use]
    pub fn desired(&self) -> Desired {
        let job = |job: &crate::Job| {
            let instances = job.instances.iter().map(|instance| instance.addr).collect();
            (job.name.to_string(), DesiredJob { client_acl: job.acl.clone(), instances })
        };
        let route = |route: &crate::Route| {
            let name = |slot| self.job(slot).map(|job| job.name.to_string());
            let targets = route.targets.list.iter();
            let targets = targets.filter_map(|t| Some((name(t.job)?, t.weight))).collect();
            (route.endpoint.clone(), DesiredRoute { https_only: route.https_only, targets })
        };
        Desired { jobs: self.jobs().map(job).collect(), routes: self.routes().map(route).collect() }
    }
}
