//! The simulated world: seeded weather between named nodes, on Tokio's virtual time.
//!
//! A message is given its fate and its time of landing when it is sent; its reader sleeps until then. No task and no
//! thread runs in between, so the same seed, the same senders and a paused current-thread runtime give the same order;
//! [`Sim::transcript`] proves it. (Readers that choose between futures must do so with `biased`.)
//!
//! As on NATS: messages from one node to one reader keep their order unless the weather says otherwise; a node that was
//! isolated is told [`Incoming::Lost`] when it is back; two nodes that only do not hear each other are told nothing.
//!
//! Deliberately absent: bandwidth, and loss of what is already in the air when a link is cut.

use crate::queue::Queue;
use crate::subject::{Table, check_message, check_pattern};
use crate::{BusError, Incoming, RawMessage, RawSubscription, World};
use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

/// Messages in the air to one subscription; more are lost, and that is told.
const AIR_MAX: usize = 65_536;

/// What happens to messages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// The shortest time in the air.
    pub delay_min: Duration,
    /// The longest.
    pub delay_max: Duration,
    /// How many of all never land, 0 to 1.
    pub loss: f64,
    /// How many land twice, 0 to 1.
    pub duplication: f64,
    /// How many may overtake earlier ones or be overtaken by later ones, 0 to 1.
    pub reorder: f64,
}

impl Weather {
    /// Everything lands, once, in order, after 1 ms.
    pub const CALM: Self = Self {
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(1),
        loss: 0.0,
        duplication: 0.0,
        reorder: 0.0,
    };

    /// As bad as a network gets before people call it broken.
    pub const STORM: Self = Self {
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(80),
        loss: 0.1,
        duplication: 0.05,
        reorder: 0.2,
    };
}

/// The network between all nodes. Cheap to clone.
#[derive(Clone)]
pub struct Sim {
    sky: Arc<Sky>,
}

struct Sky {
    state: Mutex<State>,
}

type Node = usize;

struct State {
    rng: StdRng,
    weather: Weather,
    began: Instant,
    nodes: Vec<String>,
    /// Pairs that do not hear each other, the smaller first.
    cuts: BTreeSet<(Node, Node)>,
    isolated: BTreeSet<Node>,
    table: Table<Listener>,
    /// The same listeners, to tell those of one node something.
    listeners: BTreeMap<u64, Listener>,
    inboxes: u64,
    transcript: u64,
}

#[derive(Clone)]
struct Listener {
    node: Node,
    flight: Arc<Flight>,
}

impl Sim {
    /// A network. Call within a Tokio runtime, which should be paused and on one thread.
    #[must_use]
    pub fn new(seed: u64, weather: Weather) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            weather,
            began: Instant::now(),
            nodes: Vec::new(),
            cuts: BTreeSet::new(),
            isolated: BTreeSet::new(),
            table: Table::default(),
            listeners: BTreeMap::new(),
            inboxes: 0,
            transcript: TRANSCRIPT_BEGIN,
        };
        Self { sky: Arc::new(Sky { state: Mutex::new(state) }) }
    }

    /// The world as one node sees it.
    #[must_use]
    pub fn node(&self, name: &str) -> Arc<dyn World> {
        let node = self.sky.lock().node(name);
        Arc::new(Place { sky: Arc::clone(&self.sky), node })
    }

    /// Changes the weather for messages that are sent from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.sky.lock().weather = weather;
    }

    /// Two nodes hear each other no more, and are not told.
    pub fn partition(&self, a: &str, b: &str) {
        let mut state = self.sky.lock();
        let (a, b) = (state.node(a), state.node(b));
        state.cuts.insert((a.min(b), a.max(b)));
    }

    /// A node hears nobody, nobody hears it, and it knows: what it asks of the bus is [`BusError::Away`].
    pub fn isolate(&self, node: &str) {
        let mut state = self.sky.lock();
        let node = state.node(node);
        state.isolated.insert(node);
    }

    /// Ends all partitions and isolations.
    pub fn heal(&self) {
        let mut state = self.sky.lock();
        state.cuts.clear();
        let back = std::mem::take(&mut state.isolated);
        for listener in state.listeners.values() {
            if back.contains(&listener.node) {
                listener.flight.queue.lose_unknown();
            }
        }
    }

    /// A hash over everything that was sent: when, from whom, what, to whom, and what became of it.
    #[must_use]
    pub fn transcript(&self) -> u64 {
        self.sky.lock().transcript
    }
}

impl Sky {
    fn listen(
        self: &Arc<Self>,
        node: Node,
        pattern: &str,
        group: Option<&str>,
        queue: Queue,
    ) -> Landing {
        let flight = Arc::new(Flight { queue, air: Mutex::default(), launched: Notify::new() });
        let listener = Listener { node, flight: Arc::clone(&flight) };
        let mut state = self.lock();
        let id = state.table.insert(pattern, group, listener.clone());
        state.listeners.insert(id, listener);
        Landing { sky: Arc::clone(self), pattern: pattern.to_owned(), id, flight }
    }

    /// No code under this lock can panic half-way, so a poisoned lock holds nothing broken.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn node(&mut self, name: &str) -> Node {
        self.nodes.iter().position(|known| known == name).unwrap_or_else(|| {
            self.nodes.push(name.to_owned());
            self.nodes.len() - 1
        })
    }

    fn here(&self, node: Node) -> Result<(), BusError> {
        if self.isolated.contains(&node) {
            return Err(BusError::Away(format!("{} is isolated", self.nodes[node])));
        }
        Ok(())
    }

    /// Gives a message its fate towards every listener. How many listen, reached or not.
    fn send(&mut self, from: Node, message: &RawMessage) -> usize {
        let Self { table, rng, .. } = self;
        let mut to: Vec<Listener> = Vec::new();
        let mut groups: BTreeMap<&str, Vec<&Listener>> = BTreeMap::new();
        table.visit(&message.subject, &mut |leaf| {
            to.extend(leaf.plain.iter().map(|(_, listener)| listener.clone()));
            for group in &leaf.groups {
                let members = group.members.iter().map(|(_, listener)| listener);
                groups.entry(&group.name).or_default().extend(members);
            }
        });
        for members in groups.values() {
            to.push(members[rng.random_range(0..members.len())].clone());
        }
        let said = hash(hash(TRANSCRIPT_BEGIN, message.subject.as_bytes()), &message.payload);
        for listener in &to {
            self.fly(from, listener, message, said);
        }
        to.len()
    }

    fn fly(&mut self, from: Node, to: &Listener, message: &RawMessage, said: u64) {
        let (weather, now) = (self.weather, Instant::now());
        let pair = (from.min(to.node), from.max(to.node));
        let apart = self.cuts.contains(&pair) || self.isolated.contains(&to.node);
        let lost = self.rng.random_bool(weather.loss);
        let copies = if self.rng.random_bool(weather.duplication) { 2 } else { 1 };
        for copy in 0..copies {
            let delay = self.delay();
            let free = self.rng.random_bool(weather.reorder) || copy > 0;
            let landing = (!apart && !lost).then(|| {
                let cargo = Cargo::Message(message.clone());
                to.flight.launch(from, now + delay, free, cargo)
            });
            self.note(from, to.node, said, landing);
        }
    }

    fn delay(&mut self) -> Duration {
        let Weather { delay_min, delay_max, .. } = self.weather;
        self.rng.random_range(delay_min..=delay_max.max(delay_min))
    }

    /// `said` is the hash of the subject and what was sent; a message to many is read once.
    fn note(&mut self, from: Node, to: Node, said: u64, landing: Option<Instant>) {
        let since = |at: Instant| (at - self.began).as_nanos().to_le_bytes();
        let (now, landing) = (since(Instant::now()), landing.map_or([0; 16], since));
        let (from, to) = (self.nodes[from].as_bytes(), self.nodes[to].as_bytes());
        let parts: [&[u8]; 5] = [&now, from, to, &said.to_le_bytes(), &landing];
        self.transcript = parts.into_iter().fold(self.transcript, hash);
    }
}

/// Where the hash of a transcript begins.
const TRANSCRIPT_BEGIN: u64 = 0xCBF2_9CE4_8422_2325;

/// One more part of a transcript: FNV-1a over the bytes and a mark of their end.
fn hash(before: u64, bytes: &[u8]) -> u64 {
    let eat = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    let mut hash = before;
    for byte in bytes {
        hash = eat(hash, *byte);
    }
    eat(hash, 0xFF)
}

/// The air in front of one queue.
struct Flight {
    queue: Queue,
    air: Mutex<Air>,
    launched: Notify,
}

#[derive(Default)]
struct Air {
    /// By time of landing, then in the order of sending.
    cargo: BTreeMap<(Instant, u64), Cargo>,
    launches: u64,
    /// When the last message of a node lands that keeps its order.
    last: BTreeMap<Node, Instant>,
}

enum Cargo {
    Message(RawMessage),
    Nobody,
}

impl Flight {
    /// When it lands.
    fn launch(&self, from: Node, landing: Instant, free: bool, cargo: Cargo) -> Instant {
        self.land();
        let mut air = self.air();
        let mut landing = landing;
        if !free {
            let last = air.last.entry(from).or_insert(landing);
            landing = landing.max(*last);
            *last = landing;
        }
        if air.cargo.len() >= AIR_MAX {
            drop(air);
            self.queue.lose_unknown();
            return landing;
        }
        air.launches += 1;
        let order = air.launches;
        air.cargo.insert((landing, order), cargo);
        drop(air);
        self.launched.notify_one();
        landing
    }

    /// Lets everything land whose time has come; when the next one lands.
    fn land(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut air = self.air();
        loop {
            let next = air.cargo.first_entry()?;
            if next.key().0 > now {
                return Some(next.key().0);
            }
            match next.remove() {
                Cargo::Message(message) => self.queue.push(message),
                Cargo::Nobody => self.queue.nobody(),
            }
        }
    }

    fn air(&self) -> MutexGuard<'_, Air> {
        self.air.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One node's view.
struct Place {
    sky: Arc<Sky>,
    node: Node,
}

#[async_trait]
impl World for Place {
    async fn publish(
        &self,
        subject: &str,
        payload: Bytes,
        reply: Option<&str>,
    ) -> Result<(), BusError> {
        check_message(subject, payload.len())?;
        tokio::task::coop::consume_budget().await;
        let mut state = self.sky.lock();
        state.here(self.node)?;
        let reply = reply.map(str::to_owned);
        state.send(self.node, &RawMessage { subject: subject.to_owned(), reply, payload });
        Ok(())
    }

    async fn subscribe(
        &self,
        pattern: &str,
        group: Option<&str>,
        capacity: usize,
    ) -> Result<Box<dyn RawSubscription>, BusError> {
        check_pattern(pattern, group)?;
        self.sky.lock().here(self.node)?;
        Ok(Box::new(self.sky.listen(self.node, pattern, group, Queue::new(capacity))))
    }

    async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        count: usize,
    ) -> Result<Box<dyn RawSubscription>, BusError> {
        check_message(subject, payload.len())?;
        tokio::task::coop::consume_budget().await;
        let inbox = {
            let mut state = self.sky.lock();
            state.here(self.node)?;
            state.inboxes += 1;
            format!("_INBOX.{}", state.inboxes)
        };
        let landing = self.sky.listen(self.node, &inbox, None, Queue::of_answers(count));
        let message = RawMessage { subject: subject.to_owned(), reply: Some(inbox), payload };
        let mut state = self.sky.lock();
        if state.send(self.node, &message) == 0 {
            let back = Instant::now() + state.delay();
            landing.flight.launch(self.node, back, false, Cargo::Nobody);
        }
        drop(state);
        Ok(Box::new(landing))
    }

    fn first_id(&self) -> Uuid {
        uuid::Builder::from_random_bytes(self.sky.lock().rng.random()).into_uuid()
    }
}

/// Where messages land.
struct Landing {
    sky: Arc<Sky>,
    pattern: String,
    id: u64,
    flight: Arc<Flight>,
}

#[async_trait]
impl RawSubscription for Landing {
    async fn next(&mut self) -> Option<Incoming> {
        loop {
            let next = self.flight.land();
            let landed = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                incoming = self.flight.queue.next() => return incoming,
                () = self.flight.launched.notified() => {}
                () = landed => {}
            }
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut state = self.sky.lock();
        state.table.remove(&self.pattern, self.id);
        state.listeners.remove(&self.id);
    }
}
