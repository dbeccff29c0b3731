//! A core: one thread, one engine, its own listeners, connections, exchanges and view of the table.
//!
//! ```text
//!   engine ──event──▶ client.rs ──head──▶ flow.rs ──▶ upstream.rs ──▶ engine
//!                        ▲                  │ phase.rs decides            │
//!                        └──── reply ───────┴─────────── data ────────────┘
//!   table, settings, certificates ──▶ refresh.rs (once per turn, one load when nothing changed)
//! ```
//!
//! A core takes no lock, never blocks, frees no table, and allocates nothing per request once its slabs are warm.
//! Deliberately absent: whatever is not on the path of a byte (see `hub.rs`, `admin/`, `config/`).

mod account;
mod answer;
mod client;
mod conn;
mod deadlines;
mod exchange;
pub mod failure;
mod flow;
mod health;
mod origins;
mod parting;
mod phase;
mod refresh;
mod relay;
mod reply;
mod request;
mod slab;
mod splice;
mod tcp;
mod upstream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::{ConnId, Engine, Event, Now, Waker};
use http1::{Fields, HeadLimits, TrustedProxies};
use route::{RouteSlot, Splitter, Table};

use crate::access_log::LogSender;
use crate::hub::{CoreShared, Hub, Phase as Life};
use crate::settings::Settings;
use crate::tls::TlsOutput;
use conn::{Conns, Kind};
use deadlines::Deadlines;
use exchange::Exchange;
use origins::Origins;
use relay::Relay;
use slab::Slab;

/// Above so many bytes queued towards one side, reading from the other stops.
const BACKLOG_HIGH_BYTES: usize = 128 * 1024;

/// Below so many, it goes on.
const BACKLOG_LOW_BYTES: usize = 32 * 1024;

/// A body with so many bytes left moves by splice(2); less is cheaper to copy.
const SPLICE_MIN_BYTES: u64 = 64 * 1024;

/// Exchanges of one core at a time, TCP sessions that still connect included.
const EXCHANGES_MAX: usize = 1 << 20;

/// Tunnels and TCP sessions of one core at a time.
const RELAYS_MAX: usize = 1 << 20;

/// A small generator (xorshift64*) for choices that need no secrecy. Seeded, so that a seed replays a run.
pub(crate) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `sides`, which is small: the bias of the product is below 2^-32.
    fn below(&mut self, sides: usize) -> usize {
        (((self.next() >> 32) * sides as u64) >> 32) as usize
    }
}

/// What came in at the front: one listener.
struct Door {
    kind: DoorKind,
    port_text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DoorKind {
    Http,
    Https,
    Tcp(SocketAddr),
}

/// What a core is started with.
pub struct CoreConfig {
    /// The meeting place of the process.
    pub hub: Arc<Hub>,
    /// Which core this is.
    pub index: usize,
    /// Where to listen for HTTP.
    pub http: Vec<SocketAddr>,
    /// Where to listen for HTTPS.
    pub https: Vec<SocketAddr>,
    /// Seed of the core's choices and of its request ids.
    pub seed: u64,
    /// Wall clock at the engine's time zero, in microseconds since 1970; only the access log shows it.
    pub wall_zero_us: u64,
    /// Where records of exchanges go, if anywhere.
    pub log: Option<LogSender>,
}

/// See the module head.
pub struct Core<E: Engine> {
    engine: E,
    hub: Arc<Hub>,
    shared: Arc<CoreShared>,
    table: Table,
    settings: Arc<Settings>,
    settings_version: u64,
    head_limits: HeadLimits,
    trusted: TrustedProxies,
    doors: Vec<Option<Door>>,
    tcp_doors: std::collections::BTreeMap<SocketAddr, engine::ListenerId>,
    conns: Conns,
    exchanges: Slab<Exchange>,
    relays: Slab<Relay>,
    origins: Origins,
    splitters: Vec<Option<(RouteSlot, Splitter)>>,
    fields: Box<Fields>,
    deadlines: Deadlines,
    passed: Vec<u32>,
    rng: Rng,
    ids: RequestIds,
    log: Option<LogSender>,
    wall_zero_us: u64,
    tls_out: TlsOutput,
    tls_send: Vec<engine::Chunk>,
    /// The bytes in hand filled their page: more may be behind them that nobody has seen.
    full_page: bool,
    life: Life,
}

impl<E: Engine> Core<E> {
    /// Open the listeners and join the hub.
    pub fn new(mut engine: E, config: CoreConfig) -> io::Result<Self> {
        let CoreConfig { hub, index, http, https, seed, wall_zero_us, log } = config;
        let shared = Arc::clone(&hub.cores()[index]);
        let settings = hub.settings();
        let mut doors = Vec::new();
        for (addrs, kind) in [(http, DoorKind::Http), (https, DoorKind::Https)] {
            for addr in addrs {
                open_door(&mut engine, &mut doors, addr, kind)?;
            }
        }
        let waker = engine.waker();
        hub.attach(index, Box::new(move || waker.wake()));
        let mut core = Self {
            engine,
            table: Table::clone(&hub.table()),
            settings_version: hub.settings_version(),
            head_limits: HeadLimits::default(),
            trusted: TrustedProxies::default(),
            settings,
            shared,
            hub,
            doors,
            tcp_doors: std::collections::BTreeMap::new(),
            conns: Conns::default(),
            exchanges: Slab::new(EXCHANGES_MAX),
            relays: Slab::new(RELAYS_MAX),
            origins: Origins::default(),
            splitters: Vec::new(),
            fields: Box::new(Fields::new()),
            deadlines: Deadlines::default(),
            passed: Vec::new(),
            rng: Rng(seed | 1),
            ids: RequestIds::new(seed),
            log,
            wall_zero_us,
            tls_out: TlsOutput::default(),
            tls_send: Vec::new(),
            full_page: false,
            life: Life::Serving,
        };
        core.adopt_settings();
        core.adopt_whole_table();
        Ok(core)
    }

    /// Turn until the hub asks to end. `Err` only when the engine itself fails.
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn()? {}
        Ok(())
    }

    /// Wait, take what happened, act on it. `false`: the core has ended.
    pub fn turn(&mut self) -> io::Result<bool> {
        let wait = self.wait();
        self.engine.poll(wait)?;
        self.refresh();
        while let Some(event) = self.engine.next() {
            self.on(event);
        }
        self.pass_deadlines();
        self.publish_gauges();
        if self.life == Life::Draining && self.conns.clients() == 0 && self.engine.lingering() == 0
            || self.life == Life::Stopping
        {
            self.end();
            return Ok(false);
        }
        Ok(true)
    }

    fn wait(&self) -> Option<Duration> {
        let scan = self.deadlines.next_scan_ms(self.engine.now());
        match self.life {
            Life::Serving => scan.map(|ms| Duration::from_millis(ms.into())),
            // A drain looks again soon: what lingers in the engine tells no event when it is gone.
            _ => Some(Duration::from_millis(deadlines::SCAN_EVERY_MS.into())),
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Data { conn, chunk } => match self.conns.get(conn) {
                Some(Kind::Client(_)) => self.client_data(conn, chunk),
                Some(Kind::Upstream(_)) => self.upstream_data(conn, chunk),
                Some(Kind::Relay(_)) => self.relay_data(conn, chunk),
                _ => {}
            },
            Event::Sent { conn, left } => match self.conns.get(conn) {
                Some(Kind::Client(_)) => self.client_sent(conn, left),
                Some(Kind::Upstream(_)) => self.upstream_sent(conn, left),
                Some(Kind::Relay(_)) => self.relay_sent(conn, left),
                _ => {}
            },
            Event::Accepted { listener, conn, peer } => self.accepted(listener, conn, peer),
            Event::Connected { conn } => self.upstream_connected(conn),
            Event::ConnectFailed { conn, .. } => {
                self.upstream_connect_failed(conn, failure::Failure::UpstreamRefused);
            }
            Event::Eof { conn } => match self.conns.get(conn) {
                Some(Kind::Client(_)) => self.client_eof(conn),
                Some(Kind::Upstream(_)) => self.upstream_eof(conn),
                Some(Kind::Relay(_)) => self.relay_eof(conn),
                _ => {}
            },
            Event::Broken { conn, .. } => self.broken(conn),
            Event::Paused { conn } => match self.conns.get(conn) {
                Some(Kind::Client(_)) => self.client_paused(conn),
                Some(Kind::Upstream(_)) => self.upstream_paused(conn),
                Some(Kind::Relay(_)) => self.relay_paused(conn),
                _ => {}
            },
            Event::Spliced { from, to, moved, end } => match self.conns.get(from) {
                Some(Kind::Client(_)) => self.client_spliced(from, to, moved, end),
                Some(Kind::Upstream(_)) => self.upstream_spliced(from, to, moved, end),
                Some(Kind::Relay(_)) => self.relay_spliced(from, to, moved, end),
                _ => {}
            },
            Event::SpliceProgress { from, .. } => self.splice_progress(from),
            Event::Woken => {}
        }
    }

    fn broken(&mut self, conn: ConnId) {
        match self.conns.get(conn) {
            Some(Kind::Client(_)) => self.client_broken(conn),
            Some(Kind::Upstream(_)) => self.upstream_broken(conn),
            Some(Kind::Relay(_)) => self.relay_broken(conn),
            _ => {}
        }
    }

    fn pass_deadlines(&mut self) {
        let mut passed = std::mem::take(&mut self.passed);
        self.deadlines.scan(self.engine.now(), &mut passed);
        for slot in passed.drain(..) {
            let Some(conn) = self.conns.in_slot(slot) else { continue };
            match self.conns.get(conn) {
                Some(Kind::Client(_)) => self.client_deadline(conn),
                Some(Kind::Upstream(_)) => self.upstream_deadline(conn),
                Some(Kind::Relay(_)) => self.relay_deadline(conn),
                Some(Kind::Closing { .. }) => self.closing_deadline(conn),
                _ => {}
            }
        }
        self.passed = passed;
    }

    // === small things that all rooms of the core use ===

    fn now(&self) -> Now {
        self.engine.now()
    }

    fn set_deadline(&mut self, conn: ConnId, after: Duration) {
        let after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
        self.deadlines.set(conn.slot, self.engine.now(), after_ms);
    }

    /// Forget a connection and close it when what is queued has left.
    fn close(&mut self, conn: ConnId) {
        self.forget(conn);
        let left = self.engine.backlog(conn);
        if left > 0 {
            self.conns.put(conn, Kind::Closing { left });
            let wait = self.settings.timeouts.body_silence;
            self.set_deadline(conn, wait);
        }
        self.engine.close(conn);
    }

    /// A connection whose last bytes leave slowly lives as long as some of them left.
    fn closing_deadline(&mut self, conn: ConnId) {
        let now_left = self.engine.backlog(conn);
        match self.conns.get(conn) {
            Some(Kind::Closing { left }) if now_left > 0 && now_left < *left => {
                *left = now_left;
                let wait = self.settings.timeouts.body_silence;
                self.set_deadline(conn, wait);
            }
            _ => {
                self.conns.take(conn);
                self.engine.abort(conn);
            }
        }
    }

    /// Forget a connection and close it at once; its peer sees a reset where the system can do it.
    fn abort(&mut self, conn: ConnId) {
        self.forget(conn);
        self.engine.abort(conn);
    }

    fn forget(&mut self, conn: ConnId) {
        if let Some(kind) = self.conns.take(conn) {
            self.deadlines.clear(conn.slot);
            self.count_closed(&kind);
        }
    }

    fn door(&self, index: u16) -> Option<&Door> {
        self.doors.get(usize::from(index))?.as_ref()
    }

    fn end(&mut self) {
        for conn in self.conns.ids() {
            // What is closing has all its bytes with the kernel after a drain: the engine's end closes it politely.
            let closing = matches!(self.conns.get(conn), Some(Kind::Closing { .. }));
            if !closing || self.life == Life::Stopping {
                self.abort(conn);
            }
        }
        for (index, door) in (0_u32..).zip(&mut self.doors) {
            if door.take().is_some() {
                self.engine.unlisten(engine::ListenerId(index));
            }
        }
        // One more poll hands the closes to the kernel; what it tells is nobody's business any more.
        drop(self.engine.poll(Some(Duration::ZERO)));
        self.shared.serving.store(u64::MAX, Ordering::SeqCst);
        self.shared.ended.store(true, Ordering::SeqCst);
        self.hub.note_progress();
    }
}

/// Listen, and note what for.
fn open_door<E: Engine>(
    engine: &mut E,
    doors: &mut Vec<Option<Door>>,
    addr: SocketAddr,
    kind: DoorKind,
) -> io::Result<engine::ListenerId> {
    let options = engine::ListenOptions { backlog: LISTEN_BACKLOG };
    let (listener, addr) = engine.listen(addr, &options)?;
    let index = listener.0 as usize;
    if u16::try_from(index).is_err() {
        engine.unlisten(listener);
        return Err(io::Error::other("more than 65,536 listeners"));
    }
    if doors.len() <= index {
        doors.resize_with(index + 1, || None);
    }
    doors[index] = Some(Door { kind, port_text: addr.port().to_string() });
    Ok(listener)
}

/// Connections that may wait for a core to accept them.
const LISTEN_BACKLOG: u32 = 4_096;

/// Request ids: 16 hex digits that are this core's, 16 that count.
struct RequestIds {
    text: [u8; 32],
    count: u64,
}

impl RequestIds {
    fn new(seed: u64) -> Self {
        let mut ids = Self { text: [b'0'; 32], count: 0 };
        hex(seed, &mut ids.text[..16]);
        ids
    }

    fn next(&mut self) -> [u8; 32] {
        self.count += 1;
        hex(self.count, &mut self.text[16..]);
        self.text
    }
}

fn hex(mut number: u64, into: &mut [u8]) {
    for digit in into.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}
