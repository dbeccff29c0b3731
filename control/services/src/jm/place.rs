//! Rounds of bids for one job: ask everybody, take the cheapest offers, start, and again until all copies are placed.
//!
//! A round waits for the first offer and a short while longer, a little more when several copies
//! could be spread better; an offer reserves nothing, so a start may be refused,
//! and then the next round finds another place. Deliberately absent: the choice itself (`choose.rs`).

use super::act::{
    CALL_TIMEOUT, CALLS_IN_FLIGHT_MAX, Env, PERIOD_MS, Work, fresh, say, say_no_placement,
};
use super::choose::{self, choose};
use super::mind::Prepared;
use super::packages::{self, Packages};
use super::why::tags;
use bus::{BusError, Until};
use futures_util::StreamExt as _;
use futures_util::stream;
use std::time::Duration;
use tokio::time::Instant;
use wire::placement::{BID_COUNT_MAX, Done, Offer, Placement};
use wire::{ImId, InstanceId, Job, subject};

/// Delay of an answer with a score of 100, for a job that has no instances yet.
pub const BID_WINDOW_MS: u64 = 200;
/// Each live instance raises the scores where it is, so the window shrinks with their number, down to this.
const BID_WINDOW_MIN_MS: u64 = 20;
/// How long the first offer is waited for.
pub(super) const FIRST_OFFER_WAIT: Duration = Duration::from_secs(2);
/// How long further offers are waited for after it.
pub(super) const OFFERS_WAIT: Duration = Duration::from_millis(10);
/// How long further offers are waited for at most when several copies are to be spread.
pub(super) const SPREAD_WAIT: Duration = Duration::from_millis(100);
/// Offers in one round: the best come first.
pub const OFFERS_MAX: usize = 256;
/// Rounds before the job is looked at afresh.
pub(super) const ROUNDS_PER_LOOK_MAX: usize = 8;
/// Time without any copy taken after which the user is told.
pub const NO_PLACEMENT_MS: u64 = 30_000;
/// Times that one instance manager is asked for the same instance: the same twice is one instance.
const START_ATTEMPTS_MAX: usize = 2;

/// Starts up to `count` copies; how many milliseconds to wait before the next look.
pub(super) async fn place(env: &Env, work: &mut Work, count: u32) -> u64 {
    let Some(job) = work.job.clone() else { return PERIOD_MS };
    if let Some(wait_ms) = prepare(env, work, &job).await {
        return wait_ms;
    }
    let mut left = count;
    for _ in 0..ROUNDS_PER_LOOK_MAX {
        let placed = round(env, work, &job, left.min(BID_COUNT_MAX)).await;
        left = left.saturating_sub(placed);
        if placed > 0 {
            work.mind.fruit();
        }
        if placed == 0 || left == 0 || !env.may_act(work.id) {
            break;
        }
    }
    if left == 0 {
        return PERIOD_MS;
    }
    if left < count {
        return 0;
    }
    let now_ms = env.now_ms();
    let wait_ms = work.mind.no_fruit(now_ms);
    if env.stop.is_cancelled() {
        return wait_ms;
    }
    let since_ms = work.mind.waiting_since_ms.unwrap_or(now_ms);
    if now_ms.saturating_sub(since_ms) >= NO_PLACEMENT_MS && work.mind.said.is_empty() {
        say_no_placement(env, work, &job).await;
    }
    wait_ms
}

/// Sees to it that the job can be sent; how long to wait if it cannot.
async fn prepare(env: &Env, work: &mut Work, job: &Job) -> Option<u64> {
    if work.mind.prepared.as_ref().is_some_and(|prepared| prepared.version == job.version_id) {
        return None;
    }
    work.mind.prepared = None;
    let now_ms = env.now_ms();
    match packages::read(&env.store, job).await {
        Ok(Packages::Ready(list)) => match Prepared::new(job, &list) {
            Ok(prepared) => {
                work.mind.prepared = Some(prepared);
                None
            }
            Err(mistake) => {
                tracing::error!(job = %work.id, %mistake, "a job cannot be written");
                Some(work.mind.no_fruit(now_ms))
            }
        },
        Ok(Packages::Waiting(why)) => {
            say(env, work, why).await;
            Some(work.mind.no_fruit(now_ms))
        }
        Err(mistake) => {
            tracing::warn!(job = %work.id, %mistake, "packages were not read");
            Some(work.mind.no_fruit(now_ms))
        }
    }
}

/// One round; how many copies were taken, or may have been.
async fn round(env: &Env, work: &mut Work, job: &Job, count: u32) -> u32 {
    let Some(Ok(_permit)) = env.stop.run_until_cancelled(env.rounds.acquire()).await else {
        return 0;
    };
    let placement = placement(env, work, job, count);
    // Offers bind nobody: at the end they are not waited for.
    let offers = match env.stop.run_until_cancelled(ask(env, &placement)).await {
        None => return 0,
        Some(Ok(offers)) => offers,
        Some(Err(mistake)) => {
            tracing::warn!(job = %work.id, %mistake, "nobody could be asked");
            return 0;
        }
    };
    let chosen = choose(&offers, count, placement.request);
    tracing::debug!(job = %work.id, count, offers = offers.len(), chosen = chosen.len(), "a round");
    // Time has passed: whoever holds the lease now may have started them already.
    if chosen.is_empty() || !env.may_act(work.id) {
        return 0;
    }
    let Some(prepared) = &work.mind.prepared else { return 0 };
    let starts: Vec<_> =
        chosen.into_iter().map(|im| (im, InstanceId(fresh(&mut work.rng)))).collect();
    let calls = starts.into_iter().map(|(im, instance)| start(env, prepared, im, instance));
    let answers: Vec<_> = stream::iter(calls).buffer_unordered(CALLS_IN_FLIGHT_MAX).collect().await;
    let now_ms = env.now_ms();
    let mut placed = 0;
    for (im, instance, answer) in answers {
        match answer {
            Ok(Done::Refused(why)) => {
                tracing::info!(job = %work.id, %im, why, "a start was refused");
                continue;
            }
            Err(mistake @ BusError::NoResponders { .. }) => {
                tracing::info!(job = %work.id, %im, %mistake, "an offer came from somebody who left");
                continue;
            }
            Ok(Done::Accepted) => {}
            // It may have been heard: the instance counts until it is seen, or its time is over.
            Err(mistake) => {
                tracing::warn!(job = %work.id, %im, %mistake, "a start was not answered")
            }
        }
        work.mind.flights.started(instance, job.version_id, now_ms);
        placed += 1;
    }
    placed
}

fn placement(env: &Env, work: &mut Work, job: &Job, count: u32) -> Placement {
    let live = work.view.instances.iter().filter(|on| on.seen.state.is_live()).count() as u64;
    let window_ms = env.bid_window_ms / (1 + live / 4);
    Placement {
        request: fresh(&mut work.rng),
        job: job.uuid,
        fqn: job.fqn.clone(),
        count,
        resources: job.resources,
        fixed_ports: job
            .ports
            .iter()
            .map(|port| port.number)
            .filter(|number| *number != 0)
            .collect(),
        hard_tags: tags(&job.hard_scheduling_tags),
        soft_tags: tags(&job.soft_scheduling_tags),
        attract: job.attract.clone(),
        repel: job.repel.clone(),
        window_ms: window_ms.max(BID_WINDOW_MIN_MS.min(env.bid_window_ms)),
    }
}

/// The offers of one round: all that come a short while after the first, and for several copies those that could still
/// be cheaper than the dearest that we would take.
async fn ask(env: &Env, placement: &Placement) -> Result<Vec<Offer>, BusError> {
    let until = Until { count: OFFERS_MAX, deadline: FIRST_OFFER_WAIT };
    let asked = Instant::now();
    let mut deadline = asked + FIRST_OFFER_WAIT;
    let mut replies = env.bus.request_many(subject::IM_BID, placement, until).await?;
    let mut offers = Vec::new();
    let mut spread_end = None;
    loop {
        while let Some(reply) = replies.next().await {
            match reply.decode::<Offer>() {
                Ok(offer) if offer.scores.is_empty() => {}
                Ok(offer) => offers.push(offer),
                Err(mistake) => tracing::warn!(%mistake, "an offer was not understood"),
            }
            if spread_end.is_none() && !offers.is_empty() {
                deadline = Instant::now() + OFFERS_WAIT;
                spread_end = Some(Instant::now() + SPREAD_WAIT);
                replies.end_at(deadline);
            }
        }
        let (Some(end), true) = (spread_end, Instant::now() >= deadline) else { break };
        let dearest = choose::dearest(&offers, placement.count, placement.request);
        let until =
            dearest.map_or(end, |score| end.min(asked + delay(score, placement) + OFFERS_WAIT));
        if placement.count == 1 || until <= deadline {
            break;
        }
        deadline = until;
        replies.end_at(deadline);
    }
    Ok(offers)
}

/// How long an instance manager with this score keeps its offer back.
fn delay(score: f64, placement: &Placement) -> Duration {
    let ms = score.max(0.0) / 100.0 * placement.window_ms as f64;
    Duration::try_from_secs_f64(ms / 1_000.0).unwrap_or(SPREAD_WAIT).min(SPREAD_WAIT)
}

async fn start(
    env: &Env,
    prepared: &Prepared,
    im: ImId,
    instance: InstanceId,
) -> (ImId, InstanceId, Result<Done, BusError>) {
    let start = prepared.start(instance, env.now_ms());
    let subject = subject::im_start(im);
    let mut answer = env.bus.request(&subject, &start, CALL_TIMEOUT).await;
    for _ in 1..START_ATTEMPTS_MAX {
        if !matches!(answer, Err(BusError::TimedOut { .. })) {
            break;
        }
        answer = env.bus.request(&subject, &start, CALL_TIMEOUT).await;
    }
    (im, instance, answer)
}
