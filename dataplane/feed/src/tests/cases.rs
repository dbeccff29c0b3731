//! Directed cases, each for one sentence of the contract, on the state and a table without cores.

use std::sync::Arc;
use std::time::Instant;

use router::hub::Hub;
use uuid::Uuid;
use wire::announce::{Drain, EndpointChange};
use wire::health::Lost;
use wire::job::RouteKind;
use wire::routing::{JobRoutes, RouteTo, RoutesChanged};
use wire::{ImId, InstanceId, JobId};

use super::truth::{Manager, Store, routes, to, up};
use crate::applied::{Applied, Key};
use crate::state::{Ask, Event, State};

/// A state with its table.
struct Edge {
    state: State,
    applied: Applied,
    hub: Arc<Hub>,
    now: u64,
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

impl Edge {
    /// Nothing known yet, but that there is nothing: the first walk is over.
    fn new() -> Self {
        let mut edge = Self {
            state: State::new(0),
            applied: Applied::default(),
            hub: Hub::new(1, router::settings::Settings::default()).unwrap(),
            now: 1_000_000,
        };
        for ask in edge.feed(Event::Tick) {
            let Ask::Page(ask) = ask else { panic!("{ask:?}") };
            edge.feed(Event::Page { ask: ask.ask, page: Some(Store::default().page(None)) });
        }
        edge
    }

    fn feed(&mut self, event: Event<'_>) -> Vec<Ask> {
        let effects = self.state.apply(event, self.now);
        self.applied.commit(&self.state.join, effects.touched, &self.hub);
        effects.asks
    }

    fn job(&mut self, job: JobRoutes) {
        let (revision, job_id) = (job.revision, job.job);
        let change =
            RoutesChanged { revision, previous: revision - 1, job: job_id, routes: Some(job) };
        self.feed(Event::Changed(change));
    }

    /// An instance manager whose state is known whole.
    fn manager(&mut self, n: u128) -> Manager {
        let manager = Manager::new(ImId(id(n)), self.now);
        let asks = self.feed(Event::AnnounceBeat(manager.beat()));
        self.answer(&asks, &manager);
        manager
    }

    /// Answers every question to this manager.
    fn answer(&mut self, asks: &[Ask], manager: &Manager) {
        for ask in asks {
            if let Ask::Endpoints(ask) = ask
                && ask.im == manager.id
            {
                self.feed(Event::Endpoints { ask: *ask, all: Some(manager.all()) });
            }
        }
    }

    /// The table as text: routes with flag, jobs and weights; then jobs with their instances.
    fn table(&self) -> String {
        let desired = self.hub.table().desired();
        let mut lines = Vec::new();
        for (endpoint, route) in &desired.routes {
            let targets: Vec<String> = route
                .targets
                .iter()
                .map(|(job, weight)| format!("{}={weight}", job.replace("job::/t::", "")))
                .collect();
            let flag = if route.https_only { " https-only" } else { "" };
            lines.push(format!("{endpoint}{flag}: {}", targets.join(" ")));
        }
        for (job, wanted) in &desired.jobs {
            let at: Vec<String> = wanted.instances.iter().map(ToString::to_string).collect();
            lines.push(format!("{} [{}]", job.replace("job::/t::", ""), at.join(" ")));
        }
        lines.join("; ")
    }
}

fn endpoint(instance: u128, job: u128, port: u16, at: &str) -> wire::announce::EndpointUp {
    up(InstanceId(id(instance)), JobId(id(job)), port, at.parse().unwrap())
}

/// Goal: two ports on one endpoint are two table jobs; a route that moves between ports takes its weight along.
#[test]
fn ports_are_jobs_of_their_own() {
    let mut edge = Edge::new();
    let mut manager = edge.manager(7);
    let list = vec![to(1, "x.test", 30.0), to(2, "x.test", 0.0)];
    edge.job(routes(JobId(id(1)), "a", 1, list));
    let ups = vec![
        EndpointChange::Up(endpoint(9, 1, 1, "10.0.0.1:1")),
        EndpointChange::Up(endpoint(9, 1, 2, "10.0.0.1:2")),
        EndpointChange::Up(endpoint(9, 1, 3, "10.0.0.1:3")),
    ];
    edge.feed(Event::Announced(manager.change(ups)));
    assert_eq!(edge.table(), "http://x.test: a:1=30% a:2=auto; a:1 [10.0.0.1:1]; a:2 [10.0.0.1:2]");
    edge.job(routes(JobId(id(1)), "a", 2, vec![to(3, "x.test", 30.0)]));
    assert_eq!(edge.table(), "http://x.test: a:3=30%; a:3 [10.0.0.1:3]");
}

/// Goal: an ACL of a newer syntax shuts its job, and only it.
#[test]
fn an_acl_that_is_not_understood_admits_nobody() {
    let mut edge = Edge::new();
    let mut job = routes(JobId(id(1)), "a", 1, vec![to(0, "x.test", 0.0)]);
    job.client_acl = "allow country DE".to_owned();
    edge.job(job);
    edge.job(routes(JobId(id(2)), "b", 2, vec![to(0, "y.test", 0.0)]));
    let table = edge.hub.table();
    for client in ["1.2.3.4", "::1", "2001:db8::1"] {
        let client = client.parse().unwrap();
        let admitted =
            |host: &[u8]| table.admitted(&table.find(host, b"/").unwrap().targets, client);
        assert_eq!((admitted(b"x.test"), admitted(b"y.test")), (0, 1), "{client}");
    }
    assert_eq!(edge.state.join.oddities.acl_unreadable, 1);
}

/// Goal: two flags on one endpoint do not break the table: the older record's counts, and it is told.
#[test]
fn the_older_record_decides_about_https_only() {
    let mut edge = Edge::new();
    let only = |revision, n, name: &str, https_only| {
        let route = RouteTo { https_only, ..to(0, "x.test", 0.0) };
        routes(JobId(id(n)), name, revision, vec![route])
    };
    edge.job(only(1, 5, "a", true));
    edge.job(only(2, 4, "b", false));
    assert_eq!(edge.table(), "http://x.test https-only: a:0=auto b:0=auto; a:0 []; b:0 []");
    assert_eq!(edge.state.join.oddities.https_only_conflict, 1);
}

/// Goal: a name that a removed job had and a new one has is the new one's, in whatever order that is heard.
#[test]
fn a_name_has_one_owner() {
    for order in [[0, 1, 2], [0, 2, 1], [2, 1, 0], [1, 2, 0], [2, 0, 1], [1, 0, 2]] {
        let mut edge = Edge::new();
        let mut manager = edge.manager(7);
        let ups = vec![
            EndpointChange::Up(endpoint(8, 1, 0, "10.0.0.1:1")),
            EndpointChange::Up(endpoint(9, 2, 0, "10.0.0.2:1")),
        ];
        edge.feed(Event::Announced(manager.change(ups)));
        let (old, new) = (JobId(id(1)), JobId(id(2)));
        let changes = [
            (old, 1, Some(routes(old, "a", 1, vec![to(0, "x.test", 0.0)]))),
            (old, 2, None),
            (new, 3, Some(routes(new, "a", 3, vec![to(0, "x.test", 0.0)]))),
        ];
        for at in order {
            let (job, revision, routes) = changes[at].clone();
            let change = RoutesChanged { revision, previous: revision - 1, job, routes };
            edge.feed(Event::Changed(change));
        }
        assert_eq!(edge.table(), "http://x.test: a:0=auto; a:0 [10.0.0.2:1]", "{order:?}");
    }
}

/// Goal: a TCP address that is taken keeps nothing else from being served, is not called live, and is served when free.
#[test]
fn a_refused_address_is_tried_again() {
    let mut edge = Edge::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let tcp = RouteTo { kind: RouteKind::Tcp, https_only: true, ..to(1, &addr.to_string(), 0.0) };
    edge.job(routes(JobId(id(1)), "a", 1, vec![to(0, "x.test", 0.0), tcp]));
    assert_eq!(edge.table(), "http://x.test: a:0=auto; a:0 []; a:1 []");
    let refused: Vec<_> = edge.applied.refused().map(|(key, _)| key.clone()).collect();
    assert_eq!(refused, [Key::Route(route::Endpoint::Tcp(addr))]);
    assert!(edge.state.join.wrote_route(1, &route::Endpoint::Tcp(addr)));
    drop(taken);
    edge.applied.retry(&edge.state.join, &edge.hub);
    assert_eq!(
        edge.table(),
        format!("http://x.test: a:0=auto; tcp://{addr}: a:1=auto; a:0 []; a:1 []")
    );
    assert_eq!(edge.applied.refused().count(), 0);
}

/// Goal: a bus that is empty, or speaks of an empty store, removes nothing.
#[test]
fn an_empty_store_takes_nothing_away() {
    let mut edge = Edge::new();
    edge.job(routes(JobId(id(1)), "a", 1, vec![to(0, "x.test", 0.0)]));
    let before = edge.table();
    let empty = Store::default();
    edge.feed(Event::RoutesBeat(empty.beat()));
    edge.now += 60_000;
    let asks = edge.feed(Event::RoutesMissed);
    for ask in asks {
        if let Ask::Page(ask) = ask {
            edge.feed(Event::Page { ask: ask.ask, page: Some(empty.page(None)) });
        }
    }
    assert_eq!((edge.table(), edge.state.jobs.head()), (before, 1));
}

/// Goal: who is lost is dropped, unless we hear it ourselves; who returns, in the same life or the next, is back.
#[test]
fn lost_and_found() {
    let mut edge = Edge::new();
    let mut manager = edge.manager(7);
    edge.job(routes(JobId(id(1)), "a", 1, vec![to(0, "x.test", 0.0)]));
    edge.feed(Event::Announced(manager.change(vec![EndpointChange::Up(endpoint(
        9,
        1,
        0,
        "10.0.0.1:1",
    ))])));
    let (with, without) = (
        "http://x.test: a:0=auto; a:0 [10.0.0.1:1]".to_owned(),
        "http://x.test: a:0=auto; a:0 []".to_owned(),
    );
    let lost = Lost { im: manager.id, start_time_ms: manager.epoch };
    edge.feed(Event::Lost(lost.clone()));
    assert_eq!(edge.table(), with, "heard a moment ago");
    edge.now += 15_000;
    edge.feed(Event::Lost(Lost { start_time_ms: manager.epoch - 1, ..lost.clone() }));
    assert_eq!(edge.table(), with, "a former life");
    edge.feed(Event::Lost(lost.clone()));
    assert_eq!(edge.table(), without);
    // A late copy of an old message is nothing; its beat makes us ask.
    let asks = edge.feed(Event::AnnounceBeat(manager.beat()));
    assert_eq!(edge.table(), without);
    edge.answer(&asks, &manager);
    assert_eq!(edge.table(), with);
    // Killed and restarted: what the new life has counts, and the old life's death notice does not.
    edge.now += 15_000;
    (manager.epoch, manager.seq) = (edge.now, 0);
    let asks = edge.feed(Event::AnnounceBeat(manager.beat()));
    edge.now += 5_000;
    edge.feed(Event::Lost(lost.clone()));
    assert_eq!(edge.table(), with);
    manager.up.clear();
    edge.answer(&asks, &manager);
    assert_eq!(edge.table(), without);
}

/// Goal: a life that ended before any health manager heard of it does not keep its instances in the table for ever.
#[test]
fn lost_in_a_life_that_nobody_else_heard_of() {
    let mut edge = Edge::new();
    let mut manager = edge.manager(7);
    edge.job(routes(JobId(id(1)), "a", 1, vec![to(0, "x.test", 0.0)]));
    let change = EndpointChange::Up(endpoint(9, 1, 0, "10.0.0.1:1"));
    edge.feed(Event::Announced(manager.change(vec![change])));
    let lost = Lost { im: manager.id, start_time_ms: manager.epoch };
    edge.now += 1_000;
    (manager.epoch, manager.seq) = (edge.now, 0);
    edge.feed(Event::AnnounceBeat(manager.beat()));
    edge.now += 15_000;
    edge.feed(Event::Lost(lost.clone()));
    let with = "http://x.test: a:0=auto; a:0 [10.0.0.1:1]";
    assert_eq!(edge.table(), with, "it may only be slow to be heard");
    edge.now += 15_000;
    edge.feed(Event::Lost(lost));
    assert_eq!(edge.table(), "http://x.test: a:0=auto; a:0 []");
}

/// Goal: a job manager that names an older place for the same jobs is in agreement, not behind.
#[test]
fn the_same_jobs_at_an_older_place() {
    let mut edge = Edge::new();
    let mut store = Store { revision: 5, ..Store::default() };
    let job = routes(JobId(id(1)), "a", 5, vec![to(0, "x.test", 0.0)]);
    store.jobs.insert(job.job, job.clone());
    // Both hold the same jobs; the one that listed the store after writes of other things names a later place.
    let later = Store { revision: 9, jobs: store.jobs.clone() };
    let walk = |edge: &mut Edge, store: &Store| {
        for ask in edge.feed(Event::RoutesMissed) {
            let Ask::Page(ask) = ask else { panic!("{ask:?}") };
            edge.feed(Event::Page { ask: ask.ask, page: Some(store.page(None)) });
        }
    };
    walk(&mut edge, &later);
    edge.feed(Event::RoutesBeat(later.beat()));
    walk(&mut edge, &store);
    let counts = edge.state.jobs.counts;
    assert_eq!((counts.stale, counts.resyncs), (0, 3), "the first walk, and two more");
    // With other jobs it is behind, and takes nothing back.
    store.jobs.clear();
    walk(&mut edge, &store);
    let counts = edge.state.jobs.counts;
    assert_eq!((counts.stale, counts.resyncs), (1, 3));
    let jobs = &edge.state.jobs;
    assert!(jobs.head() >= 6 && jobs.knows(job.job, 5, Some(&job)));
    assert!(!jobs.knows(job.job, 6, Some(&job)) && !jobs.knows(JobId(id(2)), 6, Some(&job)));
    assert!(jobs.knows(JobId(id(2)), 6, None), "without routes nothing can be missing");
    assert_eq!(edge.table(), "http://x.test: a:0=auto; a:0 []");
}

/// Goal: a store that was restored from an older copy is not called live by its numbers, and once it has passed the place of
/// the table, its own truth is taken.
#[test]
fn a_restored_store() {
    let mut edge = Edge::new();
    let lost = routes(JobId(id(1)), "a", 9, vec![to(0, "x.test", 0.0), to(0, "lost.test", 0.0)]);
    edge.feed(Event::Changed(RoutesChanged {
        revision: 9,
        previous: 0,
        job: lost.job,
        routes: Some(lost.clone()),
    }));
    assert!(edge.state.jobs.knows(lost.job, 9, Some(&lost)));
    // The copy is of revision 4; a change in it gets a number that the table has passed.
    let restored = routes(JobId(id(1)), "a", 5, vec![to(0, "x.test", 0.0)]);
    let mut store = Store { revision: 5, ..Store::default() };
    store.jobs.insert(restored.job, restored.clone());
    edge.feed(Event::Changed(RoutesChanged {
        revision: 5,
        previous: 4,
        job: restored.job,
        routes: Some(restored.clone()),
    }));
    assert!(!edge.state.jobs.knows(restored.job, 5, Some(&restored)), "it is not served");
    assert!(edge.table().contains("lost.test"), "and nothing is taken back by an older place");
    store.revision = 10;
    edge.now += 1_000;
    edge.feed(Event::RoutesBeat(store.beat()));
    edge.now += 1_000;
    for ask in edge.feed(Event::Tick) {
        let Ask::Page(ask) = ask else { panic!("{ask:?}") };
        edge.feed(Event::Page { ask: ask.ask, page: Some(store.page(None)) });
    }
    assert_eq!(edge.table(), "http://x.test: a:0=auto; a:0 []");
    assert!(edge.state.jobs.knows(restored.job, 5, Some(&restored)));
}

/// Goal: withdrawn by the question alone, at a place not heard of; the older words that still arrive change nothing, and a
/// later one may bring the instance back.
#[test]
fn withdrawn_stays_withdrawn() {
    let mut edge = Edge::new();
    let mut manager = edge.manager(7);
    edge.job(routes(JobId(id(1)), "a", 1, vec![to(0, "x.test", 0.0)]));
    let one = endpoint(9, 1, 0, "10.0.0.1:1");
    let first = manager.change(vec![EndpointChange::Up(one.clone())]);
    let older = manager.all();
    let second = manager.change(vec![EndpointChange::Down(one.instance)]);
    let (im, epoch, seq) = (manager.id, manager.epoch, second.seq);
    let drain = Drain { im, epoch, seq, endpoints: vec![one.clone()], timeout_ms: 1 };
    let without = "http://x.test: a:0=auto; a:0 []";
    edge.feed(Event::Drain(&drain));
    edge.feed(Event::Announced(first.clone()));
    assert_eq!(edge.table(), without, "the older announcement");
    edge.now += 1_000;
    let asks = edge.feed(Event::Tick);
    for ask in asks {
        if let Ask::Endpoints(ask) = ask {
            edge.feed(Event::Endpoints { ask, all: Some(older.clone()) });
        }
    }
    assert_eq!(edge.table(), without, "the older whole");
    edge.feed(Event::Announced(second));
    edge.feed(Event::Announced(first));
    edge.feed(Event::Drain(&drain));
    assert_eq!(edge.table(), without);
    edge.feed(Event::Announced(manager.change(vec![EndpointChange::Up(one)])));
    edge.feed(Event::Drain(&drain));
    assert_eq!(edge.table(), "http://x.test: a:0=auto; a:0 [10.0.0.1:1]", "a later life of it");
}

/// Goal: a digest that differs at the same place is found, counted and healed by one walk.
#[test]
fn a_silent_difference_is_found() {
    let mut edge = Edge::new();
    let mut store = Store { revision: 1, ..Store::default() };
    let job = routes(JobId(id(1)), "a", 1, vec![to(0, "x.test", 0.0)]);
    store.jobs.insert(job.job, job);
    edge.job(routes(JobId(id(2)), "b", 1, vec![to(0, "wrong.test", 0.0)]));
    for beat in [store.beat(), store.beat()] {
        let mut asks = edge.feed(Event::RoutesBeat(beat));
        while let Some(Ask::Page(ask)) = asks.pop() {
            let page = store.page(ask.after);
            asks = edge.feed(Event::Page { ask: ask.ask, page: Some(page) });
        }
    }
    assert_eq!(edge.table(), "http://x.test: a:0=auto; a:0 []");
    let counts = edge.state.jobs.counts;
    assert_eq!((counts.mismatches, counts.resyncs), (1, 2), "the first walk, and this one");
    assert_eq!(edge.state.jobs.verified_ms(), Some(edge.now));
}

/// Goal: one change of a weight costs the same whatever the size of the table; the numbers are printed for people.
#[test]
fn a_change_costs_its_own_size() {
    const CHANGES: u32 = 200;
    // `ROUTES=100000 cargo test -p feed a_change_costs -- --nocapture` for the size that counts.
    let large = std::env::var("ROUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(5_000);
    for size in [100_u128, large] {
        let mut edge = Edge::new();
        let job = |n: u128, revision: u64, weight: f64| {
            let list = vec![to(0, &format!("h{n}.test"), weight)];
            routes(JobId(id(n)), &format!("j{n}"), revision, list)
        };
        for (n, revision) in (0..size).zip(1..) {
            edge.job(job(n, revision, 0.0));
        }
        let commits = edge.applied.commits;
        let begun = Instant::now();
        let after = u64::try_from(size).unwrap() + 1;
        for (n, revision) in (0..CHANGES).zip(after..) {
            edge.job(job(u128::from(n) * 37 % size, revision, f64::from(n + 1)));
        }
        println!("{size} routes: {:?} a change", begun.elapsed() / CHANGES);
        assert_eq!(edge.applied.commits - commits, u64::from(CHANGES));
        assert_eq!(edge.hub.table().routes_count() as u128, size);
    }
}
