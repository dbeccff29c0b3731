//! The instance manager: bids, instances, drivers, logs, announcements, package cache.
//!
//! Pure parts in files of their own (`life`, `taint`, `environment`, `ring`, `record`, `ports`, `announcements`,
//! `routers`), one loop around them (`manager`), and a [`driver::Driver`] that makes processes. A program that hosts it
//! calls [`shim::maybe_run`] first thing in `main`, then [`start`].
//!
//! Deliberately absent: which job runs where, how many copies, and when a copy is replaced. The job manager decides;
//! this crate offers, obeys and tells.

pub mod announcements;
pub mod cache;
pub mod drain;
pub mod driver;
pub mod environment;
pub mod keep;
pub mod life;
pub mod logs;
mod manager;
pub mod ports;
pub mod proc;
pub mod record;
pub mod ring;
pub mod routers;
pub mod settings;
pub mod shim;
pub mod spec;
pub mod taint;

pub use manager::{Running, start};
pub use settings::{AtStop, Settings, StartError, StopMode};
