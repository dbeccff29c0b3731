//! How the admin API answers: JSON with a newline, errors in one form.
//!
//! Deliberately absent: HTML error pages. Programs read these.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An error answer: what is wrong, why, and what to do.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    #[serde(skip)]
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) what: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) why: String,
    #[serde(rename = "try", skip_serializing_if = "String::is_empty")]
    pub(super) advice: String,
    /// Index of the change that is wrong, in `changes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) change: Option<usize>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, what: impl Into<String>) -> Self {
        let (why, advice) = (String::new(), String::new());
        Self { status, code, what: what.into(), why, advice, change: None }
    }

    pub(super) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    pub(super) const fn at_change(mut self, index: usize) -> Self {
        self.change = Some(index);
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = json(&self);
        *response.status_mut() = status;
        response
    }
}

/// 200 with a JSON body.
pub(super) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            let headers =
                [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (headers, body).into_response()
        }
        // No type that is answered here can fail to serialize; if one does, say so plainly.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Plain text.
pub(super) fn text(body: String) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

/// Query parameters; a mistake in them is told as JSON.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Query::try_from_uri(&parts.uri).map(|Query(asked)| Self(asked)).map_err(|rejection| {
            let what = std::error::Error::source(&rejection)
                .map_or_else(|| rejection.to_string(), ToString::to_string);
            Refusal::new(StatusCode::BAD_REQUEST, "bad_query", what)
        })
    }
}

const PATHS: [&str; 11] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/v1/status",
    "/v1/table",
    "/v1/changes",
    "/v1/explain",
    "/v1/stats",
    "/v1/draining",
    "/v1/drain",
    "/",
];

pub(super) async fn no_such_path(uri: Uri) -> Refusal {
    let path = uri.path();
    let refusal =
        Refusal::new(StatusCode::NOT_FOUND, "no_such_path", format!("there is no {path}"));
    match crate::config::closest(path, PATHS) {
        Some(meant) => refusal.advise(meant),
        None => refusal.advise(format!("one of {}", PATHS.join(", "))),
    }
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let what = format!("{method} is not possible on {}", uri.path());
    let advice = if uri.path() == "/v1/changes" { "POST" } else { "GET" };
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", what).advise(advice)
}
