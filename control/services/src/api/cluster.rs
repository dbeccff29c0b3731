//! Instance managers: which there are, what runs on one, which tags they have.
//!
//! Deliberately absent: changing them; they are given their tags where they are started.

use super::jobs::instances::record;
use super::received::At;
use super::respond::{Answer, Failure, json};
use super::seen;
use super::state::Shared;
use crate::authorize::{Action, Principal, authorize, cluster};
use crate::jobs::{decode, job_key};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use bus::Until;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wire::health::{Beat, ImView};
use wire::{ApiError, ErrorCode, ImId, InstanceRecord, Job, JobId, subject};

/// Time for one instance manager among all to answer.
const REPORT_WAIT: Duration = Duration::from_secs(2);
/// Instance managers that may answer.
const REPORTS_MAX: usize = 4_096;

/// All instance managers that the health managers know, those that are lost too.
#[utoipa::path(get, path = "/instance_managers", tag = "cluster",
    responses((status = 200, body = [ImView])))]
pub(super) async fn list(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
) -> Answer {
    authorize(&who, Action::Read, &cluster())?;
    Ok(json(StatusCode::OK, &all(&api).await?))
}

async fn all(api: &Shared) -> Result<Vec<ImView>, Failure> {
    let mut ims = seen::ims(api).await?;
    ims.sort_by(|a, b| {
        (&a.record.hostname, a.record.uuid).cmp(&(&b.record.hostname, b.record.uuid))
    });
    Ok(ims)
}

/// One instance manager.
#[utoipa::path(get, path = "/instance_managers/{uuid}", tag = "cluster", params(("uuid" = uuid::Uuid, Path)),
    responses((status = 200, body = ImView), (status = 404, body = ApiError)))]
pub(super) async fn get(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<ImId>,
) -> Answer {
    authorize(&who, Action::Read, &cluster())?;
    Ok(json(StatusCode::OK, &one(&api, id).await?))
}

async fn one(api: &Shared, id: ImId) -> Result<ImView, Failure> {
    let found = all(api).await?.into_iter().find(|im| im.record.uuid == id);
    found.ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, format!("there is no instance manager {id}"))
            .hint("apc cluster im list shows those that there are")
    })
}

/// What runs on one instance manager.
#[utoipa::path(get, path = "/instance_managers/{uuid}/instances", tag = "cluster", params(("uuid" = uuid::Uuid, Path)),
    responses((status = 200, body = [InstanceRecord]), (status = 404, body = ApiError)))]
pub(super) async fn instances(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(id): At<ImId>,
) -> Answer {
    authorize(&who, Action::Read, &cluster())?;
    one(&api, id).await?;
    let until = Until { count: REPORTS_MAX, deadline: REPORT_WAIT };
    let mut reports = api.bus.request_many(subject::IM_REPORT, &(), until).await?;
    let beat = loop {
        let Some(report) = reports.next().await else {
            return Err(Failure::new(
                ErrorCode::TimedOut,
                format!("instance manager {id} does not answer"),
            )
            .hint("GET /v1/instance_managers says when it was last heard"));
        };
        match report.decode::<Beat>() {
            Ok(beat) if beat.im.uuid == id => break beat,
            Ok(_) => {}
            Err(mistake) => tracing::warn!(%mistake, "a report was not understood"),
        }
    };
    let jobs: BTreeSet<JobId> = beat.instances.iter().map(|seen| seen.job).collect();
    let mut known = BTreeMap::<JobId, Job>::new();
    for job in jobs {
        if let Some(found) = api.store.get(&job_key(job)).await? {
            known.insert(job, decode(&found)?);
        }
    }
    let records: Vec<InstanceRecord> = beat
        .instances
        .iter()
        .map(|seen| record(seen, known.get(&seen.job), id, &beat.im.hostname))
        .collect();
    Ok(json(StatusCode::OK, &records))
}

/// All tags of instance managers that live, and who has them.
#[utoipa::path(get, path = "/tags", tag = "cluster",
    responses((status = 200, body = BTreeMap<String, Vec<uuid::Uuid>>)))]
pub(super) async fn tags(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
) -> Answer {
    authorize(&who, Action::Read, &cluster())?;
    let mut tags = BTreeMap::<String, BTreeSet<ImId>>::new();
    for im in all(&api).await?.into_iter().filter(|im| !im.lost) {
        let record = im.record;
        for tag in record.tags.into_iter().chain(record.system_tags) {
            tags.entry(tag).or_default().insert(record.uuid);
        }
    }
    Ok(json(StatusCode::OK, &tags))
}
