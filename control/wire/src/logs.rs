//! Lines that instances write, and how they are fetched.
//!
//! Published on `job.<job>.<instance>.stdout|stderr` (the one subject whose name is public). Deliberately absent:
//! drains to syslog.

use crate::{ImId, InstanceId, JobId};
use serde::{Deserialize, Serialize};

/// Lines that are kept for each job.
pub const RING_LINES_MAX: usize = 1_500;
/// Bytes of one line; the rest of a longer one is a line of its own.
pub const LINE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of text in one [`LogPage`].
pub const PAGE_BYTES_MAX: usize = 512 * 1024;
/// Lines that are shown when nobody says how many.
pub const LINES_DEFAULT: usize = 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// Of which job.
    pub job: JobId,
    /// Of which instance; none for a note of the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Where it was written.
    pub stream: LogStream,
    /// 1, 2, 3 … within the instance and stream; a jump means that lines were lost.
    pub seq: u64,
    /// When it was read, milliseconds since 1970.
    pub at_ms: u64,
    /// Without its end of line; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The platform's own note about a failure: `[system-error] …`.
    #[serde(rename = "system-error")]
    SystemError,
}

impl LogStream {
    /// The word in the brackets.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::SystemError => "system-error",
        }
    }
}

impl LogLine {
    /// The form that users see: `[stdout][a2434d21] text`, `[system-error] text`.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.instance {
            Some(instance) => {
                format!("[{}][{}] {}", self.stream.as_str(), instance.short(), self.text)
            }
            None => format!("[{}] {}", self.stream.as_str(), self.text),
        }
    }
}

/// Asked of all instance managers, [`crate::subject::IM_LOGS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// Of which job.
    pub job: JobId,
    /// The newest so many.
    pub lines: usize,
}

/// The newest lines that one instance manager has, oldest first. Only those that have some answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    /// Who answers.
    pub im: ImId,
    /// Oldest first.
    pub lines: Vec<LogLine>,
}
