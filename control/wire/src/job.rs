//! The job record, as API, store and manifests have it. Routes nest in `ports[].routes[]`: the record is the only
//! source of routes.
//!
//! Units are those of real records (not of the published schema, which is wrong about them): memory and disk in bytes,
//! network in bits per second, cpu in milliseconds of processor time per second. Fields that this program does not know
//! survive in `extra` at each level. Deliberately absent: what a field means for a running instance (`services`).

use crate::{Fqn, JobId, PackageId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Fields of a newer writer, kept as they came.
pub type Extra = BTreeMap<String, Value>;

const fn is_false(value: &bool) -> bool {
    !*value
}

const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Desired state of a workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Job {
    /// Nil in a request to create; the server gives it.
    #[serde(default = "nil")]
    pub uuid: JobId,
    /// `job::/ns::name`; the only field that a creator must give.
    pub fqn: Fqn,
    /// The local part of `fqn`.
    #[serde(default)]
    pub name: String,
    /// Principal; set by the server.
    #[serde(default)]
    pub created_by: String,
    /// Set by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Principal; set by the server.
    #[serde(default)]
    pub updated_by: String,
    /// Set by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// Counts writes; a PUT must carry the one that it read.
    #[serde(default)]
    pub version_id: u64,
    /// The `version_id` at which something changed that running instances cannot take over: older ones are replaced.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restart_version: u64,
    /// Users set `started`, `stopped` or `ready`; the rest is set by the platform.
    #[serde(default)]
    pub state: JobState,
    /// Copies that shall run while `started`.
    #[serde(default = "one")]
    pub num_instances: u32,
    /// Free text marks; `app` tells applications from other jobs.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Laid over each other in this order.
    #[serde(default)]
    pub packages: Vec<JobPackage>,
    /// By name; `app` is the one that counts.
    #[serde(default)]
    pub processes: BTreeMap<String, Process>,
    /// What the instances listen on, and the routes to it.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// By FQN of the binding; kept, not yet acted on.
    #[serde(default)]
    pub bindings: BTreeMap<String, Value>,
    /// Log files and channels; kept as they are.
    #[serde(default)]
    pub logs: Vec<Value>,
    /// Reserved for each instance.
    #[serde(default)]
    pub resources: Resources,
    /// How updates and failures are handled.
    #[serde(default)]
    pub rollout: Rollout,
    /// Whether ended instances are replaced.
    #[serde(default)]
    pub restart: Restart,
    /// An instance manager without the tag must not run the job; `!tag` for one that has it.
    #[serde(default)]
    pub hard_scheduling_tags: BTreeMap<String, bool>,
    /// Preferred, not required.
    #[serde(default)]
    pub soft_scheduling_tags: BTreeMap<String, bool>,
    /// Jobs that this one wants near.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attract: Vec<Affinity>,
    /// Jobs that this one wants elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repel: Vec<Affinity>,
    /// Rules for client addresses on all routes of the job, canonical text; empty = everybody.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client_acl: String,
    /// Cookies that make a client stay with its instance; kept, not yet acted on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sticky_session_cookies: Vec<String>,
    /// Free text marks for people and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Counts of running instances; written into answers, never stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<JobHealth>,
    /// What a newer program put there.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub extra: Extra,
}

const fn nil() -> JobId {
    JobId(uuid::Uuid::nil())
}

const fn one() -> u32 {
    1
}

impl Job {
    /// A record with nothing but its name, and every default.
    #[must_use]
    pub fn named(fqn: Fqn) -> Self {
        Self {
            uuid: nil(),
            name: fqn.local().to_owned(),
            fqn,
            created_by: String::new(),
            created_at: None,
            updated_by: String::new(),
            updated_at: None,
            version_id: 0,
            restart_version: 0,
            state: JobState::default(),
            num_instances: 1,
            tags: BTreeMap::new(),
            packages: Vec::new(),
            processes: BTreeMap::new(),
            ports: Vec::new(),
            bindings: BTreeMap::new(),
            logs: Vec::new(),
            resources: Resources::default(),
            rollout: Rollout::default(),
            restart: Restart::default(),
            hard_scheduling_tags: BTreeMap::new(),
            soft_scheduling_tags: BTreeMap::new(),
            attract: Vec::new(),
            repel: Vec::new(),
            client_acl: String::new(),
            sticky_session_cookies: Vec::new(),
            labels: BTreeMap::new(),
            health: None,
            extra: Extra::new(),
        }
    }

    /// The process that the instance is: `app`, or the only one there is.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.processes.get("app").or_else(|| self.processes.values().next())
    }

    /// All routes with the port that they lead to.
    pub fn routes(&self) -> impl Iterator<Item = (&Port, &Route)> {
        self.ports.iter().flat_map(|port| port.routes.iter().map(move |route| (port, route)))
    }
}

/// Where a job stands.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Its record cannot be acted on.
    Invalid,
    /// Not known.
    Unknown,
    /// Written, packages perhaps not ready.
    Created,
    /// Failed too often; not restarted until somebody starts it again.
    Errored,
    /// Its package is being built.
    Staging,
    /// Its package could not be built.
    StagingFailed,
    /// Could be started.
    #[default]
    Ready,
    /// Shall run.
    Started,
    /// Shall not run.
    Stopped,
    /// Ran to its end, and is not to be run again.
    Finished,
}

impl JobState {
    /// The word in records and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
            Self::Created => "created",
            Self::Errored => "errored",
            Self::Staging => "staging",
            Self::StagingFailed => "staging_failed",
            Self::Ready => "ready",
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }
}

/// A package of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobPackage {
    /// Which.
    pub uuid: PackageId,
    /// Where its files go; none = `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install_path: Option<String>,
    /// Its state when the record was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<crate::PackageState>,
    /// `user` or `system`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What a newer program put there.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub extra: Extra,
}

/// How a process is started and stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Process {
    /// For a shell; wins over the raw form when it is not empty.
    pub start_command: String,
    /// Program and arguments.
    pub start_command_raw: Vec<String>,
    /// Seconds until it must listen on its ports.
    pub start_command_timeout: u64,
    /// For a shell; empty = TERM is sent at once.
    pub stop_command: String,
    /// Program and arguments.
    pub stop_command_raw: Vec<String>,
    /// Seconds for the last requests, then for the process itself, before KILL.
    pub stop_timeout: u64,
    /// Added to what the platform sets.
    pub environment: BTreeMap<String, String>,
    /// User name inside the container.
    pub user: String,
    /// Group name inside the container.
    pub group: String,
    /// Brings its own init.
    pub heavy: bool,
    /// What a newer program put there.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub extra: Extra,
}

impl Default for Process {
    fn default() -> Self {
        Self {
            start_command: String::new(),
            start_command_raw: Vec::new(),
            start_command_timeout: 30,
            stop_command: String::new(),
            stop_command_raw: Vec::new(),
            stop_timeout: 5,
            environment: BTreeMap::new(),
            user: String::new(),
            group: String::new(),
            heavy: false,
            extra: Extra::new(),
        }
    }
}

/// A port of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Port {
    /// 0 = chosen at start and told to the process as `PORT`.
    #[serde(default)]
    pub number: u16,
    /// The instance counts as running even if nothing listens.
    #[serde(default)]
    pub optional: bool,
    /// What leads here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// What a newer program put there.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub extra: Extra,
}

/// A route to a port. `endpoint` has no scheme: `host[/path]` for http, `address:port` for tcp; `auto` in a request
/// asks the server to choose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Route {
    /// `http` or `tcp`.
    #[serde(rename = "type")]
    pub kind: RouteKind,
    /// Host and path, or address and port.
    pub endpoint: String,
    /// Percent; 0 = auto, negative = inactive.
    #[serde(default)]
    pub weight: f64,
    /// Plain requests are redirected; fixed while the endpoint lives.
    #[serde(default, skip_serializing_if = "is_false")]
    pub https_only: bool,
    /// What a newer program put there.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub extra: Extra,
}

/// What a route carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// HTTP and HTTPS.
    Http,
    /// Bytes.
    Tcp,
}

impl RouteKind {
    /// The word in records and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

/// Reserved for each instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Resources {
    /// Milliseconds of processor time per second; 0 = uncapped.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub disk: u64,
    /// Bits per second, at least.
    pub network: u64,
    /// Bits per second, at most; 0 = uncapped.
    pub netmax: u64,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu: 0, memory: 256 << 20, disk: 1 << 30, network: 5_000_000, netmax: 0 }
    }
}

/// How updates and failures are handled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Rollout {
    /// Stop all then start all, or one after another.
    #[serde(skip_serializing_if = "RolloutMode::is_default")]
    pub mode: RolloutMode,
    /// Seconds that an instance of an old version may live; 0 = until its successor runs.
    pub force_stop_old_instances_after: u64,
    /// Failures within the window from which a job may count as flapping.
    pub flapping_minimum_restarts: u32,
    /// Share of the instances, 0..1, that must have failed.
    pub flapping_percent: f64,
    /// Seconds.
    pub flapping_window: u64,
    /// Seconds of flapping after which a job is errored; 0 = never.
    pub errored_state_window: u64,
    /// What a newer program put there.
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub extra: Extra,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            mode: RolloutMode::StopAll,
            force_stop_old_instances_after: 120,
            flapping_minimum_restarts: 3,
            flapping_percent: 0.5,
            flapping_window: 300,
            errored_state_window: 0,
            extra: Extra::new(),
        }
    }
}

/// How a new version replaces an old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RolloutMode {
    /// All old instances stop, then the new ones start.
    #[default]
    StopAll,
    /// A new instance runs before an old one stops.
    Rolling,
}

impl RolloutMode {
    fn is_default(&self) -> bool {
        *self == Self::StopAll
    }
}

/// Whether ended instances are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Restart {
    /// When.
    pub restart_mode: RestartMode,
    /// Failures in a row after which an instance is not replaced; 0 = always replaced.
    pub maximum_attempts: u32,
}

/// When an ended instance is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RestartMode {
    /// Whatever its exit status. `yes` in old manifests.
    #[default]
    #[serde(alias = "yes")]
    Always,
    /// Never.
    No,
    /// When it failed.
    Failure,
}

impl RestartMode {
    /// The word in records and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::No => "no",
            Self::Failure => "failure",
        }
    }
}

/// A wish about another job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Affinity {
    /// The other job.
    pub to: Fqn,
    /// Must, not should.
    #[serde(default)]
    pub hard: bool,
}

/// Counts of running instances.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct JobHealth {
    /// Running / wanted, 0..1.
    pub score: f64,
    /// Instances fail again and again.
    pub flapping: bool,
    /// By state, `RUNNING` and so on.
    pub instance_state_count: BTreeMap<String, u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record of a real cluster of release 2, its abbreviations filled in.
    const REAL: &str = include_str!("../tests/job.json");

    /// Goal: a real record is read and written without a change, in fields that we know and fields that we do not.
    #[test]
    fn a_real_record_survives() {
        let before: Value = serde_json::from_str(REAL).unwrap();
        let job: Job = serde_json::from_str(REAL).unwrap();
        let after = serde_json::to_value(&job).unwrap();
        assert_eq!(after, before);
        assert_eq!(
            job.extra.keys().collect::<Vec<_>>(),
            ["aggregate_network_routes", "docker_origin", "network_ref"]
        );
        assert_eq!(job.resources.memory, 268_435_456);
        assert_eq!(job.process().unwrap().start_command_raw, ["/bin/sh", "-c", "exec gnatsd"]);
        let routes: Vec<_> =
            job.routes().map(|(port, route)| (port.number, route.endpoint.as_str())).collect();
        assert_eq!(routes, [(80, "y.example.com")]);
    }

    /// Goal: a read-modify-write by an old program keeps what a newer one wrote, at every level.
    #[test]
    fn unknown_fields_survive_at_every_level() {
        let mut record: Value = serde_json::from_str(REAL).unwrap();
        record["from_the_future"] = 7.into();
        record["ports"][1]["future"] = true.into();
        record["ports"][1]["routes"][0]["future"] = "x".into();
        record["processes"]["app"]["future"] = 1.into();
        record["packages"][0]["future"] = 1.into();
        record["rollout"]["future"] = 1.into();
        let mut job: Job = serde_json::from_value(record.clone()).unwrap();
        job.num_instances = 4;
        record["num_instances"] = 4.into();
        assert_eq!(serde_json::to_value(&job).unwrap(), record);
    }

    /// Goal: the name alone makes a job, with the defaults that the command line shows.
    #[test]
    fn a_name_is_enough() {
        let job: Job = serde_json::from_str(r#"{"fqn":"job::/sandbox/admin::web"}"#).unwrap();
        let mut named = Job::named("job::/sandbox/admin::web".parse().unwrap());
        named.name = String::new();
        assert_eq!(job, named);
        assert_eq!(
            (job.num_instances, job.resources.disk, job.resources.network),
            (1, 1 << 30, 5_000_000)
        );
        assert_eq!(serde_json::from_str::<RestartMode>("\"yes\"").unwrap(), RestartMode::Always);
    }
}
