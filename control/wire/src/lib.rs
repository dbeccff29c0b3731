//! What crosses the bus or the API: identities, names, jobs, packages, instances, messages, subjects.
//!
//! One place for shapes, so that two services can never disagree about a field. Messages are JSON: any NATS tool can
//! read them. Structs that a caller reads, edits and writes back keep fields that they do not know (`extra`), so that a
//! newer writer and an older reader can live in one cluster.
//!
//! Deliberately absent: behaviour. Nothing here decides, waits, or talks to anybody. Policy documents, tokens and
//! events have no shape yet.

pub mod announce;
pub mod api;
pub mod digest;
pub mod fqn;
pub mod health;
pub mod id;
pub mod instance;
pub mod job;
pub mod logs;
pub mod package;
pub mod placement;
pub mod routing;
pub mod subject;
pub mod timestamp;

#[cfg(feature = "openapi")]
mod schema;

pub use api::{ApiError, ErrorCode};
pub use fqn::{Fqn, FqnError, Namespace};
pub use id::{ImId, InstanceId, JobId, PackageId, RouterId, TaskId};
pub use instance::{InstanceRecord, InstanceState};
pub use job::{Job, JobState};
pub use package::{Package, PackageState};
pub use timestamp::Timestamp;
