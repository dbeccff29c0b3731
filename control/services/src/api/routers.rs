//! The routers: which of them live, whether a change is live on them, and what they answer about a route.
//!
//! A router counts as live from its first beat until it was silent for too long or said farewell. Deliberately absent:
//! the routers' tables.

use super::received::Sent;
use super::respond::{Answer, Failure, json};
use super::state::Shared;
use crate::authorize::{Action, Principal, authorize, cluster};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use bus::{Delivery, Next, Subscription, Until};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use wire::routing::{
    Await, Awaited, AwaitedJob, Explain, Explained, LiveReport, Proof, Proved, ROUTER_SILENT_MS,
    ROUTING_BEAT_MS, RouterBeat,
};
use wire::{ErrorCode, RouterId, subject};

/// Routers that are remembered; a cluster has a few.
const ROUTERS_MAX: usize = 1_024;
/// Time for a router to explain or prove.
const ROUTER_WAIT: Duration = Duration::from_secs(2);
/// For the first router to answer a server that has just started, and for the others after it.
const REPORT_WAIT: Duration = Duration::from_millis(300);
const REPORT_SPREAD: Duration = Duration::from_millis(250);
/// Pause before the bus is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// The last beat of each router, and when it came.
#[derive(Default)]
pub(super) struct Routers {
    known: Mutex<BTreeMap<RouterId, (RouterBeat, u64)>>,
    /// Whether everybody was asked once; changes with every beat.
    asked: watch::Sender<bool>,
}

impl Routers {
    fn note(&self, beat: RouterBeat, now_ms: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (_, at)| now_ms.saturating_sub(*at) < ROUTER_SILENT_MS);
        if beat.leaving {
            known.remove(&beat.router);
        } else if known.len() < ROUTERS_MAX || known.contains_key(&beat.router) {
            known.insert(beat.router, (beat, now_ms));
        }
        drop(known);
        self.asked.send_modify(|_| {});
    }

    /// Those that live, as soon as everybody was asked and there is one, or at the end.
    async fn live_by(&self, api: &Shared, end: Instant) -> Vec<RouterBeat> {
        let mut news = self.asked.subscribe();
        loop {
            let asked = *news.borrow_and_update();
            let live = self.live(api.now_ms());
            if asked && !live.is_empty()
                || !matches!(timeout_at(end, news.changed()).await, Ok(Ok(())))
            {
                return live;
            }
        }
    }

    /// Those that live, in the order of their ids.
    pub(super) fn live(&self, now_ms: u64) -> Vec<RouterBeat> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let live = known.values().filter(|(_, at)| now_ms.saturating_sub(*at) < ROUTER_SILENT_MS);
        live.map(|(beat, _)| beat.clone()).collect()
    }

    /// Routers at different places: one that was restarted counts once, though its former life is remembered for a while.
    pub(super) fn places(&self, now_ms: u64) -> usize {
        let live = self.live(now_ms);
        let places: std::collections::BTreeSet<_> =
            live.iter().map(|beat| (&beat.hostname, &beat.listeners)).collect();
        places.len()
    }
}

/// Listens to beats until the server ends, first to a subscription that is there already.
pub(super) async fn listen(api: Shared, mut first: Option<Subscription>) {
    let listening = async {
        loop {
            let beats = match first.take() {
                Some(beats) => Ok(beats),
                None => api.bus.subscribe(subject::ROUTER_BEAT, None).await,
            };
            match beats {
                Ok(mut beats) => {
                    let hearing = async {
                        while let Some(next) = beats.next().await {
                            if let Next::Message(message) = next {
                                note(&api, &message);
                            }
                        }
                    };
                    tokio::join!(hearing, ask(&api));
                }
                Err(error) => tracing::warn!(%error, "beats of routers cannot be heard"),
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    api.stop.run_until_cancelled(listening).await;
}

/// Asks everybody who lives: the next beat may be a second away.
async fn ask(api: &Shared) {
    let until = Until { count: ROUTERS_MAX, deadline: REPORT_WAIT };
    match api.bus.request_many(subject::ROUTER_REPORT, &(), until).await {
        Ok(mut replies) => {
            let mut heard = false;
            while let Some(reply) = replies.next().await {
                note(api, &reply);
                if !std::mem::replace(&mut heard, true) {
                    replies.end_at(Instant::now() + REPORT_SPREAD);
                }
            }
        }
        Err(error) => tracing::debug!(%error, "routers cannot be asked who lives"),
    }
    api.routers.asked.send_replace(true);
}

fn note(api: &Shared, message: &Delivery) {
    match message.decode() {
        Ok(beat) => api.routers.note(beat, api.now_ms()),
        Err(mistake) => tracing::warn!(%mistake, "a beat was not understood"),
    }
}

/// Waits until all live routers serve `revision` on all cores, at most `timeout`.
pub(super) async fn await_live(
    api: &Shared,
    revision: u64,
    job: Option<AwaitedJob>,
    timeout: Duration,
) -> LiveReport {
    let (begun, deadline) = (api.now_ms(), Instant::now() + timeout);
    // A server that has just started may not have heard of any yet.
    let beat = Duration::from_millis(ROUTING_BEAT_MS + 200);
    let live = api.routers.live_by(api, Instant::now() + beat.min(timeout)).await;
    let mut waiting: BTreeMap<RouterId, u32> =
        live.iter().map(|beat| (beat.router, beat.cores)).collect();
    let mut report = LiveReport {
        revision,
        routers: u32::try_from(waiting.len()).unwrap_or(u32::MAX),
        cores: waiting.values().sum(),
        ..LiveReport::default()
    };
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let question =
        Await { revision, job: job.map(|job| at(job, revision)), announced: None, timeout_ms };
    let until =
        Until { count: ROUTERS_MAX, deadline: deadline.saturating_duration_since(Instant::now()) };
    match api.bus.request_many(subject::ROUTER_AWAIT, &question, until).await {
        Ok(mut replies) => {
            while !waiting.is_empty() {
                let Some(reply) = replies.next().await else { break };
                let Ok(answer) = reply.decode::<Awaited>() else { continue };
                if waiting.remove(&answer.router).is_some() {
                    report.cores_live += answer.cores.min(answer.cores_total);
                    report.routers_live += u32::from(answer.cores >= answer.cores_total);
                }
            }
        }
        Err(error) => tracing::warn!(%error, "routers cannot be asked"),
    }
    report.ms = api.now_ms().saturating_sub(begun);
    report
}

fn at(mut job: AwaitedJob, revision: u64) -> AwaitedJob {
    if let Some(routes) = &mut job.routes {
        routes.revision = revision;
    }
    job
}

/// The routers that live.
#[utoipa::path(get, path = "/routers", tag = "routes",
    responses((status = 200, description = "The last beat of each", body = [RouterBeat])))]
pub(super) async fn list(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
) -> Answer {
    authorize(&who, Action::Read, &cluster())?;
    Ok(json(StatusCode::OK, &api.routers.live(api.now_ms())))
}

/// Which rule of which route decides about a request.
#[utoipa::path(post, path = "/routes/explain", tag = "routes", request_body = Explain,
    responses((status = 200, description = "A router's own words", body = Explained)))]
pub(super) async fn explain(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    question: Sent<Explain>,
) -> Answer {
    authorize(&who, Action::Read, &cluster())?;
    let asked = api.bus.request(subject::ROUTER_EXPLAIN, &question.value, ROUTER_WAIT).await;
    let answer: Explained = asked.map_err(no_router)?;
    Ok(json(StatusCode::OK, &answer))
}

/// What each router sent to each job of a route, and what it should have sent.
#[utoipa::path(post, path = "/routes/proof", tag = "routes", request_body = Proof,
    responses((status = 200, description = "One entry for each router", body = [Proved])))]
pub(super) async fn proof(
    State(api): State<Shared>,
    Extension(who): Extension<Principal>,
    question: Sent<Proof>,
) -> Answer {
    authorize(&who, Action::Read, &cluster())?;
    let count = api.routers.live(api.now_ms()).len().max(1);
    let until = Until { count, deadline: ROUTER_WAIT };
    let mut all: Vec<Proved> =
        api.bus.gather(subject::ROUTER_PROOF, &question.value, until).await.map_err(no_router)?;
    if all.is_empty() {
        return Err(Failure::new(ErrorCode::Unavailable, "no router answers")
            .hint("GET /v1/routers lists those that live"));
    }
    all.sort_by_key(|proved| proved.router);
    Ok(json(StatusCode::OK, &all))
}

fn no_router(error: bus::BusError) -> Failure {
    let mut failure = Failure::from(error);
    "no router answers".clone_into(&mut failure.0.message);
    failure
}
