//! The route table: one immutable snapshot, cheap to clone, shared between threads.
//!
//! Deliberately absent: changes. They are made in `editor.rs`, in a draft that becomes the next
//! table; whoever holds this one sees no difference.

use crate::acl::ClientAcl;
use crate::endpoint::Endpoint;
use crate::explain::{Step, Trace, Untraced};
use crate::hash::Seed;
use crate::host::{self, Host, LITERAL_BYTES_MAX};
use crate::site::Site;
use crate::slot::{InstanceSlot, JobSlot, RouteSlot};
use crate::slots::Slots;
use crate::trie::Trie;
use crate::weight::{Target, Targets};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Who serves what, as of one version.
#[derive(Clone)]
pub struct Table(Arc<Draft>);

/// The parts of a table while they may still change.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) version: u64,
    pub(crate) seed: Seed,
    routes: Slots<Route>,
    jobs: Slots<Job>,
    job_names: Trie<Arc<Job>>,
    /// Sites by host.
    exact: Trie<Site>,
    /// Sites of `*.example.com` by `example.com`.
    wildcard: Trie<Site>,
    tcp: Trie<Arc<Route>>,
    /// Of routes and jobs, without the nodes that hold them.
    payload_bytes: usize,
}

/// An endpoint and the jobs that serve it.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its slot, the same as long as the route lives.
    pub slot: RouteSlot,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Whether plain HTTP is redirected to HTTPS. Fixed as long as the route lives.
    pub https_only: bool,
    /// The jobs and their weights, at least one.
    pub targets: Targets,
}

/// A pool of instances.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its slot, the same as long as the job lives.
    pub slot: JobSlot,
    /// Its name, unique in the table.
    pub name: Arc<str>,
    /// Which clients may reach it.
    pub acl: ClientAcl,
    /// Its instances, in the order in which they came; none is an ordinary state.
    pub instances: Box<[Instance]>,
}

/// One address of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its slot, unique over all jobs, the same as long as the job has this address.
    pub slot: InstanceSlot,
    /// Where it listens.
    pub addr: SocketAddr,
}

/// Why no route serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Miss {
    /// Neither the host nor a wildcard for it is known.
    NoHost,
    /// The host is known, but none of its prefixes covers the path.
    NoPath,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHost => "no route has this host",
            Self::NoPath => "no route of this host covers the path",
        })
    }
}

impl std::error::Error for Miss {}

impl Table {
    /// Rises by one with every commit; the empty table has 0.
    #[must_use]
    #[inline]
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// The route that serves a request.
    ///
    /// `host` as it was sent: any case, with or without port and final dot. `path` as it was
    /// sent, up to `?`; `*` and the empty path are covered by a route for the whole host.
    ///
    /// # Errors
    /// [`Miss`] says whether the host or the path is unknown.
    #[inline]
    pub fn find(&self, host: &[u8], path: &[u8]) -> Result<&Route, Miss> {
        self.find_traced(host, path, &mut Untraced)
    }

    /// The matcher. With [`Untraced`] the notes compile to nothing.
    #[inline]
    pub(crate) fn find_traced(
        &self,
        host: &[u8],
        path: &[u8],
        trace: &mut impl Trace,
    ) -> Result<&Route, Miss> {
        let mut scratch = [0; LITERAL_BYTES_MAX];
        let host = host::asked(host, &mut scratch);
        let site = self.0.site(host, trace).ok_or(Miss::NoHost)?;
        let route = site.find(self.0.seed, path, trace).ok_or(Miss::NoPath)?;
        Ok(route)
    }

    /// Mask of the active targets whose job admits `client`.
    ///
    /// Zero with [`Targets::active`] not zero is a refusal by ACL.
    #[must_use]
    #[inline]
    pub fn admitted(&self, targets: &Targets, client: IpAddr) -> u64 {
        targets
            .mask(|target| target.weight.is_active() && self.admits(target, client, &mut Untraced))
    }

    /// Whether the target's job admits `client`, with every rule that was tried.
    pub(crate) fn admits(&self, target: &Target, client: IpAddr, trace: &mut impl Trace) -> bool {
        self.job(target.job).is_some_and(|job| {
            job.acl.admits_traced(client, |number, rule, matches| {
                trace.note(|| Step::Rule {
                    job: Arc::clone(&job.name),
                    number,
                    rule: rule.to_string(),
                    matches,
                });
            })
        })
    }

    /// The route in a slot, unless the slot has another tenant by now.
    #[must_use]
    #[inline]
    pub fn route(&self, slot: RouteSlot) -> Option<&Route> {
        self.0.route(slot).map(|route| &**route)
    }

    /// The job in a slot, unless the slot has another tenant by now.
    #[must_use]
    #[inline]
    pub fn job(&self, slot: JobSlot) -> Option<&Job> {
        self.0.job(slot).map(|job| &**job)
    }

    /// The job with this name.
    #[must_use]
    pub fn job_by_name(&self, name: &str) -> Option<&Job> {
        self.0.job_by_name(name).map(|job| &**job)
    }

    /// The route with exactly this endpoint.
    #[must_use]
    pub fn route_by_endpoint(&self, endpoint: &Endpoint) -> Option<&Route> {
        self.0.route_by_endpoint(endpoint).map(|route| &**route)
    }

    /// The route that listens on this address.
    #[must_use]
    pub fn tcp_route(&self, address: SocketAddr) -> Option<&Route> {
        self.0.tcp_route(address).map(|route| &**route)
    }

    /// All routes by rising slot.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.0.routes.iter().map(|route| &**route)
    }

    /// All jobs by rising slot.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.0.jobs.iter().map(|job| &**job)
    }

    /// Number of routes.
    #[must_use]
    pub fn routes_count(&self) -> usize {
        self.0.routes.len()
    }

    /// Number of jobs.
    #[must_use]
    pub fn jobs_count(&self) -> usize {
        self.0.jobs.len()
    }

    /// Estimate of the memory this version would need alone, in bytes. Walks the index, so it is
    /// for a scrape, not for a request.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let draft = &*self.0;
        draft.payload_bytes
            + draft.routes.node_bytes()
            + draft.jobs.node_bytes()
            + draft.job_names.node_bytes(&|_| 0)
            + draft.exact.node_bytes(&Site::heap_bytes)
            + draft.wildcard.node_bytes(&Site::heap_bytes)
            + draft.tcp.node_bytes(&|_| 0)
    }

    /// Whether nobody else holds this version.
    pub(crate) fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// The parts, to be changed into the next version.
    pub(crate) fn draft(&self) -> Draft {
        Draft::clone(&self.0)
    }

    /// The parts, to be looked at.
    pub(crate) fn parts(&self) -> &Draft {
        &self.0
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("version", &self.version())
            .field("routes", &self.routes_count())
            .field("jobs", &self.jobs_count())
            .finish_non_exhaustive()
    }
}

impl Draft {
    pub(crate) fn empty(seed: Seed) -> Self {
        Self {
            version: 0,
            seed,
            routes: Slots::default(),
            jobs: Slots::default(),
            job_names: Trie::default(),
            exact: Trie::default(),
            wildcard: Trie::default(),
            tcp: Trie::default(),
            payload_bytes: 0,
        }
    }

    pub(crate) fn publish(self) -> Table {
        Table(Arc::new(self))
    }

    /// The site of a host as asked for: the exact one, then the wildcard for its first label.
    #[inline]
    fn site(&self, host: &[u8], trace: &mut impl Trace) -> Option<&Site> {
        let exact = self.exact.find(self.seed.of_name(host), |site| site.is_of(host));
        trace.note(|| Step::host(host, exact.is_some()));
        if exact.is_some() || self.wildcard.len() == 0 {
            return exact;
        }
        let dot = host.iter().position(|&byte| byte == b'.').filter(|&dot| dot > 0)?;
        let tail = &host[dot + 1..];
        let wildcard = self.wildcard.find(self.seed.of_name(tail), |site| site.is_of(tail));
        trace.note(|| Step::host(&[b"*.", tail].concat(), wildcard.is_some()));
        wildcard
    }

    pub(crate) fn route(&self, slot: RouteSlot) -> Option<&Arc<Route>> {
        self.routes.get(slot.0.index).filter(|route| route.slot == slot)
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(|route| &**route)
    }

    pub(crate) fn job(&self, slot: JobSlot) -> Option<&Arc<Job>> {
        self.jobs.get(slot.0.index).filter(|job| job.slot == slot)
    }

    pub(crate) fn job_by_name(&self, name: &str) -> Option<&Arc<Job>> {
        let hash = self.seed.of_path(name.as_bytes());
        self.job_names.find(hash, |job| *job.name == *name)
    }

    pub(crate) fn route_by_endpoint(&self, endpoint: &Endpoint) -> Option<&Arc<Route>> {
        match endpoint {
            Endpoint::Tcp(address) => self.tcp_route(*address),
            Endpoint::Http(http) => {
                let (hash, is) = self.site_key(http.host());
                self.sites(http.host()).find(hash, is)?.exact(self.seed, http.stem())
            }
        }
    }

    fn tcp_route(&self, address: SocketAddr) -> Option<&Arc<Route>> {
        self.tcp.find(self.tcp_hash(address), |route| route.endpoint.tcp() == Some(address))
    }

    fn tcp_hash(&self, address: SocketAddr) -> u64 {
        let mut bytes = [0; 18];
        match address.ip() {
            IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes[..16].copy_from_slice(&ip.octets()),
        }
        bytes[16..].copy_from_slice(&address.port().to_le_bytes());
        self.seed.of_path(&bytes)
    }

    fn sites(&self, host: &Host) -> &Trie<Site> {
        if host.is_wildcard() { &self.wildcard } else { &self.exact }
    }

    fn sites_mut(&mut self, host: &Host) -> &mut Trie<Site> {
        if host.is_wildcard() { &mut self.wildcard } else { &mut self.exact }
    }

    fn site_key<'a>(&self, host: &'a Host) -> (u64, impl Fn(&Site) -> bool + use<'a>) {
        let key = host.key();
        (self.seed.of_name(key), move |site: &Site| site.is_of(key))
    }

    /// Adds a route, or puts it in place of the one in the same slot, which has its endpoint.
    pub(crate) fn put_route(&mut self, route: Arc<Route>) {
        self.payload_bytes += route.payload_bytes();
        let index = route.slot.0.index;
        let before = self.routes.set(index, Some(Arc::clone(&route)));
        self.payload_bytes -= before.map_or(0, |before| before.payload_bytes());
        match &Arc::clone(&route).endpoint {
            Endpoint::Tcp(address) => {
                let hash = self.tcp_hash(*address);
                let is = |other: &Arc<Route>| other.endpoint.tcp() == Some(*address);
                match self.tcp.find_mut(hash, is) {
                    Some(place) => *place = route,
                    None => self.tcp.insert(hash, route),
                }
            }
            Endpoint::Http(http) => {
                let seed = self.seed;
                let (hash, is) = self.site_key(http.host());
                let sites = self.sites_mut(http.host());
                match sites.find_mut(hash, is) {
                    Some(site) => site.put(seed, route),
                    None => sites.insert(hash, Site::new(seed, route)),
                }
            }
        }
    }

    /// Takes out a route that is in this draft.
    pub(crate) fn remove_route(&mut self, route: &Route) {
        let gone = self.routes.set(route.slot.0.index, None);
        self.payload_bytes -= gone.map_or(0, |gone| gone.payload_bytes());
        match &route.endpoint {
            Endpoint::Tcp(address) => {
                let is = |other: &Arc<Route>| other.endpoint == route.endpoint;
                self.tcp.remove(self.tcp_hash(*address), is);
            }
            Endpoint::Http(http) => {
                let seed = self.seed;
                let (hash, is) = self.site_key(http.host());
                let sites = self.sites_mut(http.host());
                let Some(site) = sites.find_mut(hash, &is) else { return };
                if site.remove(seed, http.stem()) {
                    sites.remove(hash, is);
                }
            }
        }
    }

    /// Adds a job, or puts it in place of the one in the same slot, which has its name.
    pub(crate) fn put_job(&mut self, job: Arc<Job>) {
        self.payload_bytes += job.payload_bytes();
        let before = self.jobs.set(job.slot.0.index, Some(Arc::clone(&job)));
        self.payload_bytes -= before.map_or(0, |before| before.payload_bytes());
        let hash = self.seed.of_path(job.name.as_bytes());
        match self.job_names.find_mut(hash, |other| other.name == job.name) {
            Some(place) => *place = job,
            None => self.job_names.insert(hash, job),
        }
    }

    /// Takes out a job that is in this draft.
    pub(crate) fn remove_job(&mut self, job: &Job) {
        let gone = self.jobs.set(job.slot.0.index, None);
        self.payload_bytes -= gone.map_or(0, |gone| gone.payload_bytes());
        let hash = self.seed.of_path(job.name.as_bytes());
        self.job_names.remove(hash, |other| other.name == job.name);
    }
}

/// What the standard library puts in front of a shared value.
const COUNTS_BYTES: usize = 2 * size_of::<usize>();

impl Route {
    fn payload_bytes(&self) -> usize {
        let endpoint = self.endpoint.http().map_or(0, |http| http.heap_bytes());
        COUNTS_BYTES + size_of::<Self>() + endpoint + size_of_val(&*self.targets.list)
    }
}

impl Job {
    fn payload_bytes(&self) -> usize {
        COUNTS_BYTES
            + size_of::<Self>()
            + COUNTS_BYTES
            + self.name.len()
            + size_of_val(&*self.instances)
            + size_of_val(self.acl.rules())
    }
}
