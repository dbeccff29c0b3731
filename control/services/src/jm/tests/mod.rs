//! Tests of the job manager: transcripts of the plan, weather over the plan, small parts, and the whole on a simulated
//! clock with a health manager and fake instance managers.

mod cluster;
mod fake;
mod parts;
mod transcripts;
mod weather;

use std::collections::BTreeMap;
use uuid::Uuid;
use wire::health::{Ended, InstanceOn, InstanceSeen};
use wire::job::{Port, RolloutMode};
use wire::{ImId, InstanceId, InstanceState, Job, JobId, JobState};

/// A started job.
fn job(n: u128, instances: u32, mode: RolloutMode) -> Job {
    let mut job = Job::named(format!("job::/sandbox/admin::app{n}").parse().unwrap());
    job.uuid = JobId(Uuid::from_u128(n));
    job.version_id = 1;
    job.restart_version = 1;
    job.state = JobState::Started;
    job.num_instances = instances;
    job.rollout.mode = mode;
    job.ports =
        vec![Port { number: 0, optional: false, routes: Vec::new(), extra: BTreeMap::new() }];
    job
}

fn im(n: u128) -> ImId {
    ImId(Uuid::from_u128(n))
}

fn instance(n: u128) -> InstanceId {
    InstanceId(Uuid::from_u128(n))
}

fn on(n: u128, job: JobId, job_version: u64, state: InstanceState) -> InstanceOn {
    let seen = InstanceSeen {
        id: instance(n),
        job,
        job_version,
        state,
        created_ms: 0,
        since_ms: 0,
        addresses: BTreeMap::new(),
        legs: None,
        usage: None,
    };
    InstanceOn { im: im(n % 10), host: "host".to_owned(), seen }
}

fn ended(n: u128, job: JobId, at_ms: u64, failed: bool) -> Ended {
    Ended {
        id: instance(n),
        job,
        job_version: 1,
        at_ms,
        ran_ms: 10,
        failed,
        asked: false,
        exit_code: Some(i32::from(failed)),
        reason: String::new(),
    }
}
