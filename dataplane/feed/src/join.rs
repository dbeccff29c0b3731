//! Jobs joined with endpoints: what the table should hold, by key, so that one change costs one key.
//!
//! ```text
//!  set_job, remove_job ─▶ claims on endpoints and names ─┐
//!  add, remove (addr)  ─▶ pools by (job, port) ──────────┴▶ touched keys ─▶ wanted_job(name), wanted_route(endpoint)
//! ```
//!
//! A job of the cluster becomes one job of the table for each port that a route leads to, named `<fqn>:<port>`.
//! Deliberately absent: what the table holds now (`applied`), and where the facts come from (`jobs`, `ims`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use route::{
    ClientAcl, Desired, DesiredJob, DesiredRoute, Endpoint, INSTANCES_PER_JOB_MAX,
    JOB_NAME_BYTES_MAX, TARGETS_MAX, Weight,
};
use wire::job::RouteKind;
use wire::routing::{JobRoutes, RouteTo};
use wire::{Fqn, JobId};

/// Routes of one job that are taken; the rest is counted and left out.
pub const ROUTES_PER_JOB_MAX: usize = 4_096;
/// What a job gets whose ACL this router does not understand: nobody.
const NOBODY: &str = "deny 0.0.0.0/0, deny ::/0";
/// A port and its colon.
const PORT_BYTES_MAX: usize = 6;

/// Keys whose wanted state may differ from what was last applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Names of table jobs.
    pub jobs: BTreeSet<String>,
    /// Endpoints.
    pub routes: BTreeSet<Endpoint>,
}

impl Touched {
    /// Whether nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.routes.is_empty()
    }

    /// Take `other` in.
    pub fn add(&mut self, mut other: Self) {
        self.jobs.append(&mut other.jobs);
        self.routes.append(&mut other.routes);
    }
}

/// What was met that a guard before us should have kept away, or that a newer program wrote. Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// ACL texts that do not parse: their jobs get no traffic.
    pub acl_unreadable: u64,
    /// Endpoint texts that do not parse: their routes are left out.
    pub endpoint_unreadable: u64,
    /// Weights out of range: taken as inactive.
    pub weight_unreadable: u64,
    /// Jobs on one endpoint that disagree about https-only.
    pub https_only_conflict: u64,
    /// Jobs, routes, targets or instances beyond a bound.
    pub beyond_bound: u64,
}

/// A job's routes, read.
#[derive(Debug)]
struct Compiled {
    revision: u64,
    fqn: Fqn,
    acl: ClientAcl,
    targets: Vec<Target>,
    /// Table names by port.
    names: BTreeMap<u16, String>,
}

#[derive(Debug)]
struct Target {
    endpoint: Endpoint,
    https_only: bool,
    port: u16,
    weight: Weight,
}

/// See the module head.
#[derive(Debug, Default)]
pub struct Join {
    jobs: BTreeMap<JobId, Compiled>,
    /// Who says to have this name; the last written one has it.
    claims: HashMap<Fqn, BTreeSet<(u64, JobId)>>,
    /// Jobs with a route at this endpoint.
    by_endpoint: HashMap<Endpoint, BTreeSet<JobId>>,
    /// Table jobs of those who have their name.
    names: HashMap<String, (JobId, u16)>,
    /// Addresses, each with the number of endpoints that say it.
    pools: HashMap<(JobId, u16), BTreeMap<SocketAddr, u32>>,
    endpoints: u64,
    touched: Touched,
    /// See [`Oddities`].
    pub oddities: Oddities,
}

impl Join {
    /// A job has these routes from now on.
    pub fn set_job(&mut self, routes: &JobRoutes) {
        self.remove_job(routes.job);
        let compiled = self.compile(routes);
        let before = self.owner(&compiled.fqn);
        self.claims
            .entry(compiled.fqn.clone())
            .or_default()
            .insert((compiled.revision, routes.job));
        for target in &compiled.targets {
            self.by_endpoint.entry(target.endpoint.clone()).or_default().insert(routes.job);
        }
        let fqn = compiled.fqn.clone();
        self.jobs.insert(routes.job, compiled);
        self.hand_over(before, self.owner(&fqn));
    }

    /// A job has no routes any more.
    pub fn remove_job(&mut self, job: JobId) {
        let Some(fqn) = self.jobs.get(&job).map(|compiled| compiled.fqn.clone()) else { return };
        let before = self.owner(&fqn);
        if before == Some(job) {
            self.hide(job);
        }
        let Some(compiled) = self.jobs.remove(&job) else { return };
        if let Some(claims) = self.claims.get_mut(&fqn) {
            claims.remove(&(compiled.revision, job));
            if claims.is_empty() {
                self.claims.remove(&fqn);
            }
        }
        for target in &compiled.targets {
            if let Some(jobs) = self.by_endpoint.get_mut(&target.endpoint) {
                jobs.remove(&job);
                if jobs.is_empty() {
                    self.by_endpoint.remove(&target.endpoint);
                }
            }
        }
        if before == Some(job)
            && let Some(next) = self.owner(&fqn)
        {
            self.show(next);
        }
    }

    /// An endpoint says that this port of the job is served there.
    pub fn add(&mut self, job: JobId, port: u16, addr: SocketAddr) {
        let count = self.pools.entry((job, port)).or_default().entry(addr).or_default();
        *count += 1;
        self.endpoints += 1;
        if *count == 1 {
            self.touch_pool(job, port);
        }
    }

    /// It does not any more.
    pub fn remove(&mut self, job: JobId, port: u16, addr: SocketAddr) {
        let Some(pool) = self.pools.get_mut(&(job, port)) else { return };
        let Some(count) = pool.get_mut(&addr) else { return };
        *count -= 1;
        self.endpoints -= 1;
        if *count > 0 {
            return;
        }
        pool.remove(&addr);
        if pool.is_empty() {
            self.pools.remove(&(job, port));
        }
        self.touch_pool(job, port);
    }

    /// What was touched since the last call.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// Endpoints known, whether or not a route leads to them.
    pub fn endpoints(&self) -> u64 {
        self.endpoints
    }

    /// The table's name for a port of a job, if a route leads there.
    pub fn name_of(&self, job: JobId, port: u16) -> Option<&str> {
        let name = self.jobs.get(&job)?.names.get(&port)?;
        (self.names.get(name) == Some(&(job, port))).then_some(name)
    }

    /// The job and port behind a name of the table.
    pub fn named(&self, name: &str) -> Option<(JobId, u16, &Fqn)> {
        let &(job, port) = self.names.get(name)?;
        Some((job, port, &self.jobs.get(&job)?.fqn))
    }

    /// Whether this revision wrote a job with a route at this endpoint.
    pub fn wrote_route(&self, revision: u64, endpoint: &Endpoint) -> bool {
        let jobs = self.by_endpoint.get(endpoint).into_iter().flatten();
        jobs.filter_map(|job| self.jobs.get(job)).any(|job| job.revision == revision)
    }

    /// Whether this revision wrote the job behind this name.
    pub fn wrote_job(&self, revision: u64, name: &str) -> bool {
        let job = self.names.get(name).and_then(|(job, _)| self.jobs.get(job));
        job.is_some_and(|job| job.revision == revision)
    }

    /// The table job that should have this name.
    pub fn wanted_job(&self, name: &str) -> Option<DesiredJob> {
        let &(job, port) = self.names.get(name)?;
        let compiled = self.jobs.get(&job)?;
        let pool = self.pools.get(&(job, port));
        let instances = pool.into_iter().flat_map(BTreeMap::keys).copied();
        Some(DesiredJob {
            client_acl: compiled.acl.clone(),
            instances: instances.take(INSTANCES_PER_JOB_MAX).collect(),
        })
    }

    /// The route that should be at this endpoint.
    pub fn wanted_route(&self, endpoint: &Endpoint) -> Option<DesiredRoute> {
        let mut route = DesiredRoute::default();
        let mut first = u64::MAX;
        for job in self.by_endpoint.get(endpoint)? {
            let Some(compiled) = self.jobs.get(job) else { continue };
            for target in compiled.targets.iter().filter(|target| target.endpoint == *endpoint) {
                let Some(name) = compiled.names.get(&target.port) else { continue };
                if self.names.get(name) != Some(&(*job, target.port))
                    || route.targets.len() == TARGETS_MAX
                {
                    continue;
                }
                // The guard before us lets no two flags onto one endpoint; should it fail, the older record's counts.
                if compiled.revision < first {
                    first = compiled.revision;
                    route.https_only = target.https_only;
                }
                // Twice the same port on one endpoint: the first in the record counts.
                route.targets.entry(name.clone()).or_insert(target.weight);
            }
        }
        (!route.targets.is_empty()).then_some(route)
    }

    /// Everything that the table should hold.
    pub fn desired(&self) -> Desired {
        let job = |name: &String| Some((name.clone(), self.wanted_job(name)?));
        let route = |at: &Endpoint| Some((at.clone(), self.wanted_route(at)?));
        Desired {
            jobs: self.names.keys().filter_map(job).collect(),
            routes: self.by_endpoint.keys().filter_map(route).collect(),
        }
    }

    // === within ===

    fn owner(&self, fqn: &Fqn) -> Option<JobId> {
        self.claims.get(fqn)?.last().map(|&(_, job)| job)
    }

    fn hand_over(&mut self, before: Option<JobId>, after: Option<JobId>) {
        if before == after {
            return;
        }
        before.into_iter().for_each(|job| self.hide(job));
        after.into_iter().for_each(|job| self.show(job));
    }

    fn show(&mut self, job: JobId) {
        let Some(compiled) = self.jobs.get(&job) else { return };
        for (port, name) in &compiled.names {
            self.names.insert(name.clone(), (job, *port));
        }
        self.touch_job(job);
    }

    fn hide(&mut self, job: JobId) {
        self.touch_job(job);
        let Some(compiled) = self.jobs.get(&job) else { return };
        for name in compiled.names.values() {
            self.names.remove(name);
        }
    }

    fn touch_job(&mut self, job: JobId) {
        let Some(compiled) = self.jobs.get(&job) else { return };
        self.touched.jobs.extend(compiled.names.values().cloned());
        self.touched.routes.extend(compiled.targets.iter().map(|target| target.endpoint.clone()));
    }

    fn touch_pool(&mut self, job: JobId, port: u16) {
        if self.pools.get(&(job, port)).is_some_and(|pool| pool.len() > INSTANCES_PER_JOB_MAX) {
            self.oddities.beyond_bound += 1;
        }
        if let Some(name) = self.name_of(job, port).map(str::to_owned) {
            self.touched.jobs.insert(name);
        }
    }

    fn compile(&mut self, routes: &JobRoutes) -> Compiled {
        let acl = routes.client_acl.parse().unwrap_or_else(|mistake| {
            self.oddities.acl_unreadable += 1;
            let acl = routes.client_acl.as_str();
            tracing::error!(job = %routes.fqn, acl, %mistake, "the client ACL is not understood: the job gets no traffic");
            NOBODY.parse().expect("this very text is tested")
        });
        if routes.routes.len() > ROUTES_PER_JOB_MAX {
            self.oddities.beyond_bound += 1;
            let count = routes.routes.len();
            tracing::error!(job = %routes.fqn, count, "more routes than {ROUTES_PER_JOB_MAX}: the rest is left out");
        }
        let taken = routes.routes.iter().take(ROUTES_PER_JOB_MAX);
        let targets: Vec<Target> = taken.filter_map(|to| self.target(routes, to)).collect();
        for target in &targets {
            self.note_conflicts(routes, target);
        }
        let base = base_name(routes);
        let names =
            targets.iter().map(|target| (target.port, format!("{base}:{}", target.port))).collect();
        Compiled { revision: routes.revision, fqn: routes.fqn.clone(), acl, targets, names }
    }

    fn target(&mut self, routes: &JobRoutes, to: &RouteTo) -> Option<Target> {
        let endpoint: Result<Endpoint, String> = match to.kind {
            RouteKind::Http => {
                to.endpoint.parse().map(Endpoint::Http).map_err(|error| error.to_string())
            }
            RouteKind::Tcp => {
                to.endpoint.parse().map(Endpoint::Tcp).map_err(|error| error.to_string())
            }
        };
        let endpoint = endpoint.map_err(|mistake| {
            self.oddities.endpoint_unreadable += 1;
            let at = to.endpoint.as_str();
            tracing::error!(job = %routes.fqn, endpoint = at, %mistake, "the endpoint is not understood: the route is left out");
        });
        let weight = Weight::from_percent(to.weight).unwrap_or_else(|| {
            self.oddities.weight_unreadable += 1;
            let weight = to.weight;
            tracing::error!(job = %routes.fqn, weight, "the weight is out of range: the route is inactive");
            Weight::from_hundredths(-1).expect("within the range")
        });
        // The flag means nothing for bytes, and the table refuses it there.
        let https_only = to.https_only && to.kind == RouteKind::Http;
        Some(Target { endpoint: endpoint.ok()?, https_only, port: to.port, weight })
    }

    fn note_conflicts(&mut self, routes: &JobRoutes, target: &Target) {
        let Some(others) = self.by_endpoint.get(&target.endpoint) else { return };
        if others.len() >= TARGETS_MAX {
            self.oddities.beyond_bound += 1;
            tracing::error!(endpoint = %target.endpoint, "more jobs than {TARGETS_MAX}: the rest is left out");
        }
        let differs = |job: &JobId| {
            let theirs = self.jobs.get(job).into_iter().flat_map(|other| &other.targets);
            theirs
                .filter(|other| other.endpoint == target.endpoint)
                .any(|other| other.https_only != target.https_only)
        };
        if others.iter().any(differs) {
            self.oddities.https_only_conflict += 1;
            tracing::error!(endpoint = %target.endpoint, job = %routes.fqn, "jobs disagree about https-only: the older record counts");
        }
    }
}

/// The name without the port. A name that the table could not hold is cut, and made unique by the job's id.
fn base_name(routes: &JobRoutes) -> String {
    let name = routes.fqn.to_string();
    if name.len() + PORT_BYTES_MAX <= JOB_NAME_BYTES_MAX {
        return name;
    }
    let id = routes.job.0.simple().to_string();
    let room = JOB_NAME_BYTES_MAX - PORT_BYTES_MAX - id.len() - 1;
    // Names are ASCII, so that any cut is between two characters.
    format!("{}~{id}", name.get(..room).unwrap_or_default())
}

/// A job's routes, shared between the books and the file.
pub type SharedRoutes = Arc<JobRoutes>;
