//! Names on the bus: `apcera.v1.<role>.<verb>`, and the log channel, whose name is older.
//!
//! Deliberately absent: who may use which; that comes with identities.

use crate::logs::LogStream;
use crate::{ImId, InstanceId, JobId};

/// [`crate::placement::Placement`] → many [`crate::placement::Offer`].
pub const IM_BID: &str = "apcera.v1.im.bid";
/// [`crate::placement::ReversePlacement`] → many [`crate::placement::Surrender`].
pub const IM_REVERSE_BID: &str = "apcera.v1.im.reverse-bid";
/// [`crate::health::Beat`], every 5 s and soon after a change.
pub const IM_BEAT: &str = "apcera.v1.im.beat";
/// [`crate::health::Switch`], at each change of state.
pub const IM_SWITCH: &str = "apcera.v1.im.switch";
/// Empty → many [`crate::health::Beat`]: a health manager that starts asks everybody.
pub const IM_REPORT: &str = "apcera.v1.im.report";
/// [`crate::announce::Announcement`].
pub const IM_ENDPOINTS: &str = "apcera.v1.im.endpoints";
/// [`crate::announce::AnnounceBeat`], every second.
pub const IM_ENDPOINTS_BEAT: &str = "apcera.v1.im.endpoints-beat";
/// [`crate::logs::LogRequest`] → many [`crate::logs::LogPage`].
pub const IM_LOGS: &str = "apcera.v1.im.logs";
/// Usage samples of one instance manager, every 10 s: a list of [`crate::health::InstanceSeen`].
pub const IM_USAGE: &str = "apcera.v1.im.usage";

/// [`crate::health::ViewRequest`] → [`crate::health::View`], queue group [`HM_GROUP`].
pub const HM_VIEW: &str = "apcera.v1.hm.view";
/// [`crate::health::Look`].
pub const HM_LOOK: &str = "apcera.v1.hm.look";
/// [`crate::health::Lost`].
pub const HM_LOST: &str = "apcera.v1.hm.lost";
/// Health managers that answer questions.
pub const HM_GROUP: &str = "hm";

/// [`crate::routing::RoutesChanged`].
pub const ROUTES_CHANGED: &str = "apcera.v1.jm.routes-changed";
/// [`crate::routing::RoutesBeat`], every second.
pub const ROUTES_BEAT: &str = "apcera.v1.jm.routes-beat";
/// [`crate::routing::RoutesPageRequest`] → [`crate::routing::RoutesPage`], queue group [`JM_GROUP`].
pub const ROUTES_PAGE: &str = "apcera.v1.jm.routes-page";
/// Job managers that answer questions.
pub const JM_GROUP: &str = "jm";

/// [`crate::routing::RouterBeat`], every second.
pub const ROUTER_BEAT: &str = "apcera.v1.router.beat";
/// Empty → many [`crate::routing::RouterBeat`]: an API server that starts asks everybody.
pub const ROUTER_REPORT: &str = "apcera.v1.router.report";
/// [`crate::announce::Drain`] → many [`crate::announce::Drained`].
pub const ROUTER_DRAIN: &str = "apcera.v1.router.drain";
/// [`crate::routing::Await`] → many [`crate::routing::Awaited`].
pub const ROUTER_AWAIT: &str = "apcera.v1.router.await";
/// [`crate::routing::Explain`] → [`crate::routing::Explained`], queue group [`ROUTER_GROUP`].
pub const ROUTER_EXPLAIN: &str = "apcera.v1.router.explain";
/// [`crate::routing::Proof`] → many [`crate::routing::Proved`].
pub const ROUTER_PROOF: &str = "apcera.v1.router.proof";
/// Routers that answer questions.
pub const ROUTER_GROUP: &str = "router";

/// Empty → many [`crate::api::PmLocation`].
pub const PM_LOCATE: &str = "apcera.v1.pm.locate";

/// [`crate::placement::Start`] → [`crate::placement::Done`].
#[must_use]
pub fn im_start(im: ImId) -> String {
    format!("apcera.v1.im.{im}.start")
}

/// [`crate::placement::Stop`] → [`crate::placement::Done`].
#[must_use]
pub fn im_stop(im: ImId) -> String {
    format!("apcera.v1.im.{im}.stop")
}

/// [`crate::placement::Update`] → [`crate::placement::Done`].
#[must_use]
pub fn im_update(im: ImId) -> String {
    format!("apcera.v1.im.{im}.update")
}

/// Empty → [`crate::announce::EndpointsAll`].
#[must_use]
pub fn im_endpoints_all(im: ImId) -> String {
    format!("apcera.v1.im.{im}.endpoints-all")
}

/// The log channel of one instance: [`crate::logs::LogLine`].
#[must_use]
pub fn log(job: JobId, instance: InstanceId, stream: LogStream) -> String {
    format!("job.{job}.{instance}.{}", stream.as_str())
}

/// The channel for the platform's own notes about a job.
#[must_use]
pub fn log_note(job: JobId) -> String {
    format!("job.{job}.system.note")
}

/// Everything that is logged for a job.
#[must_use]
pub fn log_all(job: JobId) -> String {
    format!("job.{job}.*.*")
}
