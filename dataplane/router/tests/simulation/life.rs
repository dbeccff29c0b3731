//! One life: a world, one or two cores, clients, instances and a script of changes, all from one seed.
//!
//! ```text
//!   weather ──▶ calm: nobody leaves, all time-outs pass ──▶ at rest? ──▶ probes ──▶ served?
//! ```
//!
//! Deliberately absent: threads and clocks. Whoever can do something does it, then time moves to the next moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::sim::{SimEngine, Weather, World};
use engine::{EngineOptions, Now};
use router::core::{Core, CoreConfig};
use router::hub::{Hub, Phase};
use router::settings::{Limits, Settings, Timeouts};

use super::chance::Chance;
use super::client::{Client, Step};
use super::ledger::{Answer, Ledger, Request};
use super::origin::{Mood, Origin};
use super::pipe::after;
use super::scripts;
use super::tcp::{Manner, TcpClient, TcpOrigin};
use super::wishes::{self, Wishes};

/// How hard a life is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Slow, split, and under constant change, but nobody is at fault: all who behave must be served.
    Fair,
    /// Instances and clients misbehave.
    Foul,
    /// And the network refuses and breaks connections.
    Stormy,
    /// And there are few pages and few places.
    Tight,
}

/// Something deliberately wrong, for proof that the alarm works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Canary {
    /// Instances give each other's answers.
    Liars,
    /// Instances end bodies properly before they are whole.
    Shorteners,
    /// The judge is told of every second arrival twice.
    DoubleArrivals,
    /// Traffic goes on when all should be at rest.
    Restless,
    /// The table sends clients where the judge does not know of.
    WrongTable,
}

/// What became of a life.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) complaints: Vec<String>,
    pub(crate) marks: std::collections::BTreeMap<String, u64>,
    pub(crate) digest: u64,
}

/// How long clients come and tables change.
const WEATHER_TIME: Duration = Duration::from_secs(3);
/// Beyond every chain of time-outs below.
const REST_TIME: Duration = Duration::from_secs(40);
/// For the last requests, in calm weather.
const PROBE_TIME: Duration = Duration::from_secs(8);
/// Between two of them, so that few are there at once.
const PROBE_EVERY: Duration = Duration::from_millis(150);
/// A life that needs more turns does not come to rest.
const TURNS_MAX: u32 = 400_000;

const TIMEOUTS: Timeouts = Timeouts {
    head: Duration::from_secs(2),
    client_idle: Duration::from_secs(4),
    connect: Duration::from_millis(300),
    connect_budget: Duration::from_secs(1),
    origin_silence: Duration::from_secs(3),
    body_silence: Duration::from_secs(3),
    tunnel_idle: Duration::from_secs(5),
    upstream_idle: Duration::from_secs(4),
    drain: Duration::from_secs(30),
};

/// Where the cores listen for HTTP.
fn door() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 80))
}

struct Life {
    kind: Kind,
    canary: Option<Canary>,
    world: World,
    hub: Arc<Hub>,
    cores: Vec<Option<Core<SimEngine>>>,
    ledger: Ledger,
    clients: Vec<Client>,
    tcp_clients: Vec<TcpClient>,
    origins: Vec<Origin>,
    tcp_origins: Vec<TcpOrigin>,
    wishes: Wishes,
    change_at: Now,
    drain_at: Option<Now>,
    weather_until: Now,
    turns: u32,
    chance: Chance,
}

/// Live the life of a seed.
pub(crate) fn live(seed: u64, kind: Kind, canary: Option<Canary>) -> Outcome {
    let mut life = Life::new(seed, kind, canary);
    life.run(life.weather_until);
    life.calm_down();
    let rest = after(life.world.now(), REST_TIME);
    life.run(rest);
    life.check_rest();
    if life.drain_at.is_none() && life.ledger.complaints.is_empty() {
        life.probe();
    }
    if life.ledger.complaints.is_empty() {
        life.ledger.check_served();
    }
    for core in life.hub.cores() {
        let spliced = core.stats.spliced_bytes.read();
        *life.ledger.marks.entry("bytes spliced".to_owned()).or_default() += spliced;
        let starved = core.stats.engine_starved.read();
        *life.ledger.marks.entry("receives starved".to_owned()).or_default() += starved;
    }
    let Ledger { complaints, marks, digest, .. } = life.ledger;
    Outcome { complaints, marks, digest }
}

impl Life {
    fn new(seed: u64, kind: Kind, canary: Option<Canary>) -> Self {
        let mut chance = Chance::new(seed, 1);
        let world = World::new(seed);
        world.set_weather(weather(kind, &mut chance));
        let cores = chance.between(1, 2);
        let limits = limits(kind, &mut chance);
        let settings = Settings { limits, timeouts: TIMEOUTS, ..Settings::default() };
        let hub = Hub::new(cores, settings).expect("a socket pair");
        let pages = if kind == Kind::Tight { chance.between(24, 64) * 16 * 1024 } else { 64 << 20 };
        let mut ledger =
            Ledger { fair: kind == Kind::Fair, breaks: kind == Kind::Stormy, ..Ledger::default() };
        ledger.aloud = std::env::var_os("SEED").is_some();
        let weather_until = after(Now(0), WEATHER_TIME);
        let drains = kind != Kind::Fair && chance.percent(15);
        let mut life = Self {
            kind,
            canary,
            world: world.clone(),
            cores: Vec::new(),
            ledger,
            clients: Vec::new(),
            tcp_clients: Vec::new(),
            origins: Vec::new(),
            tcp_origins: Vec::new(),
            wishes: Wishes::new(kind == Kind::Fair),
            change_at: Now(0),
            drain_at: drains.then(|| after(Now(0), chance.millis(500, 3_000))),
            weather_until,
            turns: 0,
            chance,
            hub,
        };
        life.commit();
        for index in 0..cores {
            let engine = world.engine(&EngineOptions { page_bytes_max: pages });
            let config = CoreConfig {
                hub: Arc::clone(&life.hub),
                index,
                http: vec![door()],
                https: Vec::new(),
                seed: seed.wrapping_mul(2) + index as u64,
                wall_zero_us: 0,
                log: None,
            };
            let core = Core::new(engine, config).expect("the simulated world always listens");
            life.cores.push(Some(core));
        }
        life.people();
        life
    }

    /// Instances, and the clients that come over time.
    fn people(&mut self) {
        let seed = self.chance.next();
        let mood = match (self.canary, self.kind) {
            (Some(Canary::Liars), _) => Mood::Liar,
            (Some(Canary::Shorteners), _) => Mood::Shortener,
            (_, Kind::Fair) => Mood::Good,
            _ => Mood::Foul(self.chance.between(5, 40)),
        };
        for (at, addr) in wishes::instances().enumerate() {
            let chance = Chance::new(seed, 1_000 + at as u64);
            self.origins.push(Origin::new(&self.world, addr, mood, chance));
        }
        for (at, addr) in wishes::tcp_instances().enumerate() {
            let chance = Chance::new(seed, 2_000 + at as u64);
            self.tcp_origins.push(TcpOrigin::new(&self.world, addr, mood, chance));
        }
        self.world.black_hole(wishes::black_hole());
        for at in 0..self.chance.between(6, 16) {
            let mut chance = Chance::new(seed, 3_000 + at as u64);
            let start = self.start_time();
            let steps = if chance.percent(4) {
                scripts::flood(&mut self.ledger, &mut chance)
            } else {
                scripts::any(&mut self.ledger, &mut chance)
            };
            self.clients.push(Client::new(start, client_addr(at), door(), steps, chance));
        }
        for at in 0..self.chance.between(0, 4) {
            let mut chance = Chance::new(seed, 4_000 + at as u64);
            let start = self.start_time();
            let addr = *chance.pick(&wishes::tcp_doors());
            let manner = match chance.below(10) {
                0 => Manner::Breaks,
                1 => Manner::Deaf,
                _ => Manner::Polite,
            };
            let number = self.ledger.plan(Request {
                tcp: Some(addr),
                // Before its route exists nobody listens there.
                excused: manner != Manner::Polite || !self.wishes.has_tcp(addr),
                ..Request::default()
            });
            let from = client_addr(100 + at);
            self.tcp_clients.push(TcpClient::new(start, from, addr, number, manner, chance));
        }
    }

    fn start_time(&mut self) -> Now {
        let end = usize::try_from(WEATHER_TIME.as_millis()).expect("seconds") * 2 / 3;
        after(Now(0), self.chance.millis(0, end))
    }

    // === time ===

    fn run(&mut self, end: Now) {
        while self.ledger.complaints.is_empty() {
            self.turns += 1;
            if self.turns > TURNS_MAX {
                return self.ledger.complain("no rest after all these turns".to_owned());
            }
            self.change();
            self.turn();
            let now = self.world.now();
            let moved = self.act(now);
            if now >= end {
                return;
            }
            // Whoever waits for room in a buffer is told by nobody: look again soon.
            let soon = moved.then(|| after(now, Duration::from_micros(50)));
            let changes = (now < self.weather_until).then_some(self.change_at);
            let next = soon.into_iter().chain(self.wake(now)).chain(changes).min();
            self.world.step_until(next.map_or(end, |next| next.min(end)));
        }
    }

    fn turn(&mut self) {
        let stormy = self.world.now() < self.weather_until;
        for place in &mut self.cores {
            // A core that is late sees an older table than the others, and more events at a time.
            if stormy && self.chance.percent(10) {
                continue;
            }
            let Some(core) = place else { continue };
            if !core.turn().expect("the simulated engine never fails") {
                *place = None;
            }
        }
        let served = self.hub.cores().iter().map(|core| core.serving.load(Ordering::SeqCst));
        let newest = self.hub.version();
        self.ledger.tables.served = served.min().expect("a core").min(newest);
    }

    fn act(&mut self, now: Now) -> bool {
        let Self { world, ledger, .. } = self;
        ledger.now = now;
        let mut moved = false;
        for client in &mut self.clients {
            moved |= client.act(world, now, ledger);
        }
        for client in &mut self.tcp_clients {
            moved |= client.act(world, now, ledger);
        }
        for origin in &mut self.origins {
            moved |= origin.act(now, ledger);
        }
        for origin in &mut self.tcp_origins {
            moved |= origin.act(now, ledger);
        }
        moved
    }

    fn wake(&self, now: Now) -> Option<Now> {
        let clients =
            self.clients.iter().filter(|one| !one.is_over()).filter_map(|one| one.wake(now));
        let tcp =
            self.tcp_clients.iter().filter(|one| !one.is_over()).filter_map(|one| one.wake(now));
        let origins = self.origins.iter().filter_map(|one| one.wake(now));
        let others = self.tcp_origins.iter().filter_map(|one| one.wake(now));
        clients.chain(tcp).chain(origins).chain(others).min()
    }

    // === change ===

    fn change(&mut self) {
        let now = self.world.now();
        if now >= self.weather_until {
            return;
        }
        if self.drain_at.is_some_and(|at| now >= at) {
            self.hub.set_phase(Phase::Draining);
        }
        if now < self.change_at {
            return;
        }
        self.change_at = after(now, self.chance.millis(1, 150));
        self.wishes.change(&mut self.chance);
        self.commit();
        if self.kind != Kind::Fair && self.chance.percent(20) {
            let at = self.chance.below(self.origins.len());
            let origin = &mut self.origins[at];
            if !origin.is_open() {
                origin.open();
            } else if self.chance.percent(50) {
                origin.shut();
            } else {
                origin.die(&mut self.ledger);
            }
        }
    }

    fn commit(&mut self) {
        let (before, now) = self.wishes.take();
        if self.ledger.aloud {
            println!("{:?}", self.world.now());
        }
        let receipt = self.hub.replace(&before, &now).expect("a wish of ours can be fulfilled");
        let told = if self.canary == Some(Canary::WrongTable) { &before } else { &now };
        self.ledger.tables.committed(receipt.version, told);
    }

    /// The weather ends, every instance is well, the table is what it should be.
    fn calm_down(&mut self) {
        self.world.set_weather(Weather::calm());
        self.wishes.settle();
        self.commit();
        if self.drain_at.is_some() {
            self.hub.set_phase(Phase::Draining);
        }
        for origin in &mut self.origins {
            origin.mood = Mood::Good;
            origin.open();
        }
        self.tcp_origins.iter_mut().for_each(|origin| origin.mood = Mood::Good);
        if self.canary == Some(Canary::Restless) {
            let start = after(self.world.now(), REST_TIME.saturating_sub(Duration::from_secs(1)));
            let steps = vec![Step::Bytes(b"GET / HTTP/1.1\r\nHo".to_vec())];
            let client = Client::new(start, client_addr(0), door(), steps, self.chance.clone());
            self.clients.push(client);
        }
        if self.canary == Some(Canary::DoubleArrivals)
            && let Some(first) = self.ledger.arrivals.first().cloned()
        {
            self.ledger.arrive(first.request, first.instance, false);
        }
    }

    // === the end ===

    /// All time-outs have passed and nobody left by himself: nothing may be left.
    fn check_rest(&mut self) {
        if !self.ledger.complaints.is_empty() {
            return;
        }
        let now = self.world.now();
        for client in &mut self.clients {
            client.listen_again();
            for _ in 0..1_000 {
                client.act(&self.world, now, &mut self.ledger);
            }
        }
        for client in &mut self.tcp_clients {
            client.listen_again();
            for _ in 0..1_000 {
                client.act(&self.world, now, &mut self.ledger);
            }
        }
        let open = self.clients.iter().filter(|client| !client.is_over()).count()
            + self.tcp_clients.iter().filter(|client| !client.is_over()).count();
        self.must_be_zero("client connections that the router never ended", open as u64);
        let open = self.origins.iter().map(Origin::open_conns).sum::<usize>()
            + self.tcp_origins.iter().map(TcpOrigin::open_conns).sum::<usize>();
        self.must_be_zero("connections to instances that the router never ended", open as u64);
        self.check_gauges();
        let draining = self.hub.draining();
        self.must_be_zero("instances that never drained", draining.len() as u64);
        let newest = self.hub.version();
        for core in self.hub.cores() {
            let serving = core.serving.load(Ordering::SeqCst);
            if serving < newest {
                self.ledger.complain(format!("a core serves version {serving} of {newest}"));
            }
        }
        if self.drain_at.is_some() {
            let running = self.cores.iter().flatten().count();
            self.must_be_zero("cores that did not end their drain", running as u64);
        }
    }

    fn check_gauges(&mut self) {
        let hub = Arc::clone(&self.hub);
        for (core, alive) in hub.cores().iter().zip(&self.cores) {
            let stats = &core.stats;
            let held = if alive.is_some() { stats.pages_held.read() } else { 0 };
            for (what, level) in [
                ("exchanges in flight", stats.in_flight.read()),
                ("HTTP connections", stats.open_http.read()),
                ("TCP connections", stats.open_tcp.read()),
                ("tunnels", stats.open_tunnels.read()),
                ("connections to instances", stats.upstream_open.read()),
                ("pages held", held),
                ("defects that the router counted", stats.bugs.read()),
            ] {
                if level > 0 {
                    self.ledger.complain(format!("at rest there are {level} {what}"));
                }
            }
            let table = hub.table();
            let routes = table.routes().map(|route| stats.route_in_flight(route.slot));
            let instances = table.jobs().flat_map(|job| &job.instances);
            let instances = instances.map(|instance| stats.instance_in_flight(instance.slot));
            let left = routes.chain(instances).sum::<u64>();
            if left > 0 {
                self.ledger
                    .complain(format!("at rest routes and instances count {left} in flight"));
            }
        }
    }

    fn must_be_zero(&mut self, what: &str, level: u64) {
        if level > 0 {
            self.ledger.complain(format!("at rest there are {level} {what}"));
        }
    }

    /// Every route serves.
    fn probe(&mut self) {
        let mut numbers = Vec::new();
        let mut start = self.world.now();
        for at in 0..4 {
            for (host, prefix) in self.wishes.http_routes() {
                let (number, steps) = scripts::probe(&mut self.ledger, &host, prefix);
                numbers.push(number);
                let from = client_addr(200 + at);
                let chance = self.chance.clone();
                self.clients.push(Client::new(start, from, door(), steps, chance));
                start = after(start, PROBE_EVERY);
            }
        }
        let end = after(self.world.now(), PROBE_TIME);
        self.run(end);
        for number in numbers {
            let request = self.ledger.requests[number].clone();
            if request.answer != Answer::Whole {
                self.ledger.complain(format!("calm, and yet not served: {request:?}"));
            }
        }
    }
}

fn client_addr(at: usize) -> SocketAddr {
    let at = u16::try_from(at).expect("few clients");
    SocketAddr::from(([192, 0, 2, 1], 10_000 + at))
}

fn weather(kind: Kind, chance: &mut Chance) -> Weather {
    let shares = [0, 100, 300];
    Weather {
        delay_min: Duration::from_micros(10),
        delay_max: *chance.pick(&[
            Duration::from_micros(100),
            Duration::from_millis(3),
            Duration::from_millis(10),
        ]),
        splits: *chance.pick(&shares),
        short_reads: *chance.pick(&shares),
        short_writes: *chance.pick(&shares),
        refusals: if kind == Kind::Stormy { 30 } else { 0 },
        resets: if kind == Kind::Stormy { *chance.pick(&[2, 5, 20]) } else { 0 },
        pause_lag_max: *chance.pick(&[
            Duration::ZERO,
            Duration::from_millis(1),
            Duration::from_millis(5),
        ]),
        socket_bytes: *chance.pick(&[12, 48, 256]) * 1024,
    }
}

fn limits(kind: Kind, chance: &mut Chance) -> Limits {
    let tight = kind == Kind::Tight;
    Limits {
        connections_max: if tight { 6 } else { 1_000 },
        upstream_idle_max: if tight { 1 } else { 8 },
        attempts_max: if kind == Kind::Fair { 8 } else { *chance.pick(&[1, 2, 8]) },
        ..Limits::DEFAULT
    }
}
