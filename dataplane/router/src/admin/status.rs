//! `GET /v1/status`, `/healthz`, `/readyz`: what runs, where, since when, and whether it may get traffic.
//!
//! Deliberately absent: single routes; see `stats.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Admin;
use super::answer::json;
use super::sampler::cores;
use super::stats::{Percentiles, answers};
use crate::hub::Phase;
use crate::stats::CoreStats;

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    engine: &'static str,
    phase: &'static str,
    ready: bool,
    uptime_seconds: u64,
    pid: u32,
    listeners: Vec<Listener>,
    table: Table,
    config: &'a serde_json::Value,
    cores: Vec<Core>,
    totals: Totals,
}

#[derive(Serialize)]
struct Listener {
    kind: &'static str,
    address: String,
}

#[derive(Serialize)]
struct Table {
    version: u64,
    routes: usize,
    jobs: usize,
    instances: usize,
    bytes: usize,
    draining: usize,
}

#[derive(Serialize)]
struct Core {
    index: usize,
    table_version: u64,
    requests: u64,
    in_flight: u64,
    connections_open: u64,
    upstream_open: u64,
    turn_longest_us: u64,
}

#[derive(Serialize)]
struct Totals {
    requests: u64,
    in_flight: u64,
    connections: u64,
    connections_open: u64,
    tunnels_open: u64,
    upstream_open: u64,
    upstream_idle: u64,
    upstream_reused: u64,
    upstream_retries: u64,
    bytes_in: u64,
    bytes_out: u64,
    spliced_bytes: u64,
    tls_full: u64,
    tls_resumed: u64,
    access_log_dropped: u64,
    bugs: u64,
    answers: BTreeMap<&'static str, u64>,
    failures: BTreeMap<&'static str, u64>,
    window_seconds: f64,
    recent: Percentiles,
    total: Percentiles,
}

pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Response {
    let table = admin.hub.table();
    let config = admin.source.status();
    let mut listeners: Vec<Listener> = admin
        .hub
        .listeners()
        .into_iter()
        .map(|(kind, addr)| Listener { kind, address: addr.to_string() })
        .collect();
    listeners.sort_by(|a, b| (a.kind, &a.address).cmp(&(b.kind, &b.address)));
    json(&Status {
        version: env!("CARGO_PKG_VERSION"),
        engine: admin.engine,
        phase: phase(&admin),
        ready: is_ready(&admin),
        uptime_seconds: admin.hub.started().elapsed().as_secs(),
        pid: std::process::id(),
        listeners,
        table: Table {
            version: table.version(),
            routes: table.routes_count(),
            jobs: table.jobs_count(),
            instances: table.jobs().map(|job| job.instances.len()).sum(),
            bytes: table.memory_bytes(),
            draining: admin.hub.draining().len(),
        },
        config: &config,
        cores: admin
            .hub
            .cores()
            .iter()
            .enumerate()
            .map(|(index, core)| core_row(index, core.serving.load(Ordering::Relaxed), &core.stats))
            .collect(),
        totals: totals(&admin),
    })
}

fn open(stats: &CoreStats) -> u64 {
    stats.open_http.read() + stats.open_https.read() + stats.open_tcp.read()
}

fn core_row(index: usize, table_version: u64, stats: &CoreStats) -> Core {
    Core {
        index,
        table_version,
        requests: stats.requests.read(),
        in_flight: stats.in_flight.read(),
        connections_open: open(stats),
        upstream_open: stats.upstream_open.read(),
        turn_longest_us: stats.turn_longest_us.read(),
    }
}

fn totals(admin: &Admin) -> Totals {
    let cores = cores(&admin.hub);
    let sum = |read: fn(&CoreStats) -> u64| cores.iter().map(|core| read(core)).sum();
    let latency = crate::metrics::latency(&cores);
    let samples = admin.sampler.read();
    let window = samples.window();
    Totals {
        requests: sum(|core| core.requests.read()),
        in_flight: sum(|core| core.in_flight.read()),
        connections: sum(|core| {
            core.connections_http.read()
                + core.connections_https.read()
                + core.connections_tcp.read()
        }),
        connections_open: sum(open),
        tunnels_open: sum(|core| core.open_tunnels.read()),
        upstream_open: sum(|core| core.upstream_open.read()),
        upstream_idle: sum(|core| core.upstream_idle.read()),
        upstream_reused: sum(|core| core.upstream_reused.read()),
        upstream_retries: sum(|core| core.upstream_retries.read()),
        bytes_in: sum(|core| core.client_bytes_in.read()),
        bytes_out: sum(|core| core.client_bytes_out.read()),
        spliced_bytes: sum(|core| core.spliced_bytes.read()),
        tls_full: sum(|core| core.tls_full.read()),
        tls_resumed: sum(|core| core.tls_resumed.read()),
        access_log_dropped: sum(|core| core.access_log_dropped.read()),
        bugs: sum(|core| core.bugs.read()),
        answers: answers(cores.iter().map(|core| core.answers.read())),
        failures: crate::metrics::failures(&cores),
        window_seconds: window.as_secs_f64(),
        recent: Percentiles::of(&samples.total(&latency)),
        total: Percentiles::of(&latency),
    }
}

fn phase(admin: &Admin) -> &'static str {
    match admin.hub.phase() {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Draining => "draining",
        Phase::Stopping => "stopping",
    }
}

/// Serving, and every core reads a table once it was filled.
fn is_ready(admin: &Admin) -> bool {
    // A core far behind later is a matter for alarms, not a reason to take the router out of service.
    let newest = admin.hub.version();
    if admin.hub.cores().iter().all(|core| core.serving.load(Ordering::Relaxed) >= newest) {
        admin.ready.store(true, Ordering::Relaxed);
    }
    admin.ready.load(Ordering::Relaxed) && admin.hub.phase() == Phase::Serving
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    if is_ready(&admin) {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", phase(&admin))).into_response()
}
