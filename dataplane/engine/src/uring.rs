//! The fast world: io_uring behind the completion-shaped trait.
//!
//! One multishot accept for each listener, one multishot receive for each connection that is read, at most one send in
//! flight for each, one system call for each `poll`. Readable pages lie in one ring of buffers, so that an idle
//! connection holds none.
//!
//! What keeps memory sound: a slot of the slab is free only after the last completion of its last operation, so a
//! completion always finds the connection it belongs to, and bytes that the kernel sends stay in their queue until the
//! send has completed, also when the core has long closed the connection. Dropping the engine cancels everything and
//! waits; what would not end in time is leaked, never freed.
//! Deliberately absent: linked operations, fixed files (splice needs ordinary descriptors), and a time-out operation
//! per connection.

mod buffers;
mod conns;
mod ring;
mod transfers;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use crate::queue::{SendQueue, Spares};
use crate::slab::Slab;
use crate::splice::Transfers;
use crate::waker::FdWaker;
use crate::{
    CLOSES_PER_POLL_MAX, Chunk, ConnId, EVENTS_PER_POLL_MAX, Engine, EngineOptions, EngineStats,
    Errno, Event, LARGE_BYTES, ListenOptions, ListenerId, Now, PagePool, sys,
};
use buffers::Buffers;
use ring::{Done, Op, Ring, Tag};

/// A listener that ran out of descriptors is tried again after this time.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Closes in one poll while completions wait to be told.
const CLOSES_WHILE_BUSY_MAX: usize = 8;
/// How long the end of an engine waits for its cancelled operations.
const FAREWELL: Duration = Duration::from_secs(2);

/// The receive operation of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Receive {
    /// None is in flight.
    #[default]
    Idle,
    Armed,
    /// A cancel was submitted; the last completion is to come.
    Cancelling,
}

/// One connection. Idle, this is all the user memory it has.
#[derive(Default)]
struct Conn {
    /// `None` as soon as the kernel was told to close it.
    fd: Option<OwnedFd>,
    /// While `sending`, the kernel reads from the chunks at its front.
    queue: SendQueue,
    /// The transfer that reads from here, and the one that writes to here.
    transfer_out: Option<ConnId>,
    transfer_in: Option<ConnId>,
    /// A send failed; told as `Broken` once everything that was received before is read.
    send_error: Option<Errno>,
    receive: Receive,
    sending: bool,
    connecting: bool,
    eof: bool,
    paused: bool,
    pause_owed: bool,
    shutdown_wanted: bool,
    /// Told as broken, or failed to connect: nothing more to tell.
    broken: bool,
    /// The core closed it; it lives until its bytes have left.
    closing: bool,
    /// It only waits for its turn to be closed and for its last completions.
    ending: bool,
    in_dirty: bool,
    in_starved: bool,
}

/// A slot is what an idle connection costs: a cache line or two.
const _: () = assert!(size_of::<Conn>() <= 104);

impl Conn {
    fn raw(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Nobody listens to what this connection has to say.
    const fn deaf(&self) -> bool {
        self.closing || self.broken
    }

    /// Drop what is queued, now or when the kernel no longer reads it.
    fn discard_queue(&mut self, spares: &mut Spares) {
        if !self.sending {
            self.queue.clear(spares);
        }
    }
}

struct Listener {
    fd: OwnedFd,
}

/// The io_uring world. See the module head.
pub struct UringEngine {
    ring: Ring,
    /// `None` only after `drop` has leaked it.
    buffers: Option<Buffers>,
    waker: FdWaker,
    pages: PagePool,
    now: Now,
    conns: Slab<Conn>,
    listeners: BTreeMap<u32, Listener>,
    listener_next: u32,
    transfers: Transfers,
    /// Events made, in order.
    told: VecDeque<Event>,
    /// Connections with something to send or to connect.
    dirty: Vec<ConnId>,
    dirty_before: Vec<ConnId>,
    /// Connections whose receive found no buffer.
    starved: VecDeque<ConnId>,
    /// Most bytes of one turn of a receive: one page, so that a pause or a slower neighbour is not overtaken by a
    /// fast sender. `None` once the kernel has refused it.
    receive_cap: Option<u32>,
    /// Listeners that found no descriptor.
    stalled: VecDeque<u32>,
    stalled_until: Now,
    /// Connections to be closed.
    ending: VecDeque<ConnId>,
    spares: Spares,
    lingering: usize,
    events_left: u32,
    bell_armed: bool,
    stats: EngineStats,
}

impl std::fmt::Debug for UringEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UringEngine({} connections, {:?})", self.conns.len(), self.ring)
    }
}

impl UringEngine {
    /// An engine for the calling thread; it cannot move to another.
    ///
    /// # Errors
    /// The kernel or its policy refuses io_uring or a part of it that is needed; see [`crate::probe`].
    pub fn new(options: &EngineOptions) -> io::Result<Self> {
        sys::ignore_sigpipe();
        let ring = Ring::new()?;
        let buffers = Buffers::register(ring.uring())?;
        Ok(Self {
            ring,
            buffers: Some(buffers),
            waker: FdWaker::new(libc::EFD_NONBLOCK)?,
            pages: PagePool::new(options.page_bytes_max),
            now: sys::clock(),
            conns: Slab::new(),
            listeners: BTreeMap::new(),
            listener_next: 0,
            transfers: Transfers::default(),
            told: VecDeque::new(),
            dirty: Vec::new(),
            dirty_before: Vec::new(),
            starved: VecDeque::new(),
            receive_cap: u32::try_from(LARGE_BYTES).ok(),
            stalled: VecDeque::new(),
            stalled_until: Now::default(),
            ending: VecDeque::new(),
            spares: Spares::default(),
            lingering: 0,
            events_left: 0,
            bell_armed: false,
            stats: EngineStats::default(),
        })
    }

    /// Give a completion to whom it belongs; the first event that follows from it.
    fn dispatch(&mut self, done: Done) -> Option<Event> {
        let id = done.tag.id;
        match done.tag.op {
            Op::Receive => self.received(done),
            Op::Send => self.sent(id, done.result),
            Op::Connect => self.connect_decided(id, done.result),
            Op::ConnectReady => self.connect_ready(id, done.result),
            Op::Accept => self.accepted(done),
            Op::Source | Op::Target => {
                self.side_ready(id, done.tag.op);
                None
            }
            Op::Bell => {
                self.bell_armed = done.more;
                None
            }
            Op::Missed => {
                self.cancel_missed(id);
                None
            }
            Op::Ignored => None,
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

    // === listeners ===

    fn accepted(&mut self, done: Done) -> Option<Event> {
        let (listener, result, more) = (done.tag.id.slot, done.result, done.more);
        let fd = ring::accepted(done);
        if !more {
            match -result {
                libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                    self.stalled.push_back(listener);
                    self.stalled_until = after(self.now, ACCEPT_RETRY);
                }
                // The listener was shut down.
                libc::ECANCELED | libc::EINVAL => {}
                _ => self.arm_accept(listener),
            }
        }
        let Some(fd) = fd else {
            if self.listeners.contains_key(&listener) {
                self.stats.accept_failed += 1;
            }
            return None;
        };
        // Multishot accept has no room for addresses. Without an address the client has left already.
        let Some(peer) = sys::peer_of(fd.as_raw_fd()) else {
            self.stats.accept_failed += 1;
            return None;
        };
        self.stats.accepted += 1;
        let conn = self.conns.insert(Conn { fd: Some(fd), ..Conn::default() });
        self.arm_receive(conn);
        Some(Event::Accepted { listener: ListenerId(listener), conn, peer })
    }

    fn arm_accept(&mut self, id: u32) {
        if let Some(listener) = self.listeners.get(&id) {
            self.ring.accept(listener.fd.as_raw_fd(), id);
        }
    }

    // === once per poll ===

    /// Whom lack of pages or descriptors stopped gets another try.
    fn retry_starved(&mut self) {
        let Some(buffers) = &mut self.buffers else { return };
        buffers.refill(&self.pages);
        // No more than can be served: who finds nothing again would only go round.
        for _ in 0..buffers.lent().min(self.starved.len()) {
            if let Some(id) = self.starved.pop_front()
                && let Some(conn) = self.conns.get_mut(id)
            {
                conn.in_starved = false;
                self.arm_receive(id);
            }
        }
        if !self.stalled.is_empty() && self.now >= self.stalled_until {
            for _ in 0..self.stalled.len() {
                if let Some(id) = self.stalled.pop_front() {
                    self.arm_accept(id);
                }
            }
        }
    }

    fn flush_dirty(&mut self) {
        std::mem::swap(&mut self.dirty, &mut self.dirty_before);
        for index in 0..self.dirty_before.len() {
            let id = self.dirty_before[index];
            if let Some(conn) = self.conns.get_mut(id) {
                conn.in_dirty = false;
                self.flush(id);
            }
        }
        self.dirty_before.clear();
    }

    fn close_some(&mut self) {
        // Whatever has happened already is told first: a request may lie behind thousands of leaving clients.
        let most = if self.ring.has_done() { CLOSES_WHILE_BUSY_MAX } else { CLOSES_PER_POLL_MAX };
        for _ in 0..most.min(self.ending.len()) {
            if let Some(id) = self.ending.pop_front() {
                self.end(id);
            }
        }
    }

    fn is_busy(&mut self) -> bool {
        !self.told.is_empty()
            || !self.dirty.is_empty()
            || !self.ending.is_empty()
            || self.transfers.any_runnable()
            || self.ring.has_done()
    }
}

fn after(now: Now, time: Duration) -> Now {
    Now(now.0 + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

impl Engine for UringEngine {
    type Waker = FdWaker;

    fn name(&self) -> &'static str {
        "io_uring"
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
        self.listener_next += 1;
        self.listeners.insert(id, Listener { fd });
        self.arm_accept(id);
        Ok((ListenerId(id), bound))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if let Some(listening) = self.listeners.remove(&listener.0) {
            // The accept in flight keeps the socket; shut down, it refuses from now on, and the accept ends.
            sys::shutdown_listener(listening.fd.as_raw_fd());
            self.ring.cancel(ring::accept_tag(listener.0));
            self.ring.close(listening.fd);
        }
    }

    fn connect(&mut self, peer: SocketAddr) -> io::Result<ConnId> {
        let fd = sys::tcp_socket(peer)?;
        let raw = fd.as_raw_fd();
        let conn = self.conns.insert(Conn { fd: Some(fd), ..Conn::default() });
        if self.ring.connect(raw, peer, conn) {
            let place = self.conns.get_mut(conn).expect("inserted just above");
            place.connecting = true;
        } else {
            self.connect_at_once(conn, peer);
        }
        Ok(conn)
    }

    fn send(&mut self, conn: ConnId, chunk: Chunk) {
        let Some(place) = self.conns.get_mut(conn) else { return };
        let shut = place.closing || place.shutdown_wanted;
        if shut || place.broken || place.send_error.is_some() {
            return;
        }
        place.queue.push(chunk, &mut self.spares);
        self.mark_dirty(conn);
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
        self.pause_receive(conn);
    }

    fn resume(&mut self, conn: ConnId) {
        let Some(place) = self.conns.get_mut(conn) else { return };
        if place.paused && !place.closing && place.transfer_out.is_none() {
            place.paused = false;
            place.pause_owed = false;
            self.arm_receive(conn);
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
            self.begin_end(conn);
        }
    }

    fn abort(&mut self, conn: ConnId) {
        let Some(place) = self.begin_close(conn) else { return };
        if place.fd.is_some() {
            sys::linger_zero(place.raw());
        }
        self.begin_end(conn);
    }

    fn lingering(&self) -> usize {
        self.lingering
    }

    fn poll(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.events_left = EVENTS_PER_POLL_MAX;
        self.retry_starved();
        self.run_transfers();
        self.flush_dirty();
        self.close_some();
        if !self.bell_armed {
            self.bell_armed = true;
            self.ring.bell(self.waker.fd());
        }
        let mut wait = if self.is_busy() { Some(Duration::ZERO) } else { wait };
        if !self.stalled.is_empty() {
            wait = Some(wait.unwrap_or(ACCEPT_RETRY).min(ACCEPT_RETRY));
        }
        if wait != Some(Duration::ZERO) && !self.waker.fall_asleep() {
            wait = Some(Duration::ZERO);
        }
        let entered = self.ring.enter(wait);
        self.now = sys::clock();
        if self.waker.wake_up() {
            self.told.push_back(Event::Woken);
        }
        entered
    }

    fn next(&mut self) -> Option<Event> {
        while self.events_left > 0 {
            self.events_left -= 1;
            let event = match self.told.pop_front() {
                Some(event) => self.wanted(&event).then_some(event),
                None => {
                    let done = self.ring.pop()?;
                    self.dispatch(done)
                }
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn stats(&self) -> EngineStats {
        let lent = self.buffers.as_ref().map_or(0, Buffers::lent);
        EngineStats {
            enters: self.ring.enters,
            pages: self.pages.existing() as u64,
            pages_held: self.pages.held().saturating_sub(lent) as u64,
            ..self.stats
        }
    }
}

impl Drop for UringEngine {
    /// Listeners first, so that their ports are free when the process is gone; then everything else, and only when
    /// the kernel has let go of all memory, the memory.
    fn drop(&mut self) {
        for (_, listener) in std::mem::take(&mut self.listeners) {
            sys::shutdown_listener(listener.fd.as_raw_fd());
        }
        self.ring.cancel_all();
        let give_up = Instant::now() + FAREWELL;
        while self.ring.in_flight() > 0 && Instant::now() < give_up {
            if self.ring.enter(Some(Duration::from_millis(10))).is_err() {
                break;
            }
            while let Some(done) = self.ring.pop() {
                drop(ring::accepted(done));
            }
        }
        if self.ring.in_flight() > 0 {
            // Cancelled, yet not over: the kernel may still read or write. Leaking is sound, freeing is not.
            std::mem::forget(std::mem::take(&mut self.conns));
            std::mem::forget(self.buffers.take());
        }
    }
}
