//! The route table of the edge router: who serves `http://host/path` or `tcp://ip:port`.
//!
//! ```text
//!   text ──parse──▶ Endpoint, Weight, ClientAcl
//!                        │
//!   Desired ──diff──▶ [Change] ──Editor::apply──▶ Commit { Table, Delta }
//!                                                    │
//!   request ──▶ Table::find ──▶ Route ──▶ Table::admitted ──▶ Splitter::pick ──▶ Job ──▶ Instance
//!                    └──────── Table::explain: the same matcher, told aloud ────────┘
//! ```
//!
//! A [`Table`] is an immutable snapshot. The next one shares all but a few nodes with it, so that
//! one change costs microseconds however many routes there are, and readers never wait.
//!
//! Words: a *route* maps host + path to jobs by weight, a *job* is a pool of instances with one
//! client ACL, an *instance* is one address, a *site* is all that is routed under one host.
//!
//! Deliberately absent: sockets, clocks, threads, random numbers, health of instances, serde. The
//! crate is pure; the caller tells it which jobs live and publishes the snapshots.

mod acl;
mod change;
mod desired;
mod editor;
mod endpoint;
mod explain;
mod hash;
mod host;
mod mistake;
mod site;
mod slot;
mod slots;
mod splitter;
mod table;
mod trie;
mod weight;

pub use acl::{Action, ClientAcl, RULES_MAX, Rule};
pub use change::{Change, Commit, CommitError, Delta, Freed};
pub use desired::{Desired, DesiredJob, DesiredRoute, diff};
pub use editor::{Editor, INSTANCES_PER_JOB_MAX, JOB_NAME_BYTES_MAX};
pub use endpoint::{
    Endpoint, HttpEndpoint, PREFIX_BYTES_MAX, PREFIX_SEGMENTS_MAX, default_route_name,
    legacy_route_name,
};
pub use explain::{Explanation, Outcome, Question, Step, TargetView};
pub use host::{HOST_BYTES_MAX, Host};
pub use mistake::SyntaxError;
pub use slot::{InstanceSlot, JobSlot, RouteSlot, SLOTS_MAX, Slot};
pub use splitter::{SPLITTER_MASKS_MAX, Splitter};
pub use table::{Instance, Job, Miss, Route, Table};
pub use weight::{Share, TARGETS_MAX, Target, Targets, WEIGHT_PERCENT_MAX, Weight};
