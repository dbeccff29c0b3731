//! `GET /v1/explain?url=&from=`: the compiled matcher tells every rule it tried and which decided.
//!
//! Deliberately absent: a second matcher. For HTTP the answer is `Table::explain`; a TCP route has no rules but the ACLs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use route::{Explanation, JobSlot, Outcome, Question, Step, Table};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::answer::{Asked, Refusal, text};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    url: Option<String>,
    from: Option<IpAddr>,
    format: Option<String>,
}

pub(super) async fn explain(
    State(admin): State<Arc<Admin>>,
    Asked(query): Asked<Query>,
) -> Result<Response, Refusal> {
    let example = "/v1/explain?url=http://app.example.com/&from=128.66.3.1";
    let Some(url) = query.url else {
        return Err(
            Refusal::new(StatusCode::BAD_REQUEST, "bad_query", "`url` is missing").advise(example)
        );
    };
    let client = query.from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let table = admin.hub.table();
    let told = tell(&table, &url, client).map_err(|bad| {
        Refusal::new(StatusCode::BAD_REQUEST, "bad_url", bad.what).advise(bad.example)
    })?;
    if query.format.as_deref() == Some("text") {
        return Ok(text(format!("{}\n", told.text)));
    }
    Ok(([(header::CACHE_CONTROL, "no-store")], axum::Json(told.json)).into_response())
}

/// An explanation for people and for programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: Value,
}

/// A URL that no request could have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadUrl {
    /// What is wrong.
    pub what: String,
    /// What to ask instead.
    pub example: &'static str,
}

/// Why `url` goes where it goes for `client`, by the table's own matcher.
pub fn tell(table: &Table, url: &str, client: IpAddr) -> Result<Told, BadUrl> {
    if let Some(rest) = url.strip_prefix("tcp://") {
        let json = tcp(table, rest, client)?;
        return Ok(Told { text: tcp_text(&json), json });
    }
    let (https, host, path) = split(url).ok_or_else(|| BadUrl {
        what: format!("\"{url}\" is not a URL that this router could get"),
        example: "http://app.example.com/",
    })?;
    let live = |slot: JobSlot| table.job(slot).is_some_and(|job| !job.instances.is_empty());
    let told = table.explain(&Question { https, host, path, client, live: &live });
    Ok(Told { text: told.to_string(), json: as_json(&told) })
}

/// In the manner of the text of an HTTP explanation.
fn tcp_text(json: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = format!("{} from {}", word(&json["url"]), word(&json["from"]));
    for target in json["targets"].as_array().into_iter().flatten() {
        text.push_str(&format!("\n  {}", word(&target["text"])));
    }
    text.push_str(&format!("\n=> {}", word(&json["text"])));
    text
}

/// Scheme, authority and path of a URL; without a scheme it is plain HTTP.
fn split(url: &str) -> Option<(bool, &str, &str)> {
    let (https, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some(_) => return None,
        None => (false, url),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    (!host.is_empty()).then_some((https, host, path))
}

fn as_json(told: &Explanation) -> Value {
    let targets: Vec<Value> = told
        .targets
        .iter()
        .map(|target| {
            json!({
                "job": &*target.job,
                "weight": target.weight.to_string(),
                "admitted": target.admitted,
                "live": target.live,
                "percent": target.percent(),
                "text": target.to_string(),
            })
        })
        .collect();
    json!({
        "table_version": told.version,
        "url": told.url,
        "from": told.client,
        "outcome": outcome(told.outcome),
        "status": told.outcome.status(),
        "text": told.outcome.to_string(),
        "route": told.route.as_ref().map(|(_, endpoint)| endpoint),
        "steps": told.steps.iter().map(step).collect::<Vec<_>>(),
        "targets": targets,
    })
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NoHost => "no_host",
        Outcome::NoPath => "no_path",
        Outcome::Redirected => "redirected",
        Outcome::Denied => "acl_denied",
        Outcome::NoInstance => "no_instance",
        Outcome::Served => "served",
    }
}

fn step(step: &Step) -> Value {
    let (kind, hit) = match step {
        Step::Host { known, .. } => ("host", *known),
        Step::DotSegment { .. } => ("dot_segment", true),
        Step::Prefix { covers, .. } => ("prefix", *covers),
        Step::HttpsOnly { redirects } => ("https_only", *redirects),
        Step::Rule { matches, .. } => ("rule", *matches),
    };
    json!({ "kind": kind, "hit": hit, "text": step.to_string() })
}

fn tcp(table: &Table, address: &str, client: IpAddr) -> Result<Value, BadUrl> {
    let addr: SocketAddr = address.trim_end_matches('/').parse().map_err(|_| BadUrl {
        what: format!("\"{address}\" is not an IP address with a port"),
        example: "tcp://127.0.0.1:7000",
    })?;
    let Some(route) = table.tcp_route(addr) else {
        return Ok(json!({
            "table_version": table.version(), "url": format!("tcp://{addr}"), "from": client,
            "outcome": "no_route", "text": "no listener: no route has this address",
            "route": null, "steps": [], "targets": [],
        }));
    };
    let admitted = table.admitted(&route.targets, client);
    let jobs: Vec<_> = route.targets.list.iter().map(|target| table.job(target.job)).collect();
    let live = jobs.iter().enumerate().fold(0u64, |live, (index, job)| {
        live | u64::from(job.is_some_and(|job| !job.instances.is_empty())) << index
    });
    let (shares, whole) = route.targets.shares(admitted & live);
    let active = route.targets.active();
    let (outcome, text) = match (active & admitted == 0 && active != 0, shares.is_empty()) {
        (true, _) => ("acl_denied", "closed: no job on the route admits this client"),
        (_, true) => ("no_instance", "closed: no job that might serve has a live instance"),
        _ => ("served", "served"),
    };
    let targets: Vec<Value> = route
        .targets
        .list
        .iter()
        .enumerate()
        .map(|(index, target)| {
            let parts = shares.iter().find(|share| share.target == index).map_or(0, |s| s.parts);
            #[expect(clippy::cast_precision_loss, reason = "both are far below 2^53")]
            let percent = 100.0 * parts as f64 / whole.max(1) as f64;
            let name = jobs[index].map_or("", |job| &job.name);
            json!({
                "job": name,
                "weight": target.weight.to_string(),
                "admitted": admitted >> index & 1 == 1,
                "live": live >> index & 1 == 1,
                "percent": percent,
                "text": format!("{name} (weight {}): {percent:.2} %", target.weight),
            })
        })
        .collect();
    Ok(json!({
        "table_version": table.version(), "url": format!("tcp://{addr}"), "from": client,
        "outcome": outcome, "text": text, "route": route.endpoint.to_string(), "steps": [],
        "targets": targets,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_as_a_client_would() {
        for (url, want) in [
            ("http://a.b", Some((false, "a.b", "/"))),
            ("https://a.b:8443/x?y#z", Some((true, "a.b:8443", "/x"))),
            ("a.b/x/", Some((false, "a.b", "/x/"))),
            ("HTTP://[::1]:80?x/y", Some((false, "[::1]:80", "/"))),
            ("ftp://a.b", None),
            ("http:///x", None),
            ("", None),
        ] {
            assert_eq!(split(url), want, "{url}");
        }
    }
}
