//! Everything that the feed hears, in one place and one order: changes before beats, so that a beat rarely overtakes the
//! change that it speaks of.
//!
//! Deliberately absent: what the messages mean.

use bus::{Bus, BusError, Delivery, Next, Subscription};
use wire::subject;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Changed,
    Announced,
    Lost,
    Drain,
    Await,
    RoutesBeat,
    AnnounceBeat,
    Explain,
    Proof,
    Report,
}

/// What came.
pub(crate) enum Heard {
    Message(Topic, Box<Delivery>),
    /// Messages did not fit, or were dropped with a connection.
    Missed(Topic),
    /// The bus is closed.
    Closed,
}

/// All subscriptions.
pub(crate) struct Inbox {
    changed: Subscription,
    announced: Subscription,
    lost: Subscription,
    drain: Subscription,
    wait: Subscription,
    routes_beat: Subscription,
    announce_beat: Subscription,
    explain: Subscription,
    proof: Subscription,
    report: Subscription,
}

impl Inbox {
    /// Returns when all subscriptions are in force.
    pub(crate) async fn open(bus: &Bus) -> Result<Self, BusError> {
        Ok(Self {
            changed: bus.subscribe(subject::ROUTES_CHANGED, None).await?,
            announced: bus.subscribe(subject::IM_ENDPOINTS, None).await?,
            lost: bus.subscribe(subject::HM_LOST, None).await?,
            drain: bus.subscribe(subject::ROUTER_DRAIN, None).await?,
            wait: bus.subscribe(subject::ROUTER_AWAIT, None).await?,
            routes_beat: bus.subscribe(subject::ROUTES_BEAT, None).await?,
            announce_beat: bus.subscribe(subject::IM_ENDPOINTS_BEAT, None).await?,
            explain: bus.subscribe(subject::ROUTER_EXPLAIN, Some(subject::ROUTER_GROUP)).await?,
            proof: bus.subscribe(subject::ROUTER_PROOF, None).await?,
            report: bus.subscribe(subject::ROUTER_REPORT, None).await?,
        })
    }

    /// What came next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Heard {
        use Topic as T;
        let (topic, next) = tokio::select! {
            biased;
            next = self.changed.next() => (T::Changed, next),
            next = self.announced.next() => (T::Announced, next),
            next = self.lost.next() => (T::Lost, next),
            next = self.drain.next() => (T::Drain, next),
            next = self.wait.next() => (T::Await, next),
            next = self.routes_beat.next() => (T::RoutesBeat, next),
            next = self.announce_beat.next() => (T::AnnounceBeat, next),
            next = self.explain.next() => (T::Explain, next),
            next = self.proof.next() => (T::Proof, next),
            next = self.report.next() => (T::Report, next),
        };
        match next {
            Some(Next::Message(delivery)) => Heard::Message(topic, Box::new(delivery)),
            Some(Next::Lost(_)) => Heard::Missed(topic),
            None => Heard::Closed,
        }
    }
}
