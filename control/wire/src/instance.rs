//! One running copy of a job: its states and its record.
//!
//! ```text
//! NEW → SETUP → STARTING_WAIT → STARTING → FIRST_RUNNING → RUNNING ↔ UPDATING
//!   → STOPPING_WAIT → STOPPING → TEARDOWN → REMOVED
//! ```
//!
//! Source: apcera.md 5.5. Any state may go to `STOPPING_WAIT`, `STOPPING` or `TEARDOWN`; no state goes back except
//! `UPDATING → RUNNING`. Deliberately absent: who switches, which is the instance manager.

use crate::{ImId, InstanceId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InstanceState {
    /// Asked for.
    New,
    /// Packages are fetched, the file system is built.
    Setup,
    /// Waits for jobs that it depends on.
    StartingWait,
    /// The process runs, its ports do not answer yet.
    Starting,
    /// Its ports answered for the first time.
    FirstRunning,
    /// Serves.
    Running,
    /// Takes a new version of its job without a restart.
    Updating,
    /// Withdrawn; waits until nobody sends it requests.
    StoppingWait,
    /// Was told to end.
    Stopping,
    /// Its files go.
    Teardown,
    /// Nothing of it is left.
    Removed,
}

impl InstanceState {
    /// All states, in the order of a life.
    pub const ALL: [Self; 11] = [
        Self::New,
        Self::Setup,
        Self::StartingWait,
        Self::Starting,
        Self::FirstRunning,
        Self::Running,
        Self::Updating,
        Self::StoppingWait,
        Self::Stopping,
        Self::Teardown,
        Self::Removed,
    ];

    /// The word in records, tables and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "NEW",
            Self::Setup => "SETUP",
            Self::StartingWait => "STARTING_WAIT",
            Self::Starting => "STARTING",
            Self::FirstRunning => "FIRST_RUNNING",
            Self::Running => "RUNNING",
            Self::Updating => "UPDATING",
            Self::StoppingWait => "STOPPING_WAIT",
            Self::Stopping => "STOPPING",
            Self::Teardown => "TEARDOWN",
            Self::Removed => "REMOVED",
        }
    }

    /// It serves, or will without anybody's doing: it counts towards the wanted number.
    #[must_use]
    pub const fn is_live(self) -> bool {
        (self as u8) <= Self::Updating as u8
    }

    /// It serves now.
    #[must_use]
    pub const fn is_running(self) -> bool {
        matches!(self, Self::FirstRunning | Self::Running | Self::Updating)
    }

    /// It serves, and every live router knows it: an older instance may go in its favour.
    #[must_use]
    pub const fn is_routed(self) -> bool {
        matches!(self, Self::Running | Self::Updating)
    }

    /// Whether the life cycle allows this switch.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Updating, Self::Running) => true,
            (Self::Running | Self::FirstRunning, Self::Updating) => true,
            _ => (next as u8) > self as u8 && !matches!(next, Self::Updating),
        }
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An instance as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceRecord {
    /// Which.
    pub uuid: InstanceId,
    /// Host name of its instance manager.
    pub host: String,
    /// Its instance manager.
    pub instance_manager: ImId,
    /// Version of the job that it runs.
    pub job_version_id: u64,
    /// Where it stands.
    pub state: InstanceState,
    /// When it was asked for.
    pub created_time: Timestamp,
    /// It ended otherwise than asked.
    pub failed: bool,
    /// Its process is gone.
    pub exited: bool,
    /// Status of the process, 128 + signal when a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it ended, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Endpoints of routes that lead to it.
    #[serde(default)]
    pub announced_routes: Vec<String>,
    /// Addresses on which it answers, as `port=address`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// How long each leg of its start took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legs: Option<crate::health::Legs>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the words are those of the schema, and a life goes forwards only.
    #[test]
    fn a_life_goes_forwards() {
        for (at, state) in InstanceState::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{}\"", state.as_str()));
            for (then, next) in InstanceState::ALL.into_iter().enumerate() {
                let forwards = then > at && next != InstanceState::Updating;
                let update = next == InstanceState::Updating && (4..=5).contains(&at);
                let back = state == InstanceState::Updating && next == InstanceState::Running;
                assert_eq!(state.may_become(next), forwards || update || back, "{state} -> {next}");
            }
        }
        assert!(InstanceState::Updating.is_live() && !InstanceState::StoppingWait.is_live());
    }
}
