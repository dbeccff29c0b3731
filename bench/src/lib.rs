//! Parts of the load tests: a generator with its own origin, meters, peers and tables.
//!
//! ```text
//!   side_by_side ── starts, in turn ──▶ proxy (cpu 0) ◀── load (cpu 1): clients and origin, one thread
//!                                          │                 │ reads the proxy's CPU at both ends of the window
//!                                          ▼                 ▼
//!                                       cgroup            Outcome (one JSON line)
//! ```
//!
//! Deliberately absent: the code of our own router. It is measured from outside, as a process like every peer,
//! and the generator shares no line with it, so that an error in one cannot hide in the other.

pub mod feed;
pub mod histogram;
pub mod load;
pub mod message;
pub mod meter;
pub mod outcome;
pub mod pattern;
pub mod peers;
pub mod process;
pub mod rows;
pub mod table;
pub mod tls;
