//! `GET /v1/draining` and `GET /v1/drain`: what removed instances still do, and the wait until they do nothing.
//!
//! The second is what a rolling restart asks between "taken out of the table" and "stop the process".
//! Deliberately absent: starting a drain. Removing the instance from the table starts it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Admin;
use super::answer::{Asked, Refusal, json};
use crate::hub::Draining;

/// How long one request may wait.
pub(super) const WAIT_MS_MAX: u64 = 600_000;
const WAIT_MS_DEFAULT: u64 = 30_000;

#[derive(Serialize)]
struct Entry {
    job: String,
    instance: SocketAddr,
    in_flight: u64,
}

impl From<Draining> for Entry {
    fn from(one: Draining) -> Self {
        Self { job: one.job.to_string(), instance: one.addr, in_flight: one.in_flight }
    }
}

#[derive(Serialize)]
struct Answer {
    drained: bool,
    waited_ms: f64,
    draining: Vec<Entry>,
}

pub(super) async fn draining(State(admin): State<Arc<Admin>>) -> Response {
    let draining: Vec<Entry> = admin.hub.draining().into_iter().map(Entry::from).collect();
    json(&serde_json::json!({ "draining": draining }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    job: Option<String>,
    instance: Option<SocketAddr>,
    timeout_ms: Option<u64>,
}

pub(super) async fn drain(
    State(admin): State<Arc<Admin>>,
    Asked(query): Asked<Query>,
) -> Result<Response, Refusal> {
    let Some(job) = query.job else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_query", "`job` is missing")
            .advise("/v1/drain?job=job::/sandbox/admin::app1&instance=127.0.0.1:9001"));
    };
    still_in_table(&admin, &job, query.instance)?;
    let timeout =
        Duration::from_millis(query.timeout_ms.unwrap_or(WAIT_MS_DEFAULT).min(WAIT_MS_MAX));
    Ok(match admin.hub.wait_drained(&job, query.instance, timeout).await {
        Ok(waited) => {
            let waited_ms = waited.as_secs_f64() * 1e3;
            json(&Answer { drained: true, waited_ms, draining: Vec::new() })
        }
        Err(left) => {
            let draining = left.into_iter().map(Entry::from).collect();
            let waited_ms = timeout.as_secs_f64() * 1e3;
            let answer = json(&Answer { drained: false, waited_ms, draining });
            (StatusCode::GATEWAY_TIMEOUT, answer).into_response()
        }
    })
}

/// What is still in the table gets new requests and never drains: saying "drained" would be a trap.
fn still_in_table(admin: &Admin, job: &str, instance: Option<SocketAddr>) -> Result<(), Refusal> {
    let table = admin.hub.table();
    let Some(found) = table.job_by_name(job) else { return Ok(()) };
    let Some(addr) = instance else {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "in_table",
            format!("job {job} is in the table"),
        )
        .why("it gets new requests, so it is not draining")
        .advise("remove the job first, or name an instance that was removed"));
    };
    if found.instances.iter().any(|one| one.addr == addr) {
        let what = format!("instance {addr} of job {job} is in the table");
        return Err(Refusal::new(StatusCode::CONFLICT, "in_table", what)
            .why("it gets new requests, so it is not draining")
            .advise("remove_instance first"));
    }
    Ok(())
}
