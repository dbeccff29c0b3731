//! Wires, time and chance: what all engines and actors of a simulated world share.
//!
//! Each direction of a connection is an ordered stream of segments; a segment arrives at a drawn time, but never before
//! the one sent before it. What arrives lies in the receiver's inbox until it is read, and counts against the writer's
//! room until then. As on Linux, what was received before a reset can still be read, closing with unread bytes resets,
//! and bytes for an end that is gone are answered with a reset.
//! Deliberately absent: engines. They look here when they are polled.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;

use super::Weather;
use crate::slab::Slab;
use crate::{ConnId, Errno, Now};

/// A small generator of chances (splitmix64): the same everywhere, for ever.
pub(super) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`; zero when `end` is zero.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    /// True in `share` of a thousand cases. Draws nothing when it cannot be.
    pub(super) fn permille(&mut self, share: u32) -> bool {
        share > 0 && self.below(1000) < u64::from(share)
    }

    /// Between 1 and `count`.
    fn part(&mut self, count: usize) -> usize {
        usize::try_from(1 + self.below(count as u64)).unwrap_or(1)
    }
}

/// What travels.
enum What {
    Syn {
        from: ConnId,
        to: SocketAddr,
    },
    Up {
        to: ConnId,
        peer: ConnId,
    },
    Refused {
        to: ConnId,
    },
    Bytes {
        from: ConnId,
        to: ConnId,
        bytes: Vec<u8>,
    },
    Fin {
        to: ConnId,
    },
    Reset {
        to: ConnId,
    },
    /// Only to make time stop there.
    Moment,
}

struct Travelling {
    at: Now,
    /// Breaks ties in the order of sending, so that a life can be replayed.
    number: u64,
    what: What,
}

impl PartialEq for Travelling {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Travelling {}
impl PartialOrd for Travelling {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Travelling {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// One end of a connection.
struct End {
    peer: Option<ConnId>,
    local: SocketAddr,
    /// `None` while connecting.
    outcome: Option<Result<(), Errno>>,
    inbox: VecDeque<u8>,
    fin_arrived: bool,
    reset: bool,
    fin_sent: bool,
    /// Bytes written that the other side has not read.
    unread: usize,
    /// When the segment sent last arrives.
    last_arrival: Now,
    /// When the last segment to here arrives: an answer of the network itself does not overtake it.
    inbound_until: Now,
}

/// What reading finds.
pub(super) enum Read {
    Nothing,
    Bytes(usize),
    Eof,
    Broken(Errno),
}

struct Listening {
    addr: SocketAddr,
    queue: VecDeque<(ConnId, SocketAddr)>,
}

/// See the module head.
pub(super) struct Net {
    pub(super) now: Now,
    pub(super) rng: Rng,
    pub(super) weather: Weather,
    pub(super) black_holes: BTreeSet<SocketAddr>,
    /// Until when each engine would wait.
    pub(super) deadlines: Vec<Option<Now>>,
    travelling: BinaryHeap<Reverse<Travelling>>,
    sent: u64,
    ends: Slab<Option<End>>,
    listeners: BTreeMap<u32, Listening>,
    listener_next: u32,
    port_next: u16,
}

/// Ports given out, to listeners on port 0 and to engines that connect.
const FIRST_PORT: u16 = 20_000;

impl Net {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now: Now(0),
            rng: Rng(seed),
            weather: Weather::calm(),
            black_holes: BTreeSet::new(),
            deadlines: Vec::new(),
            travelling: BinaryHeap::new(),
            sent: 0,
            ends: Slab::new(),
            listeners: BTreeMap::new(),
            listener_next: 0,
            port_next: FIRST_PORT,
        }
    }

    // === time ===

    pub(super) fn step(&mut self, end: Now) -> bool {
        let arrival = self.travelling.peek().map(|Reverse(next)| next.at);
        let deadline = self.deadlines.iter().flatten().min().copied();
        let Some(at) = arrival.into_iter().chain(deadline).min().filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(at);
        for deadline in &mut self.deadlines {
            deadline.take_if(|deadline| *deadline <= self.now);
        }
        while self.travelling.peek().is_some_and(|Reverse(next)| next.at <= self.now) {
            if let Some(Reverse(next)) = self.travelling.pop() {
                self.arrive(next.what);
            }
        }
        true
    }

    /// Make time stop after `wait`.
    pub(super) fn moment(&mut self, wait: std::time::Duration) -> Now {
        let at = Now(self.now.0 + nanos(wait));
        self.travel(at, What::Moment);
        at
    }

    fn travel(&mut self, at: Now, what: What) {
        self.sent += 1;
        self.travelling.push(Reverse(Travelling { at, number: self.sent, what }));
    }

    fn delayed(&mut self) -> Now {
        let (min, max) = (nanos(self.weather.delay_min), nanos(self.weather.delay_max));
        Now(self.now.0 + min + self.rng.below(max.saturating_sub(min) + 1))
    }

    /// Send along the ordered stream of `from`.
    fn send_from(&mut self, from: ConnId, what: What) {
        let drawn = self.delayed();
        let Some(end) = self.end_mut(from) else { return };
        let at = drawn.max(end.last_arrival);
        end.last_arrival = at;
        let peer = end.peer;
        if let Some(peer) = peer.and_then(|peer| self.end_mut(peer)) {
            peer.inbound_until = at;
        }
        self.travel(at, what);
    }

    fn end(&self, id: ConnId) -> Option<&End> {
        self.ends.get(id)?.as_ref()
    }

    fn end_mut(&mut self, id: ConnId) -> Option<&mut End> {
        self.ends.get_mut(id)?.as_mut()
    }

    // === what arrives ===

    fn arrive(&mut self, what: What) {
        match what {
            What::Syn { from, to } => self.syn_arrives(from, to),
            What::Up { to, peer } => match self.end_mut(to) {
                Some(end) => {
                    end.outcome = Some(Ok(()));
                    end.peer = Some(peer);
                }
                None => self.break_end(peer),
            },
            What::Refused { to } => {
                if let Some(end) = self.end_mut(to) {
                    end.outcome = Some(Err(Errno(libc::ECONNREFUSED)));
                }
            }
            What::Bytes { from, to, bytes } => {
                let breaks = self.rng.permille(self.weather.resets);
                match self.end_mut(to) {
                    // What was lost when it broke leaves a hole: nothing after it may be read.
                    Some(end) if end.reset => {}
                    Some(end) if !breaks => end.inbox.extend(bytes),
                    Some(_) => {
                        self.break_end(to);
                        self.break_end(from);
                    }
                    None => self.travel_reset(from),
                }
            }
            What::Fin { to } => {
                if let Some(end) = self.end_mut(to) {
                    end.fin_arrived = true;
                }
            }
            What::Reset { to } => self.break_end(to),
            What::Moment => {}
        }
    }

    fn syn_arrives(&mut self, from: ConnId, to: SocketAddr) {
        let Some(peer) = self.end(from).map(|end| end.local) else { return };
        if self.black_holes.contains(&to) {
            return;
        }
        let refused = self.rng.permille(self.weather.refusals);
        let listening = self.listeners.iter().filter(|(_, listening)| listening.addr == to);
        let doors: Vec<u32> = listening.map(|(id, _)| *id).collect();
        let at = self.delayed();
        if doors.is_empty() || refused {
            self.travel(at, What::Refused { to: from });
            return;
        }
        // As SO_REUSEPORT: one of those who listen there.
        let chosen = usize::try_from(self.rng.below(doors.len() as u64)).unwrap_or(0);
        let id = self.ends.insert(Some(End {
            peer: Some(from),
            outcome: Some(Ok(())),
            last_arrival: at,
            ..End::new(to)
        }));
        self.travel(at, What::Up { to: from, peer: id });
        if let Some(listening) = self.listeners.get_mut(&doors[chosen]) {
            listening.queue.push_back((id, peer));
        }
    }

    fn break_end(&mut self, id: ConnId) {
        if let Some(end) = self.end_mut(id) {
            end.reset = true;
        }
    }

    fn travel_reset(&mut self, to: ConnId) {
        let drawn = self.delayed();
        let Some(end) = self.end(to) else { return };
        let at = drawn.max(end.inbound_until);
        self.travel(at, What::Reset { to });
    }

    // === what engines and actors do ===

    pub(super) fn connect(&mut self, from: SocketAddr, to: SocketAddr) -> ConnId {
        let local = if from.port() == 0 { self.with_port(from) } else { from };
        let id = self.ends.insert(Some(End::new(local)));
        self.send_from(id, What::Syn { from: id, to });
        id
    }

    fn with_port(&mut self, mut addr: SocketAddr) -> SocketAddr {
        addr.set_port(self.port_next);
        self.port_next = self.port_next.checked_add(1).unwrap_or(FIRST_PORT);
        addr
    }

    pub(super) fn listen(&mut self, addr: SocketAddr) -> (u32, SocketAddr) {
        let addr = if addr.port() == 0 { self.with_port(addr) } else { addr };
        let id = self.listener_next;
        self.listener_next += 1;
        self.listeners.insert(id, Listening { addr, queue: VecDeque::new() });
        (id, addr)
    }

    pub(super) fn unlisten(&mut self, id: u32) {
        if let Some(listening) = self.listeners.remove(&id) {
            for (end, _) in listening.queue {
                self.reset(end);
            }
        }
    }

    pub(super) fn accept(&mut self, id: u32) -> Option<(ConnId, SocketAddr)> {
        self.listeners.get_mut(&id)?.queue.pop_front()
    }

    pub(super) fn outcome(&self, id: ConnId) -> Option<Result<(), Errno>> {
        self.end(id)?.outcome
    }

    pub(super) fn is_readable(&self, id: ConnId) -> bool {
        self.end(id).is_some_and(|end| !end.inbox.is_empty() || end.fin_arrived || end.reset)
    }

    pub(super) fn write(&mut self, id: ConnId, bytes: &[u8]) -> Result<usize, Errno> {
        let (room, short) = (self.weather.socket_bytes, self.weather.short_writes);
        let Some(end) = self.end(id) else { return Err(Errno(libc::EPIPE)) };
        match end.outcome {
            None => return Err(Errno(libc::ENOTCONN)),
            Some(Err(error)) => return Err(error),
            Some(Ok(())) if end.reset => return Err(Errno(libc::ECONNRESET)),
            Some(Ok(())) if end.fin_sent => return Err(Errno(libc::EPIPE)),
            Some(Ok(())) => {}
        }
        let mut count = bytes.len().min(room.saturating_sub(end.unread));
        let Some(peer) = end.peer.filter(|_| count > 0) else { return Ok(0) };
        if self.rng.permille(short) {
            count = self.rng.part(count);
        }
        if let Some(end) = self.end_mut(id) {
            end.unread += count;
        }
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            let split = self.rng.permille(self.weather.splits);
            let part = if split { self.rng.part(rest.len()) } else { rest.len() };
            let (now, later) = rest.split_at(part);
            self.send_from(id, What::Bytes { from: id, to: peer, bytes: now.to_vec() });
            rest = later;
        }
        Ok(count)
    }

    /// Whether `read` would give something else than `Nothing`.
    pub(super) fn has_unread(&self, id: ConnId) -> bool {
        let Some(end) = self.end(id) else { return true };
        !end.inbox.is_empty() || end.fin_arrived || end.reset || matches!(end.outcome, Some(Err(_)))
    }

    pub(super) fn read(&mut self, id: ConnId, into: &mut [u8]) -> Read {
        let short = self.rng.permille(self.weather.short_reads);
        let Some(end) = self.end(id) else { return Read::Broken(Errno(libc::EBADF)) };
        let mut count = end.inbox.len().min(into.len());
        if count == 0 {
            return match end.outcome {
                Some(Err(error)) => Read::Broken(error),
                Some(Ok(())) if end.reset => Read::Broken(Errno(libc::ECONNRESET)),
                Some(Ok(())) if end.fin_arrived => Read::Eof,
                _ => Read::Nothing,
            };
        }
        if short {
            count = self.rng.part(count);
        }
        let Some(end) = self.end_mut(id) else { return Read::Nothing };
        let (first, second) = end.inbox.as_slices();
        let split = first.len().min(count);
        into[..split].copy_from_slice(&first[..split]);
        into[split..count].copy_from_slice(&second[..count - split]);
        end.inbox.drain(..count);
        let peer = end.peer;
        if let Some(peer) = peer.and_then(|peer| self.end_mut(peer)) {
            peer.unread -= count;
        }
        Read::Bytes(count)
    }

    pub(super) fn fin(&mut self, id: ConnId) {
        let Some(end) = self.end_mut(id) else { return };
        if !end.fin_sent {
            end.fin_sent = true;
            if let Some(to) = end.peer {
                self.send_from(id, What::Fin { to });
            }
        }
    }

    /// The end is gone for its owner.
    pub(super) fn close(&mut self, id: ConnId) {
        if self.end(id).is_some_and(|end| !end.inbox.is_empty()) {
            self.reset(id);
        } else {
            self.fin(id);
            self.ends.remove(id);
        }
    }

    pub(super) fn reset(&mut self, id: ConnId) {
        if let Some(to) = self.end(id).and_then(|end| end.peer) {
            self.send_from(id, What::Reset { to });
        }
        self.ends.remove(id);
    }
}

impl End {
    const fn new(local: SocketAddr) -> Self {
        Self {
            peer: None,
            local,
            outcome: None,
            inbox: VecDeque::new(),
            fin_arrived: false,
            reset: false,
            fin_sent: false,
            unread: 0,
            last_arrival: Now(0),
            inbound_until: Now(0),
        }
    }
}

pub(super) fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}
