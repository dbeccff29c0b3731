//! Two engines of one world and a driver that pumps both: what the conformance and the pitfall tests are written with.
//!
//! Engine `a` listens, engine `b` dials. Nothing here knows which world it drives. Deliberately absent: sleeps; the
//! driver polls until a condition holds, and a deadline far away turns a hang into a failure.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test support; each binary uses its part"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use engine::{
    Chunk, ConnId, Engine, EngineOptions, Errno, Event, ListenOptions, ListenerId, SpliceEnd,
};

/// A world that can make engines and let time pass.
pub trait World {
    type Engine: Engine;
    fn new() -> Self;
    fn engine(&mut self, options: &EngineOptions) -> Self::Engine;
    /// How long the second engine waits while both are pumped in turn.
    const GLANCE: Duration = Duration::ZERO;
    /// An address to listen on.
    fn address(&mut self) -> SocketAddr;
    /// An address where nobody listens.
    fn dead_address(&mut self) -> SocketAddr;
    /// Called when no engine had anything to tell.
    fn rest(&mut self);
}

pub struct Epoll;

impl World for Epoll {
    type Engine = engine::epoll::EpollEngine;
    fn new() -> Self {
        Self
    }
    fn engine(&mut self, options: &EngineOptions) -> Self::Engine {
        engine::epoll::EpollEngine::new(options).unwrap()
    }
    fn address(&mut self) -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }
    fn dead_address(&mut self) -> SocketAddr {
        // Bound but not listening for as long as the process lives: connecting is refused.
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        dead.local_addr().unwrap()
    }
    fn rest(&mut self) {}
}

pub struct Uring;

impl World for Uring {
    type Engine = engine::uring::UringEngine;
    fn new() -> Self {
        Self
    }
    fn engine(&mut self, options: &EngineOptions) -> Self::Engine {
        engine::uring::UringEngine::new(options).unwrap()
    }
    fn address(&mut self) -> SocketAddr {
        Epoll.address()
    }
    fn dead_address(&mut self) -> SocketAddr {
        Epoll.dead_address()
    }
    fn rest(&mut self) {}
}

/// The simulated world; `GUSTY`: with delays, splits, short reads and late pauses.
pub struct Sim<const GUSTY: bool>(engine::sim::World);

impl<const GUSTY: bool> World for Sim<GUSTY> {
    type Engine = engine::sim::SimEngine;
    const GLANCE: Duration = Duration::from_micros(200);
    fn new() -> Self {
        let world = engine::sim::World::new(17);
        if GUSTY {
            world.set_weather(engine::sim::Weather::gusty());
        }
        Self(world)
    }
    fn engine(&mut self, options: &EngineOptions) -> Self::Engine {
        self.0.engine(options)
    }
    fn address(&mut self) -> SocketAddr {
        Epoll.address()
    }
    fn dead_address(&mut self) -> SocketAddr {
        "127.0.0.1:9".parse().unwrap()
    }
    fn rest(&mut self) {
        self.0.step();
    }
}

/// What one connection went through.
#[derive(Debug, Default)]
pub struct Seen {
    pub bytes: Vec<u8>,
    pub connected: bool,
    pub connect_failed: Option<Errno>,
    pub eof: bool,
    pub broken: Option<Errno>,
    pub paused: u32,
    pub left: Option<usize>,
    pub spliced: Option<(ConnId, u64, SpliceEnd)>,
    pub progress: u64,
    /// Chunks kept instead of copied, when the node hoards.
    pub hoard: Vec<Chunk>,
    /// Something came that the rules forbid.
    pub wrong: Option<&'static str>,
}

/// An engine and what it told.
pub struct Node<E> {
    pub engine: E,
    pub conns: BTreeMap<(u32, u32), Seen>,
    pub accepted: Vec<(ListenerId, ConnId, SocketAddr)>,
    pub closed: Vec<ConnId>,
    pub woken: u32,
    pub hoarding: bool,
    pub after_close: Option<String>,
    pub batch_max: u32,
}

pub fn key(conn: ConnId) -> (u32, u32) {
    (conn.slot, conn.generation)
}

impl<E: Engine> Node<E> {
    fn new(engine: E) -> Self {
        Self {
            engine,
            conns: BTreeMap::new(),
            accepted: Vec::new(),
            closed: Vec::new(),
            woken: 0,
            hoarding: false,
            after_close: None,
            batch_max: 0,
        }
    }

    pub fn seen(&self, conn: ConnId) -> &Seen {
        &self.conns[&key(conn)]
    }

    pub fn close(&mut self, conn: ConnId) {
        self.engine.close(conn);
        self.closed.push(conn);
    }

    pub fn abort(&mut self, conn: ConnId) {
        self.engine.abort(conn);
        self.closed.push(conn);
    }

    pub fn connect(&mut self, to: SocketAddr) -> ConnId {
        let conn = self.engine.connect(to).unwrap();
        self.conns.insert(key(conn), Seen::default());
        conn
    }

    pub fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        let mut chunks = Vec::new();
        self.engine.pages().copy_in(bytes, &mut chunks).unwrap();
        for chunk in chunks {
            self.engine.send(conn, chunk);
        }
    }

    /// One poll and all its events; gives how many there were.
    pub fn pump(&mut self, wait: Duration) -> u32 {
        self.engine.poll(Some(wait)).unwrap();
        let mut count = 0;
        while let Some(event) = self.engine.next() {
            count += 1;
            self.note(event);
        }
        self.batch_max = self.batch_max.max(count);
        count
    }

    fn at(&mut self, conn: ConnId) -> &mut Seen {
        if self.closed.contains(&conn) {
            self.after_close = Some(format!("event after close of {conn:?}"));
        }
        self.conns.entry(key(conn)).or_default()
    }

    fn note(&mut self, event: Event) {
        let hoarding = self.hoarding;
        match event {
            Event::Accepted { listener, conn, peer } => {
                self.at(conn).connected = true;
                self.accepted.push((listener, conn, peer));
            }
            Event::Connected { conn } => self.at(conn).connected = true,
            Event::ConnectFailed { conn, error } => self.at(conn).connect_failed = Some(error),
            Event::Data { conn, chunk } => {
                let seen = self.at(conn);
                if chunk.is_empty() {
                    seen.wrong = Some("empty data");
                }
                if seen.eof || seen.broken.is_some() || !seen.connected {
                    seen.wrong = Some("data out of order");
                }
                seen.bytes.extend_from_slice(&chunk);
                if hoarding {
                    seen.hoard.push(chunk);
                }
            }
            Event::Eof { conn } => {
                let seen = self.at(conn);
                if seen.eof || seen.broken.is_some() {
                    seen.wrong = Some("two ends");
                }
                seen.eof = true;
            }
            Event::Sent { conn, left } => self.at(conn).left = Some(left),
            Event::Paused { conn } => self.at(conn).paused += 1,
            Event::Spliced { from, to, moved, end } => {
                self.at(from).spliced = Some((to, moved, end));
            }
            Event::SpliceProgress { from, moved } => self.at(from).progress = moved,
            Event::Broken { conn, error } => {
                let seen = self.at(conn);
                if seen.broken.is_some() {
                    seen.wrong = Some("broken twice");
                }
                seen.broken = Some(error);
            }
            Event::Woken => self.woken += 1,
        }
    }
}

/// Two engines and what is between them.
pub struct Pair<W: World> {
    pub world: W,
    pub a: Node<W::Engine>,
    pub b: Node<W::Engine>,
    pub listener: ListenerId,
    pub address: SocketAddr,
}

pub const PATIENCE: Duration = Duration::from_secs(10);

impl<W: World> Pair<W> {
    pub fn new() -> Self {
        Self::with(&EngineOptions::default(), &EngineOptions::default())
    }

    pub fn with(a: &EngineOptions, b: &EngineOptions) -> Self {
        let mut world = W::new();
        let mut a = Node::new(world.engine(a));
        let b = Node::new(world.engine(b));
        let (listener, address) =
            a.engine.listen(world.address(), &ListenOptions::default()).unwrap();
        Self { world, a, b, listener, address }
    }

    /// Pump both until `done`.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !done(self) {
            let told = self.a.pump(Duration::from_micros(200)) + self.b.pump(W::GLANCE);
            if told == 0 {
                self.world.rest();
            }
            for node in [&self.a, &self.b] {
                assert_eq!(node.after_close, None);
                let wrong = node.conns.iter().find_map(|(key, seen)| Some((key, seen.wrong?)));
                assert_eq!(wrong, None);
            }
            assert!(Instant::now() < give_up, "waited in vain for: {what}");
        }
    }

    /// Pump both for a while in which something wrong could happen.
    pub fn settle(&mut self) {
        let mut turns = 0;
        self.until("some turns", |_| {
            turns += 1;
            turns > 50
        });
    }

    /// A connection: the accepted end at `a`, the dialling end at `b`.
    #[track_caller]
    pub fn connected(&mut self) -> (ConnId, ConnId) {
        let dialled = self.b.connect(self.address);
        let known = self.a.accepted.len();
        self.until("a connection", |pair| {
            pair.a.accepted.len() > known && pair.b.seen(dialled).connected
        });
        (self.a.accepted[known].1, dialled)
    }

    /// Pause reading at `a` and wait for the confirmation.
    #[track_caller]
    pub fn paused_at_a(&mut self, conn: ConnId) {
        let before = self.a.seen(conn).paused;
        self.a.engine.pause(conn);
        self.until("paused", |pair| pair.a.seen(conn).paused == before + 1);
    }
}

/// Bytes in which a shift or a swap shows: a block of a prime length, repeated.
pub fn pattern(len: usize) -> Vec<u8> {
    const BLOCK: usize = 65_521;
    let byte = |i: usize| (i.wrapping_mul(31) ^ (i >> 8)).to_le_bytes()[0];
    let block: Vec<u8> = (0..BLOCK.min(len)).map(byte).collect();
    let mut bytes = block.repeat(len.div_ceil(BLOCK));
    bytes.truncate(len);
    bytes
}
