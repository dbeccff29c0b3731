//! The edge router: clients in front, instances behind, a live table between.
//!
//! ```text
//!   core/  (N threads: requests)        the side thread: config/, watch, admin/, metrics/, access_log/
//!      └────────────── hub.rs: commits, acknowledgement, drain ──────────────┘
//! ```
//!
//! Deliberately absent: knowledge of the cluster. A feed of changes is all that the control plane is to it.

pub mod access_log;
pub mod bind;
pub mod core;
pub mod hub;
pub mod run;
pub mod settings;
pub mod signal;
pub mod stats;
pub mod tls;
