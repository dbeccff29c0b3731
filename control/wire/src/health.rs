//! Heartbeats and what the health manager makes of them.
//!
//! An instance manager beats every [`BEAT_MS`] with everything that it runs, and sends a [`Switch`] at each change of a
//! state: the event path is fast, the beat repairs what it lost. Deliberately absent: resource samples' history.

use crate::{ImId, InstanceId, InstanceState, JobId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Milliseconds between beats of an instance manager.
pub const BEAT_MS: u64 = 5_000;
/// Beats missed after which an instance manager counts as lost.
pub const BEATS_MISSED_MAX: u32 = 3;
/// Ended instances that an instance manager keeps telling about, newest first.
pub const ENDED_MAX: usize = 256;
/// Instances of one instance manager; keeps a beat below one message of the bus.
pub const INSTANCES_PER_IM_MAX: usize = 2_000;

/// Who an instance manager is and what it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImRecord {
    /// Which.
    pub uuid: ImId,
    /// Host name.
    pub hostname: String,
    /// Site.
    pub datacenter: String,
    /// Given by the operator.
    pub tags: Vec<String>,
    /// Found by itself, `host-2e51f487` and the like.
    pub system_tags: Vec<String>,
    /// Live instances.
    pub num_instances: u32,
    /// Start of this process, milliseconds since 1970; the later of two wins.
    pub start_time_ms: u64,
    /// What it may give away.
    pub resources_total: crate::job::Resources,
    /// What it has given away.
    pub resources_provisioned: crate::job::Resources,
    /// Where to reach it, for people.
    #[serde(default)]
    pub address: String,
}

/// The whole state of an instance manager. Published on [`crate::subject::IM_BEAT`], and the answer to
/// [`crate::subject::IM_REPORT`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    /// Who.
    pub im: ImRecord,
    /// Grows with each change or beat of this process; with `im.start_time_ms` it orders beats and switches.
    pub seq: u64,
    /// Live and stopping instances.
    pub instances: Vec<InstanceSeen>,
    /// Instances that ended, newest first, at most [`ENDED_MAX`].
    pub ended: Vec<Ended>,
    /// An orderly farewell: its instances are handed to nobody, do not wait three beats.
    #[serde(default)]
    pub leaving: bool,
}

/// One instance as its instance manager sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceSeen {
    /// Which.
    pub id: InstanceId,
    /// Of which job.
    pub job: JobId,
    /// Version of the job's record that it runs.
    pub job_version: u64,
    /// Where it stands.
    pub state: InstanceState,
    /// When it was asked for, milliseconds since 1970.
    pub created_ms: u64,
    /// When it came into this state.
    pub since_ms: u64,
    /// Addresses by port number of the job.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub addresses: BTreeMap<u16, SocketAddr>,
    /// How long its start took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legs: Option<Legs>,
    /// What it used in the last sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// Start to routable, leg by leg, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Legs {
    /// From the job manager's request to the instance manager's acceptance.
    pub asked: u64,
    /// Packages fetched and laid out.
    pub setup: u64,
    /// Process started.
    pub spawn: u64,
    /// Until its ports answered.
    pub listen: u64,
    /// Until every live router had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<u64>,
}

/// A sample, every 10 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Nanoseconds of processor time per second.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub disk: u64,
}

/// One change of state. Published on [`crate::subject::IM_SWITCH`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Switch {
    /// By whom.
    pub im: ImId,
    /// Its start.
    pub start_time_ms: u64,
    /// Order, shared with [`Beat::seq`].
    pub seq: u64,
    /// The instance after the change.
    pub instance: InstanceSeen,
    /// Where it stood before; none at its birth.
    pub from: Option<InstanceState>,
    /// Its end, when this is it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// The end of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ended {
    /// Which.
    pub id: InstanceId,
    /// Of which job.
    pub job: JobId,
    /// Version of the job's record.
    pub job_version: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// How long it was running; 0 = it never ran.
    pub ran_ms: u64,
    /// It ended otherwise than asked: a crash, a port that never answered, a package that would not unpack.
    pub failed: bool,
    /// Somebody asked for the end.
    pub asked: bool,
    /// Status of the process, 128 + signal when a signal ended it.
    pub exit_code: Option<i32>,
    /// A sentence.
    pub reason: String,
}

/// Asked of a health manager on [`crate::subject::HM_VIEW`] (queue group; one answers).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewRequest {
    /// Which jobs, at most [`VIEW_JOBS_MAX`]; empty = only the instance managers.
    pub jobs: Vec<JobId>,
    /// Whether to add all instance managers.
    pub ims: bool,
}

/// Jobs in one [`ViewRequest`].
pub const VIEW_JOBS_MAX: usize = 64;

/// What the health manager knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// False while it has not yet heard of every instance manager that the store knows: nobody should start
    /// replacements on such a view.
    pub complete: bool,
    /// By job, those asked for; a job without instances is there and empty.
    pub jobs: BTreeMap<JobId, JobView>,
    /// Instance managers, if asked for.
    pub ims: Vec<ImView>,
}

/// Live and ended instances of one job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// On instance managers that are not lost.
    pub instances: Vec<InstanceOn>,
    /// Newest first, at most [`JOB_ENDED_MAX`].
    pub ended: Vec<Ended>,
    /// Fails again and again.
    pub flapping: bool,
    /// Since when, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flapping_since_ms: Option<u64>,
}

/// Ends in one [`JobView`].
pub const JOB_ENDED_MAX: usize = 64;

/// An instance and where it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceOn {
    /// Where.
    pub im: ImId,
    /// Host name of its instance manager.
    pub host: String,
    /// What.
    pub seen: InstanceSeen,
}

/// An instance manager as the health manager sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImView {
    /// What it said last.
    pub record: ImRecord,
    /// Three beats missed, or gone with a farewell.
    pub lost: bool,
    /// Milliseconds since its last beat.
    pub beat_age_ms: u64,
}

/// "Look at these jobs": published on [`crate::subject::HM_LOOK`] when counts changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Which.
    pub jobs: Vec<JobId>,
}

/// Published on [`crate::subject::HM_LOST`] and repeated with every beat period while it is so: routers drop its
/// endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Which.
    pub im: ImId,
    /// Start of the process that was lost; a later one is not.
    pub start_time_ms: u64,
}
