//! What the table holds of this feed, and the way from there to what it should hold.
//!
//! A commit moves only the touched keys. A key that the table refuses (a TCP address that is taken, a route that another
//! source holds with another flag) is set aside, told, and tried again with every beat; it never keeps the others from
//! being served. Deliberately absent: why something is wanted (`join`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use route::{Change, Desired, Endpoint};
use router::hub::{Hub, Refused};

use crate::join::{Join, Touched};

/// Keys set aside in one commit before it is given up until the next beat.
pub const REFUSALS_MAX: usize = 256;

/// A key of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A table job.
    Job(String),
    /// A route.
    Route(Endpoint),
}

/// See the module head.
#[derive(Debug, Default)]
pub struct Applied {
    desired: Desired,
    refused: BTreeMap<Key, String>,
    /// Commits made.
    pub commits: u64,
    /// Keys refused, each time that it was.
    pub refusals: u64,
}

impl Applied {
    /// Bring the table up to date for the touched keys. The version that holds it; none when nothing had to change.
    pub fn commit(&mut self, join: &Join, mut touched: Touched, hub: &Hub) -> Option<u64> {
        let mut before = BTreeSet::new();
        if !self.refused.is_empty() {
            let keys = touched.jobs.iter().cloned().map(Key::Job);
            let keys = keys.chain(touched.routes.iter().cloned().map(Key::Route));
            before.extend(keys.filter(|key| self.refused.remove(key).is_some()));
        }
        for _ in 0..REFUSALS_MAX {
            let (old, new) = (self.held(&touched), wanted(join, &touched));
            let changes = route::diff(&old, &new);
            if changes.is_empty() {
                return None;
            }
            match hub.commit(&changes) {
                Ok(receipt) => {
                    self.commits += 1;
                    self.note(&touched, new);
                    return Some(receipt.version);
                }
                Err(refused) => self.set_aside(&changes, &refused, &mut touched, &before),
            }
        }
        let left = touched.jobs.into_iter().map(Key::Job);
        for key in left.chain(touched.routes.into_iter().map(Key::Route)) {
            self.refused.insert(key, "too many refusals in one commit".to_owned());
        }
        None
    }

    /// Try again what was refused.
    pub fn retry(&mut self, join: &Join, hub: &Hub) -> Option<u64> {
        let mut touched = Touched::default();
        for key in self.refused.keys().cloned() {
            match key {
                Key::Job(name) => drop(touched.jobs.insert(name)),
                Key::Route(endpoint) => drop(touched.routes.insert(endpoint)),
            }
        }
        self.commit(join, touched, hub)
    }

    /// An address that should have gone is in the table, because the table does not let its job go.
    pub fn is_stuck(&self, addr: SocketAddr) -> bool {
        self.refused.keys().any(|key| matches!(key, Key::Job(name) if self.has(name, addr)))
    }

    /// Keys that the table does not take just now, and why.
    pub fn refused(&self) -> impl Iterator<Item = (&Key, &str)> {
        self.refused.iter().map(|(key, why)| (key, &**why))
    }

    /// An address is in the table under this name.
    pub fn has(&self, name: &str, addr: SocketAddr) -> bool {
        self.desired.jobs.get(name).is_some_and(|job| job.instances.contains(&addr))
    }

    /// All of this feed that is in the table.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    fn held(&self, touched: &Touched) -> Desired {
        let job = |name: &String| Some((name.clone(), self.desired.jobs.get(name)?.clone()));
        let route = |at: &Endpoint| Some((at.clone(), self.desired.routes.get(at)?.clone()));
        Desired {
            jobs: touched.jobs.iter().filter_map(job).collect(),
            routes: touched.routes.iter().filter_map(route).collect(),
        }
    }

    fn note(&mut self, touched: &Touched, new: Desired) {
        for name in touched.jobs.iter().filter(|name| !new.jobs.contains_key(*name)) {
            self.desired.jobs.remove(name);
        }
        for at in touched.routes.iter().filter(|at| !new.routes.contains_key(*at)) {
            self.desired.routes.remove(at);
        }
        self.desired.jobs.extend(new.jobs);
        self.desired.routes.extend(new.routes);
    }

    /// Take the key that stood in the way out of what is touched.
    fn set_aside(
        &mut self,
        changes: &[Change],
        refused: &Refused,
        touched: &mut Touched,
        before: &BTreeSet<Key>,
    ) {
        let key = match refused {
            Refused::Listen { addr, .. } => Some(Key::Route(Endpoint::Tcp(*addr))),
            Refused::Change(error) => changes.get(error.index).map(key_of),
            Refused::Stale { .. } => None,
        };
        let why = refused.to_string();
        let taken = match &key {
            Some(Key::Job(name)) => touched.jobs.remove(name),
            Some(Key::Route(endpoint)) => touched.routes.remove(endpoint),
            None => false,
        };
        let Some(key) = key.filter(|_| taken) else {
            // Cannot be; all are set aside rather than tried for ever.
            tracing::error!(why, "the table refused a change that was not asked for");
            let all = std::mem::take(touched);
            let keys = all.jobs.into_iter().map(Key::Job);
            let keys = keys.chain(all.routes.into_iter().map(Key::Route));
            self.refused.extend(keys.map(|key| (key, why.clone())));
            return;
        };
        self.refusals += 1;
        if !before.contains(&key) {
            tracing::error!(?key, why, "the table refused it; tried again with every beat");
        }
        self.refused.insert(key, why);
    }
}

fn wanted(join: &Join, touched: &Touched) -> Desired {
    let job = |name: &String| Some((name.clone(), join.wanted_job(name)?));
    let route = |at: &Endpoint| Some((at.clone(), join.wanted_route(at)?));
    Desired {
        jobs: touched.jobs.iter().filter_map(job).collect(),
        routes: touched.routes.iter().filter_map(route).collect(),
    }
}

fn key_of(change: &Change) -> Key {
    match change {
        Change::PutJob { name, .. } | Change::RemoveJob { name } => Key::Job(name.clone()),
        Change::SetAcl { job, .. }
        | Change::AddInstance { job, .. }
        | Change::RemoveInstance { job, .. } => Key::Job(job.clone()),
        Change::PutTarget { endpoint, .. }
        | Change::SetWeight { endpoint, .. }
        | Change::RemoveTarget { endpoint, .. }
        | Change::RemoveRoute { endpoint } => Key::Route(endpoint.clone()),
    }
}
