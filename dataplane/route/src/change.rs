//! What can be asked of the table, and what a commit changed.
//!
//! A list of changes is made whole or not at all. Removing what is not there changes nothing: the
//! wish is fulfilled, and the delta shows it. Everything else that cannot be done is an error.
//! Deliberately absent: how a change is made; see `editor.rs`.

use crate::acl::ClientAcl;
use crate::endpoint::Endpoint;
use crate::slot::{InstanceSlot, JobSlot, RouteSlot};
use crate::table::Table;
use crate::weight::Weight;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// One wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a job, or replaces its ACL and instances. An instance whose address stays keeps its
    /// slot.
    PutJob {
        /// Name of the job.
        name: String,
        /// Which clients may reach it.
        client_acl: ClientAcl,
        /// All its addresses.
        instances: Vec<SocketAddr>,
    },
    /// Removes a job with all its instances. An error while it is on a route.
    RemoveJob {
        /// Name of the job.
        name: String,
    },
    /// Replaces the ACL of a job.
    SetAcl {
        /// Name of the job.
        job: String,
        /// Which clients may reach it.
        client_acl: ClientAcl,
    },
    /// Adds an instance to a job; nothing when the job has it.
    AddInstance {
        /// Name of the job.
        job: String,
        /// Where the instance listens.
        addr: SocketAddr,
    },
    /// Removes an instance from a job.
    RemoveInstance {
        /// Name of the job.
        job: String,
        /// Where the instance listens.
        addr: SocketAddr,
    },
    /// Puts a job on a route, or changes its weight there. Adds the route when it is missing.
    PutTarget {
        /// Where the route listens.
        endpoint: Endpoint,
        /// The flag of the route; an error when the route has the other.
        https_only: bool,
        /// Name of the job.
        job: String,
        /// Its weight on this route.
        weight: Weight,
    },
    /// Changes the weight of a job on a route.
    SetWeight {
        /// Where the route listens.
        endpoint: Endpoint,
        /// Name of the job.
        job: String,
        /// Its weight on this route.
        weight: Weight,
    },
    /// Takes a job off a route. The last one takes the route with it.
    RemoveTarget {
        /// Where the route listens.
        endpoint: Endpoint,
        /// Name of the job.
        job: String,
    },
    /// Removes a route with all its targets.
    RemoveRoute {
        /// Where the route listens.
        endpoint: Endpoint,
    },
}

/// Why a list of changes was not made. Nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitError {
    /// Position of the first change that could not be made, from 0.
    pub index: usize,
    /// What stands in its way: a sentence for the operator.
    pub text: String,
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for CommitError {}

/// A new version of the table.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The version.
    pub table: Table,
    /// How it differs from the one before.
    pub delta: Arc<Delta>,
}

/// The net difference between a version and the one before; every list by rising slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// The newer version.
    pub version: u64,
    /// Jobs that are new or have another ACL or other instances.
    pub jobs_changed: Vec<JobSlot>,
    /// Jobs that are gone.
    pub jobs_removed: Vec<JobSlot>,
    /// Routes that are new or have other targets or weights.
    pub routes_changed: Vec<RouteSlot>,
    /// Routes that are gone.
    pub routes_removed: Vec<RouteSlot>,
    /// Instances that are gone, also those of jobs that are gone, with the name of their job.
    pub instances_removed: Vec<(InstanceSlot, SocketAddr, Arc<str>)>,
    /// Addresses to listen on from now on.
    pub tcp_added: Vec<SocketAddr>,
    /// Addresses not to listen on any more.
    pub tcp_removed: Vec<SocketAddr>,
}

/// A slot whose tenant is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Freed {
    /// Of a route.
    Route(RouteSlot),
    /// Of a job.
    Job(JobSlot),
    /// Of an instance.
    Instance(InstanceSlot),
}

impl Delta {
    /// Whether nothing but the version differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { version: self.version, ..Self::default() }
    }

    /// All slots that this version does not use any more. They wait for
    /// [`Editor::release`](crate::Editor::release).
    pub fn freed(&self) -> impl Iterator<Item = Freed> {
        let routes = self.routes_removed.iter().map(|&slot| Freed::Route(slot));
        let jobs = self.jobs_removed.iter().map(|&slot| Freed::Job(slot));
        let instances = self.instances_removed.iter().map(|&(slot, ..)| Freed::Instance(slot));
        routes.chain(jobs).chain(instances)
    }
}
