//! How large a job record may be, part by part.
//!
//! Each bound follows from one further down: a message of the bus, a transaction of the store, a table of the router.
//! Deliberately absent: quotas, which are policy.

/// Copies of one job: in an update as many leave as come, and what the health manager says about all of them must fit
/// one message, or somebody would start more of what he cannot see.
pub const INSTANCES_MAX: u32 = 400;
/// Copies of a job that runs to its end: each end must be seen, or it would be run again.
pub const RUN_ONCE_MAX: u32 = 64;
/// Bytes of a job's FQN: `<fqn>:<port>` names a job in the router's table.
pub const JOB_FQN_BYTES_MAX: usize = route::JOB_NAME_BYTES_MAX - ":65535".len();
/// Bytes of the path to which a package goes, below the instance's own; Linux takes 4,096 in all.
pub const PATH_BYTES_MAX: usize = 1_024;
/// Bytes of one name in it: what Linux takes.
pub const PATH_PART_BYTES_MAX: usize = 255;
/// Ports of one job.
pub const PORTS_MAX: usize = 64;
/// Routes of one job: an update that leaves all of them for as many others must fit one transaction, with the record
/// and its name.
pub const ROUTES_MAX: usize = (store::WRITES_MAX - 4) / 2;
/// Bytes of an endpoint: it is the end of a key of the store.
pub const ENDPOINT_BYTES_MAX: usize = store::KEY_BYTES_MAX - "endpoints/http/".len();
/// Ports of one job on one endpoint.
pub const PORTS_PER_ENDPOINT_MAX: usize = 2;
/// Jobs on one endpoint.
pub const JOBS_PER_ENDPOINT_MAX: usize = route::TARGETS_MAX / PORTS_PER_ENDPOINT_MAX;
/// Packages of one job.
pub const PACKAGES_MAX: usize = 64;
/// Processes of one job.
pub const PROCESSES_MAX: usize = 16;
/// Tags, labels, wishes and the like, each.
pub const TAGS_MAX: usize = 64;
/// Seconds for a start or a stop.
pub const TIMEOUT_SECONDS_MAX: u64 = 3_600;
/// Seconds of the windows of a rollout: 30 days.
pub const WINDOW_SECONDS_MAX: u64 = 30 * 24 * 3_600;
/// Of any resource: sums over all jobs cannot overflow.
pub const RESOURCE_MAX: u64 = 1 << 50;

const _: () = assert!(RUN_ONCE_MAX as usize <= wire::health::JOB_ENDED_MAX);
