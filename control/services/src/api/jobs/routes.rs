//! Which jobs use which endpoint, from the guards.
//!
//! Deliberately absent: weights and ports; those are in the jobs.

use crate::api::received::At;
use crate::api::respond::{Answer, Failure, json};
use crate::api::state::{Shared, decode};
use crate::authorize::{Action, Principal, authorize, cluster};
use crate::jobs::{ENDPOINTS, Guard, guard_key};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use std::collections::{BTreeMap, BTreeSet};
use wire::job::RouteKind;
use wire::{ApiError, ErrorCode, JobId};

/// Endpoints in one answer.
const ENDPOINTS_MAX: usize = 100_000;

type Users = BTreeMap<String, BTreeSet<JobId>>;

/// All endpoints, without scheme, and the jobs on them.
#[utoipa::path(get, path = "/jobs/routes", tag = "routes",
    responses((status = 200, body = BTreeMap<String, Vec<uuid::Uuid>>)))]
pub(in crate::api) async fn list(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
) -> Answer {
    authorize(&who, Action::Read, &cluster())?;
    let mut users = Users::new();
    let mut pages = api.store.pages(ENDPOINTS);
    while let Some(page) = pages.next().await? {
        for record in &page.records {
            let name = record.key.strip_prefix(ENDPOINTS).and_then(|key| key.split_once('/'));
            let Some((_, endpoint)) = name else { continue };
            users.entry(endpoint.to_owned()).or_default().extend(decode::<Guard>(record)?.jobs);
        }
        if page.more && users.len() > ENDPOINTS_MAX {
            let message = format!("there are more than {ENDPOINTS_MAX} endpoints");
            return Err(Failure::new(ErrorCode::TooLarge, message)
                .hint("GET /v1/jobs has the routes page by page"));
        }
    }
    Ok(json(StatusCode::OK, &users))
}

/// The jobs on one endpoint.
#[utoipa::path(get, path = "/jobs/routes/{endpoint}", tag = "routes",
    params(("endpoint" = String, Path, description = "Percent-encoded; with or without scheme")),
    responses((status = 200, body = BTreeMap<String, Vec<uuid::Uuid>>), (status = 404, body = ApiError)))]
pub(in crate::api) async fn get(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    At(endpoint): At<String>,
) -> Answer {
    authorize(&who, Action::Read, &cluster())?;
    let mut users = Users::new();
    for (kind, name) in readings(&endpoint)? {
        if let Some((guard, _)) = api.read::<Guard>(&guard_key(kind, &name)).await? {
            users.entry(name).or_default().extend(guard.jobs);
        }
    }
    if users.is_empty() {
        return Err(Failure::new(ErrorCode::NotFound, format!("no job uses route {endpoint}"))
            .hint("apc route list shows the routes that there are"));
    }
    Ok(json(StatusCode::OK, &users))
}

/// The canonical forms that a text may stand for: without a scheme it may be either type.
fn readings(text: &str) -> Result<Vec<(RouteKind, String)>, Failure> {
    let candidates = if text.contains("://") {
        vec![text.to_owned()]
    } else {
        vec![format!("http://{text}"), format!("tcp://{text}")]
    };
    let parsed = candidates.iter().filter_map(|text| text.parse::<route::Endpoint>().ok());
    let all: Vec<_> = parsed
        .map(|endpoint| match endpoint {
            route::Endpoint::Http(_) => (RouteKind::Http, endpoint.name()),
            route::Endpoint::Tcp(_) => (RouteKind::Tcp, endpoint.name()),
        })
        .collect();
    if all.is_empty() {
        let error = candidates[0].parse::<route::Endpoint>().err();
        let mut failure = Failure::new(ErrorCode::Invalid, format!("\"{text}\" is no endpoint"));
        if let Some(mistake) = error {
            failure = failure.because(mistake.what).hint(mistake.hint);
        }
        return Err(failure);
    }
    Ok(all)
}
