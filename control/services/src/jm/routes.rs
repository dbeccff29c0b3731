//! The routes publisher: job records by revision become what routers listen to.
//!
//! Every job manager publishes, so that routes flow while any of them lives; copies are harmless, because each change
//! names its revision and the one before. Deliberately absent: endpoints, which instance managers announce themselves.

use super::leases::Peers;
use crate::follow::{Told, follow};
use crate::jobs;
use bus::{Bus, Delivery, Next, Subscription};
use std::collections::BTreeMap;
use std::time::Duration;
use store::{Change, Record, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::JobId;
use wire::digest::Digest;
use wire::routing::{
    JobRoutes, ROUTES_PAGE_MAX, ROUTING_BEAT_MS, RoutesBeat, RoutesChanged, RoutesPage,
    RoutesPageRequest,
};
use wire::subject;

/// Bytes of the routes in one page, by a cautious estimate: below one message of the bus with its envelope.
pub(super) const PAGE_BYTES_MAX: usize = 768 * 1024;
/// Bytes of a job in a page without its texts.
const JOB_BYTES: usize = 160;
/// Bytes of a route in a page without its endpoint.
const ROUTE_BYTES: usize = 96;

/// The routing parts of all jobs.
#[derive(Debug, Default)]
pub struct Ledger {
    revision: u64,
    digest: Digest,
    routes: BTreeMap<JobId, JobRoutes>,
}

impl Ledger {
    /// Everything as it was listed at `revision`.
    #[must_use]
    pub fn listed(records: &[Record], revision: u64) -> Self {
        let mut ledger = Self { revision, ..Self::default() };
        for record in records {
            if let Some(job) = jobs::job_of_key(&record.key) {
                ledger.put(job, routes_of(record));
            }
        }
        ledger
    }

    /// Takes one write in; what to tell the routers, unless it is known already or about no job.
    pub fn apply(&mut self, change: &Change) -> Option<RoutesChanged> {
        let job = jobs::job_of_key(&change.key)?;
        if change.revision < self.revision {
            return None;
        }
        let previous = std::mem::replace(&mut self.revision, change.revision);
        let routes = change.record.as_ref().and_then(routes_of);
        self.put(job, routes.clone());
        Some(RoutesChanged { revision: change.revision, previous, job, routes })
    }

    fn put(&mut self, job: JobId, routes: Option<JobRoutes>) {
        if let Some(routes) = &routes {
            self.digest.add(&routes.digest_bytes());
        }
        let before = match routes {
            Some(routes) => self.routes.insert(job, routes),
            None => self.routes.remove(&job),
        };
        if let Some(before) = before {
            self.digest.remove(&before.digest_bytes());
        }
    }

    /// Where the store stands.
    #[must_use]
    pub fn beat(&self) -> RoutesBeat {
        RoutesBeat { revision: self.revision, digest: self.digest }
    }

    /// The jobs after `after`, as many as fit one message.
    #[must_use]
    pub fn page(&self, after: Option<JobId>) -> RoutesPage {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let mut page = RoutesPage {
            revision: self.revision,
            jobs: Vec::new(),
            next: None,
            digest: Some(self.digest),
        };
        let mut bytes = 0;
        for routes in self.routes.range((start, Unbounded)).map(|(_, routes)| routes) {
            bytes += size(routes);
            let full = page.jobs.len() == ROUTES_PAGE_MAX || bytes > PAGE_BYTES_MAX;
            if full && !page.jobs.is_empty() {
                page.next = page.jobs.last().map(|last| last.job);
                break;
            }
            page.jobs.push(routes.clone());
        }
        page
    }
}

fn size(routes: &JobRoutes) -> usize {
    let each = routes.routes.iter().map(|route| ROUTE_BYTES + route.endpoint.len());
    JOB_BYTES + 512 + routes.client_acl.len() + each.sum::<usize>()
}

/// A record that cannot be read has no routes, rather than stopping those of all others.
fn routes_of(record: &Record) -> Option<JobRoutes> {
    match jobs::decode(record) {
        Ok(job) => JobRoutes::of(&job, record.revision),
        Err(mistake) => {
            tracing::error!(key = record.key, why = mistake.why, "{}", mistake.message);
            None
        }
    }
}

/// The publisher of one job manager.
pub(super) struct Publisher {
    pub(super) me: String,
    pub(super) bus: Bus,
    pub(super) store: Store,
    /// How many job managers there are, for the shares of the leases.
    pub(super) managers: watch::Sender<usize>,
}

impl Publisher {
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.publish() => {}
        }
    }

    async fn publish(&self) {
        let mut tasks = tokio::task::JoinSet::new();
        let mut told = follow(&mut tasks, &self.store, jobs::JOBS);
        let mut beats = subscribe(&self.bus, subject::ROUTES_BEAT, None).await;
        // Whoever knows nothing yet must not stand in the queue of those who can answer.
        let mut ledger = loop {
            match told.recv().await {
                Some(Told::All(records, revision)) => break Ledger::listed(&records, revision),
                Some(Told::Change(_)) => {}
                None => return,
            }
        };
        let mut pages = subscribe(&self.bus, subject::ROUTES_PAGE, Some(subject::JM_GROUP)).await;
        let mut peers = Peers::default();
        let mut period = tokio::time::interval(Duration::from_millis(ROUTING_BEAT_MS));
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // The period first: a flood of writes must not keep the beats back.
                biased;
                _ = period.tick() => {
                    self.say(subject::ROUTES_BEAT, &ledger.beat()).await;
                    let count = peers.count(&self.me, self.bus.clock().unix_ms());
                    self.managers.send_if_modified(|managers| std::mem::replace(managers, count) != count);
                }
                word = told.recv() => match word {
                    Some(Told::All(records, revision)) => {
                        ledger = Ledger::listed(&records, revision);
                        period.reset_immediately();
                    }
                    Some(Told::Change(change)) => {
                        if let Some(changed) = ledger.apply(&change) {
                            self.say(subject::ROUTES_CHANGED, &changed).await;
                        }
                    }
                    None => return,
                },
                asked = pages.next() => match asked {
                    Some(Next::Message(question)) => answer(&ledger, &question).await,
                    Some(Next::Lost(_)) => {}
                    None => return,
                },
                heard = beats.next() => match heard {
                    Some(Next::Message(beat)) => {
                        peers.heard(&beat.envelope.from.id, self.bus.clock().unix_ms());
                    }
                    Some(Next::Lost(_)) => {}
                    None => return,
                },
            }
        }
    }

    /// A message that is lost is found by the next beat's digest.
    async fn say<T: serde::Serialize + Sync>(&self, subject: &str, body: &T) {
        if let Err(mistake) = self.bus.publish(subject, body).await {
            tracing::warn!(subject, %mistake, "routers were not told");
        }
    }
}

async fn answer(ledger: &Ledger, question: &Delivery) {
    let page = match question.decode::<RoutesPageRequest>() {
        Ok(request) => ledger.page(request.after),
        Err(mistake) => return tracing::warn!(%mistake, "a question for routes was not understood"),
    };
    if let Err(mistake) = question.reply(&page).await {
        tracing::warn!(%mistake, "a page of routes was not sent");
    }
}

/// Wait before a subscription is tried again.
const SUBSCRIBE_WAIT: Duration = Duration::from_millis(500);

/// Subscribes, however long the bus is away.
pub(super) async fn subscribe(bus: &Bus, pattern: &str, group: Option<&str>) -> Subscription {
    loop {
        match bus.subscribe(pattern, group).await {
            Ok(subscription) => return subscription,
            Err(mistake) => tracing::warn!(pattern, %mistake, "cannot listen yet"),
        }
        tokio::time::sleep(SUBSCRIBE_WAIT).await;
    }
}
