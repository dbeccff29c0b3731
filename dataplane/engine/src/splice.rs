//! Moving bytes between two sockets without seeing them: splice(2) through pooled pipes.
//!
//! ```text
//!   source ──splice──▶ pipe ──splice──▶ target      fill only an empty pipe, drain before the next fill
//! ```
//!
//! The rule "fill only an empty pipe" makes `EAGAIN` mean one thing each time: from a fill, that the source has
//! nothing; from a drain, that the target is full. (A pipe also says `EAGAIN` when its slots are used up.)
//! A transfer holds a pipe only while bytes are in it: ten thousand silent tunnels hold none.
//! Deliberately absent: waiting. The engine learns readiness in its own way and calls [`Transfer::turn`].

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::{ConnId, Errno, SpliceEnd, sys};

/// Size asked for; what the kernel grants instead is used just the same.
const PIPE_BYTES: i32 = 256 * 1024;
/// The most one fill may bring; what a pipe holds is bounded by the kernel anyway.
const FILL_BYTES: usize = 1024 * 1024;
/// Bytes moved in one turn before other connections get theirs.
const TURN_BYTES: u64 = 512 * 1024;
/// Bytes that all transfers of an engine together move in one poll; about a millisecond's work.
pub(crate) const POLL_BYTES: u64 = 4 * 1024 * 1024;
/// Pipes that may exist for one engine; transfers beyond wait for one to become empty.
const PIPES_MAX: usize = 512;
/// Empty pipes kept for later use.
const PIPES_IDLE_MAX: usize = 32;

/// A pipe, both ends non-blocking.
pub(crate) struct Pipe {
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
pub(crate) struct PipePool {
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
    pub(crate) fn available(&self) -> bool {
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
    /// What `moved` was when the core was told last.
    pub(crate) told: u64,
    in_pipe: usize,
    pipe: Option<Pipe>,
    eof: bool,
    /// Lies in the engine's list of transfers that get a turn.
    pub(crate) queued: bool,
}

impl Transfer {
    pub(crate) fn new(from: ConnId, to: ConnId, limit: Option<u64>) -> Self {
        let left = limit.unwrap_or(u64::MAX);
        Self {
            from,
            to,
            left,
            moved: 0,
            told: 0,
            in_pipe: 0,
            pipe: None,
            eof: false,
            queued: false,
        }
    }

    /// Move what can be moved now, within the bound of a turn.
    pub(crate) fn turn(&mut self, source: RawFd, target: RawFd, pipes: &mut PipePool) -> Wait {
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
    pub(crate) fn give_back(&mut self, pipes: &mut PipePool) {
        if let Some(pipe) = self.pipe.take() {
            pipes.give(pipe, self.in_pipe == 0);
        }
    }
}

fn move_bytes(from: RawFd, to: RawFd, count: usize) -> Result<usize, Errno> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let none = std::ptr::null_mut();
    // SAFETY: no offsets are given, so no pointer is read or written.
    let moved = unsafe { libc::splice(from, none, to, none, count, flags) };
    usize::try_from(moved).map_err(|_| sys::errno())
}
