//! Shapes that only the API and its clients use: errors, small answers, tasks.
//!
//! Source: the published OpenAPI file of the original. Deliberately absent: status codes of single endpoints; they are
//! in `docs/openapi.json`, printed from the handlers.

use crate::{JobId, PackageId, TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Header of a request that may be repeated: the same key gives the first answer again.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Header of answers to writes: revision of the store.
pub const REVISION: &str = "Apcera-Revision";
/// Header of answers to writes with `wait=live`: [`crate::routing::LiveReport`] as JSON.
pub const LIVE: &str = "Apcera-Live";

/// Header of answers to writes that start or stop instances: path of the [`Task`] that tells how it goes.
pub const TASK: &str = "Apcera-Task";

/// What went wrong, in one word; it decides the HTTP status and the exit code of `apc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the request makes no sense.
    Invalid,
    /// 401: no token, or one that is not known.
    Unauthenticated,
    /// 403: policy forbids it.
    Denied,
    /// 404: no such thing.
    NotFound,
    /// 409: somebody else wrote first, or the name is taken.
    Conflict,
    /// 409: the job must be stopped first.
    RequiresRestart,
    /// 413: larger than allowed.
    TooLarge,
    /// 422: the sum of the parts does not fit, for example a digest.
    Mismatch,
    /// 503: something that is needed does not answer; try again.
    Unavailable,
    /// 504: not done in time, may still happen.
    TimedOut,
    /// 500: our mistake.
    Internal,
}

impl ErrorCode {
    /// HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Unauthenticated => 401,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Conflict | Self::RequiresRestart => 409,
            Self::TooLarge => 413,
            Self::Mismatch => 422,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::TimedOut => 504,
        }
    }

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::RequiresRestart => "requires_restart",
            Self::TooLarge => "too_large",
            Self::Mismatch => "mismatch",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Internal => "internal",
        }
    }
}

/// The body of every answer that is not a success. The flags are those of the original; `error`, `why` and `try` are
/// what `apc` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApiError {
    /// HTTP status.
    pub code: u16,
    /// One word.
    pub error: ErrorCode,
    /// What happened, one sentence.
    pub message: String,
    /// Why, if more is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// What to try.
    #[serde(rename = "try", default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// Also in the server's log.
    #[serde(default)]
    pub request_id: String,
    /// The caller's mistake.
    pub client_side: bool,
    /// Trying again is of no use.
    pub fatal: bool,
    /// Trying again may help.
    pub retry: bool,
    /// When.
    #[serde(default)]
    pub try_again_in_ms: u64,
    /// The name is taken.
    #[serde(default)]
    pub duplicate_key: bool,
    /// No such thing.
    #[serde(default)]
    pub resource_missing: bool,
    /// The request makes no sense.
    #[serde(default)]
    pub request_invalid: bool,
    /// The job must be stopped first.
    #[serde(default)]
    pub requires_restart: bool,
    /// The token is not known.
    #[serde(default)]
    pub token_invalid: bool,
    /// Claims that policy did not yield.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_claims: Vec<String>,
    /// More, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub error_details: Option<Value>,
}

impl ApiError {
    /// An error of this kind; the flags follow from it.
    #[must_use]
    pub fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        let status = error.status();
        let retry = matches!(error, ErrorCode::Unavailable | ErrorCode::TimedOut);
        Self {
            code: status,
            error,
            message: message.into(),
            why: String::new(),
            remedy: String::new(),
            request_id: String::new(),
            client_side: status < 500,
            fatal: !retry,
            retry,
            try_again_in_ms: if retry { 1_000 } else { 0 },
            duplicate_key: false,
            resource_missing: error == ErrorCode::NotFound,
            request_invalid: matches!(
                error,
                ErrorCode::Invalid | ErrorCode::Mismatch | ErrorCode::TooLarge
            ),
            requires_restart: error == ErrorCode::RequiresRestart,
            token_invalid: error == ErrorCode::Unauthenticated,
            missing_claims: Vec::new(),
            error_details: None,
        }
    }

    /// With the reason.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// With what to try.
    #[must_use]
    pub fn hint(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// `GET /v1/info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Info {
    /// Name of the cluster.
    pub name: String,
    /// Suffix of default routes.
    pub cluster_domain: String,
    /// Where the API is.
    pub url: String,
    /// Port of the routers for http, as clients see it; part of URLs when it is not 80.
    pub http_port: u16,
    /// The same for https; 0 = the cluster has no https.
    pub https_port: u16,
    /// Host on which tcp routes are opened.
    pub tcp_host: String,
}

/// `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Version {
    /// Of the server.
    pub version: String,
    /// Of the interface.
    pub api: u32,
}

/// Where a package manager takes and gives content. Answer to [`crate::subject::PM_LOCATE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmLocation {
    /// `http://address:port`.
    pub url: String,
    /// Bytes that one resource may have.
    pub resource_bytes_max: u64,
}

/// A long piece of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Task {
    /// Which.
    pub uuid: TaskId,
    /// `running`, `stopped` or `complete`.
    pub state: TaskState,
    /// `unerrored` or `errored`.
    pub errored: String,
    /// When it began.
    pub time_started: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_completed: Option<Timestamp>,
    /// In order, at most [`TASK_EVENTS_MAX`].
    pub events: Vec<TaskEvent>,
    /// What it works on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// Events that a task keeps.
pub const TASK_EVENTS_MAX: usize = 256;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Works.
    Running,
    /// Was given up.
    Stopped,
    /// Is at its end, well or not.
    Complete,
}

/// One step of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskEvent {
    /// Of which task.
    pub task_uuid: TaskId,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// `event`, `error`, `eos`.
    pub task_event_type: String,
    /// What it is about, `job::/…` or a part of it.
    pub thread: String,
    /// `Starting`, `Stopping`, …
    pub stage: String,
    /// One sentence.
    pub subtask: TaskSubtask,
    /// More.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub payload: Value,
}

/// A step within a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskSubtask {
    /// Which.
    pub index: u32,
    /// One sentence.
    pub name: String,
    /// Of how many.
    pub total: u32,
}

/// Answer to a request whose work goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Location {
    /// Path of the task.
    pub location: String,
}

/// One line of the event stream (`GET /v1/events`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// FQN of what it is about.
    pub resource: String,
    /// Role that saw it.
    pub event_source: String,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Always 0.
    #[serde(rename = "type")]
    pub kind: u32,
    /// `action` and more.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub payload: Value,
}

/// Why a package cannot go: jobs that use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageInUse {
    /// Which.
    pub package: PackageId,
    /// By whom.
    pub jobs: Vec<JobId>,
}
