//! The load generator: clients and the origin they reach through a proxy, in one thread on one core.
//!
//! `plan.rs` says what is sent and what must come back, `epoll.rs` carries it out with readiness calls and can do
//! every kind of load, `ring.rs` carries out the small keep-alive kinds on io_uring at about half the cost, so that
//! the proxy and not the generator is the one that runs out of CPU. `tally.rs` counts.
//! Deliberately absent: starting proxies (`side_by_side`), and think times; a closed loop has none.

mod epoll;
mod plan;
mod sockets;
mod tally;
mod traffic;

pub use epoll::{hold, run};
pub(crate) use plan::host;
pub use plan::{Holder, Pace, Plan, reply, request, shuffled_hosts};
