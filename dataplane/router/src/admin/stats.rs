//! `GET /v1/stats?by=route|job|instance`: requests, statuses and percentiles, the busiest first.
//!
//! Deliberately absent: rates of single seconds. Ask twice and subtract, as the dashboard does.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::Admin;
use super::answer::{Asked, Refusal, json};
use super::sampler::{Samples, cores, instance_latency, instances_of, route_latency, routes_of};
use crate::stats::{CLASSES, CoreStats, Snapshot};

/// Rows answered when the query says nothing.
const ROWS_DEFAULT: usize = 100;
/// Rows answered at most.
const ROWS_MAX: usize = 10_000;

/// Latency in microseconds; absent without requests.
#[derive(Serialize)]
pub(super) struct Percentiles {
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p999_us: Option<u64>,
}

impl Percentiles {
    pub(super) fn of(durations: &Snapshot) -> Self {
        let micros = |q| durations.quantile_nanos(q).map(|nanos| nanos.div_ceil(1_000));
        let count = durations.count();
        Self {
            count,
            mean_us: durations.sum_nanos.checked_div(count).map(|nanos| nanos / 1_000),
            p50_us: micros(0.5),
            p99_us: micros(0.99),
            p999_us: micros(0.999),
        }
    }
}

/// Answers by class, without the classes that never came.
pub(super) fn answers(cores: impl Iterator<Item = [u64; 6]>) -> BTreeMap<&'static str, u64> {
    let mut totals = BTreeMap::new();
    for counts in cores {
        for (class, count) in CLASSES.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
            *totals.entry(class).or_default() += count;
        }
    }
    totals
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum By {
    #[default]
    Route,
    Job,
    Instance,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    #[serde(default)]
    by: By,
    limit: Option<usize>,
}

#[derive(Default, Serialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    requests: u64,
    in_flight: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    denied: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connects_failed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failures: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ejected_on_cores: Option<u64>,
    bytes_in: u64,
    bytes_out: u64,
    answers: BTreeMap<&'static str, u64>,
    /// In the window; absent when the route is not watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recent: Option<Percentiles>,
    total: Option<Percentiles>,
}

#[derive(Serialize)]
struct Answer {
    by: By,
    table_version: u64,
    window_seconds: f64,
    rows: Vec<Row>,
    /// Rows left out because of `limit`.
    more: usize,
}

pub(super) async fn stats(
    State(admin): State<Arc<Admin>>,
    Asked(query): Asked<Query>,
) -> Result<Response, Refusal> {
    let limit = query.limit.unwrap_or(ROWS_DEFAULT).min(ROWS_MAX);
    let table = admin.hub.table();
    let view = View { cores: &cores(&admin.hub), samples: &admin.sampler.read() };
    let (rows, more) = match query.by {
        By::Route => view.routes(&table, limit),
        By::Job => view.jobs(&table, limit),
        By::Instance => view.instances(&table, limit),
    };
    let window_seconds = view.samples.window().as_secs_f64();
    Ok(json(&Answer { by: query.by, table_version: table.version(), window_seconds, rows, more }))
}

struct View<'a> {
    cores: &'a [&'a CoreStats],
    samples: &'a Samples,
}

impl View<'_> {
    fn routes(&self, table: &route::Table, limit: usize) -> (Vec<Row>, usize) {
        let busy = |route: &&route::Route| -> u64 {
            routes_of(self.cores, route.slot).map(|stats| stats.requests.read()).sum()
        };
        let (chosen, more) = busiest(table.routes().collect(), busy, limit);
        (chosen.into_iter().map(|route| self.route_row(route)).collect(), more)
    }

    fn route_row(&self, route: &route::Route) -> Row {
        let latency = route_latency(self.cores, route.slot);
        let mut row = Row {
            route: Some(route.endpoint.to_string()),
            denied: Some(0),
            answers: answers(routes_of(self.cores, route.slot).map(|stats| stats.answers.read())),
            ..Row::default()
        };
        for stats in routes_of(self.cores, route.slot) {
            row.requests += stats.requests.read();
            row.in_flight += stats.in_flight.read();
            row.bytes_in += stats.bytes_in.read();
            row.bytes_out += stats.bytes_out.read();
            row.denied = row.denied.map(|denied| denied + stats.denied.read());
        }
        let recent = self.samples.route(route.slot, &latency);
        let requests = self.samples.route_requests(route.slot, row.requests);
        self.finish(row, &latency, recent, requests)
    }

    fn instances(&self, table: &route::Table, limit: usize) -> (Vec<Row>, usize) {
        let all = table.jobs().flat_map(|job| job.instances.iter().map(move |one| (job, one)));
        let busy = |(_, one): &(&route::Job, &route::Instance)| -> u64 {
            instances_of(self.cores, one.slot).map(|stats| stats.requests.read()).sum()
        };
        let (chosen, more) = busiest(all.collect(), busy, limit);
        let rows = chosen.into_iter().map(|(job, one)| {
            let name = Some(one.addr.to_string());
            self.pool_row(job, std::slice::from_ref(one), name)
        });
        (rows.collect(), more)
    }

    fn jobs(&self, table: &route::Table, limit: usize) -> (Vec<Row>, usize) {
        let busy = |job: &&route::Job| -> u64 {
            let stats = job.instances.iter().flat_map(|one| instances_of(self.cores, one.slot));
            stats.map(|stats| stats.requests.read()).sum()
        };
        let (chosen, more) = busiest(table.jobs().collect(), busy, limit);
        (chosen.into_iter().map(|job| self.pool_row(job, &job.instances, None)).collect(), more)
    }

    /// One instance, or all of a job together.
    fn pool_row(
        &self,
        job: &route::Job,
        list: &[route::Instance],
        instance: Option<String>,
    ) -> Row {
        let zero = Some(0);
        let mut row = Row {
            job: Some(job.name.to_string()),
            instance,
            connects_failed: zero,
            failures: zero,
            ejected_on_cores: zero,
            ..Row::default()
        };
        let (mut latency, mut recent) = (Snapshot::default(), Some(Snapshot::default()));
        let mut recent_requests = Some(0);
        for one in list {
            let now = instance_latency(self.cores, one.slot);
            let window = self.samples.instance(one.slot, &now);
            latency.add(&now);
            recent = recent.zip(window).map(|(mut sum, window)| {
                sum.add(&window);
                sum
            });
            let mut requests = 0;
            for stats in instances_of(self.cores, one.slot) {
                requests += stats.requests.read();
                row.in_flight += stats.in_flight.read();
                row.bytes_in += stats.bytes_in.read();
                row.bytes_out += stats.bytes_out.read();
                let add = |sum: Option<u64>, more| sum.map(|sum| sum + more);
                row.connects_failed = add(row.connects_failed, stats.connects_failed.read());
                row.failures = add(row.failures, stats.failures.read());
                row.ejected_on_cores = add(row.ejected_on_cores, stats.ejected.read());
            }
            row.requests += requests;
            let window = self.samples.instance_requests(one.slot, requests);
            recent_requests = recent_requests.zip(window).map(|(sum, window)| sum + window);
        }
        let stats = list.iter().flat_map(|one| instances_of(self.cores, one.slot));
        row.answers = answers(stats.map(|stats| stats.answers.read()));
        self.finish(row, &latency, recent, recent_requests)
    }

    fn finish(
        &self,
        mut row: Row,
        total: &Snapshot,
        recent: Option<Snapshot>,
        recent_requests: Option<u64>,
    ) -> Row {
        let seconds = self.samples.window().as_secs_f64().max(1e-3);
        #[expect(clippy::cast_precision_loss, reason = "a rate is not exact anyway")]
        let rate = |requests: u64| requests as f64 / seconds;
        row.per_second = recent_requests.map(rate);
        row.recent = recent.as_ref().map(Percentiles::of);
        row.total = Some(Percentiles::of(total));
        row
    }
}

/// The `limit` busiest, busiest first, and how many are left out.
fn busiest<T>(mut all: Vec<T>, busy: impl Fn(&T) -> u64, limit: usize) -> (Vec<T>, usize) {
    all.sort_by_cached_key(|one| std::cmp::Reverse(busy(one)));
    let more = all.len().saturating_sub(limit);
    all.truncate(limit);
    (all, more)
}
