//! Which of the two real worlds this machine allows, found out by trying.
//!
//! Containers and hardened hosts forbid io_uring in several ways (a system-call filter, `kernel.io_uring_disabled`, a
//! locked-memory limit), and kernels before 6.0 lack parts of it. Rather than to compare versions, a small engine is
//! made and must pass one message over loopback. Deliberately absent: the choice itself, and the loud words about it.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::uring::UringEngine;
use crate::{Chunk, Engine, EngineOptions, Event, LARGE_BYTES, ListenOptions};

/// Pages of the trial engine.
const TRIAL_BYTES: usize = 256 * LARGE_BYTES;
/// The trial takes far less than a millisecond; a machine that needs longer than this is out of order.
const TRIAL_TIME: Duration = Duration::from_secs(2);
const MESSAGE: &[u8] = b"probe";

/// Why io_uring cannot be used here.
#[derive(Debug)]
pub enum Unavailable {
    /// The kernel refused to make a ring or to register its buffers.
    Refused(io::Error),
    /// A ring could be made, but the message did not arrive.
    Silent,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => {
                let hint = match error.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => {
                        "forbidden here; see kernel.io_uring_disabled and the container's seccomp profile"
                    }
                    Some(libc::ENOSYS) => "this kernel has none, or a system-call filter hides it",
                    Some(libc::EINVAL | libc::EOPNOTSUPP) => "this kernel is older than 6.0",
                    Some(libc::ENOMEM) => "the locked-memory limit (ulimit -l) is too low",
                    Some(libc::EMFILE | libc::ENFILE) => "the descriptor limit is reached",
                    _ => "unexpected",
                };
                write!(f, "io_uring is not available: {error} ({hint})")
            }
            Self::Silent => {
                f.write_str("io_uring is not available: a trial message did not arrive")
            }
        }
    }
}

impl std::error::Error for Unavailable {}

/// Whether io_uring works here, with everything the engine uses of it.
///
/// # Errors
/// [`Unavailable`] says why not, in words for an operator.
pub fn io_uring() -> Result<(), Unavailable> {
    let options = EngineOptions { page_bytes_max: TRIAL_BYTES };
    let mut engine = UringEngine::new(&options).map_err(Unavailable::Refused)?;
    trial(&mut engine).map_err(Unavailable::Refused)?.then_some(()).ok_or(Unavailable::Silent)
}

/// Listen, dial, send, receive. `true`: the message arrived.
fn trial(engine: &mut impl Engine) -> io::Result<bool> {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let (_, address) = engine.listen(any, &ListenOptions::default())?;
    let dialled = engine.connect(address)?;
    engine.send(dialled, Chunk::from_static(MESSAGE));
    let give_up = Instant::now() + TRIAL_TIME;
    let mut heard = 0;
    while Instant::now() < give_up {
        engine.poll(Some(TRIAL_TIME))?;
        while let Some(event) = engine.next() {
            match event {
                Event::Data { chunk, .. } => heard += chunk.len(),
                Event::ConnectFailed { .. } | Event::Broken { .. } => return Ok(false),
                _ => {}
            }
        }
        if heard == MESSAGE.len() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoll::EpollEngine;

    #[test]
    fn the_trial_passes_where_sockets_work() {
        let mut engine = EpollEngine::new(&EngineOptions::default()).unwrap();
        assert!(trial(&mut engine).unwrap());
    }

    #[test]
    fn a_refusal_names_the_remedy() {
        let refused = Unavailable::Refused(io::Error::from_raw_os_error(libc::EPERM));
        assert!(refused.to_string().contains("kernel.io_uring_disabled"), "{refused}");
    }
}
