//! Content over HTTP: `PUT`, `GET`, `HEAD` of `/v1/resources/<sha256>`, and `POST /v1/resources` for content whose
//! digest nobody knows yet.
//!
//! Deliberately absent: who may do it. The port is for the services of the cluster, like the bus.

use super::objects::{ObjectError, Objects, Stored, is_sha256};
use super::range::{Wanted, wanted};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use wire::{ApiError, ErrorCode};

/// Uploads that are taken in at once; each holds two parts in memory.
pub(super) const UPLOADS_MAX: usize = 16;
/// How long one more waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(30);

/// What the handlers share.
#[derive(Clone)]
pub(super) struct Shelf {
    pub(super) objects: Objects,
    pub(super) bytes_max: u64,
    pub(super) uploads: Arc<Semaphore>,
}

pub(super) fn router(shelf: Shelf) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/v1/resources", post(upload_unknown))
        .route("/v1/resources/{sha256}", get(download).head(length).put(upload))
        .fallback(async || {
            Refused::from(ApiError::new(ErrorCode::NotFound, "there is nothing here"))
        })
        .with_state(shelf)
}

/// An error on its way out.
struct Refused(Box<ApiError>);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(self.0)).into_response()
    }
}

impl From<ApiError> for Refused {
    fn from(refused: ApiError) -> Self {
        Self(Box::new(refused))
    }
}

impl From<ObjectError> for Refused {
    fn from(mistake: ObjectError) -> Self {
        let code = match &mistake {
            ObjectError::TooLarge { .. } => ErrorCode::TooLarge,
            ObjectError::Mismatch { .. } => ErrorCode::Mismatch,
            ObjectError::Broken(_) => ErrorCode::Invalid,
            ObjectError::Missing(_) => ErrorCode::NotFound,
            ObjectError::Store(_) => ErrorCode::Unavailable,
        };
        if code == ErrorCode::Unavailable {
            tracing::warn!(%mistake, "package manager");
        }
        let mut refused = ApiError::new(code, mistake.to_string());
        if code == ErrorCode::TooLarge {
            refused = refused.hint("Split the content over several resources.");
        }
        refused.into()
    }
}

async fn upload(
    State(shelf): State<Shelf>,
    Path(sha256): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, axum::Json<Stored>), Refused> {
    take(&shelf, Some(&named(&sha256)?), &headers, body).await
}

async fn upload_unknown(
    State(shelf): State<Shelf>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, axum::Json<Stored>), Refused> {
    take(&shelf, None, &headers, body).await
}

async fn take(
    shelf: &Shelf,
    wanted: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(StatusCode, axum::Json<Stored>), Refused> {
    let max = shelf.bytes_max;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if length.and_then(|text| text.parse::<u64>().ok()).is_some_and(|length| length > max) {
        return Err(ObjectError::TooLarge { max }.into());
    }
    let turn = tokio::time::timeout(TURN_WAIT, shelf.uploads.acquire()).await;
    let Ok(Ok(_turn)) = turn else {
        let why = "too many uploads at once";
        return Err(ApiError::new(ErrorCode::Unavailable, why).into());
    };
    let stored = shelf.objects.store(wanted, body.into_data_stream(), max).await?;
    Ok((StatusCode::CREATED, axum::Json(stored)))
}

async fn length(
    State(shelf): State<Shelf>,
    Path(sha256): Path<String>,
) -> Result<Response, Refused> {
    let sha256 = named(&sha256)?;
    let length = shelf.objects.length(&sha256).await?;
    Ok((describe(&sha256), [(header::CONTENT_LENGTH, length.to_string())]).into_response())
}

async fn download(
    State(shelf): State<Shelf>,
    Path(sha256): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let sha256 = named(&sha256)?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // Content never changes under its digest: any other validator is of something else.
    let same = text(header::IF_RANGE).is_none_or(|tag| tag == etag(&sha256));
    let range = text(header::RANGE).filter(|_| same);
    let length = match range {
        None => None,
        Some(_) => Some(shelf.objects.length(&sha256).await?),
    };
    let part = match wanted(range, length.unwrap_or(u64::MAX)) {
        Wanted::Whole => None,
        Wanted::Part(part) => Some(part),
        Wanted::Unsatisfiable => {
            let length = length.unwrap_or(0);
            let why = format!("the content has {length} bytes");
            let mut refused =
                ApiError::new(ErrorCode::Invalid, "there are no such bytes").because(why);
            refused.code = StatusCode::RANGE_NOT_SATISFIABLE.as_u16();
            let all = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            return Ok((all, Refused::from(refused)).into_response());
        }
    };
    let partial = part.is_some();
    let reading = shelf.objects.read(&sha256, part).await?;
    let (range, whole) = (reading.range, reading.length);
    let size = [(header::CONTENT_LENGTH, (range.end - range.start).to_string())];
    let body = Body::from_stream(reading.bytes);
    if !partial {
        return Ok((describe(&sha256), size, body).into_response());
    }
    let place = format!("bytes {}-{}/{whole}", range.start, range.end - 1);
    let place = [(header::CONTENT_RANGE, place)];
    Ok((StatusCode::PARTIAL_CONTENT, describe(&sha256), size, place, body).into_response())
}

fn etag(sha256: &str) -> String {
    format!("\"{sha256}\"")
}

fn describe(sha256: &str) -> [(header::HeaderName, String); 4] {
    [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, etag(sha256)),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable".to_owned()),
    ]
}

fn named(sha256: &str) -> Result<String, Refused> {
    let sha256 = sha256.to_ascii_lowercase();
    if is_sha256(&sha256) {
        return Ok(sha256);
    }
    let what = format!("\"{sha256}\" is not a SHA-256 digest of 64 hexadecimal digits");
    Err(ApiError::new(ErrorCode::Invalid, what).into())
}
