//! This core's view of jobs and instances: who is there, what is in flight, which idle connections wait.
//!
//! Entries are made at the first use of a job and follow the table's deltas from then on, so that a core pays for the
//! jobs that it serves, not for those that exist. Deliberately absent: sockets (ids only), statistics, weights.

use std::net::SocketAddr;

use engine::{ConnId, Now};
use route::{ClientAcl, InstanceSlot, JobSlot, Table};

use super::health::{Candidate, Health, choose};

/// One job as this core knows it.
pub(crate) struct JobView {
    slot: JobSlot,
    /// Who may use it.
    pub acl: ClientAcl,
    instances: Box<[InstanceSlot]>,
}

impl JobView {
    /// Whether there is an instance to serve it.
    pub(crate) fn is_live(&self) -> bool {
        !self.instances.is_empty()
    }
}

/// One instance as this core knows it.
pub(crate) struct Origin {
    /// Its slot in the table.
    pub slot: InstanceSlot,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Exchanges and TCP sessions of this core.
    pub in_flight: u32,
    /// What its traffic tells.
    pub health: Health,
    /// Idle connections, the one used last on top.
    pub idle: Vec<ConnId>,
    /// The table does not have it any more: no new exchange, no idle connection.
    pub withdrawn: bool,
}

/// All of them. See the module head.
#[derive(Default)]
pub(crate) struct Origins {
    jobs: Vec<Option<JobView>>,
    origins: Vec<Option<Origin>>,
}

impl Origins {
    /// The job, known from before or read from the table now. `None` when the table has no such job.
    pub(crate) fn job(&mut self, slot: JobSlot, table: &Table) -> Option<&JobView> {
        let known =
            matches!(self.jobs.get(slot.0.index as usize), Some(Some(view)) if view.slot == slot);
        if !known {
            self.learn(slot, table)?;
        }
        self.jobs[slot.0.index as usize].as_ref()
    }

    /// The instance, if this core knows it under this very generation.
    pub(crate) fn get(&self, slot: InstanceSlot) -> Option<&Origin> {
        self.origins.get(slot.0.index as usize)?.as_ref().filter(|origin| origin.slot == slot)
    }

    /// As [`Self::get`], for change.
    pub(crate) fn get_mut(&mut self, slot: InstanceSlot) -> Option<&mut Origin> {
        self.origins.get_mut(slot.0.index as usize)?.as_mut().filter(|origin| origin.slot == slot)
    }

    /// Pick an instance of the job for an exchange that has `tried` some in vain.
    pub(crate) fn pick(
        &mut self,
        slot: JobSlot,
        table: &Table,
        tried: &[InstanceSlot],
        now: Now,
        roll: impl FnMut(usize) -> usize,
    ) -> Option<InstanceSlot> {
        self.job(slot, table)?;
        let job = self.jobs[slot.0.index as usize].as_ref()?;
        let candidate = |at: usize| {
            let slot = job.instances[at];
            let tried = tried.contains(&slot);
            self.get(slot).map_or(
                Candidate { in_flight: 0, ejected: true, tried: true },
                |origin| {
                    let ejected = origin.health.is_ejected(now);
                    Candidate { in_flight: origin.in_flight, ejected, tried }
                },
            )
        };
        choose(job.instances.len(), candidate, roll).map(|at| job.instances[at])
    }

    /// Whether an instance of the job is left that is not in `tried`.
    pub(crate) fn has_untried(
        &mut self,
        slot: JobSlot,
        table: &Table,
        tried: &[InstanceSlot],
    ) -> bool {
        self.job(slot, table)
            .is_some_and(|job| job.instances.iter().any(|instance| !tried.contains(instance)))
    }

    /// A job changed or went: bring the view up to the table, if this core has one.
    /// Idle connections to withdrawn instances are handed to `close`.
    pub(crate) fn refresh(&mut self, slot: JobSlot, table: &Table, mut close: impl FnMut(ConnId)) {
        let Some(Some(view)) = self.jobs.get(slot.0.index as usize) else { return };
        let before = view.instances.clone();
        let known = view.slot;
        self.jobs[slot.0.index as usize] = None;
        let still = known == slot && self.learn(slot, table).is_some();
        for instance in before {
            let kept = still
                && self.jobs[slot.0.index as usize]
                    .as_ref()
                    .is_some_and(|job| job.instances.contains(&instance));
            if !kept && let Some(origin) = self.get_mut(instance) {
                origin.withdrawn = true;
                origin.idle.drain(..).for_each(&mut close);
                self.forget_if_idle(instance);
            }
        }
    }

    /// Bring every known job up to the table.
    pub(crate) fn refresh_all(&mut self, table: &Table, mut close: impl FnMut(ConnId)) {
        let known: Vec<_> = self.jobs.iter().flatten().map(|job| job.slot).collect();
        for slot in known {
            self.refresh(slot, table, &mut close);
        }
    }

    /// Drop a withdrawn instance that nothing uses any more.
    pub(crate) fn forget_if_idle(&mut self, slot: InstanceSlot) {
        if self.get(slot).is_some_and(|origin| origin.withdrawn && origin.in_flight == 0) {
            self.origins[slot.0.index as usize] = None;
        }
    }

    /// Every idle connection, handed to `close`: for a drain of the whole router.
    pub(crate) fn close_idle(&mut self, mut close: impl FnMut(ConnId)) {
        for origin in self.origins.iter_mut().flatten() {
            origin.idle.drain(..).for_each(&mut close);
        }
    }

    fn learn(&mut self, slot: JobSlot, table: &Table) -> Option<()> {
        let job = table.job(slot)?;
        if self.jobs.len() <= slot.0.index as usize {
            self.jobs.resize_with(slot.0.index as usize + 1, || None);
        }
        for instance in &job.instances {
            self.learn_origin(instance.slot, instance.addr);
        }
        let instances = job.instances.iter().map(|instance| instance.slot).collect();
        self.jobs[slot.0.index as usize] = Some(JobView { slot, acl: job.acl.clone(), instances });
        Some(())
    }

    fn learn_origin(&mut self, slot: InstanceSlot, addr: SocketAddr) {
        if self.origins.len() <= slot.0.index as usize {
            self.origins.resize_with(slot.0.index as usize + 1, || None);
        }
        if let Some(origin) = self.get_mut(slot) {
            origin.withdrawn = false;
            return;
        }
        self.origins[slot.0.index as usize] = Some(Origin {
            slot,
            addr,
            in_flight: 0,
            health: Health::default(),
            idle: Vec::new(),
            withdrawn: false,
        });
    }
}
