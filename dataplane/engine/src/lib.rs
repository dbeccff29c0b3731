//! The I/O seam of the data plane: one completion-shaped trait, [`Engine`], and three worlds behind it.
//!
//! ```text
//!   core ── connect / send / pause / splice / close ──▶ Engine ──▶ kernel (io_uring | epoll) or simulated network
//!        ◀── Event: accepted, data, sent, eof, broken ──
//! ```
//!
//! One engine belongs to one thread; nothing here is `Send` except [`Waker`]. A call never blocks and never
//! re-enters the caller: whatever happens is told by [`Engine::next`].
//! Deliberately absent: protocols, routing, timers of connections, retries. The core owns those.

#![allow(unsafe_code)] // The one crate of the data plane that may; each block says why it is sound.

mod page;
mod queue;
mod slab;
mod splice;
mod sys;
mod waker;

pub mod epoll;
pub mod probe;
pub mod sim;
pub mod uring;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use page::{
    Chunk, Full, LARGE_BYTES, LARGE_IDLE_MAX, Page, PagePool, PoolExhausted, SMALL_BYTES,
    SMALL_IDLE_MAX,
};
pub use waker::FdWaker;

/// Nanoseconds on the engine's own monotonic clock; in the simulated world, virtual time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now(pub u64);

/// A connection slot with its generation: an id of a closed connection never names its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    /// Dense slot number, reused after the connection is wholly gone; index side tables by it.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

/// A listener of this engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u32);

/// Why a connection broke: the `errno` of the failing operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// How a splice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpliceEnd {
    /// All bytes asked for have been moved to the target's socket.
    Limit,
    /// The source sent FIN; all it sent before has been moved to the target's socket.
    Eof,
    /// The source broke; what it sent before may be lost.
    SourceBroken(Errno),
    /// The target broke.
    TargetBroken(Errno),
}

/// What happened. For one connection, events come in the order in which the peer caused them.
#[derive(Debug)]
pub enum Event {
    /// A client connected; reading is armed already. The connection is the core's to close.
    Accepted {
        /// Which listener took it.
        listener: ListenerId,
        /// The new connection.
        conn: ConnId,
        /// The client's address.
        peer: SocketAddr,
    },
    /// An outgoing connection is up; reading is armed already.
    Connected {
        /// The id that [`Engine::connect`] gave.
        conn: ConnId,
    },
    /// An outgoing connection failed. The core still has to `close` it.
    ConnectFailed {
        /// The id that [`Engine::connect`] gave.
        conn: ConnId,
        /// Why.
        error: Errno,
    },
    /// Bytes from the peer, never empty. May still come for a while after `pause`, never after `Paused`.
    Data {
        /// From whom.
        conn: ConnId,
        /// The bytes; dropping the chunk gives its page back.
        chunk: Chunk,
    },
    /// The peer sent FIN. No more `Data`; sending still works.
    Eof {
        /// Who.
        conn: ConnId,
    },
    /// The send queue shrank: some of what `send` was given is with the kernel.
    Sent {
        /// On which connection.
        conn: ConnId,
        /// Bytes still queued in the engine; 0 means that all is with the kernel.
        left: usize,
    },
    /// Reading has stopped after `pause`: no `Data` until `resume`.
    Paused {
        /// Which connection.
        conn: ConnId,
    },
    /// A splice ended. Both connections are paused for reading on the source's side; `resume` re-arms it.
    Spliced {
        /// The source.
        from: ConnId,
        /// The target.
        to: ConnId,
        /// Bytes that reached the target's socket.
        moved: u64,
        /// How it ended.
        end: SpliceEnd,
    },
    /// A splice moved bytes since the last such event (at most one for each splice and poll). For idle time-outs.
    SpliceProgress {
        /// The source.
        from: ConnId,
        /// Bytes moved since the splice began.
        moved: u64,
    },
    /// Reset, time-out of the peer, EPIPE. No further event for it; the core still has to `close` it.
    /// A failed send is told after everything the peer had sent before (it may be an answer). While reading is paused,
    /// only a failed send tells the end; the rest is found after `resume`.
    Broken {
        /// Which connection.
        conn: ConnId,
        /// Why.
        error: Errno,
    },
    /// A [`Waker`] was used since the last poll.
    Woken,
}

/// What an engine is given at its birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// The most bytes that pages of this engine may hold together. Beyond, receiving waits (`starved`).
    pub page_bytes_max: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { page_bytes_max: 256 * 1024 * 1024 }
    }
}

/// How to listen.
#[derive(Clone, Debug, Default)]
pub struct ListenOptions {
    /// Length of the queue of connections not yet accepted; 0: 4,096. The kernel caps it at `somaxconn`.
    pub backlog: u32,
}

/// What the engine did so far, for the metrics page and for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Calls into the kernel that wait or submit.
    pub enters: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// `accept` calls that failed (descriptor limit and the like).
    pub accept_failed: u64,
    /// Receives that found no free page; each was re-armed later.
    pub starved: u64,
    /// Pages that exist in this engine's pool.
    pub pages: u64,
    /// Pages in use right now by chunks that somebody holds.
    pub pages_held: u64,
    /// Bytes moved by splice.
    pub spliced_bytes: u64,
}

/// A world of sockets, in the shape of completions. See the module head for the rules.
pub trait Engine {
    /// Wakes this engine out of `poll` from any thread.
    type Waker: Waker;

    /// Short name for logs and metrics: `io_uring`, `epoll`, `sim`.
    fn name(&self) -> &'static str;

    /// The time read once per `poll`; constant between two polls.
    fn now(&self) -> Now;

    /// The time at this very moment. Costs a clock read: once per poll, not per event.
    fn clock(&self) -> Now;

    /// The pages from which outgoing chunks are made.
    fn pages(&self) -> &PagePool;

    /// A handle that ends a waiting `poll` with [`Event::Woken`].
    fn waker(&self) -> Self::Waker;

    /// Bind and listen with `SO_REUSEPORT`; gives the address bound (port 0 is filled in).
    fn listen(
        &mut self,
        addr: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<(ListenerId, SocketAddr)>;

    /// Stop accepting and close the listening socket. Connections accepted before live on.
    /// Unknown ids are ignored.
    fn unlisten(&mut self, listener: ListenerId);

    /// Begin to connect. The outcome is `Connected` or `ConnectFailed`; `Err` only when no socket could be made.
    /// No time-out: the core closes a connection that takes too long.
    fn connect(&mut self, peer: SocketAddr) -> io::Result<ConnId>;

    /// Queue bytes to send, in order. What is queued between two polls leaves in one vectored send.
    /// Unknown, closed, shut or broken connections drop the chunk; before `Connected` it waits. Unbounded here: the core watches `backlog`.
    fn send(&mut self, conn: ConnId, chunk: Chunk);

    /// Bytes queued by `send` that the kernel has not taken yet.
    fn backlog(&self, conn: ConnId) -> usize;

    /// Send FIN when all that is queued has left. Idempotent.
    fn shutdown_write(&mut self, conn: ConnId);

    /// Stop reading; `Paused` confirms. Idempotent: at most one `Paused` for each run of pauses without resume.
    fn pause(&mut self, conn: ConnId);

    /// Read again after `pause` (also before `Paused` came).
    fn resume(&mut self, conn: ConnId);

    /// Move bytes from one socket to another through a pooled pipe until `limit` bytes or FIN.
    /// Required: `from` is paused and `Paused` came. What is queued on `to` leaves first; connections that are not up
    /// yet are waited for. Ends with `Spliced` (after a broken side no `Broken` need follow for it),
    /// unless either connection is closed by the core before: then no event for it.
    /// Two splices, one in each direction, may run between the same pair.
    fn splice(&mut self, from: ConnId, to: ConnId, limit: Option<u64>);

    /// Whether the splice from this connection waits for its target to take more. `false` when it waits for the
    /// source, and when there is none. So that a time-out knows whose fault it is.
    fn splice_waits_for_target(&self, from: ConnId) -> bool;

    /// Whether the socket holds something that was not received yet: bytes or FIN. One system call; for the moment
    /// after a splice, when nobody has looked at what follows.
    fn has_unread(&self, conn: ConnId) -> bool;

    /// Close when all that is queued has left; no event for this connection comes after the call.
    /// A connection that cannot take its bytes is the core's to `abort` after a time-out: until then
    /// `lingering` counts it, and `abort` works on it.
    fn close(&mut self, conn: ConnId);

    /// Close at once with RST where possible; what is queued is dropped. No event comes after the call.
    fn abort(&mut self, conn: ConnId);

    /// Connections that wait in `close` for their bytes to leave.
    fn lingering(&self) -> usize;

    /// Hand submissions to the kernel, wait at most `wait` (`None`: until something happens; zero: do not wait),
    /// and collect what happened. Deferred work (closing many sockets) is bounded per call, so that one poll
    /// never takes more than a few milliseconds; a poll that left work behind does not wait.
    fn poll(&mut self, wait: Option<Duration>) -> io::Result<()>;

    /// The next event of the last poll. `None`: poll again, after at most [`EVENTS_PER_POLL_MAX`] events. Events left
    /// behind come after the next poll, which then does not wait.
    fn next(&mut self) -> Option<Event>;

    /// Counters since the start.
    fn stats(&self) -> EngineStats;
}

/// Wakes an engine from another thread. Cheap when the engine is awake already.
pub trait Waker: Clone + Send + Sync + 'static {
    /// End the current or the next waiting `poll`.
    fn wake(&self);
}

/// Sockets closed in one poll; more wait for the next. Closing takes up to 10 µs, so this is about half a millisecond.
pub const CLOSES_PER_POLL_MAX: usize = 64;

/// After so many events, `next` says `None`, so that timers and commands of the core get their turn.
pub const EVENTS_PER_POLL_MAX: u32 = 1024;
