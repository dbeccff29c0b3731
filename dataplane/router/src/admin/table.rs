//! `GET /v1/table`: routes and jobs, as JSON or in the form of the configuration file.
//!
//! `?format=toml` gives `[[job]]` and `[[route]]` as they would stand in the file, so that what was changed at run time can
//! be kept. Deliberately absent: numbers of traffic; see `stats.rs`.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use route::{Job, Route, Table};
use serde::{Deserialize, Serialize};

use super::Admin;
use super::answer::{Asked, Refusal, json, text};

/// Routes, and likewise jobs, answered when the query says nothing.
const ENTRIES_DEFAULT: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// Only routes and jobs whose name has this text.
    q: Option<String>,
    limit: Option<usize>,
    format: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    version: u64,
    routes: Vec<RouteRow>,
    jobs: Vec<JobRow>,
    more_routes: usize,
    more_jobs: usize,
}

#[derive(Serialize)]
struct RouteRow {
    endpoint: String,
    https_only: bool,
    targets: Vec<TargetRow>,
}

#[derive(Serialize)]
struct TargetRow {
    job: String,
    /// As set: `auto`, `45%`, `-10%`.
    weight: String,
    /// What it comes to when every job has instances and admits the client.
    percent: f64,
}

#[derive(Serialize)]
struct JobRow {
    name: String,
    client_acl: String,
    instances: Vec<String>,
}

pub(super) async fn table(
    State(admin): State<Arc<Admin>>,
    Asked(query): Asked<Query>,
) -> Result<Response, Refusal> {
    let table = admin.hub.table();
    let limit = query.limit.unwrap_or(ENTRIES_DEFAULT);
    let wanted = |name: &str| query.q.as_deref().is_none_or(|part| name.contains(part));
    let mut routes: Vec<(String, &Route)> =
        table.routes().map(|route| (route.endpoint.to_string(), route)).collect();
    routes.retain(|(endpoint, route)| {
        wanted(endpoint)
            || route.targets.list.iter().any(|target| {
                table.job(target.job).is_some_and(|job| query.q.is_some() && wanted(&job.name))
            })
    });
    routes.sort_by(|a, b| a.0.cmp(&b.0));
    let mut jobs: Vec<&Job> = table.jobs().filter(|job| wanted(&job.name)).collect();
    jobs.sort_by(|a, b| a.name.cmp(&b.name));
    match query.format.as_deref() {
        None | Some("json") => {}
        Some("toml") => return Ok(text(toml_form(&table, &routes, &jobs))),
        Some(other) => {
            let what = format!("there is no format \"{other}\"");
            return Err(
                Refusal::new(StatusCode::BAD_REQUEST, "bad_query", what).advise("json or toml")
            );
        }
    }
    Ok(json(&Answer {
        version: table.version(),
        more_routes: routes.len().saturating_sub(limit),
        more_jobs: jobs.len().saturating_sub(limit),
        routes: routes
            .iter()
            .take(limit)
            .map(|(name, route)| route_row(&table, name, route))
            .collect(),
        jobs: jobs.into_iter().take(limit).map(job_row).collect(),
    }))
}

fn route_row(table: &Table, endpoint: &str, route: &Route) -> RouteRow {
    let (shares, whole) = route.targets.shares(u64::MAX);
    let targets = route.targets.list.iter().enumerate().map(|(index, target)| {
        let parts =
            shares.iter().find(|share| share.target == index).map_or(0, |share| share.parts);
        #[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
        let percent = 100.0 * parts as f64 / whole.max(1) as f64;
        let job = table.job(target.job).map_or_else(String::new, |job| job.name.to_string());
        TargetRow { job, weight: target.weight.to_string(), percent }
    });
    RouteRow {
        endpoint: endpoint.to_owned(),
        https_only: route.https_only,
        targets: targets.collect(),
    }
}

fn job_row(job: &Job) -> JobRow {
    JobRow {
        name: job.name.to_string(),
        client_acl: job.acl.to_string(),
        instances: job.instances.iter().map(|one| one.addr.to_string()).collect(),
    }
}

fn toml_form(table: &Table, routes: &[(String, &Route)], jobs: &[&Job]) -> String {
    let mut out = format!("# Table version {}\n", table.version());
    let mut put = |text: std::fmt::Arguments<'_>| {
        out.write_fmt(text).expect("a String takes everything");
    };
    for job in jobs {
        put(format_args!("\n[[job]]\nname = {}\n", quoted(&job.name)));
        if !job.acl.rules().is_empty() {
            put(format_args!("client_acl = {}\n", quoted(&job.acl.to_string())));
        }
        let instances: Vec<String> =
            job.instances.iter().map(|one| quoted(&one.addr.to_string())).collect();
        put(format_args!("instances = [{}]\n", instances.join(", ")));
    }
    for (endpoint, route) in routes {
        put(format_args!("\n[[route]]\nendpoint = {}\n", quoted(endpoint)));
        if route.https_only {
            put(format_args!("https_only = true\n"));
        }
        put(format_args!("targets = [\n"));
        for target in &route.targets.list {
            let job = table.job(target.job).map_or("", |job| &job.name);
            let weight = target.weight.to_string();
            let weight = if target.weight.is_auto() { "0" } else { weight.trim_end_matches('%') };
            put(format_args!("  {{ job = {}, weight = {weight} }},\n", quoted(job)));
        }
        put(format_args!("]\n"));
    }
    out
}

/// A TOML string: what JSON escapes is escaped the same way.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
