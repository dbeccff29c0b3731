//! The confirmed drain: no process is told to end while a router may still send it requests.
//!
//! All living routers are asked again and again, each time for a short while, until each has answered that the
//! withdrawal is live on all its cores and nothing is in flight, or until the time is over. A lost message costs one
//! round. Deliberately absent: the withdrawal itself; it is announced before this begins.

use crate::routers::Routers;
use bus::{Bus, Until};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use wire::announce::{Drain, Drained, EndpointUp};
use wire::subject::ROUTER_DRAIN;
use wire::{ImId, RouterId};

/// For how long one question asks a router to wait.
const ROUND: Duration = Duration::from_millis(500);
/// On top of it for the way there and back.
const ROUND_SLACK: Duration = Duration::from_millis(200);
/// Between two questions when the answers came at once, or nobody answered.
const PAUSE: Duration = Duration::from_millis(50);

/// Routers, heard by the instance manager, asked about by each drain.
pub type SharedRouters = Arc<Mutex<Routers>>;

fn heard<T>(routers: &SharedRouters, look: impl FnOnce(&Routers) -> T) -> T {
    look(&routers.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Waits until a beat of every living router must have been heard.
pub async fn settled(bus: &Bus, routers: &SharedRouters, limit: Duration) {
    let wait = heard(routers, |routers| routers.settles_in_ms(bus.clock().unix_ms()));
    tokio::time::sleep(Duration::from_millis(wait).min(limit)).await;
}

/// Returns true when all living routers are done with the endpoints, false when the time was over first.
pub async fn confirmed(
    bus: &Bus,
    routers: &SharedRouters,
    stand: (ImId, u64, u64),
    endpoints: Vec<EndpointUp>,
    limit: Duration,
) -> bool {
    let until = Instant::now() + limit;
    let mut done: BTreeSet<RouterId> = BTreeSet::new();
    if endpoints.is_empty() {
        return true;
    }
    if heard(routers, |routers| routers.alive(bus.clock().unix_ms())).is_empty() {
        settled(bus, routers, limit).await;
    }
    loop {
        let alive = heard(routers, |routers| routers.alive(bus.clock().unix_ms()));
        if alive.iter().all(|router| done.contains(router)) {
            return true;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let round = ROUND.min(left);
        let (im, epoch, seq) = stand;
        let timeout_ms = u64::try_from(round.as_millis()).unwrap_or(u64::MAX);
        let drain = Drain { im, epoch, seq, endpoints: endpoints.clone(), timeout_ms };
        let deadline = (round + ROUND_SLACK).min(left);
        ask(bus, &drain, Until { count: alive.len(), deadline }, &mut done).await;
        tokio::time::sleep(PAUSE.min(until.saturating_duration_since(Instant::now()))).await;
    }
}

async fn ask(bus: &Bus, drain: &Drain, until: Until, done: &mut BTreeSet<RouterId>) {
    let Ok(mut replies) = bus.request_many(ROUTER_DRAIN, drain, until).await else { return };
    while let Some(reply) = replies.next().await {
        let Ok(answer) = reply.decode::<Drained>() else { continue };
        if answer.idle && answer.cores == answer.cores_total {
            done.insert(answer.router);
        }
    }
}
