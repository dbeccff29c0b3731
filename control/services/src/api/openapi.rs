//! The interface in the words of OpenAPI 3.1, made from the handlers; `docs/openapi.json` is a copy that a test compares.
//!
//! Deliberately absent: a page to look at it; any tool for OpenAPI does that better.

use super::respond::json;
use super::{cluster, events, info, jobs, logs, packages, resources, routers, tasks, watch};
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::LazyLock;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Apcera API",
        version = "1",
        description = "Every path works with and without /v1. Errors have the body ApiError, whatever the status.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/v1")),
    security(("token" = [])),
    modifiers(&Token),
    components(schemas(wire::ApiError, wire::api::TaskEvent, wire::routing::LiveReport)),
    paths(
        info::info,
        info::version,
        info::healthz,
        info::default_namespace,
        get,
        jobs::list,
        jobs::get,
        jobs::healths,
        jobs::write::create,
        jobs::write::update,
        jobs::write::restart,
        jobs::write::delete,
        jobs::write::check,
        jobs::instances::list,
        jobs::instances::stop,
        jobs::routes::list,
        jobs::routes::get,
        logs::get,
        packages::list,
        packages::create,
        packages::get,
        packages::update,
        packages::delete,
        resources::upload,
        resources::download,
        events::get,
        watch::get,
        cluster::list,
        cluster::get,
        cluster::instances,
        cluster::tags,
        tasks::get,
        routers::list,
        routers::explain,
        routers::proof,
    )
)]
struct Document;

/// The bearer token.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("token", scheme);
    }
}

/// The document. Made once: it is the same for the life of the process.
pub(super) fn document() -> &'static serde_json::Value {
    static DOCUMENT: LazyLock<serde_json::Value> = LazyLock::new(|| {
        serde_json::to_value(Document::openapi()).expect("a document of ours is JSON")
    });
    &DOCUMENT
}

/// This document. Needs no token.
#[utoipa::path(get, path = "/openapi.json", tag = "cluster", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn get() -> Response {
    json(StatusCode::OK, document())
}
