//! Records as they change: first all that there are, then every change, with a way to go on after a break.
//!
//! ```text
//!   list, page by page ──▶ "put" … ──▶ "synced" id ──▶ watch from the first page's revision ──▶ "put" / "delete" id …
//!   Last-Event-ID ────────────────────────────────────▶ watch from there   └ history is gone ──▶ "reset", end
//! ```
//!
//! A change between two pages may come twice; records are states, so that is harmless. Deliberately absent: records that
//! are not a client's business, such as leases and stored answers.

use super::received::Params;
use super::respond::{Answer, Failure};
use super::seats::Seat;
use super::state::Shared;
use super::stream::{self, BEAT};
use crate::authorize::{Action, Principal, authorize};
use crate::jobs::{JOBS, PACKAGES};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::convert::Infallible;
use store::{Change, Record, StoreError};
use wire::{ErrorCode, Fqn};

/// Records in one chunk of the answer.
const CHUNK: u32 = 100;

/// What to watch.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WatchParams {
    /// `jobs` or `packages`.
    prefix: String,
    /// Only changes after this revision; `Last-Event-ID` wins.
    after: Option<u64>,
}

/// One record, or that it is gone.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Changed {
    /// Of the store.
    revision: u64,
    /// `jobs/<uuid>` or `packages/<uuid>`.
    key: String,
    /// The record; null = it is gone.
    record: Option<Value>,
}

/// Server-sent events: `put` and `delete` with a `Changed` each, `synced` after the first list, `reset` when a client must
/// begin anew.
#[utoipa::path(get, path = "/watch", tag = "events", params(WatchParams, ("Last-Event-ID" = Option<u64>, Header)),
    responses((status = 200, content_type = "text/event-stream", body = Changed), (status = 400, body = wire::ApiError)))]
pub(super) async fn get(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    Params(params): Params<WatchParams>,
) -> Answer {
    let prefix = match params.prefix.trim_end_matches('/') {
        "jobs" => JOBS,
        "packages" => PACKAGES,
        other => {
            let message = format!("\"{other}\" cannot be watched");
            return Err(Failure::new(ErrorCode::Invalid, message).hint("prefix=jobs or packages"));
        }
    };
    let seat = api.seats.take(&who)?;
    let phase = match stream::resume(&headers, params.after)? {
        Some(after) => watching(&api, prefix, after).await?,
        None => Phase::Listing { after: None, revision: None },
    };
    let stop = api.stop.clone();
    let watcher = Watcher { api, who, prefix, phase, _seat: seat };
    Ok(stream::sse(unfold(watcher, move |mut watcher| {
        let stop = stop.clone();
        async move {
            let bytes = stop.run_until_cancelled(watcher.next()).await??;
            Some((Ok::<_, Infallible>(bytes), watcher))
        }
    })))
}

enum Phase {
    /// Keys up to here are sent; the first page was read at this revision.
    Listing {
        after: Option<String>,
        revision: Option<u64>,
    },
    Watching(Box<dyn store::Watch>),
    /// The history is gone.
    Reset,
    Over,
}

struct Watcher {
    api: Shared,
    who: Principal,
    prefix: &'static str,
    phase: Phase,
    _seat: Seat,
}

async fn watching(api: &Shared, prefix: &str, after: u64) -> Result<Phase, Failure> {
    match api.store.watch(prefix, after).await {
        Ok(watch) => Ok(Phase::Watching(watch)),
        Err(StoreError::Compacted { .. }) => Ok(Phase::Reset),
        Err(error) => Err(error.into()),
    }
}

impl Watcher {
    /// The next bytes; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match &mut self.phase {
                Phase::Listing { after, revision } => {
                    let (after, revision) = (after.clone(), *revision);
                    match self.page(after, revision).await {
                        Ok(bytes) if bytes.is_empty() => {}
                        Ok(bytes) => return Some(bytes),
                        Err(Failure(error)) => {
                            tracing::debug!(error = error.message, "a list was broken off");
                            return None;
                        }
                    }
                }
                Phase::Watching(watch) => match tokio::time::timeout(BEAT, watch.next()).await {
                    Err(_) => return Some(stream::alive()),
                    Ok(Ok(change)) => {
                        if let Some(bytes) = self.change(change) {
                            return Some(bytes);
                        }
                    }
                    Ok(Err(StoreError::Compacted { .. })) => self.phase = Phase::Reset,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "a watcher is sent away");
                        return None;
                    }
                },
                Phase::Reset => {
                    self.phase = Phase::Over;
                    return Some(stream::event(None, "reset", &Value::Null));
                }
                Phase::Over => return None,
            }
        }
    }

    async fn page(&mut self, after: Option<String>, first: Option<u64>) -> Result<Bytes, Failure> {
        let page = self.api.store.list(self.prefix, after.as_deref(), CHUNK).await?;
        let revision = first.unwrap_or(page.revision);
        let mut bytes = Vec::new();
        for record in &page.records {
            bytes.extend(self.put(record, None).unwrap_or_default());
        }
        if page.more {
            let after = page.records.last().map(|record| record.key.clone());
            self.phase = Phase::Listing { after, revision: Some(revision) };
        } else {
            self.phase = watching(&self.api, self.prefix, revision).await?;
            bytes.extend(stream::event(Some(revision), "synced", &Value::Null));
        }
        Ok(bytes.into())
    }

    fn change(&self, change: Change) -> Option<Bytes> {
        let id = Some(change.revision);
        match &change.record {
            Some(record) => self.put(record, id),
            None => {
                let gone = Changed { revision: change.revision, key: change.key, record: None };
                Some(stream::event(id, "delete", &gone))
            }
        }
    }

    /// None when it is not for these eyes.
    fn put(&self, record: &Record, id: Option<u64>) -> Option<Bytes> {
        let mut value: Value = serde_json::from_slice(&record.value).ok()?;
        let fqn: Fqn = value.get("fqn")?.as_str()?.parse().ok()?;
        authorize(&self.who, Action::Read, &fqn).ok()?;
        value["version_id"] = record.version.into();
        let key = record.key.clone();
        let changed = Changed { revision: record.revision, key, record: Some(value) };
        Some(stream::event(id, "put", &changed))
    }
}
