//! A client of the admin API over its unix socket, one connection a call.
//!
//! Deliberately absent: types for the answers. Tests look at the JSON that an operator would see.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::message::Response;
use crate::wait::DEADLINE;
use crate::wire::Wire;

/// The admin API of one router.
#[derive(Clone, Debug)]
pub struct Admin {
    socket: PathBuf,
}

/// An answer with its JSON, `Null` when it is none.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// The body as JSON.
    pub json: Value,
    /// The whole response.
    pub response: Response,
}

impl Admin {
    /// The API at this unix socket.
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// One call with field lines and a body of the caller's choice; `None` when nobody listens or answers.
    ///
    /// # Panics
    /// When the answer is cut or invalid.
    pub fn try_raw(&self, start: &str, fields: &[&str], body: &str) -> Option<Answer> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(DEADLINE * 2)).expect("a time-out above zero");
        let mut head = format!("{start} HTTP/1.1\r\nConnection: close\r\n");
        if !fields.iter().any(|line| line.to_ascii_lowercase().starts_with("host:")) {
            head.push_str("Host: localhost\r\n");
        }
        for line in fields {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        // The router may refuse a large body before it read it: then the answer counts, not the write.
        crate::server::ignore(stream.write_all(head.as_bytes()));
        let mut wire = Wire::new(stream);
        // No answer at all is a router that went away: the caller knows whether it may.
        let head = wire.through(b"\r\n\r\n").ok()??;
        let mut response = Response::parse(head, "GET").expect("a valid answer");
        let framing = response.framing;
        response.body.read(&mut wire, framing).expect("a whole answer");
        let json = serde_json::from_slice(&response.body.bytes).unwrap_or(Value::Null);
        Some(Answer { status: response.status, json, response })
    }

    /// `GET path`.
    ///
    /// # Panics
    /// When nobody answers.
    pub fn get(&self, path: &str) -> Answer {
        self.try_raw(&format!("GET {path}"), &[], "").expect("the admin socket is there")
    }

    /// `POST path` with JSON.
    ///
    /// # Panics
    /// When nobody answers.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let fields = ["Content-Type: application/json"];
        let answer = self.try_raw(&format!("POST {path}"), &fields, &body.to_string());
        answer.expect("the admin socket is there")
    }

    /// Apply changes and wait until every core serves them.
    ///
    /// # Panics
    /// When they are refused.
    pub fn apply(&self, changes: &[Value]) -> Value {
        let answer = self.try_apply(changes);
        assert_eq!(answer.status, 200, "changes {changes:?} refused: {}", answer.response.text());
        answer.json
    }

    /// Apply changes and wait until every core serves them, or see why not.
    pub fn try_apply(&self, changes: &[Value]) -> Answer {
        let timeout_ms = u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX);
        let body = json!({ "wait": "all", "timeout_ms": timeout_ms, "changes": changes });
        self.post("/v1/changes", &body)
    }

    /// `GET /v1/status`.
    pub fn status(&self) -> Value {
        self.get("/v1/status").json
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        self.get("/metrics").response.text()
    }

    /// The sum of all samples of one metric whose labels contain `part`.
    pub fn metric(&self, name: &str, part: &str) -> f64 {
        self.metrics().lines().filter_map(|line| sample(line, name, part)).sum()
    }
}

fn sample(line: &str, name: &str, part: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let labels_or_value = rest.starts_with([' ', '{']);
    let value = rest.rsplit(' ').next()?.parse::<f64>().ok()?;
    (labels_or_value && rest.contains(part)).then_some(value)
}

/// `put_job` without an ACL.
pub fn put_job(name: &str, instances: &[SocketAddr]) -> Value {
    put_guarded_job(name, "", instances)
}

/// `put_job`.
pub fn put_guarded_job(name: &str, client_acl: &str, instances: &[SocketAddr]) -> Value {
    let instances: Vec<String> = instances.iter().map(ToString::to_string).collect();
    json!({ "op": "put_job", "name": name, "client_acl": client_acl, "instances": instances })
}

/// `put_target`, not https-only.
pub fn put_target(endpoint: &str, job: &str, weight: f64) -> Value {
    json!({ "op": "put_target", "endpoint": endpoint, "job": job, "weight": weight,
            "https_only": false })
}

/// `set_weight`.
pub fn set_weight(endpoint: &str, job: &str, weight: f64) -> Value {
    json!({ "op": "set_weight", "endpoint": endpoint, "job": job, "weight": weight })
}

/// `add_instance`.
pub fn add_instance(job: &str, addr: SocketAddr) -> Value {
    json!({ "op": "add_instance", "job": job, "instance": addr.to_string() })
}

/// `remove_instance`.
pub fn remove_instance(job: &str, addr: SocketAddr) -> Value {
    json!({ "op": "remove_instance", "job": job, "instance": addr.to_string() })
}

/// `remove_route`.
pub fn remove_route(endpoint: &str) -> Value {
    json!({ "op": "remove_route", "endpoint": endpoint })
}
