//! What the health manager sees: counts, instances, instance managers.
//!
//! Deliberately absent: what the API server itself thinks of it; it has no opinion about health.

use super::respond::Failure;
use super::state::Shared;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use wire::health::{JobView, VIEW_JOBS_MAX, View, ViewRequest};
use wire::job::JobHealth;
use wire::{Job, JobId, JobState, subject};

/// Time for the health manager to answer.
const HM_WAIT: Duration = Duration::from_secs(2);

/// What is known of several jobs.
pub(super) struct Views {
    /// Whether every instance manager has been heard.
    pub complete: bool,
    pub jobs: BTreeMap<JobId, JobView>,
}

/// Views of these jobs, in as many questions as it takes: an answer is one message and leaves out what does not fit.
pub(super) async fn jobs(api: &Shared, ids: &[JobId]) -> Result<Views, bus::BusError> {
    let mut all = Views { complete: true, jobs: BTreeMap::new() };
    let mut left: VecDeque<_> = ids.iter().copied().collect();
    while !left.is_empty() {
        let part: Vec<_> = left.iter().take(VIEW_JOBS_MAX).copied().collect();
        let question = ViewRequest { jobs: part, ims: false };
        let view: View = api.bus.request(subject::HM_VIEW, &question, HM_WAIT).await?;
        let before = left.len();
        left.retain(|id| !view.jobs.contains_key(id));
        all.complete &= view.complete;
        all.jobs.extend(view.jobs);
        if left.len() == before {
            // Nobody knows more; asking on would never end.
            break;
        }
    }
    Ok(all)
}

/// The view of one job.
pub(super) async fn job(api: &Shared, id: JobId) -> Result<JobView, Failure> {
    let mut all = jobs(api, &[id]).await.map_err(no_health_manager)?;
    Ok(all.jobs.remove(&id).unwrap_or_default())
}

/// All instance managers.
pub(super) async fn ims(api: &Shared) -> Result<Vec<wire::health::ImView>, Failure> {
    let question = ViewRequest { jobs: Vec::new(), ims: true };
    let asked = api.bus.request(subject::HM_VIEW, &question, HM_WAIT).await;
    let view: View = asked.map_err(no_health_manager)?;
    Ok(view.ims)
}

pub(super) fn no_health_manager(error: bus::BusError) -> Failure {
    let mut failure = Failure::from(error);
    "no health manager answers".clone_into(&mut failure.0.message);
    failure
}

/// Puts the counts into records on their way out. Without a health manager they go out without.
pub(super) async fn add_health(api: &Shared, records: &mut [Job]) {
    let ids: Vec<_> = records.iter().map(|job| job.uuid).collect();
    match jobs(api, &ids).await {
        Ok(views) => {
            for job in records {
                job.health = views.jobs.get(&job.uuid).map(|view| health(job, view));
            }
        }
        Err(error) => tracing::debug!(%error, "records go out without health"),
    }
}

/// Running / wanted, and the counts by state.
pub(super) fn health(job: &Job, view: &JobView) -> JobHealth {
    let mut counts = BTreeMap::new();
    for instance in &view.instances {
        *counts.entry(instance.seen.state.as_str().to_owned()).or_insert(0u32) += 1;
    }
    let running = view.instances.iter().filter(|instance| instance.seen.state.is_running()).count();
    let running = u32::try_from(running).unwrap_or(u32::MAX);
    let score = match (job.state, job.num_instances) {
        (JobState::Started, 0) => 1.0,
        (_, 0) => 0.0,
        (_, wanted) => (f64::from(running) / f64::from(wanted)).min(1.0),
    };
    JobHealth { score, flapping: view.flapping, instance_state_count: counts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::health::{InstanceOn, InstanceSeen};
    use wire::{ImId, InstanceId, InstanceState};

    fn instance(n: u128, state: InstanceState) -> InstanceOn {
        let seen = InstanceSeen {
            id: InstanceId(uuid::Uuid::from_u128(n)),
            job: JobId(uuid::Uuid::nil()),
            job_version: 1,
            state,
            created_ms: 0,
            since_ms: 0,
            addresses: BTreeMap::new(),
            legs: None,
            usage: None,
        };
        InstanceOn { im: ImId(uuid::Uuid::nil()), host: String::new(), seen }
    }

    /// Goal: the score is running over wanted, never above 1, and a started job that wants none is well.
    #[test]
    fn the_score_is_running_over_wanted() {
        use InstanceState::{Running, Starting};
        let mut job = Job::named("job::/a::b".parse().unwrap());
        job.state = JobState::Started;
        let mut view = JobView {
            instances: vec![instance(1, Running), instance(2, Running), instance(3, Starting)],
            ..JobView::default()
        };
        let mut score = |wanted| {
            job.num_instances = wanted;
            health(&job, &view)
        };
        assert_eq!(score(4).score, 0.5);
        assert_eq!(score(1).score, 1.0);
        let counts = score(4).instance_state_count;
        let shown: Vec<_> = counts.iter().map(|(state, n)| format!("{state} {n}")).collect();
        assert_eq!(shown, ["RUNNING 2", "STARTING 1"]);
        view.instances.clear();
        job.num_instances = 0;
        assert_eq!(health(&job, &view).score, 1.0);
        job.state = JobState::Stopped;
        assert_eq!(health(&job, &view).score, 0.0);
    }
}
