//! `POST /v1/changes`: one atomic set of changes, and the wait until every core serves it.
//!
//! ```json
//! {"if_version": 41, "wait": "all", "timeout_ms": 5000, "changes": [
//!   {"op": "put_job", "name": "job::/a::green", "instances": ["127.0.0.1:9003"]},
//!   {"op": "put_target", "endpoint": "http://app.example.com", "job": "job::/a::green", "weight": 10},
//!   {"op": "set_weight", "endpoint": "http://app.example.com", "job": "job::/a::blue", "weight": "90%"}]}
//! ```
//!
//! All or nothing; an error names the change. Deliberately absent: undo. The answer holds the version, the table can be
//! read before, and `if_version` keeps two writers from overwriting each other.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use route::{Change, ClientAcl, Endpoint, SyntaxError, Weight};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

use super::answer::{Refusal, json};
use super::drain::WAIT_MS_MAX;
use super::{Admin, BODY_BYTES_MAX};
use crate::config::closest;
use crate::hub::Refused;

const WAIT_MS_DEFAULT: u64 = 5_000;
/// Until the whole body is there.
const BODY_TIME: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    if_version: Option<u64>,
    #[serde(default)]
    wait: Wait,
    timeout_ms: Option<u64>,
    changes: Vec<Value>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wait {
    #[default]
    All,
    None,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Op {
    PutJob {
        name: String,
        #[serde(default)]
        client_acl: String,
        #[serde(default)]
        instances: Vec<String>,
    },
    RemoveJob {
        name: String,
    },
    SetAcl {
        job: String,
        client_acl: String,
    },
    AddInstance {
        job: String,
        instance: String,
    },
    RemoveInstance {
        job: String,
        instance: String,
    },
    PutTarget {
        endpoint: String,
        job: String,
        #[serde(default)]
        weight: Value,
        #[serde(default)]
        https_only: bool,
    },
    SetWeight {
        endpoint: String,
        job: String,
        weight: Value,
    },
    RemoveTarget {
        endpoint: String,
        job: String,
    },
    RemoveRoute {
        endpoint: String,
    },
}

const OPS: [&str; 9] = [
    "put_job",
    "remove_job",
    "set_acl",
    "add_instance",
    "remove_instance",
    "put_target",
    "set_weight",
    "remove_target",
    "remove_route",
];

#[derive(Serialize)]
struct Answer {
    version: u64,
    changes: usize,
    took_us: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<Live>,
}

#[derive(Serialize)]
struct Live {
    cores: usize,
    of: usize,
    ms: f64,
}

pub(super) async fn changes(
    State(admin): State<Arc<Admin>>,
    request: Request,
) -> Result<Response, Refusal> {
    let body = timeout(BODY_TIME, Bytes::from_request(request, &())).await.map_err(|_| {
        let what = format!("the body did not come within {} s", BODY_TIME.as_secs());
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", what)
    })?;
    let body = body.map_err(|_| {
        let what = format!("the body is longer than {BODY_BYTES_MAX} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", what)
    })?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, "bad_json", error.to_string())
            .advise(r#"{"changes":[{"op":"set_weight","endpoint":"http://app.example.com","job":"…","weight":45}]}"#)
    })?;
    let parse = |(index, value)| change(value).map_err(|refusal| refusal.at_change(index));
    let changes: Vec<Change> =
        asked.changes.into_iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    let receipt = admin.hub.commit_if(asked.if_version, &changes).map_err(refused)?;
    let mut answer = Answer {
        version: receipt.version,
        changes: changes.len(),
        took_us: receipt.took.as_micros(),
        live: None,
    };
    if asked.wait == Wait::None {
        return Ok(json(&answer));
    }
    let timeout =
        Duration::from_millis(asked.timeout_ms.unwrap_or(WAIT_MS_DEFAULT).min(WAIT_MS_MAX));
    match admin.hub.wait_live(receipt.version, timeout).await {
        Ok(live) => {
            let ms = live.elapsed.as_secs_f64() * 1e3;
            answer.live = Some(Live { cores: live.cores, of: live.cores, ms });
            Ok(json(&answer))
        }
        // The change is made and will be served; 202 says that not all have acknowledged it in time.
        Err(behind) => {
            let ms = behind.waited.as_secs_f64() * 1e3;
            answer.live = Some(Live { cores: behind.live, of: behind.of, ms });
            Ok((StatusCode::ACCEPTED, json(&answer)).into_response())
        }
    }
}

fn refused(refused: Refused) -> Refusal {
    let what = refused.to_string();
    match refused {
        Refused::Change(error) => {
            let conflict = error.text.ends_with("https-only flag conflict");
            let refusal = if conflict {
                Refusal::new(StatusCode::CONFLICT, "https_only_conflict", what)
                    .why("the flag is fixed as long as the route lives")
                    .advise("remove_route first, or the other value of https_only")
            } else {
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "change_refused", what)
            };
            refusal.at_change(error.index)
        }
        Refused::Stale { newest, .. } => Refusal::new(StatusCode::CONFLICT, "stale_version", what)
            .why("somebody else changed the table in between")
            .advise(format!("read /v1/table again and send \"if_version\":{newest}")),
        Refused::Listen { .. } => Refusal::new(StatusCode::CONFLICT, "address_not_free", what),
    }
}

fn bad(code: &'static str, what: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, code, what)
}

fn change(value: Value) -> Result<Change, Refusal> {
    let named = value.get("op").and_then(Value::as_str).map(str::to_owned);
    let op: Op = serde_json::from_value(value).map_err(|error| match &named {
        None => bad("bad_change", "`op` is missing").advise(format!("one of {}", OPS.join(", "))),
        Some(op) if !OPS.contains(&op.as_str()) => {
            let refusal = bad("unknown_op", format!("there is no op \"{op}\""));
            match closest(op, OPS) {
                Some(meant) => refusal.advise(meant),
                None => refusal.advise(format!("one of {}", OPS.join(", "))),
            }
        }
        Some(_) => bad("bad_change", error.to_string()),
    })?;
    Ok(match op {
        Op::PutJob { name, client_acl, instances } => Change::PutJob {
            name,
            client_acl: acl(&client_acl)?,
            instances: instances.iter().map(|text| address(text)).collect::<Result<_, _>>()?,
        },
        Op::RemoveJob { name } => Change::RemoveJob { name },
        Op::SetAcl { job, client_acl } => Change::SetAcl { job, client_acl: acl(&client_acl)? },
        Op::AddInstance { job, instance } => Change::AddInstance { job, addr: address(&instance)? },
        Op::RemoveInstance { job, instance } => {
            Change::RemoveInstance { job, addr: address(&instance)? }
        }
        Op::PutTarget { endpoint, job, weight, https_only } => Change::PutTarget {
            endpoint: parsed("bad_endpoint", &endpoint)?,
            https_only,
            job,
            weight: self::weight(&weight)?,
        },
        Op::SetWeight { endpoint, job, weight } => Change::SetWeight {
            endpoint: parsed("bad_endpoint", &endpoint)?,
            job,
            weight: self::weight(&weight)?,
        },
        Op::RemoveTarget { endpoint, job } => {
            Change::RemoveTarget { endpoint: parsed("bad_endpoint", &endpoint)?, job }
        }
        Op::RemoveRoute { endpoint } => {
            Change::RemoveRoute { endpoint: parsed::<Endpoint>("bad_endpoint", &endpoint)? }
        }
    })
}

fn acl(text: &str) -> Result<ClientAcl, Refusal> {
    if text.trim().is_empty() {
        return Ok(ClientAcl::default());
    }
    parsed("bad_acl", text)
}

fn address(text: &str) -> Result<SocketAddr, Refusal> {
    text.parse().map_err(|_| {
        bad("bad_address", format!("\"{text}\" is not an IP address with a port"))
            .advise("127.0.0.1:9001")
    })
}

/// A number or a text: `45`, `33.33`, `"45%"`, `"auto"`; absent: auto.
fn weight(value: &Value) -> Result<Weight, Refusal> {
    match value {
        Value::Null => Ok(Weight::AUTO),
        Value::Number(number) => parsed("bad_weight", &number.to_string()),
        Value::String(text) if text == "auto" => Ok(Weight::AUTO),
        Value::String(text) => parsed("bad_weight", text),
        other => {
            Err(bad("bad_weight", format!("{other} is not a weight"))
                .advise("45, \"45%\" or \"auto\""))
        }
    }
}

fn parsed<T: FromStr<Err = SyntaxError>>(code: &'static str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error: SyntaxError| {
        bad(code, format!("\"{text}\", column {}: {}", error.column, error.what))
            .advise(error.hint.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn code(value: Value) -> &'static str {
        change(value).map_or_else(|refusal| refusal.code, |_| "ok")
    }

    #[test]
    fn every_op_is_read() {
        let (endpoint, job) = ("http://app.example.com/shop", "job::/a::b");
        for value in [
            json!({"op": "put_job", "name": job, "client_acl": "allow 10.0.0.0/8", "instances": ["127.0.0.1:1"]}),
            json!({"op": "put_job", "name": job}),
            json!({"op": "remove_job", "name": job}),
            json!({"op": "set_acl", "job": job, "client_acl": ""}),
            json!({"op": "add_instance", "job": job, "instance": "[::1]:9001"}),
            json!({"op": "remove_instance", "job": job, "instance": "127.0.0.1:9001"}),
            json!({"op": "put_target", "endpoint": endpoint, "job": job, "weight": 45, "https_only": true}),
            json!({"op": "put_target", "endpoint": "tcp://127.0.0.1:7000", "job": job}),
            json!({"op": "set_weight", "endpoint": endpoint, "job": job, "weight": "33.33%"}),
            json!({"op": "set_weight", "endpoint": endpoint, "job": job, "weight": -10}),
            json!({"op": "set_weight", "endpoint": endpoint, "job": job, "weight": "auto"}),
            json!({"op": "remove_target", "endpoint": endpoint, "job": job}),
            json!({"op": "remove_route", "endpoint": endpoint}),
        ] {
            assert_eq!(code(value.clone()), "ok", "{value}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (value, want) in [
            (json!({"name": "x"}), "bad_change"),
            (json!(7), "bad_change"),
            (json!({"op": "put_targt"}), "unknown_op"),
            (json!({"op": "remove_job", "name": "x", "force": true}), "bad_change"),
            (json!({"op": "remove_route", "endpoint": "ftp://x"}), "bad_endpoint"),
            (json!({"op": "set_acl", "job": "x", "client_acl": "permit 1.2.3.4"}), "bad_acl"),
            (json!({"op": "add_instance", "job": "x", "instance": "localhost:1"}), "bad_address"),
            (
                json!({"op": "set_weight", "endpoint": "http://x", "job": "x", "weight": []}),
                "bad_weight",
            ),
            (
                json!({"op": "set_weight", "endpoint": "http://x", "job": "x", "weight": "half"}),
                "bad_weight",
            ),
        ] {
            assert_eq!(code(value.clone()), want, "{value}");
        }
        let refusal = change(json!({"op": "put_targt"})).unwrap_err();
        assert_eq!(refusal.advice, "put_target");
    }
}
