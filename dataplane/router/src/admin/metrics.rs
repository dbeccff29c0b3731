//! `GET /metrics`: gathers what the page needs from hub, table and cores.
//!
//! Deliberately absent: the format, which is in `crate::metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Admin;
use super::sampler::{cores, instances_of, routes_of};
use crate::metrics::{Facts, Page, instances, routes};

pub(super) async fn page(State(admin): State<Arc<Admin>>) -> Response {
    let table = admin.hub.table();
    let cores = cores(&admin.hub);
    let series_max = admin.hub.settings().metrics.series_max as usize;
    let mut page = Page::default();
    page.facts(&facts(&admin, &table));
    page.cores(&cores);
    page.totals(&cores);
    let named = table.routes().map(|route| {
        (route.endpoint.to_string(), routes_of(&cores, route.slot).collect::<Vec<_>>())
    });
    routes(&mut page, series_max, named.collect());
    let named = table.jobs().flat_map(|job| {
        let cores = &cores;
        job.instances.iter().map(move |one| {
            let stats = instances_of(cores, one.slot).collect::<Vec<_>>();
            (job.name.to_string(), one.addr.to_string(), stats)
        })
    });
    instances(&mut page, series_max, named.collect());
    let mut text = page.into_text();
    if let Some(more) = admin.more_metrics.get() {
        text.push_str(&more());
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

fn facts(admin: &Admin, table: &route::Table) -> Facts {
    let instances: usize = table.jobs().map(|job| job.instances.len()).sum();
    Facts {
        uptime_seconds: admin.hub.started().elapsed().as_secs(),
        engine: admin.engine,
        table: [table.routes_count() as u64, table.jobs_count() as u64, instances as u64],
        table_bytes: table.memory_bytes() as u64,
        config_good: admin.source.is_good(),
        access_log: admin.log.as_ref().map(|log| (log.lines(), log.lines_lost())),
        draining: admin.hub.draining().len() as u64,
    }
}
