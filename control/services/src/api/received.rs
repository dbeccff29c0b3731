//! What comes in: path, query and body, each with a bound, each mistake told in the one error form.
//!
//! Deliberately absent: what the values mean.

use super::respond::Failure;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use std::time::Duration;
use wire::ErrorCode;

/// Bytes of a JSON body.
pub(super) const JSON_BYTES_MAX: usize = 1024 * 1024;
/// How long a client may take to send one.
const JSON_WAIT: Duration = Duration::from_secs(30);

/// The variable parts of the path.
pub(super) struct At<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = parts.uri.path().to_owned();
        let Path(value) = Path::from_request_parts(parts, state).await.map_err(|mistake| {
            Failure::new(ErrorCode::Invalid, format!("{path} is not understood"))
                .because(mistake.body_text())
                .hint("a UUID such as 3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a1")
        })?;
        Ok(Self(value))
    }
}

/// The parameters after the question mark. Types refuse those that they do not know: a filter with a slip of the pen
/// must not widen the answer.
pub(super) struct Params<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Query(value) = Query::from_request_parts(parts, state).await.map_err(|mistake| {
            Failure::new(ErrorCode::Invalid, "the parameters after ? are not understood")
                .because(mistake.body_text())
        })?;
        Ok(Self(value))
    }
}

/// A JSON body, and its bytes as they came.
pub(super) struct Sent<T> {
    pub value: T,
    pub raw: Bytes,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        check_type(request.headers())?;
        let raw = tokio::time::timeout(JSON_WAIT, whole(request.into_body(), JSON_BYTES_MAX))
            .await
            .map_err(|_| Failure::new(ErrorCode::Invalid, "the body did not come in time"))??;
        let value = serde_json::from_slice(&raw).map_err(|mistake| {
            Failure::new(ErrorCode::Invalid, "the body is not what was expected")
                .because(mistake.to_string())
        })?;
        Ok(Self { value, raw })
    }
}

/// JSON under any of its names; no name is a guess in its favour.
fn check_type(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
    let kind = kind.to_ascii_lowercase();
    if kind == "application/json" || kind.starts_with("application/vnd.apcera.") {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::Invalid, format!("a body of type \"{kind}\" is not understood"))
        .hint("Content-Type: application/json"))
}

/// Reads a body that has at most `max` bytes.
async fn whole(body: Body, max: usize) -> Result<Bytes, Failure> {
    let mut stream = body.into_data_stream();
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|_| Failure::new(ErrorCode::Invalid, "the body ended too early"))?;
        if all.len() + chunk.len() > max {
            return Err(Failure::new(
                ErrorCode::TooLarge,
                format!("the body has more than {max} bytes"),
            ));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.into())
}
