//! The scrape page in the text form of Prometheus, and the table in `docs/metrics.md`, from the same rows.
//!
//! ```text
//!  rows of stats/ ── read, merged over cores ──▶ page
//!                 └─ names and help ──▶ docs/metrics.md (a test keeps it true)
//! ```
//!
//! Cardinality is bounded: the busiest routes and instances have names, the rest is `other`.
//! Deliberately absent: HTTP, and anything that a core would have to do for a scrape.

mod docs;
mod page;
mod series;

pub use docs::markdown;
pub use page::{Facts, Page};
pub(crate) use page::{failures, latency};
pub use series::{instances, routes};
