//! The fall-back world: edge-triggered epoll behind the completion-shaped trait.
//!
//! Every socket is registered once, for both directions; readiness is remembered in the connection. `poll` sends what
//! was queued, closes what is to be closed, asks the kernel, and lets splices have their turns; `next` accepts and
//! receives, one connection after the other, one page at a time, so that a fast sender cannot starve the others.
//! Deliberately absent: buffers of idle connections, and system calls to change what a socket waits for.

mod conns;
mod transfers;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::queue::{SendQueue, Spares};
use crate::slab::Slab;
use crate::splice::Transfers;
use crate::waker::FdWaker;
use crate::{
    Chunk, ConnId, EVENTS_PER_POLL_MAX, Engine, EngineOptions, EngineStats, Errno, Event,
    LARGE_IDLE_MAX, ListenOptions, ListenerId, Now, PagePool, sys,
};

/// Readiness taken from the kernel in one call.
const READY_MAX: usize = 128;
/// Pages filled in one poll. What is sent on leaves with the next poll, so this many pages turn over at most, and they
/// stay hot and within the pool's idle reserve (with 512, a thousand busy connections cost twice as much).
const RECEIVES_PER_POLL_MAX: u32 = 64;
/// Full pages received from one connection before it is another's turn: they leave in one vectored send.
const RECEIVES_IN_ROW_MAX: u32 = 16;
const _: () = assert!((RECEIVES_PER_POLL_MAX as usize) < LARGE_IDLE_MAX);
/// Sends for one connection in a row before others get their turn.
const SENDS_PER_TURN_MAX: u32 = 4;
/// A listener that ran out of descriptors is tried again after this time.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Marks keys of listeners in the slot half of a key; slots of connections stay below.
const LISTENER_MARK: u32 = 1 << 31;
const WAKER_KEY: u64 = u64::MAX;

/// One connection. Idle, this is all the memory it has.
#[derive(Default)]
struct Conn {
    fd: Option<OwnedFd>,
    queue: SendQueue,
    /// The transfer that reads from here, and the one that writes to here.
    transfer_out: Option<ConnId>,
    transfer_in: Option<ConnId>,
    /// A send failed; told as `Broken` once everything that was received before is read.
    send_error: Option<Errno>,
    connecting: bool,
    readable: bool,
    writable: bool,
    /// FIN or worse was announced: read on until the end, a short read means nothing.
    hung_up: bool,
    eof: bool,
    paused: bool,
    pause_owed: bool,
    shutdown_wanted: bool,
    /// Told as broken, or failed to connect: nothing more to tell.
    broken: bool,
    /// The core closed it; it lives until its bytes have left.
    closing: bool,
    in_ready: bool,
    in_dirty: bool,
}

impl Conn {
    fn raw(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether receiving may tell something.
    fn may_read(&self) -> bool {
        self.readable && !self.paused && !self.eof && !self.broken && !self.closing
    }
}

struct Listener {
    fd: OwnedFd,
    in_ready: bool,
}

/// The epoll world. See the module head.
pub struct EpollEngine {
    epoll: OwnedFd,
    waker: FdWaker,
    pages: PagePool,
    now: Now,
    conns: Slab<Conn>,
    listeners: BTreeMap<u32, Listener>,
    listener_next: u32,
    transfers: Transfers,
    /// Events made, in order.
    told: VecDeque<Event>,
    /// Keys of connections and listeners that may have something to read.
    ready: VecDeque<u64>,
    /// Connections with something to send.
    dirty: Vec<ConnId>,
    dirty_before: Vec<ConnId>,
    /// Connections that found no page to receive into.
    starved: VecDeque<ConnId>,
    /// Listeners that found no descriptor.
    stalled: VecDeque<u32>,
    stalled_until: Now,
    /// Sockets to be closed.
    closing: VecDeque<OwnedFd>,
    spares: Spares,
    lingering: usize,
    events_left: u32,
    receives_left: u32,
    receives_in_row: u32,
    /// `epoll_pwait2` is there.
    fine_waits: bool,
    stats: EngineStats,
    kernel_events: Box<[libc::epoll_event; READY_MAX]>,
}

impl std::fmt::Debug for EpollEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EpollEngine({} connections)", self.conns.len())
    }
}

const fn conn_key(id: ConnId) -> u64 {
    (id.generation as u64) << 32 | id.slot as u64
}

const fn listener_key(id: u32) -> u64 {
    (id as u64) << 32 | LISTENER_MARK as u64
}

/// What a key names.
enum Named {
    Conn(ConnId),
    Listener(u32),
}

#[expect(clippy::cast_possible_truncation, reason = "takes the two halves of a key apart")]
const fn named(key: u64) -> Named {
    let (slot, high) = (key as u32, (key >> 32) as u32);
    if slot & LISTENER_MARK == 0 {
        Named::Conn(ConnId { slot, generation: high })
    } else {
        Named::Listener(high)
    }
}

impl EpollEngine {
    /// An engine for the calling thread.
    ///
    /// # Errors
    /// What `epoll_create1` or `eventfd` say: usually the descriptor limit.
    pub fn new(options: &EngineOptions) -> io::Result<Self> {
        sys::ignore_sigpipe();
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let engine = Self {
            epoll,
            waker: FdWaker::new(libc::EFD_NONBLOCK)?,
            pages: PagePool::new(options.page_bytes_max),
            now: sys::clock(),
            conns: Slab::new(),
            listeners: BTreeMap::new(),
            listener_next: 0,
            transfers: Transfers::default(),
            told: VecDeque::new(),
            ready: VecDeque::new(),
            dirty: Vec::new(),
            dirty_before: Vec::new(),
            starved: VecDeque::new(),
            stalled: VecDeque::new(),
            stalled_until: Now::default(),
            closing: VecDeque::new(),
            spares: Spares::default(),
            lingering: 0,
            events_left: 0,
            receives_left: 0,
            receives_in_row: 0,
            fine_waits: true,
            stats: EngineStats::default(),
            kernel_events: Box::new([libc::epoll_event { events: 0, u64: 0 }; READY_MAX]),
        };
        // Never read: each write is a new edge, and the counter has room for 2^64 of them.
        engine.register(engine.waker.fd(), WAKER_KEY, EDGE_IN)?;
        Ok(engine)
    }

    fn register(&self, fd: RawFd, key: u64, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: key };
        // SAFETY: `event` is readable; both descriptors are open.
        let result = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Give a socket a slot and register it. `None`: the kernel refused; the socket is closed.
    fn adopt(&mut self, fd: OwnedFd, connecting: bool) -> io::Result<ConnId> {
        let raw = fd.as_raw_fd();
        let conn = Conn { fd: Some(fd), connecting, writable: !connecting, ..Conn::default() };
        let id = self.conns.insert(conn);
        if let Err(error) = self.register(raw, conn_key(id), EDGE_BOTH) {
            self.conns.remove(id);
            return Err(error);
        }
        Ok(id)
    }

    // === what the kernel says ===

    fn wait(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.stats.enters += 1;
        let room = i32::try_from(READY_MAX).unwrap_or(i32::MAX);
        let (epoll, events) = (self.epoll.as_raw_fd(), self.kernel_events.as_mut_ptr());
        let result = loop {
            if !self.fine_waits || wait.is_none_or(|wait| wait.is_zero()) {
                let millis = wait.map_or(-1, |wait| {
                    i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
                });
                // SAFETY: `events` is writable for `room` events.
                break unsafe { libc::epoll_wait(epoll, events, room, millis) };
            }
            let wait = wait.unwrap_or_default();
            let timeout = libc::timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(wait.subsec_nanos()),
            };
            let mask = std::ptr::null();
            // SAFETY: `events` is writable for `room` events, `timeout` is readable, no signal mask is given.
            let result =
                unsafe { libc::epoll_pwait2(epoll, events, room, &raw const timeout, mask) };
            if result < 0 && matches!(sys::errno(), Errno(libc::ENOSYS | libc::EPERM)) {
                self.fine_waits = false;
                continue;
            }
            break result;
        };
        let count = match usize::try_from(result) {
            Ok(count) => count,
            Err(_) if sys::errno() == Errno(libc::EINTR) => 0,
            Err(_) => return Err(io::Error::last_os_error()),
        };
        for index in 0..count {
            let event = self.kernel_events[index];
            self.note(event.u64, event.events);
        }
        Ok(())
    }

    fn note(&mut self, key: u64, events: u32) {
        if key == WAKER_KEY {
            return;
        }
        let id = match named(key) {
            Named::Conn(id) => id,
            Named::Listener(id) => return self.listener_ready(id),
        };
        // Closed since: the socket waits to be closed, or the event was on its way.
        let Some(conn) = self.conns.get_mut(id) else { return };
        let failed = events & FAILED != 0;
        if events & (HUNG_UP | FAILED) != 0 {
            conn.hung_up = true;
        }
        if events & (READABLE | HUNG_UP) != 0 || failed {
            conn.readable = true;
        }
        if events & WRITABLE != 0 || failed {
            conn.writable = true;
        }
        if conn.connecting {
            self.connect_decided(id);
            return;
        }
        let (out, into) = (conn.transfer_out, conn.transfer_in);
        if conn.writable && !conn.queue.is_empty() {
            self.flush(id);
        }
        self.transfers.wake(out);
        self.transfers.wake(into);
        self.make_ready(id);
    }

    fn connect_decided(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if !conn.writable {
            return;
        }
        conn.connecting = false;
        if let Some(error) = sys::take_error(conn.raw()) {
            conn.broken = true;
            conn.queue.clear(&mut self.spares);
            if conn.closing {
                self.finish(id);
            } else {
                self.told.push_back(Event::ConnectFailed { conn: id, error });
            }
            return;
        }
        let (out, into) = (conn.transfer_out, conn.transfer_in);
        self.told.push_back(Event::Connected { conn: id });
        self.flush(id);
        self.transfers.wake(out);
        self.transfers.wake(into);
        self.make_ready(id);
    }

    fn make_ready(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.may_read() && !conn.in_ready && !conn.connecting {
            conn.in_ready = true;
            self.ready.push_back(conn_key(id));
        }
    }

    fn listener_ready(&mut self, id: u32) {
        if let Some(listener) = self.listeners.get_mut(&id)
            && !listener.in_ready
        {
            listener.in_ready = true;
            self.ready.push_back(listener_key(id));
        }
    }

    /// Whether the core still wants to hear this.
    fn wanted(&mut self, event: &Event) -> bool {
        let open = |id: ConnId| self.conns.get(id).is_some_and(|conn| !conn.closing);
        match *event {
            Event::Paused { conn } => self.conns.get_mut(conn).is_some_and(|conn| {
                let owed = conn.paused && !conn.closing;
                std::mem::take(&mut conn.pause_owed) && owed
            }),
            Event::Accepted { conn, .. }
            | Event::Connected { conn }
            | Event::ConnectFailed { conn, .. }
            | Event::Data { conn, .. }
            | Event::Eof { conn }
            | Event::Sent { conn, .. }
            | Event::Broken { conn, .. } => open(conn),
            Event::Spliced { from, to, .. } => open(from) && open(to),
            Event::SpliceProgress { from, .. } => open(from),
            Event::Woken => true,
        }
    }
}

#[expect(clippy::cast_sign_loss, reason = "the kernel's flags are bits; libc types them as signed")]
const fn bits(flags: i32) -> u32 {
    flags as u32
}
const READABLE: u32 = bits(libc::EPOLLIN);
const WRITABLE: u32 = bits(libc::EPOLLOUT);
const HUNG_UP: u32 = bits(libc::EPOLLRDHUP);
const FAILED: u32 = bits(libc::EPOLLERR | libc::EPOLLHUP);
const EDGE_IN: u32 = bits(libc::EPOLLIN | libc::EPOLLET);
const EDGE_BOTH: u32 = bits(libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET);

fn after(now: Now, time: Duration) -> Now {
    Now(now.0 + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

impl Engine for EpollEngine {
    type Waker = FdWaker;

    fn name(&self) -> &'static str {
        "epoll"
    }

    fn now(&self) -> Now {
        self.now
    }

    fn clock(&self) -> Now {
        sys::clock()
    }

    fn pages(&self) -> &PagePool {
        &self.pages
    }

    fn waker(&self) -> FdWaker {
        self.waker.clone()
    }

    fn listen(
        &mut self,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        let (fd, bound) = sys::listen(addr, options.backlog)?;
        let id = self.listener_next;
        self.register(fd.as_raw_fd(), listener_key(id), EDGE_IN)?;
        self.listener_next += 1;
        self.listeners.insert(id, Listener { fd, in_ready: false });
        Ok((ListenerId(id), bound))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.listeners.remove(&listener.0);
    }

    fn connect(&mut self, peer: SocketAddr) -> io::Result<ConnId> {
        let fd = sys::tcp_socket(peer)?;
        let raw = fd.as_raw_fd();
        let outcome = sys::connect(raw, peer);
        let id = self.adopt(fd, outcome == Ok(false))?;
        match outcome {
            Ok(true) => self.told.push_back(Event::Connected { conn: id }),
            Ok(false) => {}
            Err(error) => {
                let conn = self.conns.get_mut(id).expect("adopted just above");
                conn.broken = true;
                self.told.push_back(Event::ConnectFailed { conn: id, error });
            }
        }
        Ok(id)
    }

    fn send(&mut self, conn: ConnId, chunk: Chunk) {
        let Some(place) = self.conns.get_mut(conn) else { return };
        let shut = place.closing || place.shutdown_wanted;
        if shut || place.broken || place.send_error.is_some() {
            return;
        }
        place.queue.push(chunk, &mut self.spares);
        conns::mark_dirty(&mut self.dirty, place, conn);
    }

    fn backlog(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |conn| conn.queue.bytes())
    }

    fn shutdown_write(&mut self, conn: ConnId) {
        let Some(place) = self.conns.get_mut(conn) else { return };
        if place.closing || place.broken || std::mem::replace(&mut place.shutdown_wanted, true) {
            return;
        }
        if place.queue.is_empty() && !place.connecting {
            sys::shutdown_write(place.raw());
        }
    }

    fn pause(&mut self, conn: ConnId) {
        let Some(place) = self.conns.get_mut(conn) else { return };
        if !place.paused && !place.closing && !place.broken {
            place.paused = true;
            place.pause_owed = true;
            self.told.push_back(Event::Paused { conn });
        }
    }

    fn resume(&mut self, conn: ConnId) {
        let Some(place) = self.conns.get_mut(conn) else { return };
        if place.paused && !place.closing && place.transfer_out.is_none() {
            place.paused = false;
            place.pause_owed = false;
            self.make_ready(conn);
        }
    }

    fn splice(&mut self, from: ConnId, to: ConnId, limit: Option<u64>) {
        self.begin_transfer(from, to, limit);
    }

    fn has_unread(&self, conn: ConnId) -> bool {
        self.conns.get(conn).is_some_and(|conn| sys::has_unread(conn.raw()))
    }

    fn splice_waits_for_target(&self, from: ConnId) -> bool {
        let transfer = self.conns.get(from).and_then(|conn| conn.transfer_out);
        transfer.is_some_and(|id| self.transfers.holds_bytes(id))
    }

    fn close(&mut self, conn: ConnId) {
        let Some(place) = self.begin_close(conn) else { return };
        if place.queue.is_empty() || place.broken {
            self.finish(conn);
        }
    }

    fn abort(&mut self, conn: ConnId) {
        let Some(place) = self.begin_close(conn) else { return };
        sys::linger_zero(place.raw());
        self.finish(conn);
    }

    fn lingering(&self) -> usize {
        self.lingering
    }

    fn poll(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.events_left = EVENTS_PER_POLL_MAX;
        self.receives_left = RECEIVES_PER_POLL_MAX;
        self.flush_dirty();
        self.close_some();
        self.retry_starved();
        let busy = !self.told.is_empty()
            || !self.ready.is_empty()
            || !self.dirty.is_empty()
            || !self.closing.is_empty()
            || self.transfers.any_runnable();
        let mut wait = if busy { Some(Duration::ZERO) } else { wait };
        if !self.stalled.is_empty() {
            wait = Some(wait.unwrap_or(ACCEPT_RETRY).min(ACCEPT_RETRY));
        }
        if wait != Some(Duration::ZERO) && !self.waker.fall_asleep() {
            wait = Some(Duration::ZERO);
        }
        let waited = self.wait(wait);
        self.now = sys::clock();
        if self.waker.wake_up() {
            self.told.push_back(Event::Woken);
        }
        self.run_transfers();
        waited
    }

    fn next(&mut self) -> Option<Event> {
        while self.events_left > 0 && self.receives_left > 0 {
            let event = match self.told.pop_front() {
                Some(event) => self.wanted(&event).then_some(event),
                None => match named(self.ready.pop_front()?) {
                    Named::Conn(id) => self.receive(id),
                    Named::Listener(id) => self.accept(id),
                },
            };
            // A try that told nothing counts too: it cost a system call.
            self.events_left -= 1;
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            pages: self.pages.existing() as u64,
            pages_held: self.pages.held() as u64,
            ..self.stats
        }
    }
}
