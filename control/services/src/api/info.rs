//! Who we are: name, domain, version, the caller's namespace.
//!
//! Deliberately absent: anything that changes.

use super::respond::{Answer, Failure, json};
use super::state::Shared;
use crate::authorize::Principal;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use wire::api::{Info, Version};
use wire::{ErrorCode, Namespace};

/// Name and addresses of the cluster. Needs no token.
#[utoipa::path(get, path = "/info", tag = "cluster", security(()),
    responses((status = 200, body = Info)))]
pub(super) async fn info(State(api): State<Shared>) -> Response {
    let settings = &api.settings;
    let info = Info {
        name: settings.cluster_name.clone(),
        cluster_domain: settings.cluster_domain.clone(),
        url: api.url.clone(),
        http_port: settings.http_port,
        https_port: settings.https_port,
        tcp_host: settings.tcp.as_ref().map(|tcp| tcp.host.to_string()).unwrap_or_default(),
    };
    json(StatusCode::OK, &info)
}

/// Version of the server. Needs no token.
#[utoipa::path(get, path = "/version", tag = "cluster", security(()),
    responses((status = 200, body = Version)))]
pub(super) async fn version(State(api): State<Shared>) -> Response {
    let version = Version { version: api.settings.version.clone(), api: super::API_VERSION };
    json(StatusCode::OK, &version)
}

/// Says `ok` while the server serves. Needs no token.
#[utoipa::path(get, path = "/healthz", tag = "cluster", security(()),
    responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Where a caller's things are when he does not say.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DefaultNamespace {
    /// `/sandbox/<principal>`.
    #[schema(value_type = String)]
    namespace: Namespace,
}

/// The caller's default namespace.
#[utoipa::path(get, path = "/namespace/default", tag = "cluster",
    responses((status = 200, body = DefaultNamespace)))]
pub(super) async fn default_namespace(Extension(who): Extension<Principal>) -> Answer {
    // A mail address is cut at its @.
    let name = who.name.split('@').next().unwrap_or_default();
    let namespace = format!("/sandbox/{name}").parse().map_err(|mistake: wire::FqnError| {
        Failure::new(ErrorCode::Invalid, "the principal's name makes no namespace")
            .because(mistake.to_string())
    })?;
    Ok(json(StatusCode::OK, &DefaultNamespace { namespace }))
}
