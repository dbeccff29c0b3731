//! Ends a waiting `poll` from another thread.
//!
//! ```text
//!   AWAKE ──about to wait──▶ SLEEPING
//!     │ ▲                       │
//!   wake └──poll tells Woken──┐ wake (+ one write to the eventfd)
//!     ▼                       │ ▼
//!   NOTIFIED ─────────────────┴─NOTIFIED
//! ```
//!
//! Waking an engine that is awake costs one atomic swap and no system call; waking it again before it looked, too.
//! Deliberately absent: messages. The engine says only that somebody called; the core looks where it expects news.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Waker;

const AWAKE: u32 = 0;
const SLEEPING: u32 = 1;
const NOTIFIED: u32 = 2;

struct Bell {
    state: AtomicU32,
    eventfd: OwnedFd,
}

/// The [`Waker`] of both real engines.
#[derive(Clone)]
pub struct FdWaker {
    bell: Arc<Bell>,
}

impl std::fmt::Debug for FdWaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FdWaker")
    }
}

impl FdWaker {
    /// `flags` for eventfd(2) beside close-on-exec.
    pub(crate) fn new(flags: i32) -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { bell: Arc::new(Bell { state: AtomicU32::new(AWAKE), eventfd }) })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.bell.eventfd.as_raw_fd()
    }

    /// The engine is about to wait. `false`: somebody called; do not wait.
    pub(crate) fn fall_asleep(&self) -> bool {
        let exchanged =
            self.bell.state.compare_exchange(AWAKE, SLEEPING, Ordering::SeqCst, Ordering::SeqCst);
        exchanged.is_ok()
    }

    /// The engine is awake. `true`: somebody called since the last time.
    pub(crate) fn wake_up(&self) -> bool {
        // An engine that did not sleep pays a plain load, not a locked instruction.
        self.bell.state.load(Ordering::Relaxed) != AWAKE
            && self.bell.state.swap(AWAKE, Ordering::SeqCst) == NOTIFIED
    }
}

impl Waker for FdWaker {
    fn wake(&self) {
        if self.bell.state.swap(NOTIFIED, Ordering::SeqCst) == SLEEPING {
            let one = 1u64.to_ne_bytes();
            // SAFETY: `one` is readable for its 8 bytes. The write fails only when the counter is at its end, and
            // then the eventfd is readable anyway.
            unsafe { libc::write(self.fd(), one.as_ptr().cast(), one.len()) };
        }
    }
}
