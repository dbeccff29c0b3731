//! Moving bytes between two sockets without seeing them: splice(2) through pooled pipes.
//!
//! ```text
//!   source ──splice──▶ pipe ──splice──▶ target      fill only an empty pipe, drain before the next fill
//! ```
//!
//! The rule "fill only an empty pipe" makes `EAGAIN` mean one thing each time: from a fill, that the source has
//! nothing; from a drain, that the target is full. (A pipe also says `EAGAIN` when its slots are used up.)
//! A transfer holds a pipe only while bytes are in it: ten thousand silent tunnels hold none.
//! Deliberately absent: waiting. The engine learns readiness in its own way and then calls [`Transfers::wake`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::slab::Slab;
use crate::{ConnId, Errno, SpliceEnd, sys};

/// Size asked for; what the kernel grants instead is used just the same.
const PIPE_BYTES: i32 = 256 * 1024;
/// The most one fill may bring; what a pipe holds is bounded by the kernel anyway.
const FILL_BYTES: usize = 1024 * 1024;
/// Bytes moved in one turn before other connections get theirs.
const TURN_BYTES: u64 = 512 * 1024;
/// Bytes that all transfers of an engine together move in one poll; about a millisecond's work.
const POLL_BYTES: u64 = 4 * 1024 * 1024;
/// Pipes that may exist for one engine; transfers beyond wait for one to become empty.
const PIPES_MAX: usize = 512;
/// Empty pipes kept for later use.
const PIPES_IDLE_MAX: usize = 32;

/// A pipe, both ends non-blocking.
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let mut fds = [0i32; 2];
        // SAFETY: `fds` has room for two descriptors.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: two fresh descriptors that nobody else owns.
        let pipe = unsafe {
            Self { read: OwnedFd::from_raw_fd(fds[0]), write: OwnedFd::from_raw_fd(fds[1]) }
        };
        // SAFETY: no pointers. A refusal (the user's share of pipe pages is used up) leaves the smaller default size.
        unsafe { libc::fcntl(fds[1], libc::F_SETPIPE_SZ, PIPE_BYTES) };
        Ok(pipe)
    }
}

/// Empty pipes, newest first.
#[derive(Default)]
struct PipePool {
    idle: Vec<Pipe>,
    existing: usize,
    /// The last try to make one failed, and none came back since.
    failing: bool,
}

impl PipePool {
    /// `Ok(None)`: none to be had now, but some exist and will come back.
    fn take(&mut self) -> Result<Option<Pipe>, Errno> {
        if let Some(pipe) = self.idle.pop() {
            return Ok(Some(pipe));
        }
        if self.existing >= PIPES_MAX {
            return Ok(None);
        }
        match Pipe::new() {
            Ok(pipe) => {
                self.existing += 1;
                Ok(Some(pipe))
            }
            Err(_) if self.existing > 0 => {
                self.failing = true;
                Ok(None)
            }
            Err(error) => Err(Errno(error.raw_os_error().unwrap_or(libc::EMFILE))),
        }
    }

    /// Whether it is worth to try again.
    fn available(&self) -> bool {
        !self.idle.is_empty() || (self.existing < PIPES_MAX && !self.failing)
    }

    fn give(&mut self, pipe: Pipe, empty: bool) {
        self.failing = false;
        if empty && self.idle.len() < PIPES_IDLE_MAX {
            self.idle.push(pipe);
        } else {
            // Bytes left in a pipe must never reach another connection.
            self.existing -= 1;
            drop(pipe);
        }
    }
}

/// What a transfer waits for after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Bytes or FIN from the source.
    Source,
    /// Room at the target.
    Target,
    /// A pipe of the pool.
    Pipe,
    /// Nothing: its turn was over.
    Turn,
    /// Nothing any more.
    End(SpliceEnd),
}

/// One running splice.
pub(crate) struct Transfer {
    pub(crate) from: ConnId,
    pub(crate) to: ConnId,
    /// Bytes that may still be taken from the source.
    left: u64,
    /// Bytes that reached the target's socket.
    pub(crate) moved: u64,
    in_pipe: usize,
    pipe: Option<Pipe>,
    eof: bool,
    /// Readiness that an engine has asked for and not been told yet; for its own use.
    pub(crate) source_asked: bool,
    pub(crate) target_asked: bool,
    /// Lies in the engine's list of transfers that get a turn.
    queued: bool,
}

impl Transfer {
    fn new(from: ConnId, to: ConnId, limit: Option<u64>) -> Self {
        let left = limit.unwrap_or(u64::MAX);
        Self {
            from,
            to,
            left,
            moved: 0,
            in_pipe: 0,
            pipe: None,
            eof: false,
            source_asked: false,
            target_asked: false,
            queued: false,
        }
    }

    /// Move what can be moved now, within the bound of a turn.
    fn turn(&mut self, source: RawFd, target: RawFd, pipes: &mut PipePool) -> Wait {
        let moved_before = self.moved;
        loop {
            if self.in_pipe == 0
                && let Some(wait) = self.fill(source, pipes)
            {
                return wait;
            }
            if let Some(wait) = self.drain(target, pipes) {
                return wait;
            }
            if self.moved - moved_before >= TURN_BYTES {
                return Wait::Turn;
            }
        }
    }

    fn fill(&mut self, source: RawFd, pipes: &mut PipePool) -> Option<Wait> {
        if self.left == 0 {
            return Some(Wait::End(SpliceEnd::Limit));
        }
        if self.eof {
            return Some(Wait::End(SpliceEnd::Eof));
        }
        if self.pipe.is_none() {
            match pipes.take() {
                Ok(Some(pipe)) => self.pipe = Some(pipe),
                Ok(None) => return Some(Wait::Pipe),
                Err(error) => return Some(Wait::End(SpliceEnd::SourceBroken(error))),
            }
        }
        let pipe = self.pipe.as_ref().expect("taken just above");
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(FILL_BYTES);
        match move_bytes(source, pipe.write.as_raw_fd(), want) {
            Ok(0) => {
                self.eof = true;
                self.give_back(pipes);
                Some(Wait::End(SpliceEnd::Eof))
            }
            Ok(count) => {
                self.in_pipe = count;
                self.left -= count as u64;
                None
            }
            Err(Errno(libc::EINTR)) => Some(Wait::Turn),
            Err(Errno(libc::EAGAIN)) => {
                self.give_back(pipes);
                Some(Wait::Source)
            }
            Err(error) => {
                self.give_back(pipes);
                Some(Wait::End(SpliceEnd::SourceBroken(error)))
            }
        }
    }

    fn drain(&mut self, target: RawFd, pipes: &mut PipePool) -> Option<Wait> {
        while self.in_pipe > 0 {
            let pipe = self.pipe.as_ref().expect("a pipe is held while bytes are in it");
            match move_bytes(pipe.read.as_raw_fd(), target, self.in_pipe) {
                Ok(0) => return Some(Wait::End(SpliceEnd::TargetBroken(Errno(libc::EPIPE)))),
                Ok(count) => {
                    self.in_pipe -= count;
                    self.moved += count as u64;
                }
                Err(Errno(libc::EINTR)) => {}
                Err(Errno(libc::EAGAIN)) => return Some(Wait::Target),
                Err(error) => {
                    self.give_back(pipes);
                    return Some(Wait::End(SpliceEnd::TargetBroken(error)));
                }
            }
        }
        if self.left == 0 {
            self.give_back(pipes);
            return Some(Wait::End(SpliceEnd::Limit));
        }
        None
    }

    /// Return the pipe to the pool, or close it when bytes are left in it.
    fn give_back(&mut self, pipes: &mut PipePool) {
        if let Some(pipe) = self.pipe.take() {
            pipes.give(pipe, self.in_pipe == 0);
        }
    }
}

/// All transfers of an engine, their pipes, and who gets a turn.
#[derive(Default)]
pub(crate) struct Transfers {
    all: Slab<Option<Transfer>>,
    pipes: PipePool,
    /// Each lies here at most once.
    runnable: VecDeque<ConnId>,
    pipe_waiters: VecDeque<ConnId>,
    /// Turns and bytes left in this poll.
    turns_left: usize,
    bytes_left: u64,
}

impl Transfers {
    pub(crate) fn begin(&mut self, from: ConnId, to: ConnId, limit: Option<u64>) -> ConnId {
        let id = self.all.insert(Some(Transfer::new(from, to, limit)));
        self.wake(Some(id));
        id
    }

    /// What the transfer waits for may have come: it gets a turn.
    pub(crate) fn wake(&mut self, id: Option<ConnId>) {
        let Some(id) = id else { return };
        if let Some(Some(transfer)) = self.all.get_mut(id)
            && !transfer.queued
        {
            transfer.queued = true;
            self.runnable.push_back(id);
        }
    }

    pub(crate) fn any_runnable(&self) -> bool {
        !self.runnable.is_empty() || (!self.pipe_waiters.is_empty() && self.pipes.available())
    }

    /// A new poll: everybody who is runnable now gets one turn, as long as the bytes of a poll last.
    pub(crate) fn begin_turns(&mut self) {
        if self.pipes.available() {
            for _ in 0..self.pipe_waiters.len() {
                let id = self.pipe_waiters.pop_front();
                self.wake(id);
            }
        }
        self.turns_left = self.runnable.len();
        self.bytes_left = POLL_BYTES;
    }

    /// Whose turn it is: transfer, source, target.
    pub(crate) fn next_turn(&mut self) -> Option<(ConnId, ConnId, ConnId)> {
        while self.turns_left > 0 && self.bytes_left > 0 {
            self.turns_left -= 1;
            let id = self.runnable.pop_front()?;
            if let Some(Some(transfer)) = self.all.get_mut(id) {
                transfer.queued = false;
                return Some((id, transfer.from, transfer.to));
            }
        }
        None
    }

    /// Give `id` its turn. Gives what it waits for now, the bytes moved in this turn, and those moved in all.
    pub(crate) fn turn(&mut self, id: ConnId, source: RawFd, target: RawFd) -> (Wait, u64, u64) {
        let Some(Some(transfer)) = self.all.get_mut(id) else { return (Wait::Turn, 0, 0) };
        let before = transfer.moved;
        let wait = transfer.turn(source, target, &mut self.pipes);
        let all = transfer.moved;
        let moved = all - before;
        self.bytes_left = self.bytes_left.saturating_sub(moved);
        match wait {
            Wait::Turn => self.wake(Some(id)),
            Wait::Pipe => self.pipe_waiters.push_back(id),
            Wait::Source | Wait::Target | Wait::End(_) => {}
        }
        (wait, moved, all)
    }

    /// Whether bytes of this transfer lie in its pipe.
    pub(crate) fn holds_bytes(&self, id: ConnId) -> bool {
        self.all.get(id).and_then(Option::as_ref).is_some_and(|transfer| transfer.in_pipe > 0)
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Transfer> {
        self.all.get_mut(id)?.as_mut()
    }

    /// Take a transfer out; its pipe goes back.
    pub(crate) fn remove(&mut self, id: Option<ConnId>) -> Option<Transfer> {
        let mut transfer = self.all.remove(id?)??;
        transfer.give_back(&mut self.pipes);
        Some(transfer)
    }
}

fn move_bytes(from: RawFd, to: RawFd, count: usize) -> Result<usize, Errno> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let none = std::ptr::null_mut();
    // SAFETY: no offsets are given, so no pointer is read or written.
    let moved = unsafe { libc::splice(from, none, to, none, count, flags) };
    usize::try_from(moved).map_err(|_| sys::errno())
}
