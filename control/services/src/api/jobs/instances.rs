//! Instances of a job, as the health manager sees them; stopping one.
//!
//! Deliberately absent: whether a stopped instance is replaced; that is the job manager's decision.

use super::read;
use crate::api::once::{Once, Written};
use crate::api::received::{At, Params};
use crate::api::respond::{Answer, Failure, json};
use crate::api::seen;
use crate::api::state::Shared;
use crate::authorize::{Action, Principal, authorize};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use std::time::Duration;
use wire::health::{Ended, InstanceOn, InstanceSeen, JobView};
use wire::placement::{Done, Stop};
use wire::{
    ApiError, ErrorCode, ImId, InstanceId, InstanceRecord, InstanceState, Job, JobId, Timestamp,
    subject,
};

/// Time for an instance manager to say that it stops the instance.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Which instances.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct InstanceParams {
    /// Whether to add those that ended, newest first.
    #[serde(default)]
    ended: bool,
}

/// Instances of a job.
#[utoipa::path(get, path = "/jobs/{uuid}/instances", tag = "jobs",
    params(("uuid" = uuid::Uuid, Path), InstanceParams),
    responses((status = 200, body = [InstanceRecord]), (status = 404, body = ApiError)))]
pub(in crate::api) async fn list(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<JobId>,
    Params(params): Params<InstanceParams>,
) -> Answer {
    let job = read(&api, id).await?;
    authorize(&who, Action::Read, &job.fqn)?;
    let view = seen::job(&api, id).await?;
    Ok(json(StatusCode::OK, &records(&job, &view, params.ended)))
}

fn records(job: &Job, view: &JobView, ended: bool) -> Vec<InstanceRecord> {
    let live = view
        .instances
        .iter()
        .map(|InstanceOn { im, host, seen }| record(seen, Some(job), *im, host));
    let mut all: Vec<_> = live.collect();
    all.sort_by_key(|record| (record.created_time, record.uuid));
    if ended {
        all.extend(view.ended.iter().map(ended_record));
    }
    all
}

/// One instance in the form of the API. The routes that lead to it are known only with its job.
pub(in crate::api) fn record(
    seen: &InstanceSeen,
    job: Option<&Job>,
    im: ImId,
    host: &str,
) -> InstanceRecord {
    let routes = job.into_iter().flat_map(Job::routes);
    let announced = routes
        .filter(|(port, _)| seen.state.is_running() && seen.addresses.contains_key(&port.number))
        .map(|(_, route)| route.endpoint.clone())
        .collect();
    let addresses = seen.addresses.iter().map(|(port, address)| format!("{port}={address}"));
    InstanceRecord {
        uuid: seen.id,
        host: host.to_owned(),
        instance_manager: im,
        job_version_id: seen.job_version,
        state: seen.state,
        created_time: Timestamp::from_unix_ms(seen.created_ms),
        failed: false,
        exited: matches!(seen.state, InstanceState::Teardown | InstanceState::Removed),
        exit_code: None,
        reason: None,
        announced_routes: announced,
        addresses: addresses.collect(),
        legs: seen.legs,
    }
}

fn ended_record(ended: &Ended) -> InstanceRecord {
    InstanceRecord {
        uuid: ended.id,
        host: String::new(),
        instance_manager: ImId(uuid::Uuid::nil()),
        job_version_id: ended.job_version,
        state: InstanceState::Removed,
        created_time: Timestamp::from_unix_ms(ended.at_ms.saturating_sub(ended.ran_ms)),
        failed: ended.failed,
        exited: true,
        exit_code: ended.exit_code,
        reason: Some(ended.reason.clone()),
        announced_routes: Vec::new(),
        addresses: Vec::new(),
        legs: None,
    }
}

/// Stops one instance in an orderly way. A started job gets another one in its place.
#[utoipa::path(delete, path = "/jobs/{uuid}/instances/{instance}", tag = "jobs",
    params(("uuid" = uuid::Uuid, Path), ("instance" = uuid::Uuid, Path)),
    responses((status = 202, description = "The orderly stop has begun"), (status = 404, body = ApiError)))]
pub(in crate::api) async fn stop(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At((id, instance)): At<(JobId, InstanceId)>,
    once: Once,
) -> Answer {
    let mut keyed = once.of(&who, b"");
    if let Some((response, _)) = keyed.replay(&api).await? {
        return Ok(response);
    }
    let job = read(&api, id).await?;
    authorize(&who, Action::Stop, &job.fqn)?;
    let view = seen::job(&api, id).await?;
    let Some(found) = view.instances.iter().find(|on| on.seen.id == instance) else {
        let message = format!("{} has no instance {instance}", job.fqn);
        return Err(Failure::new(ErrorCode::NotFound, message).hint("apc app instances"));
    };
    let question = Stop { instance, reason: format!("asked for by {}", who.name) };
    match api.bus.request(&subject::im_stop(found.im), &question, STOP_WAIT).await? {
        Done::Accepted => {}
        Done::Refused(why) => {
            let message = format!("instance {instance} could not be stopped");
            return Err(Failure::new(ErrorCode::Conflict, message).because(why));
        }
    }
    let answer = Written { status: StatusCode::ACCEPTED, ..Written::empty() };
    let revision = match keyed.write(&api, &answer)? {
        Some(write) => api.store.commit(&[write]).await?,
        None => api.store.revision().await?,
    };
    Ok(answer.at(revision))
}
