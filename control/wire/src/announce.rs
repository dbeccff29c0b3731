//! Endpoints of running instances: what instance managers tell the routers.
//!
//! Each instance manager numbers its announcements within one life of its process (`epoch`); a gap or a digest that
//! differs makes a router ask for the whole. Deliberately absent: which routes lead to an endpoint; that is in the job.

use crate::digest::Digest;
use crate::{ImId, InstanceId, JobId, RouterId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Milliseconds between [`AnnounceBeat`]s: with a lost message, the routers differ for no longer than this.
pub const ANNOUNCE_BEAT_MS: u64 = 1_000;

/// One address of one running instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointUp {
    /// Of which instance.
    pub instance: InstanceId,
    /// Of which job.
    pub job: JobId,
    /// Port number in the job's record.
    pub port: u16,
    /// Where routers connect to.
    pub addr: SocketAddr,
}

impl EndpointUp {
    /// The bytes that count in the digest.
    #[must_use]
    pub fn digest_bytes(&self) -> Vec<u8> {
        format!("{} {} {} {}", self.instance, self.job, self.port, self.addr).into_bytes()
    }
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointChange {
    /// May be sent requests.
    Up(EndpointUp),
    /// All endpoints of the instance are to get no new requests.
    Down(InstanceId),
}

/// Changes in order. Published on [`crate::subject::IM_ENDPOINTS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// By whom.
    pub im: ImId,
    /// Start of its process, milliseconds since 1970; the later of two wins.
    pub epoch: u64,
    /// 1, 2, 3 … within the epoch.
    pub seq: u64,
    /// What changed.
    pub changes: Vec<EndpointChange>,
    /// Of all endpoints after the change.
    pub digest: Digest,
}

/// "This is where I stand." Published on [`crate::subject::IM_ENDPOINTS_BEAT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceBeat {
    /// By whom.
    pub im: ImId,
    /// Start of its process.
    pub epoch: u64,
    /// The last announcement's number; 0 before the first.
    pub seq: u64,
    /// Of all endpoints.
    pub digest: Digest,
}

/// The whole, in answer to [`crate::subject::im_endpoints_all`] (empty request).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointsAll {
    /// By whom.
    pub im: ImId,
    /// Start of its process.
    pub epoch: u64,
    /// State after this announcement.
    pub seq: u64,
    /// All of them.
    pub endpoints: Vec<EndpointUp>,
}

/// "Tell me when this withdrawn instance is idle with you." Asked of all routers, [`crate::subject::ROUTER_DRAIN`]; each
/// answers once: when the withdrawal is live on all its cores and nothing is in flight, or when `timeout_ms` is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// By whom.
    pub im: ImId,
    /// Its epoch.
    pub epoch: u64,
    /// The announcement that withdrew it: a router that has not seen it must resync first.
    pub seq: u64,
    /// What was withdrawn.
    pub endpoints: Vec<EndpointUp>,
    /// How long a router may wait for the last request.
    pub timeout_ms: u64,
}

/// A router's answer to [`Drain`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Who answers.
    pub router: RouterId,
    /// Cores that serve without the endpoint.
    pub cores: u32,
    /// Cores in all.
    pub cores_total: u32,
    /// Nothing is in flight to it.
    pub idle: bool,
    /// How long it took.
    pub ms: u64,
}
