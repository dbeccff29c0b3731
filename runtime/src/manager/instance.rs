//! One instance as the manager's loop holds it.
//!
//! Deliberately absent: decisions; they are in `life`.

use crate::driver::Stats;
use crate::keep::Kept;
use crate::life::{End, Life};
use crate::spec::Spec;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::announce::EndpointUp;
use wire::health::{Ended, InstanceSeen, Legs, Usage};
use wire::job::Job;
use wire::placement::StartPackage;
use wire::{InstanceId, InstanceState, JobId};

/// One.
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) life: Life,
    pub(super) job: Job,
    pub(super) packages: Vec<StartPackage>,
    pub(super) created_ms: u64,
    pub(super) since_ms: u64,
    /// State that was told last.
    pub(super) told: InstanceState,
    pub(super) ports: Vec<(u16, u16)>,
    pub(super) spec: Option<Spec>,
    pub(super) legs: Legs,
    /// When the running leg of the start began.
    pub(super) leg_since_ms: u64,
    pub(super) usage: Option<Usage>,
    /// The sample before, and when.
    pub(super) sample: Option<(Stats, u64)>,
    pub(super) ended: Option<Ended>,
    /// An earlier process began it.
    pub(super) found: bool,
    /// Steps that follow each other: lay out, begin, destroy.
    pub(super) work: Option<JoinHandle<()>>,
    /// Laying out is not wanted any more.
    pub(super) abandoned: CancellationToken,
    /// Nobody needs to look at its ports any more.
    pub(super) unwatched: CancellationToken,
    pub(super) timer: Option<JoinHandle<()>>,
    pub(super) timer_number: u64,
}

impl Instance {
    pub(super) fn new(kept: Kept, life: Life, now_ms: u64) -> Self {
        Self {
            id: kept.instance,
            told: life.state(),
            life,
            job: kept.job,
            packages: kept.packages,
            created_ms: kept.created_ms,
            since_ms: now_ms,
            ports: kept.ports,
            spec: kept.spec,
            legs: kept.legs,
            leg_since_ms: now_ms,
            usage: None,
            sample: None,
            ended: None,
            found: false,
            work: None,
            abandoned: CancellationToken::new(),
            unwatched: CancellationToken::new(),
            timer: None,
            timer_number: 0,
        }
    }

    pub(super) fn job_id(&self) -> JobId {
        self.job.uuid
    }

    pub(super) fn kept(&self) -> Kept {
        Kept {
            instance: self.id,
            job: self.job.clone(),
            packages: self.packages.clone(),
            created_ms: self.created_ms,
            ports: self.ports.clone(),
            phase: self.life.phase(),
            asked: self.life.asked().map(str::to_owned),
            failure: self.life.failure().map(str::to_owned),
            running_since_ms: self.life.running_since_ms(),
            legs: self.legs,
            spec: self.spec.clone(),
        }
    }

    pub(super) fn seen(&self, ip: IpAddr) -> InstanceSeen {
        let addresses: BTreeMap<_, _> =
            self.ports.iter().map(|(port, number)| (*port, SocketAddr::new(ip, *number))).collect();
        InstanceSeen {
            id: self.id,
            job: self.job_id(),
            job_version: self.job.version_id,
            state: self.told,
            created_ms: self.created_ms,
            since_ms: self.since_ms,
            addresses,
            legs: Some(self.legs).filter(|_| self.life.running_since_ms().is_some()),
            usage: self.usage,
        }
    }

    pub(super) fn endpoints(&self, ip: IpAddr) -> Vec<EndpointUp> {
        let up = |(port, number): &(u16, u16)| EndpointUp {
            instance: self.id,
            job: self.job_id(),
            port: *port,
            addr: SocketAddr::new(ip, *number),
        };
        self.ports.iter().map(up).collect()
    }

    /// Addresses of ports that must answer.
    pub(super) fn probed(&self, ip: IpAddr) -> Vec<SocketAddr> {
        let must = |number: u16| self.job.ports.iter().any(|p| p.number == number && !p.optional);
        let probed = self.ports.iter().filter(|(port, _)| must(*port));
        probed.map(|(_, number)| SocketAddr::new(ip, *number)).collect()
    }

    pub(super) fn end(&mut self, end: &End, now_ms: u64) -> Ended {
        let ended = Ended {
            id: self.id,
            job: self.job_id(),
            job_version: self.job.version_id,
            at_ms: now_ms,
            ran_ms: end.ran_ms,
            failed: end.failed,
            asked: end.asked,
            exit_code: end.exit_code,
            reason: end.reason.clone(),
        };
        self.ended = Some(ended.clone());
        ended
    }

    /// Ends the leg of the start that runs, and tells how long it took.
    pub(super) fn leg(&mut self, now_ms: u64) -> u64 {
        let took = now_ms.saturating_sub(self.leg_since_ms);
        self.leg_since_ms = now_ms;
        took
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.abandoned.cancel();
        self.unwatched.cancel();
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}
