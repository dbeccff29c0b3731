//! Files that people write: the dconf syntax, `cluster.conf` on it, `continuum.conf` on it, and sizes as they type them.
//!
//! Every mistake is told with its line, the line itself, and what to try. Deliberately absent: reading files; the caller
//! brings the text.

pub mod cluster;
pub mod continuum;
pub mod dconf;
mod mistake;
mod section;
pub mod units;

pub use cluster::ClusterConf;
pub use mistake::{Mistake, Place};
pub use section::Section;
