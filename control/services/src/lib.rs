//! API server, job manager, health manager, package manager: pure planners and dull loops.

pub mod api;
pub mod authorize;
pub mod hm;
pub mod jm;
pub mod jobs;
pub mod pm;
