//! What the router counts about itself: one writer for each number, any number of readers.
//!
//! ```text
//!  core 0 ─ writes ─▶ CoreStats, SlotMap<RouteStats>, SlotMap<InstanceStats> ─┐
//!  core 1 ─ writes ─▶ CoreStats, SlotMap<RouteStats>, SlotMap<InstanceStats> ─┼─ read ─▶ /metrics, /v1/stats
//!                                                                             ┘
//! ```
//!
//! A core adds with a plain load and store; there is no locked instruction on the request path. Readers
//! merge the cores at scrape time. Deliberately absent: rates, averages, labels made at run time. Rates
//! are a reader's business ([`recent`] keeps what is needed for percentiles of the last seconds).

mod cell;
mod histogram;
mod picks;
pub mod recent;
mod rows;
mod slot_map;

pub use cell::{Counter, Gauge};
pub use histogram::{BUCKETS, Histogram, Snapshot};
pub use picks::Picks;
pub use rows::{
    CLASSES, CoreStats, FAILURES_MAX, FailureCounts, InstanceStats, Kind, RouteStats, Row,
    Statuses, status_class,
};
pub use slot_map::{Reset, SLOTS_MAX, SlotMap};
