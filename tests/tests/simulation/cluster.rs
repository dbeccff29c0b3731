//! The whole control plane on one thread: job, health and instance managers, routers' feeds, the bus and the store.
//!
//! Each process has a node of its own on the network, with a number that grows: who is killed is cut off first, so that
//! nothing of what its tasks still do reaches anybody. Deliberately absent: what happens when (`script`), and what must
//! be true (`judge`).

use crate::edge::{Cores, Edge, Edges, id, seed};
use crate::host::Host;
use crate::ledger::Shared;
use crate::shop::{Key, Shop};
use crate::tap::{Mute, Tap};
use bus::sim::{Sim, Weather};
use bus::{Bus, Clock, Sender};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use services::{hm, jm};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How a simulation may be broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// As it is.
    Sound,
    /// The bus loses every word about endpoints, and every question that would repair it.
    NoAnnouncements,
    /// Cores acknowledge a table before they serve it.
    LyingCores,
    /// The store forgets nothing, but nobody hears a health manager declare anybody lost, nor look.
    SilentHealth,
}

impl Variant {
    fn mute(self) -> Mute {
        match self {
            Self::Sound | Self::LyingCores => |_| false,
            Self::NoAnnouncements => {
                |subject| subject.contains(".im.endpoints") || subject.ends_with(".endpoints-all")
            }
            Self::SilentHealth => {
                |subject| subject == wire::subject::IM_SWITCH || subject == wire::subject::IM_BEAT
            }
        }
    }
}

pub(crate) struct Manager<T> {
    pub(crate) node: String,
    key: Key,
    _running: T,
}

pub(crate) struct Cluster {
    pub(crate) sim: Sim,
    pub(crate) clock: Clock,
    pub(crate) shop: Shop,
    pub(crate) ledger: Shared,
    pub(crate) edges: Edges,
    pub(crate) jms: Vec<Option<Manager<jm::Running>>>,
    pub(crate) hms: Vec<Option<Manager<hm::Running>>>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) routers: Vec<Option<Edge>>,
    pub(crate) rng: StdRng,
    pub(crate) variant: Variant,
    pub(crate) scratch: PathBuf,
    incarnations: u64,
    dead: Vec<String>,
}

/// In memory where the system has such a place: instance managers write their records thousands of times.
fn scratch_root() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.scratch));
    }
}

impl Cluster {
    /// 2 or 3 job managers, 2 health managers, 3 to 5 machines, 2 routers; all begin at once.
    pub(crate) async fn new(number: u64, variant: Variant) -> Self {
        let mut rng = StdRng::seed_from_u64(number);
        let clock = Clock::starting_at(1_700_000_000_000);
        let ledger = Shared::default();
        ledger.lock().began = Some(Instant::now());
        // Nobody reads the name of this directory back, so it is no part of the life.
        let unique = format!("apcera-sim-{}-{number}-{}", std::process::id(), uuid::Uuid::new_v4());
        let scratch = scratch_root().join(unique);
        let mut cluster = Self {
            sim: Sim::new(seed(&mut rng), Weather::CALM),
            clock,
            shop: Shop::new(),
            ledger,
            edges: Edges::default(),
            jms: (0..rng.random_range(2..=3)).map(|_| None).collect(),
            hms: vec![None, None],
            hosts: Vec::new(),
            routers: vec![None, None],
            rng,
            variant,
            scratch,
            incarnations: 0,
            dead: Vec::new(),
        };
        for index in 0..cluster.rng.random_range(3..=5) {
            let tags = if index % 2 == 0 { vec!["fast".to_owned()] } else { Vec::new() };
            cluster.hosts.push(Host::new(index, tags, &cluster.scratch, &cluster.clock));
        }
        cluster.revive_all().await;
        cluster
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    fn bus(&self, node: &str, role: &str, id: &str) -> Bus {
        let world = Tap {
            inner: self.sim.node(node),
            node: node.to_owned(),
            ledger: self.ledger.clone(),
            clock: self.clock.clone(),
            mute: self.variant.mute(),
        };
        Bus::new(Arc::new(world), Sender::new(role, id), self.clock.clone())
    }

    fn node(&mut self, role: &str, index: usize) -> String {
        self.incarnations += 1;
        format!("{role}{index}.{}", self.incarnations)
    }

    /// Begins everybody who is dead.
    pub(crate) async fn revive_all(&mut self) {
        for index in 0..self.jms.len() {
            self.revive_jm(index);
        }
        for index in 0..self.hms.len() {
            self.revive_hm(index);
        }
        for index in 0..self.routers.len() {
            self.revive_router(index);
        }
        for index in 0..self.hosts.len() {
            self.revive_host(index).await;
        }
    }

    pub(crate) fn revive_jm(&mut self, index: usize) {
        if self.jms[index].is_some() {
            return;
        }
        let node = self.node("jm", index);
        // As configured: some operators give a name that stays, some none.
        let id = if self.rng.random() { format!("jm{index}") } else { node.clone() };
        let bus = self.bus(&node, "jm", &id);
        let (store, key) = self.shop.door();
        let settings = jm::Settings { seed: Some(seed(&mut self.rng)), ..jm::Settings::default() };
        let running =
            jm::start(settings, bus, store, CancellationToken::new()).expect("it has a seed");
        self.ledger.tell(format!("{node} begins as {id}"));
        self.jms[index] = Some(Manager { node, key, _running: running });
    }

    pub(crate) fn revive_hm(&mut self, index: usize) {
        if self.hms[index].is_some() {
            return;
        }
        let node = self.node("hm", index);
        let bus = self.bus(&node, "hm", &node);
        let (store, key) = self.shop.door();
        let running = hm::start(hm::Settings::default(), bus, store, CancellationToken::new())
            .expect("the default settings are good");
        self.ledger.tell(format!("{node} begins"));
        self.hms[index] = Some(Manager { node, key, _running: running });
    }

    pub(crate) fn revive_router(&mut self, index: usize) {
        if self.routers[index].is_some() {
            return;
        }
        let node = self.node("router", index);
        let speaker = id(&mut self.rng).to_string();
        let bus = self.bus(&node, "router", &speaker);
        let cores = if self.variant == Variant::LyingCores { Cores::Lying } else { Cores::Honest };
        let seed = seed(&mut self.rng);
        self.ledger.tell(format!("{node} begins"));
        self.routers[index] = Some(Edge::start(node, bus, seed, cores, &self.edges, &self.ledger));
    }

    pub(crate) async fn revive_host(&mut self, index: usize) {
        if self.hosts[index].node().is_some() {
            return;
        }
        let node = self.hosts[index].next_node();
        let bus = self.bus(&node, "im", &node);
        let seed = seed(&mut self.rng);
        self.ledger.tell(format!("{node} begins"));
        self.hosts[index].start(node, bus, seed, &self.ledger, &self.edges).await;
    }

    fn cut_off(&mut self, node: String) {
        self.sim.isolate(&node);
        self.ledger.tell(format!("{node} is killed"));
        self.dead.push(node);
    }

    pub(crate) fn kill_jm(&mut self, index: usize) {
        if let Some(manager) = self.jms[index].take() {
            self.cut_off(manager.node.clone());
            manager.key.shut();
        }
    }

    pub(crate) fn kill_hm(&mut self, index: usize) {
        if let Some(manager) = self.hms[index].take() {
            self.cut_off(manager.node.clone());
            manager.key.shut();
        }
    }

    pub(crate) fn kill_router(&mut self, index: usize) {
        if let Some(edge) = self.routers[index].take() {
            self.cut_off(edge.node.clone());
            edge.kill();
        }
    }

    /// Kills an instance manager; with its whole machine if `power` is lost.
    pub(crate) fn kill_host(&mut self, index: usize, power: bool) {
        let Some(node) = self.hosts[index].node().map(str::to_owned) else { return };
        self.cut_off(node);
        self.hosts[index].kill();
        if power {
            self.hosts[index].lose_power(&self.ledger, &self.clock);
        }
    }

    /// Nodes of processes that live.
    pub(crate) fn nodes(&self) -> Vec<String> {
        let jms = self.jms.iter().flatten().map(|one| one.node.clone());
        let hms = self.hms.iter().flatten().map(|one| one.node.clone());
        let routers = self.routers.iter().flatten().map(|one| one.node.clone());
        let hosts = self.hosts.iter().filter_map(|one| one.node().map(str::to_owned));
        jms.chain(hms).chain(routers).chain(hosts).collect()
    }

    /// Who is dead stays cut off.
    pub(crate) fn heal(&self) {
        self.sim.heal();
        self.dead.iter().for_each(|node| self.sim.isolate(node));
    }
}
