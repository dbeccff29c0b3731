//! One router: the real hub and the real feed; its cores are simulated. A core adopts a table some milliseconds after it
//! was published, serves it, says so, and has requests in flight.
//!
//! Deliberately absent: sockets and HTTP; the router's own simulation has them.

use crate::ledger::Shared;
use bus::Bus;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use route::Table;
use router::hub::Hub;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::RouterId;

/// Cores of each router.
pub(crate) const CORES: usize = 2;
/// A core adopts a new table within this time.
const ADOPT_MS_MAX: u64 = 3;
/// A request takes up to this long.
const REQUEST_MS_MAX: u64 = 400;
/// Between two requests of one router, up to this long.
const REQUEST_PAUSE_MS_MAX: u64 = 150;
/// How long a core of the lying kind serves the table before, after it said that it does not.
const LIE: Duration = Duration::from_millis(1_500);

/// What one router does at this moment.
#[derive(Default)]
struct Served {
    tables: Vec<Option<Table>>,
    in_flight: BTreeMap<SocketAddr, u32>,
}

/// What all living routers serve, for the judge.
#[derive(Clone, Default)]
pub(crate) struct Edges(Arc<Mutex<BTreeMap<RouterId, Served>>>);

impl Edges {
    fn with<T>(&self, router: RouterId, look: impl FnOnce(&mut Served) -> T) -> Option<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get_mut(&router).map(look)
    }

    /// Why a router is not done with an address.
    pub(crate) fn still_uses(&self, router: RouterId, addr: SocketAddr) -> Option<String> {
        self.with(router, |served| {
            let has = |table: &Table| {
                table.jobs().any(|job| job.instances.iter().any(|one| one.addr == addr))
            };
            let core = served.tables.iter().flatten().position(has);
            let in_flight = served.in_flight.get(&addr).copied().unwrap_or(0);
            let name = router.short();
            match (core, in_flight) {
                (Some(core), _) => {
                    Some(format!("core {core} of router {name} sends requests to {addr}"))
                }
                (None, 1..) => {
                    Some(format!("router {name} has {in_flight} requests in flight at {addr}"))
                }
                (None, 0) => None,
            }
        })?
    }

    /// Instances of a table job that each core of each living router has.
    pub(crate) fn counts(&self, name: &str) -> Vec<usize> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |table: &Option<Table>| {
            table
                .as_ref()
                .and_then(|table| table.job_by_name(name))
                .map_or(0, |job| job.instances.len())
        };
        all.values().flat_map(|served| served.tables.iter().map(of)).collect()
    }
}

pub(crate) struct Edge {
    pub(crate) node: String,
    pub(crate) router: RouterId,
    pub(crate) hub: Arc<Hub>,
    edges: Edges,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

/// What a core is to be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cores {
    /// It says what it does.
    #[default]
    Honest,
    /// It acknowledges a table at once and serves the one before for a while: for the canary.
    Lying,
}

impl Edge {
    pub(crate) fn start(
        node: String,
        bus: Bus,
        seed: u64,
        cores: Cores,
        edges: &Edges,
        ledger: &Shared,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let router = RouterId(uuid::Builder::from_random_bytes(rng.random()).into_uuid());
        let hub =
            Hub::new(CORES, router::settings::Settings::default()).expect("descriptors are left");
        edges
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(router, Served { tables: vec![None; CORES], in_flight: BTreeMap::new() });
        let mut tasks = JoinSet::new();
        let watching = Arc::clone(&hub);
        tasks.spawn(async move { drop(watching.watch_progress().await) });
        for index in 0..CORES {
            let woken = Arc::new(Notify::new());
            let wake = Arc::clone(&woken);
            hub.attach(index, Box::new(move || wake.notify_one()));
            let core = Core {
                index,
                router,
                node: node.clone(),
                hub: Arc::clone(&hub),
                edges: edges.clone(),
                ledger: ledger.clone(),
            };
            tasks.spawn(core.run(woken, StdRng::seed_from_u64(rng.random()), cores));
        }
        let clients =
            Clients { router, hub: Arc::clone(&hub), edges: edges.clone(), ledger: ledger.clone() };
        tasks.spawn(clients.run(StdRng::seed_from_u64(rng.random())));
        let stop = CancellationToken::new();
        let settings = feed::Settings { router, hostname: node.clone(), table_file: None };
        // Its loop ends with the token; there is nothing to wait for.
        drop(
            feed::start(settings, bus, Arc::clone(&hub), stop.clone())
                .expect("there is no table file"),
        );
        Self { node, router, hub, edges: edges.clone(), stop, _tasks: tasks }
    }

    /// Kills it; the caller has cut its node off.
    pub(crate) fn kill(self) -> String {
        self.edges.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.router);
        self.stop.cancel();
        self.node
    }
}

struct Core {
    index: usize,
    router: RouterId,
    node: String,
    hub: Arc<Hub>,
    edges: Edges,
    ledger: Shared,
}

impl Core {
    async fn run(self, woken: Arc<Notify>, mut rng: StdRng, kind: Cores) {
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..=ADOPT_MS_MAX))).await;
            let table = Table::clone(&self.hub.table());
            let shared = &self.hub.cores()[self.index];
            while shared.deltas.pop().is_some() {}
            if kind == Cores::Lying {
                shared.serving.store(table.version(), Ordering::SeqCst);
                self.hub.note_progress();
                tokio::time::sleep(LIE).await;
            }
            self.serve(&table);
            shared.serving.store(table.version(), Ordering::SeqCst);
            self.hub.note_progress();
            woken.notified().await;
        }
    }

    fn serve(&self, table: &Table) {
        self.edges.with(self.router, |served| served.tables[self.index] = Some(table.clone()));
        self.ledger.lock().served(&self.node, self.index, table);
    }
}

/// Requests of one router.
struct Clients {
    router: RouterId,
    hub: Arc<Hub>,
    edges: Edges,
    ledger: Shared,
}

impl Clients {
    async fn run(self, mut rng: StdRng) {
        let mut requests = JoinSet::new();
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(5..=REQUEST_PAUSE_MS_MAX)))
                .await;
            while requests.try_join_next().is_some() {}
            let (core, pick) = (rng.random_range(0..CORES), rng.random_range(0..1_000_usize));
            let takes = Duration::from_millis(rng.random_range(1..=REQUEST_MS_MAX));
            let found = self.edges.with(self.router, |served| {
                let Served { tables, in_flight } = served;
                let table = tables[core].as_ref()?;
                let all = || table.jobs().flat_map(|job| job.instances.iter());
                let one = all().nth(pick % all().count().max(1))?;
                *in_flight.entry(one.addr).or_default() += 1;
                Some((one.slot, one.addr))
            });
            let Some((slot, addr)) = found.flatten() else { continue };
            self.ledger.lock().requests += 1;
            self.hub.cores()[core].stats.instance(slot).in_flight.inc();
            let (hub, edges, router) = (Arc::clone(&self.hub), self.edges.clone(), self.router);
            requests.spawn(async move {
                tokio::time::sleep(takes).await;
                edges.with(router, |served| {
                    served.in_flight.entry(addr).and_modify(|count| *count -= 1);
                });
                hub.cores()[core].stats.instance(slot).in_flight.dec();
                hub.note_progress();
            });
        }
    }
}

/// A seed for each of several things.
pub(crate) fn seed(rng: &mut StdRng) -> u64 {
    rng.random()
}

/// An id by chance.
pub(crate) fn id(rng: &mut StdRng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}
