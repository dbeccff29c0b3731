//! What routers are told about jobs, and what they tell about themselves.
//!
//! The routing part of each job travels by revision of the store. Every message names the revision before it, so that a
//! gap shows; a beat with a digest finds what was lost. Deliberately absent: endpoints (`announce`).

use crate::digest::Digest;
use crate::job::{Job, RouteKind};
use crate::{Fqn, ImId, JobId, RouterId};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Milliseconds between [`RoutesBeat`]s and between [`RouterBeat`]s.
pub const ROUTING_BEAT_MS: u64 = 1_000;
/// A router that was silent for this long is not waited for.
pub const ROUTER_SILENT_MS: u64 = 3_500;
/// Jobs in one page of [`RoutesPage`]; keeps a page below one message of the bus.
pub const ROUTES_PAGE_MAX: usize = 500;

/// The part of a job that concerns routers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRoutes {
    /// Which job.
    pub job: JobId,
    /// Its name, for metrics and explanations.
    pub fqn: Fqn,
    /// Revision of the store at which its record was last written.
    pub revision: u64,
    /// Canonical rules; empty = everybody.
    pub client_acl: String,
    /// Every route with the port that it leads to.
    pub routes: Vec<RouteTo>,
}

/// One route of one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteTo {
    /// Port number in the job's record.
    pub port: u16,
    /// http or tcp.
    pub kind: RouteKind,
    /// Without scheme.
    pub endpoint: String,
    /// Percent; 0 = auto, negative = inactive.
    pub weight: f64,
    /// Plain requests are redirected.
    pub https_only: bool,
}

impl JobRoutes {
    /// The routing part of `job`, last written at `revision`; none when it has no routes.
    #[must_use]
    pub fn of(job: &Job, revision: u64) -> Option<Self> {
        let routes: Vec<_> = job
            .routes()
            .map(|(port, route)| RouteTo {
                port: port.number,
                kind: route.kind,
                endpoint: route.endpoint.clone(),
                weight: route.weight,
                https_only: route.https_only,
            })
            .collect();
        (!routes.is_empty()).then(|| Self {
            job: job.uuid,
            fqn: job.fqn.clone(),
            revision,
            client_acl: job.client_acl.clone(),
            routes,
        })
    }

    /// The bytes that count in the digest.
    #[must_use]
    pub fn digest_bytes(&self) -> Vec<u8> {
        format!("{} {}", self.job, self.revision).into_bytes()
    }
}

/// Changes in order. Published on [`crate::subject::ROUTES_CHANGED`] by every job manager: copies are harmless.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoutesChanged {
    /// Revision of the job record that this is about.
    pub revision: u64,
    /// Revision of the write to any job record before it.
    pub previous: u64,
    /// Which job.
    pub job: JobId,
    /// Its routing part; none = the job is gone or has no routes.
    pub routes: Option<JobRoutes>,
}

/// "This is where the store stands." Published on [`crate::subject::ROUTES_BEAT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesBeat {
    /// Revision of the last write to any job record.
    pub revision: u64,
    /// Of the routing parts of all jobs at that revision.
    pub digest: Digest,
}

/// Asked on [`crate::subject::ROUTES_PAGE`] (queue group; one job manager answers).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesPageRequest {
    /// Continue after this job; none = from the start.
    pub after: Option<JobId>,
}

/// A part of the whole. Entries that change between two pages arrive as [`RoutesChanged`] as well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoutesPage {
    /// Revision at which this page was read.
    pub revision: u64,
    /// In the order of their ids.
    pub jobs: Vec<JobRoutes>,
    /// Ask again after this one; none = that was the last page.
    pub next: Option<JobId>,
    /// Of the routing parts of all jobs at that revision: who has the same needs no further page.
    #[serde(default)]
    pub digest: Option<Digest>,
}

/// "I live, and serve this." Published on [`crate::subject::ROUTER_BEAT`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RouterBeat {
    /// Which.
    pub router: RouterId,
    /// Host name.
    pub hostname: String,
    /// Revision of job records that all cores serve.
    pub revision: u64,
    /// Threads that serve.
    pub cores: u32,
    /// Version of its table.
    pub table_version: u64,
    /// Routes in it.
    pub routes: u64,
    /// Endpoints in it.
    pub endpoints: u64,
    /// Where it listens, as `http 0.0.0.0:8080`.
    pub listeners: Vec<String>,
    /// It goes: do not wait for it.
    #[serde(default)]
    pub leaving: bool,
    /// Instance managers that it knows, with the number of the last announcement that is live on all cores.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub ims: Vec<(ImId, u64, u64)>,
}

/// "Tell me when this is live." Asked of all routers, [`crate::subject::ROUTER_AWAIT`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Await {
    /// Revision of job records that must be served; 0 = any.
    pub revision: u64,
    /// The job that was written at that revision: a store that was set back counts its revisions again, so that the
    /// number alone proves nothing.
    #[serde(default)]
    pub job: Option<AwaitedJob>,
    /// Announcement that must be served.
    #[serde(default)]
    pub announced: Option<(ImId, u64, u64)>,
    /// Give up after this long.
    pub timeout_ms: u64,
}

/// What an [`Await`] knows of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AwaitedJob {
    /// Which.
    pub id: JobId,
    /// What it says about routes; none = it has none.
    pub routes: Option<JobRoutes>,
}

/// A router's answer to [`Await`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// Who answers.
    pub router: RouterId,
    /// Cores that serve it.
    pub cores: u32,
    /// Cores in all.
    pub cores_total: u32,
    /// How long this router took from the question.
    pub ms: u64,
}

/// What a change reports: `live on 2/2 routers, 4/4 cores, 9 ms`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LiveReport {
    /// Revision of the change.
    pub revision: u64,
    /// Routers that serve it on all cores.
    pub routers_live: u32,
    /// Routers that beat.
    pub routers: u32,
    /// Cores that serve it.
    pub cores_live: u32,
    /// Cores of all of them.
    pub cores: u32,
    /// From the commit to the last answer.
    pub ms: u64,
}

/// Asked of one router (queue group), [`crate::subject::ROUTER_EXPLAIN`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explain {
    /// `http://host/path` or `tcp://address:port`.
    pub url: String,
    /// Address of the client.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub from: IpAddr,
}

/// The router's own words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Explained {
    /// Who answers.
    pub router: RouterId,
    /// For people.
    pub text: String,
    /// For programs.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub json: serde_json::Value,
}

/// Asked of all routers, [`crate::subject::ROUTER_PROOF`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Proof {
    /// http or tcp.
    pub kind: RouteKind,
    /// Without scheme.
    pub endpoint: String,
}

/// What one router counted on one route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Proved {
    /// Who answers.
    pub router: RouterId,
    /// Threads that serve: each may be off by less than one request.
    pub cores: u32,
    /// By job.
    pub jobs: Vec<ProvedJob>,
    /// Latency of the route in microseconds: p50, p99, p999; none before the first request.
    pub latency_us: Option<(u64, u64, u64)>,
}

/// What one router sent to one job on one route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProvedJob {
    /// Which.
    pub job: JobId,
    /// Its name.
    pub fqn: Fqn,
    /// Port of the job.
    pub port: u16,
    /// Its weight.
    pub weight: f64,
    /// Share that it should have had, 0..1, with the jobs that are live now.
    pub share: f64,
    /// Requests that it got.
    pub requests: u64,
}
