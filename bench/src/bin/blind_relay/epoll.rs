//! The relay on edge-triggered epoll: one receive and one send for each piece.
//!
//! Deliberately absent: splicing. The floor for bodies is what copying costs.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt,
};

const TOKEN_LISTENER: u64 = u64::MAX;
const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);
const SCRATCH_BYTES: usize = 256 << 10;
const EVENTS_MAX: usize = 256;
const BACKLOG: i32 = 4_096;

/// One side of a pair; the other side's number differs in the lowest bit.
struct End {
    fd: OwnedFd,
    generation: u32,
    /// What this side's socket did not take; its partner is not read while there is any.
    unsent: Vec<u8>,
    has_ended: bool,
}

struct Relay {
    origin: SocketAddr,
    epoll: OwnedFd,
    listener: OwnedFd,
    ends: Vec<Option<End>>,
    pairs_free: Vec<usize>,
    generation: u32,
    scratch: Vec<u8>,
}

/// Relays until something breaks that is not a connection.
pub(crate) fn run(
    listen: SocketAddr,
    origin: SocketAddr,
) -> Result<std::convert::Infallible, String> {
    Relay::new(listen, origin).and_then(|mut relay| relay.run()).map_err(|e| e.to_string())
}

impl Relay {
    fn new(listen: SocketAddr, origin: SocketAddr) -> Result<Self, Errno> {
        let listener = net::socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None)?;
        sockopt::set_socket_reuseaddr(&listener, true)?;
        sockopt::set_tcp_nodelay(&listener, true)?;
        net::bind(&listener, &listen)?;
        net::listen(&listener, BACKLOG)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(TOKEN_LISTENER), EventFlags::IN)?;
        Ok(Self {
            origin,
            epoll,
            listener,
            ends: Vec::new(),
            pairs_free: Vec::new(),
            generation: 0,
            scratch: vec![0; SCRATCH_BYTES],
        })
    }

    fn run(&mut self) -> Result<std::convert::Infallible, Errno> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            for event in &events {
                let token = event.data.u64();
                if token == TOKEN_LISTENER {
                    self.accept()?;
                } else {
                    self.on_event(token, event.flags);
                }
            }
        }
    }

    fn accept(&mut self) -> Result<(), Errno> {
        loop {
            let client = match net::accept_with(&self.listener, FLAGS) {
                Ok(fd) => fd,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            let origin = net::socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None)?;
            sockopt::set_tcp_nodelay(&origin, true)?;
            match net::connect(&origin, &self.origin) {
                Ok(()) | Err(Errno::INPROGRESS) => self.insert(client, origin)?,
                Err(_) => drop(client),
            }
        }
    }

    fn insert(&mut self, client: OwnedFd, origin: OwnedFd) -> Result<(), Errno> {
        let first = self.pairs_free.pop().unwrap_or_else(|| {
            self.ends.extend([None, None]);
            self.ends.len() - 2
        });
        self.generation = self.generation.wrapping_add(1) & 0x7FFF_FFFF;
        for (number, fd) in [(first, client), (first + 1, origin)] {
            let token = u64::from(self.generation) << 32 | number as u64;
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(&self.epoll, &fd, EventData::new_u64(token), flags)?;
            let generation = self.generation;
            self.ends[number] = Some(End { fd, generation, unsent: Vec::new(), has_ended: false });
        }
        Ok(())
    }

    fn on_event(&mut self, token: u64, flags: EventFlags) {
        let number = usize::try_from(token & u64::from(u32::MAX)).unwrap_or(0);
        let is_current =
            self.ends[number].as_ref().is_some_and(|end| u64::from(end.generation) == token >> 32);
        if !is_current {
            return;
        }
        let may_read = flags
            .intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let outcome = (|| {
            if flags.contains(EventFlags::OUT) && self.flush(number)? {
                // Its partner had to wait; what it has meanwhile received raises no new edge.
                self.copy(number ^ 1, true)?;
            }
            if may_read { self.copy(number, flags.contains(EventFlags::RDHUP)) } else { Ok(()) }
        })();
        let both_ended =
            [number, number ^ 1].iter().all(|&n| self.ends[n].as_ref().is_none_or(|e| e.has_ended));
        if outcome.is_err() || both_ended {
            self.ends[number] = None;
            self.ends[number ^ 1] = None;
            self.pairs_free.push(number & !1);
        }
    }

    /// Sends what waits. `true` when something waited and all of it has gone.
    fn flush(&mut self, number: usize) -> Result<bool, Errno> {
        let Some(end) = &mut self.ends[number] else { return Ok(false) };
        if end.unsent.is_empty() {
            return Ok(false);
        }
        match net::send(&end.fd, &end.unsent, SendFlags::NOSIGNAL) {
            Ok(sent) => end.unsent.drain(..sent),
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(end.unsent.is_empty())
    }

    /// Moves what has come from one side to the other, until a receive is short or the other side is full.
    fn copy(&mut self, number: usize, may_end: bool) -> Result<(), Errno> {
        loop {
            let (Some(from), Some(to)) = (&self.ends[number], &self.ends[number ^ 1]) else {
                return Ok(());
            };
            if from.has_ended || !to.unsent.is_empty() {
                return Ok(());
            }
            let received = match net::recv(&from.fd, &mut self.scratch[..], RecvFlags::empty()) {
                Ok((_, received)) => received,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            };
            if received == 0 {
                // The other way stays open: half-close is passed on.
                net::shutdown(&to.fd, Shutdown::Write)?;
                if let Some(from) = &mut self.ends[number] {
                    from.has_ended = true;
                }
                return Ok(());
            }
            let sent = match net::send(&to.fd, &self.scratch[..received], SendFlags::NOSIGNAL) {
                Ok(sent) => sent,
                // Also while the connection to the origin is still being made.
                Err(Errno::AGAIN) => 0,
                Err(error) => return Err(error),
            };
            if sent < received {
                if let Some(to) = &mut self.ends[number ^ 1] {
                    to.unsent.extend_from_slice(&self.scratch[sent..received]);
                }
                return Ok(());
            }
            if received < SCRATCH_BYTES && !may_end {
                return Ok(());
            }
        }
    }
}
