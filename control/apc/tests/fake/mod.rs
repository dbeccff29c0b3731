//! A small API for the tests of `apc`: HTTP/1.1 on a free port, jobs and packages in memory.
//!
//! It answers as the real one does, as far as the commands see it. Deliberately absent: rules; the real API has them,
//! and the end-to-end tests run against it.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// What the API holds.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) jobs: Vec<Value>,
    pub(crate) packages: Vec<Value>,
    /// Method, path with query, of every request.
    pub(crate) requests: Vec<String>,
    /// No router is heard.
    pub(crate) routers_away: bool,
    /// Answers that are given instead: by the beginning of `METHOD /path`.
    pub(crate) instead: BTreeMap<String, (u16, Value)>,
}

/// A running API.
pub(crate) struct Fake {
    pub(crate) url: String,
    pub(crate) state: Arc<Mutex<State>>,
    home: PathBuf,
}

impl Fake {
    pub(crate) fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        let home = std::env::temp_dir().join(format!("apc-test-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&home));
        std::fs::create_dir_all(&home).unwrap();
        Self { url, state, home }
    }

    pub(crate) fn home(&self) -> &std::path::Path {
        &self.home
    }

    /// Answers what begins so with this.
    pub(crate) fn answer_instead(&self, begin: &str, status: u16, body: Value) {
        self.state.lock().unwrap().instead.insert(begin.to_owned(), (status, body));
    }

    /// A job that is there.
    pub(crate) fn add_job(&self, fqn: &str, uuid: &str, more: Value) {
        let mut job = json!({"uuid": uuid, "fqn": fqn, "version_id": 1, "state": "started"});
        merge(&mut job, &more);
        self.state.lock().unwrap().jobs.push(job);
    }

    /// Runs `apc`, split at spaces.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.run_words(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub(crate) fn run_words(&self, words: &[&str]) -> Ran {
        let output: Output = self.command(&self.url).args(words).output().unwrap();
        Ran {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code().unwrap(),
        }
    }

    /// `apc` for the API at `url`, without words.
    pub(crate) fn command(&self, url: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apc"));
        command
            .env_clear()
            .env("APC_HOME", &self.home)
            .env("APC_TARGET", url)
            .env("APC_TOKEN", "secret")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.home));
    }
}

/// What a run left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (method, path) = (
            words.next().unwrap_or_default().to_owned(),
            words.next().unwrap_or_default().to_owned(),
        );
        let (mut length, mut token) = (0, false);
        loop {
            let mut header = String::new();
            input.read_line(&mut header)?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            token |= header == "authorization: bearer secret";
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        let path = path.strip_prefix("/v1").unwrap_or(&path).to_owned();
        let open = path == "/info" || path == "/version";
        let (status, headers, answer) = if token || open {
            answer(&mut state.lock().unwrap(), &method, &path, &body)
        } else {
            (401, String::new(), error(401, "unauthenticated", "the token is not known"))
        };
        let text = if answer.is_null() { String::new() } else { answer.to_string() };
        write!(
            out,
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{text}",
            text.len()
        )?;
    }
}

/// The body of an error.
pub(crate) fn error(code: u16, word: &str, message: &str) -> Value {
    json!({
        "code": code, "error": word, "message": message, "client_side": code < 500, "fatal": true, "retry": false,
        "requires_restart": word == "requires_restart",
    })
}

type Answer = (u16, String, Value);

fn answer(state: &mut State, method: &str, whole: &str, body: &[u8]) -> Answer {
    let request = format!("{method} {whole}");
    state.requests.push(request.clone());
    if let Some((_, (status, value))) =
        state.instead.iter().find(|(begin, _)| request.starts_with(begin.as_str()))
    {
        return (*status, String::new(), value.clone());
    }
    let (path, query) = whole.split_once('?').unwrap_or((whole, ""));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let sent: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let live = match state.routers_away {
        false => {
            json!({"revision": 7, "routers_live": 2, "routers": 2, "cores_live": 4, "cores": 4, "ms": 9})
        }
        true => {
            json!({"revision": 7, "routers_live": 0, "routers": 0, "cores_live": 0, "cores": 0, "ms": 9})
        }
    };
    let live = format!("apcera-live: {live}\r\n");
    let headers = if query.contains("wait=live") { live } else { String::new() };
    let ok = |value: Value| (200, headers.clone(), value);
    match (method, parts.as_slice()) {
        (_, ["info"]) => ok(
            json!({"name": "test", "cluster_domain": "example.com", "url": "http://api", "http_port": 8080, "https_port": 8443, "tcp_host": "10.0.0.1"}),
        ),
        (_, ["version"]) => ok(json!({"version": "1.2.3", "api": 1})),
        (_, ["namespace", "default"]) => ok(json!({"namespace": "/sandbox/admin"})),
        ("POST", ["jobs", "check"]) => ok(json!({"job": sent, "restart_needed": []})),
        ("GET", ["jobs", "health"]) => ok(healths(state)),
        ("GET", ["jobs" | "packages"]) => {
            ok(listed(if parts[0] == "jobs" { &state.jobs } else { &state.packages }, query))
        }
        ("POST", ["jobs" | "packages"]) => create(state, parts[0], sent, headers),
        ("GET", ["jobs", _, "instances"]) => ok(instances(state, parts[1])),
        ("GET", ["jobs", _, "logs"]) => ok(Value::Null),
        ("POST", ["jobs", id, "restart"]) => {
            change(&mut state.jobs, id, &json!({"state": "started"}));
            (202, String::new(), json!({"location": "/v1/tasks/x"}))
        }
        ("PUT", ["packages", id, "resources", _]) => {
            change(&mut state.packages, id, &json!({"state": "ready"}));
            (204, String::new(), Value::Null)
        }
        ("GET", [kind, id]) => {
            found(if *kind == "jobs" { &state.jobs } else { &state.packages }, id)
                .map_or_else(|| missing(id), ok)
        }
        ("PUT", ["jobs", id]) => change(&mut state.jobs, id, &sent).map_or_else(|| missing(id), ok),
        ("DELETE", [kind, id]) => {
            let list = if *kind == "jobs" { &mut state.jobs } else { &mut state.packages };
            list.retain(|one| one["uuid"] != *id);
            (204, String::new(), Value::Null)
        }
        _ => missing(path),
    }
}

fn missing(what: &str) -> Answer {
    (404, String::new(), error(404, "not_found", &format!("there is no {what}")))
}

fn create(state: &mut State, kind: &str, mut sent: Value, headers: String) -> Answer {
    let list = if kind == "jobs" { &mut state.jobs } else { &mut state.packages };
    if list.iter().any(|one| one["fqn"] == sent["fqn"]) {
        let message = format!("{} already exists", sent["fqn"].as_str().unwrap_or_default());
        return (409, String::new(), error(409, "conflict", &message));
    }
    let uuid = format!("{:08x}-0000-4000-8000-000000000000", list.len() + 1);
    merge(&mut sent, &json!({"uuid": uuid, "version_id": 1}));
    resolve_auto(&mut sent);
    list.push(sent.clone());
    (201, headers, sent)
}

fn resolve_auto(job: &mut Value) {
    for port in job.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        for route in port.get_mut("routes").and_then(Value::as_array_mut).into_iter().flatten() {
            if route["endpoint"] == "auto" {
                route["endpoint"] = json!(if route["type"] == "tcp" {
                    "10.0.0.1:10000"
                } else {
                    "app-h3f435.example.com"
                });
            }
        }
    }
}

fn found(list: &[Value], id: &str) -> Option<Value> {
    list.iter().find(|one| one["uuid"] == id).cloned()
}

fn change(list: &mut [Value], id: &str, more: &Value) -> Option<Value> {
    let one = list.iter_mut().find(|one| one["uuid"] == id)?;
    let version = one["version_id"].as_u64().unwrap_or(0) + 1;
    merge(one, more);
    merge(one, &json!({"version_id": version}));
    resolve_auto(one);
    Some(one.clone())
}

fn listed(list: &[Value], query: &str) -> Value {
    let asked = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")))?;
        Some(value.replace("%3A", ":").replace("%2F", "/").replace("%40", "@"))
    };
    let fits = |one: &&Value| {
        let fqn = one["fqn"].as_str().unwrap();
        asked("fqn").is_none_or(|wanted| fqn == wanted)
            && asked("namespace")
                .is_none_or(|wanted| fqn.split("::").nth(1) == Some(wanted.as_str()))
    };
    Value::Array(list.iter().filter(fits).cloned().collect())
}

fn healths(state: &State) -> Value {
    let of = |job: &Value| {
        let started = job["state"] == "started";
        let count = if started { job["num_instances"].as_u64().unwrap_or(1) } else { 0 };
        (
            job["uuid"].as_str().unwrap().to_owned(),
            json!({"score": f64::from(started), "flapping": false, "instance_state_count": {"RUNNING": count}}),
        )
    };
    Value::Object(state.jobs.iter().map(of).collect())
}

/// As many as shall run, while it is started.
fn instances(state: &State, id: &str) -> Value {
    let Some(job) = found(&state.jobs, id) else { return json!([]) };
    let count =
        if job["state"] == "started" { job["num_instances"].as_u64().unwrap_or(1) } else { 0 };
    let one = |at| {
        json!({
            "uuid": format!("a2434d2{at}-0000-4000-8000-000000000000"), "host": "im1", "state": "RUNNING",
            "instance_manager": "00000001-0000-4000-8000-000000000000", "job_version_id": job["version_id"],
            "created_time": "2026-01-01T00:00:00Z", "failed": false, "exited": false,
            "legs": {"asked": 1, "setup": 2, "spawn": 3, "listen": 4, "routed": 5},
        })
    };
    Value::Array((1..=count).map(one).collect())
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}
