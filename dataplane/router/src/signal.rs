//! A flag that wakes an async task: a socket pair. Raised by cores (one system call), awaited by the side thread.
//!
//! Deliberately absent: payloads. It says "look again", never what happened.

use std::io;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

/// See the module head.
pub struct Signal {
    raiser: UnixStream,
    watcher: Mutex<Option<UnixStream>>,
}

impl Signal {
    /// A lowered signal. `Err` at the descriptor limit.
    pub fn new() -> io::Result<Self> {
        let (raiser, watcher) = UnixStream::pair()?;
        raiser.set_nonblocking(true)?;
        watcher.set_nonblocking(true)?;
        Ok(Self { raiser, watcher: Mutex::new(Some(watcher)) })
    }

    /// Raise it; raising often is raising once.
    pub fn raise(&self) {
        // A full socket means that the watcher has been told and has not looked yet: nothing is lost.
        drop((&self.raiser).write(&[1]));
    }

    /// The end that is awaited: once, inside a Tokio runtime.
    pub fn watch(&self) -> io::Result<Watch> {
        let taken = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        let watcher = taken.ok_or_else(|| io::Error::other("the signal has a watcher already"))?;
        Ok(Watch(tokio::net::UnixStream::from_std(watcher)?))
    }
}

/// The awaiting end of a [`Signal`].
pub struct Watch(tokio::net::UnixStream);

impl Watch {
    /// Wait until it is raised, and lower it. `Err` when the signal is gone.
    pub async fn raised(&self) -> io::Result<()> {
        let mut sink = [0; 64];
        loop {
            self.0.readable().await?;
            match self.0.try_read(&mut sink) {
                Ok(0) => return Err(io::ErrorKind::BrokenPipe.into()),
                // More of them only cause another look.
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_raises_wake_once_or_more_and_never_block() {
        let signal = Signal::new().unwrap();
        let watch = signal.watch().unwrap();
        for _ in 0..1_000_000 {
            signal.raise();
        }
        watch.raised().await.unwrap();
        assert!(signal.watch().is_err());
    }
}
