//! The engine of the simulated world. Same promises as the real ones, kept the plain way: every poll looks at every
//! connection.
//!
//! Deliberately absent: speed, and `unsafe`.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::net::{Net, Read, nanos};
use crate::queue::{SendQueue, Spares};
use crate::slab::Slab;
use crate::{
    Chunk, ConnId, EVENTS_PER_POLL_MAX, Engine, EngineOptions, EngineStats, Errno, Event,
    ListenOptions, ListenerId, Now, PagePool, SpliceEnd, Waker,
};

/// Bytes a simulated pipe holds.
const PIPE_BYTES: usize = 64 * 1024;
/// What a poll that found nothing takes of the virtual time at least: a core that never waits still sees time pass.
const TURN_TIME: Duration = Duration::from_micros(1);
/// Fills of a pipe in one turn.
const FILLS_PER_TURN_MAX: u32 = 8;

/// Wakes a simulated engine; also from other threads.
#[derive(Clone, Debug, Default)]
pub struct SimWaker {
    called: Arc<AtomicBool>,
}

impl Waker for SimWaker {
    fn wake(&self) {
        self.called.store(true, Ordering::SeqCst);
    }
}

/// A splice, kept at its source.
struct Transfer {
    to: ConnId,
    left: u64,
    moved: u64,
    pipe: Vec<u8>,
}

#[derive(Default)]
struct Conn {
    end: Option<ConnId>,
    queue: SendQueue,
    transfer_out: Option<Transfer>,
    /// The source of the transfer that writes here.
    transfer_in: Option<ConnId>,
    send_error: Option<Errno>,
    connecting: bool,
    eof: bool,
    paused: bool,
    pause_owed: bool,
    /// When the pause takes effect.
    paused_from: Now,
    shutdown_wanted: bool,
    broken: bool,
    closing: bool,
}

impl Conn {
    fn may_read(&self, now: Now) -> bool {
        let held = self.paused && now >= self.paused_from;
        !held && !self.connecting && !self.eof && !self.broken && !self.closing
    }
}

/// See the module head. Made by [`super::World::engine`].
pub struct SimEngine {
    net: Rc<RefCell<Net>>,
    /// Its place among the deadlines of the world.
    place: usize,
    now: Now,
    pages: PagePool,
    waker: SimWaker,
    conns: Slab<Conn>,
    /// All connections in use.
    order: Vec<ConnId>,
    listeners: BTreeMap<u32, u32>,
    listener_next: u32,
    told: VecDeque<Event>,
    ready: VecDeque<ConnId>,
    spares: Spares,
    lingering: usize,
    events_left: u32,
    stats: EngineStats,
}

impl std::fmt::Debug for SimEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimEngine({} connections)", self.conns.len())
    }
}

impl SimEngine {
    pub(super) fn new(net: Rc<RefCell<Net>>, options: &EngineOptions) -> Self {
        let (place, now) = {
            let mut net = net.borrow_mut();
            net.deadlines.push(None);
            (net.deadlines.len() - 1, net.now)
        };
        Self {
            net,
            place,
            now,
            pages: PagePool::new(options.page_bytes_max),
            waker: SimWaker::default(),
            conns: Slab::new(),
            order: Vec::new(),
            listeners: BTreeMap::new(),
            listener_next: 0,
            told: VecDeque::new(),
            ready: VecDeque::new(),
            spares: Spares::default(),
            lingering: 0,
            events_left: 0,
            stats: EngineStats::default(),
        }
    }

    fn adopt(&mut self, end: ConnId, connecting: bool) -> ConnId {
        let conn = self.conns.insert(Conn { end: Some(end), connecting, ..Conn::default() });
        self.order.push(conn);
        conn
    }

    fn accept_all(&mut self) {
        for (&id, &door) in &self.listeners.clone() {
            loop {
                let accepted = self.net.borrow_mut().accept(door);
                let Some((end, peer)) = accepted else { break };
                let conn = self.adopt(end, false);
                self.stats.accepted += 1;
                self.told.push_back(Event::Accepted { listener: ListenerId(id), conn, peer });
            }
        }
    }

    /// Everything of one connection that is not reading.
    fn advance(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(end) = conn.end else { return };
        if conn.connecting {
            let outcome = self.net.borrow().outcome(end);
            let Some(outcome) = outcome else { return };
            conn.connecting = false;
            match outcome {
                Ok(()) => self.told.push_back(Event::Connected { conn: id }),
                Err(error) => {
                    conn.broken = true;
                    conn.queue.clear(&mut self.spares);
                    self.told.push_back(Event::ConnectFailed { conn: id, error });
                }
            }
        }
        if conn.paused && conn.pause_owed && self.now >= conn.paused_from {
            self.told.push_back(Event::Paused { conn: id });
        }
        self.flush(id);
        self.transfer(id);
    }

    fn flush(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(end) = conn.end else { return };
        let before = conn.queue.bytes();
        while let Some(chunk) = conn.queue.front() {
            let written = self.net.borrow_mut().write(end, chunk);
            match written {
                Ok(0) => break,
                Ok(count) => conn.queue.consume(count, &mut self.spares),
                Err(error) => {
                    conn.queue.clear(&mut self.spares);
                    if conn.paused || conn.eof {
                        self.broke(id, error);
                    } else {
                        conn.send_error = Some(error);
                    }
                    break;
                }
            }
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        let left = conn.queue.bytes();
        if left < before && !conn.broken && conn.send_error.is_none() {
            self.told.push_back(Event::Sent { conn: id, left });
        }
        if left == 0 && conn.closing {
            self.finish(id);
        } else if left == 0 && conn.shutdown_wanted {
            self.net.borrow_mut().fin(end);
        }
    }

    fn broke(&mut self, id: ConnId, error: Errno) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if !conn.broken {
            conn.broken = true;
            conn.queue.clear(&mut self.spares);
            self.told.push_back(Event::Broken { conn: id, error });
        }
    }

    fn transfer(&mut self, from: ConnId) {
        let Some(mut transfer) = self.conns.get_mut(from).and_then(|conn| conn.transfer_out.take())
        else {
            return;
        };
        let ends = |id| {
            self.conns
                .get(id)
                .and_then(|conn| Some((conn.end?, conn.queue.is_empty() && !conn.connecting)))
        };
        let (Some((source, _)), Some((target, true))) = (ends(from), ends(transfer.to)) else {
            if let Some(conn) = self.conns.get_mut(from) {
                conn.transfer_out = Some(transfer);
            }
            return;
        };
        let before = transfer.moved;
        let end = turn(&mut self.net.borrow_mut(), &mut transfer, source, target);
        self.stats.spliced_bytes += transfer.moved - before;
        let Some(conn) = self.conns.get_mut(from) else { return };
        let (to, moved) = (transfer.to, transfer.moved);
        let Some(end) = end else {
            conn.transfer_out = Some(transfer);
            if moved > before {
                self.told.push_back(Event::SpliceProgress { from, moved });
            }
            return;
        };
        conn.eof |= end == SpliceEnd::Eof;
        conn.broken |= matches!(end, SpliceEnd::SourceBroken(_));
        if let Some(target) = self.conns.get_mut(to) {
            target.transfer_in = None;
            if let SpliceEnd::TargetBroken(error) = end {
                target.send_error = target.send_error.or(Some(error));
            }
        }
        self.told.push_back(Event::Spliced { from, to, moved, end });
    }

    fn drop_transfers(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let to = conn.transfer_out.take().map(|transfer| transfer.to);
        let from = conn.transfer_in.take();
        if let Some(target) = to.and_then(|to| self.conns.get_mut(to)) {
            target.transfer_in = None;
        }
        if let Some(source) = from.and_then(|from| self.conns.get_mut(from)) {
            source.transfer_out = None;
        }
    }

    fn receive(&mut self, id: ConnId) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        let end = conn.end?;
        let mut net = self.net.borrow_mut();
        if !conn.may_read(self.now) || !net.is_readable(end) {
            return None;
        }
        let Ok(mut page) = self.pages.for_receive() else {
            self.stats.starved += 1;
            return None;
        };
        let read = net.read(end, page.spare());
        drop(net);
        match read {
            Read::Nothing => None,
            Read::Bytes(count) => {
                page.advance(count);
                self.ready.push_back(id);
                Some(Event::Data { conn: id, chunk: page.freeze() })
            }
            Read::Eof => {
                conn.eof = true;
                match conn.send_error.take() {
                    Some(error) => {
                        self.broke(id, error);
                        None
                    }
                    None => Some(Event::Eof { conn: id }),
                }
            }
            Read::Broken(error) => {
                let error = conn.send_error.take().unwrap_or(error);
                self.broke(id, error);
                None
            }
        }
    }

    fn finish(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(id) else { return };
        if conn.closing {
            self.lingering -= 1;
        }
        if let Some(end) = conn.end {
            self.net.borrow_mut().close(end);
        }
        self.order.retain(|other| *other != id);
    }

    fn begin_close(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.drop_transfers(id);
        let conn = self.conns.get_mut(id)?;
        if !conn.closing {
            conn.closing = true;
            self.lingering += 1;
        }
        Some(conn)
    }

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

    /// Whether another poll at the same moment would tell something.
    fn is_busy(&self) -> bool {
        let net = self.net.borrow();
        let readable = |id: &ConnId| {
            let conn = self.conns.get(*id)?;
            Some(conn.may_read(self.now) && net.is_readable(conn.end?))
        };
        !self.told.is_empty()
            || (self.pages.for_receive().is_ok()
                && self.order.iter().any(|id| readable(id) == Some(true)))
    }
}

/// Move what can be moved now. `Some`: it has ended.
fn turn(
    net: &mut Net,
    transfer: &mut Transfer,
    source: ConnId,
    target: ConnId,
) -> Option<SpliceEnd> {
    for _ in 0..FILLS_PER_TURN_MAX {
        if transfer.pipe.is_empty() {
            if transfer.left == 0 {
                return Some(SpliceEnd::Limit);
            }
            let want = usize::try_from(transfer.left).unwrap_or(PIPE_BYTES).min(PIPE_BYTES);
            let mut bytes = vec![0; want];
            match net.read(source, &mut bytes) {
                Read::Nothing => return None,
                Read::Eof => return Some(SpliceEnd::Eof),
                Read::Broken(error) => return Some(SpliceEnd::SourceBroken(error)),
                Read::Bytes(count) => {
                    bytes.truncate(count);
                    transfer.left -= count as u64;
                    transfer.pipe = bytes;
                }
            }
        }
        match net.write(target, &transfer.pipe) {
            Ok(0) => return None,
            Ok(count) => {
                transfer.pipe.drain(..count);
                transfer.moved += count as u64;
            }
            Err(error) => return Some(SpliceEnd::TargetBroken(error)),
        }
    }
    None
}

impl Engine for SimEngine {
    type Waker = SimWaker;

    fn name(&self) -> &'static str {
        "sim"
    }

    fn now(&self) -> Now {
        self.now
    }

    fn clock(&self) -> Now {
        self.now()
    }

    fn pages(&self) -> &PagePool {
        &self.pages
    }

    fn waker(&self) -> SimWaker {
        self.waker.clone()
    }

    fn listen(
        &mut self,
        addr: SocketAddr,
        _options: &ListenOptions,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        let (door, bound) = self.net.borrow_mut().listen(addr);
        let id = self.listener_next;
        self.listener_next += 1;
        self.listeners.insert(id, door);
        Ok((ListenerId(id), bound))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if let Some(door) = self.listeners.remove(&listener.0) {
            self.net.borrow_mut().unlisten(door);
        }
    }

    fn connect(&mut self, peer: SocketAddr) -> io::Result<ConnId> {
        let from = SocketAddr::from(([127, 0, 0, 1], 0));
        let end = self.net.borrow_mut().connect(from, peer);
        Ok(self.adopt(end, true))
    }

    fn send(&mut self, conn: ConnId, chunk: Chunk) {
        let Some(place) = self.conns.get_mut(conn) else { return };
        let shut = place.closing || place.shutdown_wanted;
        if !shut && !place.broken && place.send_error.is_none() {
            place.queue.push(chunk, &mut self.spares);
        }
    }

    fn backlog(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |conn| conn.queue.bytes())
    }

    fn shutdown_write(&mut self, conn: ConnId) {
        if let Some(place) = self.conns.get_mut(conn) {
            place.shutdown_wanted = true;
        }
    }

    fn pause(&mut self, conn: ConnId) {
        let Some(place) = self.conns.get_mut(conn) else { return };
        if place.paused || place.closing || place.broken {
            return;
        }
        place.paused = true;
        place.pause_owed = true;
        let mut net = self.net.borrow_mut();
        let lag = nanos(net.weather.pause_lag_max);
        let lag = Duration::from_nanos(net.rng.below(lag + 1));
        place.paused_from = net.moment(lag);
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some(place) = self.conns.get_mut(conn)
            && place.transfer_out.is_none()
        {
            place.paused = false;
            place.pause_owed = false;
        }
    }

    fn splice(&mut self, from: ConnId, to: ConnId, limit: Option<u64>) {
        let open = |id| self.conns.get(id).is_some_and(|conn| !conn.closing);
        if !open(from) || !open(to) {
            return;
        }
        if let Some(source) = self.conns.get_mut(from) {
            assert!(source.paused && !source.pause_owed, "the source is not paused");
            assert!(source.transfer_out.is_none(), "two splices from one connection");
            let left = limit.unwrap_or(u64::MAX);
            source.transfer_out = Some(Transfer { to, left, moved: 0, pipe: Vec::new() });
        }
        if let Some(target) = self.conns.get_mut(to) {
            assert!(target.transfer_in.is_none(), "two splices to one connection");
            target.transfer_in = Some(from);
        }
    }

    fn has_unread(&self, conn: ConnId) -> bool {
        let end = self.conns.get(conn).and_then(|conn| conn.end);
        end.is_some_and(|end| self.net.borrow().has_unread(end))
    }

    fn splice_waits_for_target(&self, from: ConnId) -> bool {
        let transfer = self.conns.get(from).and_then(|conn| conn.transfer_out.as_ref());
        transfer.is_some_and(|transfer| !transfer.pipe.is_empty())
    }

    fn close(&mut self, conn: ConnId) {
        let Some(place) = self.begin_close(conn) else { return };
        if place.queue.is_empty() || place.broken {
            self.finish(conn);
        }
    }

    fn abort(&mut self, conn: ConnId) {
        let Some(place) = self.begin_close(conn) else { return };
        if let Some(end) = place.end.take() {
            self.net.borrow_mut().reset(end);
        }
        if let Some(place) = self.conns.get_mut(conn) {
            place.queue.clear(&mut self.spares);
        }
        self.finish(conn);
    }

    fn lingering(&self) -> usize {
        self.lingering
    }

    fn poll(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.events_left = EVENTS_PER_POLL_MAX;
        self.stats.enters += 1;
        self.now = self.net.borrow().now;
        if self.waker.called.swap(false, Ordering::SeqCst) {
            self.told.push_back(Event::Woken);
        }
        self.accept_all();
        let mut order = self.order.clone();
        let first = self.net.borrow_mut().rng.below(order.len() as u64);
        order.rotate_left(usize::try_from(first).unwrap_or(0));
        for id in &order {
            self.advance(*id);
        }
        self.ready.clear();
        self.ready.extend(order);
        let deadline = match wait {
            _ if self.is_busy() => Some(self.now),
            Some(wait) => Some(Now(self.now.0.saturating_add(nanos(wait.max(TURN_TIME))))),
            None => None,
        };
        self.net.borrow_mut().deadlines[self.place] = deadline;
        Ok(())
    }

    fn next(&mut self) -> Option<Event> {
        while self.events_left > 0 {
            self.events_left -= 1;
            let event = match self.told.pop_front() {
                Some(event) => self.wanted(&event).then_some(event),
                None => {
                    let id = self.ready.pop_front()?;
                    self.receive(id)
                }
            };
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

impl Drop for SimEngine {
    /// As when a process ends: every connection closes.
    fn drop(&mut self) {
        for door in std::mem::take(&mut self.listeners).into_values() {
            self.net.borrow_mut().unlisten(door);
        }
        for id in std::mem::take(&mut self.order) {
            let end = self.conns.remove(id).and_then(|conn| conn.end);
            if let Some(end) = end {
                self.net.borrow_mut().close(end);
            }
        }
        self.net.borrow_mut().deadlines[self.place] = None;
    }
}
