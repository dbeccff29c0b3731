//! Bids and reverse bids: what the job manager and the instance managers say to each other.
//!
//! A broadcast asks; each instance manager answers after a delay that grows with its taint, and carries the scores, so
//! that a decision can be replayed without a clock. An offer reserves nothing. Deliberately absent: the formula (the
//! instance manager's) and the choice (the job manager's).

use crate::job::{Affinity, Job, Resources};
use crate::{Fqn, ImId, InstanceId, JobId, PackageId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Offers are made for at most this many copies in one round; more copies take more rounds.
pub const BID_COUNT_MAX: u32 = 64;

/// "Who can start copies of this job?" Broadcast on [`crate::subject::IM_BID`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// This round.
    pub request: Uuid,
    /// Which job.
    pub job: JobId,
    /// Its name.
    pub fqn: Fqn,
    /// Copies wanted, at most [`BID_COUNT_MAX`].
    pub count: u32,
    /// Reserved for each copy.
    pub resources: Resources,
    /// Port numbers other than 0: on a shared network two copies cannot both have one.
    #[serde(default)]
    pub fixed_ports: Vec<u16>,
    /// Tags that the host must have; `!tag` that it must not have.
    #[serde(default)]
    pub hard_tags: Vec<String>,
    /// Tags that the host should (not) have.
    #[serde(default)]
    pub soft_tags: Vec<String>,
    /// Jobs to be near.
    #[serde(default)]
    pub attract: Vec<Affinity>,
    /// Jobs to be away from.
    #[serde(default)]
    pub repel: Vec<Affinity>,
    /// A score of 100 delays the answer by this long, in milliseconds.
    pub window_ms: u64,
}

/// "I can, at this price." Lower is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Who offers.
    pub im: ImId,
    /// The round.
    pub request: Uuid,
    /// The taint for the first copy, the second (given the first), and so on; never falling. Its length is how many
    /// copies fit.
    pub scores: Vec<f64>,
}

/// "Start it." To one instance manager, [`crate::subject::im_start`]. The same instance twice is one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Chosen by the job manager, so that a lost answer can be asked for again.
    pub instance: InstanceId,
    /// The whole record at the version that shall run.
    pub job: Job,
    /// What to lay out, in the order of the record.
    pub packages: Vec<StartPackage>,
    /// When the job manager sent it, milliseconds since 1970.
    pub asked_ms: u64,
}

/// A package as the instance manager needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartPackage {
    /// Which.
    pub package: PackageId,
    /// Where its files go.
    pub install_path: String,
    /// What to fetch: `sha256:…` and bytes.
    pub resources: Vec<(String, u64)>,
    /// Added to the environment of the process.
    pub environment: BTreeMap<String, String>,
}

/// Answer to [`Start`], [`Stop`] and [`Update`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// It is so, or under way.
    Accepted,
    /// It is not; a sentence says why.
    Refused(String),
}

/// "Stop it." To one instance manager, [`crate::subject::im_stop`]. Accepted means: the orderly stop has begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Which.
    pub instance: InstanceId,
    /// For the log.
    pub reason: String,
}

/// "Your instance now runs this version, nothing that needs a restart has changed." [`crate::subject::im_update`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// Which.
    pub instance: InstanceId,
    /// The whole record.
    pub job: Job,
}

/// "Which of your copies would you give up?" Broadcast on [`crate::subject::IM_REVERSE_BID`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReversePlacement {
    /// This round.
    pub request: Uuid,
    /// Which job.
    pub job: JobId,
    /// Copies too many.
    pub count: u32,
}

/// Answer to [`ReversePlacement`]: each live copy with how gladly it would go (higher goes first).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Surrender {
    /// Who offers.
    pub im: ImId,
    /// The round.
    pub request: Uuid,
    /// Copies and scores.
    pub copies: Vec<(InstanceId, f64)>,
}
