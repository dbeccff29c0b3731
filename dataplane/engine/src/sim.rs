//! The simulated world: many engines and test actors on one seeded network with virtual time.
//!
//! ```text
//!   SimEngine ─┐                        ┌─ Socket, Door   (actors of a test: dial, write, read, fin, reset)
//!              ├─▶ Net: time, wires ◀───┤
//!   SimEngine ─┘     ▲                  └─ Weather        (delays, splits, short reads and writes, resets …)
//!                    └── World::step: to the next moment at which something happens
//! ```
//!
//! The same seed and the same calls give the same life, event by event; nothing reads a clock. A `poll` never waits: it
//! notes how long it would, and [`World::step`] moves time to the next arrival or to the first such deadline. So a test
//! drives any number of cores in one thread: poll all, then step.
//! Deliberately absent: congestion, loss (TCP hides both behind delay), and threads (only wakers may cross).

mod engine;
mod net;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::{ConnId, EngineOptions, Errno, Now};
pub use engine::{SimEngine, SimWaker};
use net::{Net, Read};

/// What the network does to those who use it. Shares are in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Each segment travels this long at least.
    pub delay_min: Duration,
    /// And this long at most.
    pub delay_max: Duration,
    /// Writes that travel in several segments of random lengths.
    pub splits: u32,
    /// Reads that give fewer bytes than there are.
    pub short_reads: u32,
    /// Writes that take fewer bytes than there is room for.
    pub short_writes: u32,
    /// Connects that are refused although somebody listens.
    pub refusals: u32,
    /// Segments on whose arrival the connection breaks for both ends.
    pub resets: u32,
    /// A pause takes effect up to this long after it was asked for; bytes come until then.
    pub pause_lag_max: Duration,
    /// Bytes on the way in one direction before a writer must wait.
    pub socket_bytes: usize,
}

impl Weather {
    /// Everything arrives, whole, after 50 µs.
    #[must_use]
    pub const fn calm() -> Self {
        Self {
            delay_min: Duration::from_micros(50),
            delay_max: Duration::from_micros(50),
            splits: 0,
            short_reads: 0,
            short_writes: 0,
            refusals: 0,
            resets: 0,
            pause_lag_max: Duration::ZERO,
            socket_bytes: 256 * 1024,
        }
    }

    /// Nothing is lost, but nothing is whole or punctual either.
    #[must_use]
    pub const fn gusty() -> Self {
        Self {
            delay_min: Duration::from_micros(10),
            delay_max: Duration::from_millis(3),
            splits: 300,
            short_reads: 200,
            short_writes: 200,
            refusals: 0,
            resets: 0,
            pause_lag_max: Duration::from_millis(1),
            socket_bytes: 48 * 1024,
        }
    }

    /// As `gusty`, and connections are refused and break.
    #[must_use]
    pub const fn stormy() -> Self {
        Self { refusals: 30, resets: 5, ..Self::gusty() }
    }
}

/// One simulated network. Cheap to clone; all clones are the same world.
#[derive(Clone)]
pub struct World {
    net: Rc<RefCell<Net>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World at {:?}", self.now())
    }
}

impl World {
    /// A world in calm weather whose chances all follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { net: Rc::new(RefCell::new(Net::new(seed))) }
    }

    /// Change the weather from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.net.borrow_mut().weather = weather;
    }

    /// A machine in this world.
    #[must_use]
    pub fn engine(&self, options: &EngineOptions) -> SimEngine {
        SimEngine::new(Rc::clone(&self.net), options)
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Now {
        self.net.borrow().now
    }

    /// Move time to the next moment at which something arrives or an engine would end its wait, and let it happen.
    /// `false`: nothing ever will.
    pub fn step(&self) -> bool {
        self.net.borrow_mut().step(Now(u64::MAX))
    }

    /// As [`World::step`], but never beyond `end`. `false`: time stands at `end`, and nothing more happens until then.
    pub fn step_until(&self, end: Now) -> bool {
        let mut net = self.net.borrow_mut();
        let stepped = net.step(end);
        if !stepped {
            net.now = net.now.max(end);
        }
        stepped
    }

    /// From now on, nobody at this address answers, neither yes nor no.
    pub fn black_hole(&self, addr: SocketAddr) {
        self.net.borrow_mut().black_holes.insert(addr);
    }

    /// A number below `end` (which is above zero), for the chances of a test's own actors.
    pub fn chance(&self, end: u64) -> u64 {
        self.net.borrow_mut().rng.below(end)
    }

    /// An actor connects from `from` (an address of its choice) to `to`.
    #[must_use]
    pub fn dial(&self, from: SocketAddr, to: SocketAddr) -> Socket {
        let end = self.net.borrow_mut().connect(from, to);
        Socket { net: Rc::clone(&self.net), end }
    }

    /// An actor listens; port 0 gives a free one.
    ///
    /// # Errors
    /// None today; the type is that of [`crate::Engine::listen`].
    pub fn listen(&self, addr: SocketAddr) -> io::Result<Door> {
        let (id, bound) = self.net.borrow_mut().listen(addr);
        Ok(Door { net: Rc::clone(&self.net), id, addr: bound })
    }
}

/// A listening actor.
pub struct Door {
    net: Rc<RefCell<Net>>,
    id: u32,
    addr: SocketAddr,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Door({})", self.addr)
    }
}

impl Door {
    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection that has arrived.
    #[must_use]
    pub fn accept(&self) -> Option<(Socket, SocketAddr)> {
        let (end, peer) = self.net.borrow_mut().accept(self.id)?;
        Some((Socket { net: Rc::clone(&self.net), end }, peer))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.net.borrow_mut().unlisten(self.id);
    }
}

/// What an actor finds when it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing yet.
    Nothing,
    /// Bytes, not empty.
    Bytes(Vec<u8>),
    /// The other side's FIN.
    Eof,
    /// The connection broke or never came up.
    Broken(Errno),
}

/// One end of a connection in the hands of a test. Dropping it closes it.
pub struct Socket {
    net: Rc<RefCell<Net>>,
    end: ConnId,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({:?})", self.end)
    }
}

impl Socket {
    /// Whether the connection is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.net.borrow().outcome(self.end) == Some(Ok(()))
    }

    /// Write; gives how many bytes were taken (fewer when the other side does not read).
    ///
    /// # Errors
    /// The connection broke, is not up, or was shut by us.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        self.net.borrow_mut().write(self.end, bytes)
    }

    /// Read what has arrived, at most `max` bytes.
    #[must_use]
    pub fn read(&self, max: usize) -> Found {
        let mut bytes = vec![0; max];
        match self.net.borrow_mut().read(self.end, &mut bytes) {
            Read::Nothing => Found::Nothing,
            Read::Eof => Found::Eof,
            Read::Broken(error) => Found::Broken(error),
            Read::Bytes(count) => {
                bytes.truncate(count);
                Found::Bytes(bytes)
            }
        }
    }

    /// Send FIN after what was written.
    pub fn fin(&self) {
        self.net.borrow_mut().fin(self.end);
    }

    /// Break the connection.
    pub fn reset(&self) {
        self.net.borrow_mut().reset(self.end);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.net.borrow_mut().close(self.end);
    }
}
