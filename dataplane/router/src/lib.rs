//! The edge router: clients in front, instances behind, a live table between.
//!
//! ```text
//!   core/  (N threads: requests)        the side thread: config/, watch, admin/, metrics/, access_log/
//!      └────────────── hub.rs: commits, acknowledgement, drain ──────────────┘
//! ```
//!
//! Deliberately absent: knowledge of the cluster. A feed of changes is all that the control plane is to it.

pub mod access_log;
pub mod admin;
pub mod bind;
pub mod config;
pub mod core;
pub mod demo;
pub mod hub;
pub mod limits;
pub mod metrics;
pub mod run;
pub mod settings;
pub mod signal;
pub mod stats;
pub mod tls;
pub mod watch;
