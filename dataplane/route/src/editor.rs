//! The one writer: makes changes in a draft, publishes it as the next version, keeps the books.
//!
//! ```text
//!   newest ──draft──▶ change ─▶ change ─▶ … ──ok──▶ next version, delta ──▶ newest
//!                        └──error──▶ draft dropped, slots taken for it given back
//! ```
//!
//! The editor holds every version until nobody else does, so that readers, who drop their old
//! version between two requests, never free its memory.
//! Deliberately absent: publication and acknowledgement. The caller hands the versions out.

use crate::acl::ClientAcl;
use crate::change::{Change, Commit, CommitError, Delta, Freed};
use crate::endpoint::Endpoint;
use crate::hash::Seed;
use crate::slot::{InstanceSlot, JobSlot, RouteSlot, SLOTS_MAX, SlotBook};
use crate::table::{Draft, Instance, Job, Route, Table};
use crate::weight::{TARGETS_MAX, Target, Targets, Weight};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Longest name of a job.
pub const JOB_NAME_BYTES_MAX: usize = 512;
/// Most instances of one job.
pub const INSTANCES_PER_JOB_MAX: usize = 4_096;

/// Key of the hash when the caller has none: runs are then alike to the letter.
const SEED_DEFAULT: u64 = 0xa409_3822_299f_31d0;

/// Owner of the newest table.
#[derive(Debug)]
pub struct Editor {
    newest: Table,
    /// Older versions that somebody may still read.
    older: Vec<Table>,
    books: Books,
}

/// What is known beside the table. An aborted commit leaves no trace in it.
#[derive(Debug, Default)]
struct Books {
    routes: SlotBook,
    jobs: SlotBook,
    instances: SlotBook,
    /// On how many routes a job is, by the index of its slot.
    uses: Vec<u32>,
}

impl Default for Editor {
    fn default() -> Self {
        Self::new()
    }
}

impl Editor {
    /// An editor with an empty table of version 0.
    #[must_use]
    pub fn new() -> Self {
        Self::with_seed(SEED_DEFAULT)
    }

    /// The same with a secret key for the hash, where strangers choose the names of hosts.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        let newest = Draft::empty(Seed(seed)).publish();
        Self { newest, older: Vec::new(), books: Books::default() }
    }

    /// The newest version.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.newest
    }

    /// Makes all `changes`, one after the other, as one new version.
    ///
    /// # Errors
    /// [`CommitError`] names the first change that cannot be made. Then none is, and the version
    /// stays.
    pub fn apply(&mut self, changes: &[Change]) -> Result<Commit, CommitError> {
        let mut work = Work::new(&self.newest, &mut self.books);
        for (index, change) in changes.iter().enumerate() {
            if let Err(text) = work.make(change) {
                work.abandon();
                return Err(CommitError { index, text });
            }
        }
        let (table, delta) = work.finish();
        let before = std::mem::replace(&mut self.newest, table.clone());
        self.older.push(before);
        self.sweep();
        Ok(Commit { table, delta: Arc::new(delta) })
    }

    /// Frees the slots of removed routes, jobs and instances for reuse. The caller says so when
    /// nobody refers to them any more; slots that do not wait for it are passed over.
    pub fn release(&mut self, slots: impl IntoIterator<Item = Freed>) {
        for slot in slots {
            let books = &mut self.books;
            let _was_waiting = match slot {
                Freed::Route(slot) => books.routes.release(slot.0),
                Freed::Job(slot) => books.jobs.release(slot.0),
                Freed::Instance(slot) => books.instances.release(slot.0),
            };
        }
        self.sweep();
    }

    /// Drops the older versions that nobody else holds, and returns how many are left. Commits
    /// and releases do it by themselves; an idle editor may be asked.
    pub fn sweep(&mut self) -> usize {
        self.older.retain(|table| !table.is_last());
        self.older.len()
    }
}

/// A commit in the making.
struct Work<'a> {
    before: &'a Table,
    draft: Draft,
    books: &'a mut Books,
    routes_touched: Vec<RouteSlot>,
    jobs_touched: Vec<JobSlot>,
    routes_taken: Vec<RouteSlot>,
    jobs_taken: Vec<JobSlot>,
    instances_taken: Vec<(InstanceSlot, JobSlot)>,
    /// Every change to `books.uses`: a job, and whether it came on a route or went off one.
    uses: Vec<(JobSlot, bool)>,
}

/// Why a change cannot be made.
type Refusal = String;

impl<'a> Work<'a> {
    fn new(before: &'a Table, books: &'a mut Books) -> Self {
        let mut draft = before.draft();
        draft.version += 1;
        Self {
            before,
            draft,
            books,
            routes_touched: Vec::new(),
            jobs_touched: Vec::new(),
            routes_taken: Vec::new(),
            jobs_taken: Vec::new(),
            instances_taken: Vec::new(),
            uses: Vec::new(),
        }
    }

    fn make(&mut self, change: &Change) -> Result<(), Refusal> {
        match change {
            Change::PutJob { name, client_acl, instances } => {
                self.put_job(name, client_acl, instances)
            }
            Change::RemoveJob { name } => self.remove_job(name),
            Change::SetAcl { job, client_acl } => self.set_acl(job, client_acl),
            Change::AddInstance { job, addr } => self.add_instance(job, *addr),
            Change::RemoveInstance { job, addr } => {
                self.remove_instance(job, *addr);
                Ok(())
            }
            Change::PutTarget { endpoint, https_only, job, weight } => {
                self.put_target(endpoint, *https_only, job, *weight)
            }
            Change::SetWeight { endpoint, job, weight } => self.set_weight(endpoint, job, *weight),
            Change::RemoveTarget { endpoint, job } => {
                self.remove_target(endpoint, job);
                Ok(())
            }
            Change::RemoveRoute { endpoint } => {
                self.remove_route(endpoint);
                Ok(())
            }
        }
    }

    // === jobs ===

    fn put_job(
        &mut self,
        name: &str,
        acl: &ClientAcl,
        addrs: &[SocketAddr],
    ) -> Result<(), Refusal> {
        check_name(name)?;
        if addrs.len() > INSTANCES_PER_JOB_MAX {
            let n = addrs.len();
            return Err(format!(
                "job {name} has {n} instances, {INSTANCES_PER_JOB_MAX} are allowed"
            ));
        }
        let before = self.draft.job_by_name(name).cloned();
        let slot = match &before {
            Some(job) => job.slot,
            None => self.take_job()?,
        };
        let kept: BTreeMap<SocketAddr, Instance> = before
            .iter()
            .flat_map(|job| job.instances.iter().map(|instance| (instance.addr, *instance)))
            .collect();
        let mut seen = BTreeMap::new();
        let mut instances = Vec::with_capacity(addrs.len());
        for (place, &addr) in addrs.iter().enumerate() {
            if seen.insert(addr, place).is_some() {
                return Err(format!("job {name} has the instance {addr} twice"));
            }
            instances.push(match kept.get(&addr) {
                Some(instance) => *instance,
                None => self.take_instance(slot, addr)?,
            });
        }
        if before.is_some_and(|job| job.acl == *acl && *job.instances == *instances) {
            return Ok(());
        }
        self.replace_job(Job {
            slot,
            name: name.into(),
            acl: acl.clone(),
            instances: instances.into(),
        });
        Ok(())
    }

    fn remove_job(&mut self, name: &str) -> Result<(), Refusal> {
        let Some(job) = self.draft.job_by_name(name).cloned() else { return Ok(()) };
        let uses = self.books.uses[job.slot.0.index as usize];
        if uses > 0 {
            let on_it = |route: &&Route| route.targets.list.iter().any(|t| t.job == job.slot);
            let example = self.draft.routes().find(on_it).map(|route| route.endpoint.to_string());
            return Err(format!(
                "job {name} is still on {uses} route{}, for example {}; take it off first",
                if uses == 1 { "" } else { "s" },
                example.unwrap_or_default(),
            ));
        }
        self.jobs_touched.push(job.slot);
        self.draft.remove_job(&job);
        Ok(())
    }

    fn set_acl(&mut self, name: &str, acl: &ClientAcl) -> Result<(), Refusal> {
        let job = self.existing_job(name)?;
        if job.acl != *acl {
            self.replace_job(Job { acl: acl.clone(), ..Job::clone(&job) });
        }
        Ok(())
    }

    fn add_instance(&mut self, name: &str, addr: SocketAddr) -> Result<(), Refusal> {
        let job = self.existing_job(name)?;
        if job.instances.iter().any(|instance| instance.addr == addr) {
            return Ok(());
        }
        if job.instances.len() == INSTANCES_PER_JOB_MAX {
            return Err(format!(
                "job {name} has {INSTANCES_PER_JOB_MAX} instances, the most it can"
            ));
        }
        let added = self.take_instance(job.slot, addr)?;
        let instances = job.instances.iter().copied().chain([added]).collect();
        self.replace_job(Job { instances, ..Job::clone(&job) });
        Ok(())
    }

    fn remove_instance(&mut self, name: &str, addr: SocketAddr) {
        let Some(job) = self.draft.job_by_name(name).cloned() else { return };
        let rest = job.instances.iter().filter(|instance| instance.addr != addr);
        let instances: Box<[_]> = rest.copied().collect();
        if instances.len() < job.instances.len() {
            self.replace_job(Job { instances, ..Job::clone(&job) });
        }
    }

    fn existing_job(&self, name: &str) -> Result<Arc<Job>, Refusal> {
        let job = self.draft.job_by_name(name).cloned();
        job.ok_or_else(|| format!("job {name} does not exist"))
    }

    fn replace_job(&mut self, job: Job) {
        self.jobs_touched.push(job.slot);
        self.draft.put_job(Arc::new(job));
    }

    // === routes ===

    fn put_target(
        &mut self,
        endpoint: &Endpoint,
        https_only: bool,
        name: &str,
        weight: Weight,
    ) -> Result<(), Refusal> {
        if https_only && endpoint.http().is_none() {
            return Err(format!("{endpoint} cannot be https-only: it is no http route"));
        }
        let job = self.existing_job(name)?.slot;
        let Some(route) = self.draft.route_by_endpoint(endpoint).cloned() else {
            let slot = self.take_route()?;
            let endpoint = endpoint.clone();
            self.count_use(job, true);
            self.replace_route(slot, endpoint, https_only, [Target { job, weight }].into());
            return Ok(());
        };
        if route.https_only != https_only {
            return Err(format!("Route {} https-only flag conflict", endpoint.name()));
        }
        if route.targets.list.iter().any(|target| target.job == job) {
            self.replace_weight(&route, job, weight);
            return Ok(());
        }
        if route.targets.list.len() == TARGETS_MAX {
            return Err(format!("route {endpoint} has {TARGETS_MAX} jobs, the most it can"));
        }
        let added = Target { job, weight };
        let list = route.targets.list.iter().copied().chain([added]).collect();
        self.count_use(job, true);
        self.replace_route(route.slot, route.endpoint.clone(), https_only, list);
        Ok(())
    }

    fn set_weight(
        &mut self,
        endpoint: &Endpoint,
        name: &str,
        weight: Weight,
    ) -> Result<(), Refusal> {
        let job = self.existing_job(name)?.slot;
        let route = self.draft.route_by_endpoint(endpoint).cloned();
        let route = route.ok_or_else(|| format!("route {endpoint} does not exist"))?;
        if !route.targets.list.iter().any(|target| target.job == job) {
            return Err(format!("job {name} is not on route {endpoint}"));
        }
        self.replace_weight(&route, job, weight);
        Ok(())
    }

    fn replace_weight(&mut self, route: &Route, job: JobSlot, weight: Weight) {
        let mut list = route.targets.list.clone();
        for target in list.iter_mut().filter(|target| target.job == job) {
            target.weight = weight;
        }
        if list != route.targets.list {
            self.replace_route(route.slot, route.endpoint.clone(), route.https_only, list);
        }
    }

    fn remove_target(&mut self, endpoint: &Endpoint, name: &str) {
        let Some(job) = self.draft.job_by_name(name).map(|job| job.slot) else { return };
        let Some(route) = self.draft.route_by_endpoint(endpoint).cloned() else { return };
        let rest = route.targets.list.iter().filter(|target| target.job != job);
        let list: Box<[_]> = rest.copied().collect();
        if list.len() == route.targets.list.len() {
            return;
        }
        self.count_use(job, false);
        if list.is_empty() {
            self.routes_touched.push(route.slot);
            self.draft.remove_route(&route);
        } else {
            self.replace_route(route.slot, route.endpoint.clone(), route.https_only, list);
        }
    }

    fn remove_route(&mut self, endpoint: &Endpoint) {
        let Some(route) = self.draft.route_by_endpoint(endpoint).cloned() else { return };
        for target in &route.targets.list {
            self.count_use(target.job, false);
        }
        self.routes_touched.push(route.slot);
        self.draft.remove_route(&route);
    }

    fn replace_route(
        &mut self,
        slot: RouteSlot,
        endpoint: Endpoint,
        https_only: bool,
        list: Box<[Target]>,
    ) {
        debug_assert!(!list.is_empty() && list.len() <= TARGETS_MAX);
        self.routes_touched.push(slot);
        let targets = Targets { revision: self.draft.version, list };
        self.draft.put_route(Arc::new(Route { slot, endpoint, https_only, targets }));
    }

    // === books ===

    fn take_route(&mut self) -> Result<RouteSlot, Refusal> {
        let slot = self.books.routes.take();
        let slot = RouteSlot(slot.ok_or_else(|| format!("there are {SLOTS_MAX} routes"))?);
        self.routes_taken.push(slot);
        Ok(slot)
    }

    fn take_job(&mut self) -> Result<JobSlot, Refusal> {
        let slot = self.books.jobs.take();
        let slot = JobSlot(slot.ok_or_else(|| format!("there are {SLOTS_MAX} jobs"))?);
        self.jobs_taken.push(slot);
        let uses = &mut self.books.uses;
        uses.resize(uses.len().max(slot.0.index as usize + 1), 0);
        Ok(slot)
    }

    fn take_instance(&mut self, job: JobSlot, addr: SocketAddr) -> Result<Instance, Refusal> {
        if addr.port() == 0 {
            return Err(format!("instance {addr} has no port"));
        }
        let slot = self.books.instances.take();
        let slot = InstanceSlot(slot.ok_or_else(|| format!("there are {SLOTS_MAX} instances"))?);
        self.instances_taken.push((slot, job));
        Ok(Instance { slot, addr })
    }

    fn count_use(&mut self, job: JobSlot, comes: bool) {
        self.uses.push((job, comes));
        let uses = &mut self.books.uses[job.0.index as usize];
        if comes { *uses += 1 } else { *uses -= 1 }
    }

    /// Leaves the books as they were.
    fn abandon(self) {
        for (job, came) in self.uses.into_iter().rev() {
            let uses = &mut self.books.uses[job.0.index as usize];
            if came { *uses -= 1 } else { *uses += 1 }
        }
        // Backwards, so that the next commit is given the very same slots.
        self.routes_taken.iter().rev().for_each(|slot| self.books.routes.cancel(slot.0));
        self.jobs_taken.iter().rev().for_each(|slot| self.books.jobs.cancel(slot.0));
        self.instances_taken.iter().rev().for_each(|(slot, _)| self.books.instances.cancel(slot.0));
    }

    /// The next version, how it differs, and the books brought up to date.
    fn finish(mut self) -> (Table, Delta) {
        let after = self.draft.publish();
        let (before, now, books) = (self.before.parts(), after.parts(), self.books);
        let mut delta = Delta { version: after.version(), ..Delta::default() };
        sort(&mut self.routes_touched);
        for slot in self.routes_touched {
            match (before.route(slot), now.route(slot)) {
                (Some(old), Some(new)) if old.targets.list == new.targets.list => {}
                (old, Some(new)) => {
                    delta.routes_changed.push(slot);
                    delta.tcp_added.extend(new.endpoint.tcp().filter(|_| old.is_none()));
                }
                (Some(old), None) => {
                    delta.routes_removed.push(slot);
                    delta.tcp_removed.extend(old.endpoint.tcp());
                    books.routes.retire(slot.0);
                }
                (None, None) => books.routes.cancel(slot.0),
            }
        }
        sort(&mut self.jobs_touched);
        for slot in self.jobs_touched {
            let (old, new) = (before.job(slot), now.job(slot));
            match (old, new) {
                (Some(old), Some(new)) if old.acl == new.acl && old.instances == new.instances => {}
                (_, Some(_)) => delta.jobs_changed.push(slot),
                (Some(_), None) => {
                    delta.jobs_removed.push(slot);
                    books.jobs.retire(slot.0);
                }
                (None, None) => books.jobs.cancel(slot.0),
            }
            let mut kept: Vec<InstanceSlot> = instances(new).map(|i| i.slot).collect();
            sort(&mut kept);
            for gone in instances(old).filter(|i| kept.binary_search(&i.slot).is_err()) {
                let name = old.map(|job| Arc::clone(&job.name)).unwrap_or_default();
                delta.instances_removed.push((gone.slot, gone.addr, name));
                books.instances.retire(gone.slot.0);
            }
        }
        for (slot, job) in self.instances_taken {
            if !instances(now.job(job)).any(|instance| instance.slot == slot) {
                books.instances.cancel(slot.0);
            }
        }
        // An address that only changed hands within the commit keeps its listener.
        let stays: Vec<_> =
            delta.tcp_added.iter().copied().filter(|a| delta.tcp_removed.contains(a)).collect();
        delta.tcp_added.retain(|address| !stays.contains(address));
        delta.tcp_removed.retain(|address| !stays.contains(address));
        delta.instances_removed.sort_unstable_by_key(|&(slot, ..)| slot);
        (after, delta)
    }
}

fn instances(job: Option<&Arc<Job>>) -> impl Iterator<Item = &Instance> {
    job.into_iter().flat_map(|job| job.instances.iter())
}

fn sort<T: Ord>(slots: &mut Vec<T>) {
    slots.sort_unstable();
    slots.dedup();
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > JOB_NAME_BYTES_MAX {
        return Err(format!("a job name has 1 to {JOB_NAME_BYTES_MAX} bytes, not {}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("the job name {name:?} contains a control character"));
    }
    Ok(())
}
