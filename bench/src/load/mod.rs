//! The load generator: clients and the origin they reach through a proxy, in one thread on one core.
//!
//! `plan.rs` says what is sent and what must come back, `epoll.rs` carries it out with readiness calls and can do
//! every kind of load, `ring.rs` carries out the small keep-alive kinds on io_uring at about half the cost, so that
//! the proxy and not the generator is the one that runs out of CPU. `tally.rs` counts.
//! Deliberately absent: starting proxies (`side_by_side`), and think times; a closed loop has none.

mod command;
mod epoll;
mod plan;
mod ring;
mod sockets;
mod tally;
mod traffic;

pub use command::main;
pub use epoll::hold;

use crate::outcome::Outcome;

/// Runs a plan to its end, on io_uring where that can do it and is allowed.
///
/// # Errors
/// When sockets cannot be made, or nearly everything fails.
pub fn run(plan: Plan, engine: Engine) -> Result<Outcome, String> {
    let can = engine != Engine::Epoll && ring::can_run(&plan);
    match (can.then(ring::make), engine) {
        (Some(Ok(ring)), _) => ring::run(plan, ring),
        (Some(Err(error)), Engine::IoUring) => Err(format!("io_uring: {error}")),
        (None, Engine::IoUring) => Err("this kind of load is not for io_uring".to_owned()),
        (None | Some(Err(_)), _) => epoll::run(plan),
    }
}

/// Which system calls carry the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// io_uring where it can.
    Auto,
    /// Always epoll.
    Epoll,
    /// io_uring or nothing.
    IoUring,
}

pub(crate) use plan::host;
pub use plan::{Holder, Pace, Plan, reply, request, shuffled_hosts};

/// Whether io_uring is allowed here.
pub fn has_io_uring() -> bool {
    ring::make().is_ok()
}

/// The words that start the generator again from this program, which may be `load` or `side_by_side`.
///
/// # Errors
/// When the program's own path is unknown.
pub fn own_command() -> Result<Vec<String>, String> {
    let own = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    let is_load = own.file_name().is_some_and(|name| name == "load");
    let mut words = vec![own.display().to_string()];
    words.extend((!is_load).then(|| "load".to_owned()));
    Ok(words)
}
