//! Requests that may be repeated: the same `Idempotency-Key` gives the first answer again.
//!
//! The answer is stored in the very transaction that has the effect, so there is no moment at which one is there without
//! the other, whoever dies. Requests that were refused had no effect and leave nothing behind: repeating them asks anew.
//! Deliberately absent: uploads of packages, which are named by their content and so may be repeated anyway.

use super::respond::{Failure, json_bytes, set};
use super::state::{Shared, put};
use crate::authorize::Principal;
use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use store::{Expect, Write};
use wire::ErrorCode;
use wire::api::{IDEMPOTENCY_KEY, REVISION, TASK};

/// Prefix of stored answers.
pub(super) const IDEMPOTENCY: &str = "idempotency/";
/// How long an answer is kept.
pub(super) const KEPT_MS: u64 = 24 * 3_600 * 1_000;
/// Bytes of a key.
const KEY_BYTES_MAX: usize = 128;
/// Says that an answer was given before.
const REPLAYED: &str = "idempotency-replayed";

/// An answer as it is stored. The revision is not in it: it is that of the record itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stored {
    fingerprint: String,
    pub expires_ms: u64,
    status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
}

/// An answer to a write, before it is known at which revision.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub status: StatusCode,
    pub location: Option<String>,
    pub task: Option<String>,
    pub body: Option<Box<RawValue>>,
}

impl Written {
    pub(super) fn new<T: Serialize>(status: StatusCode, body: &T) -> Result<Self, Failure> {
        let body = serde_json::value::to_raw_value(body).map_err(|mistake| {
            tracing::error!(%mistake, "an answer could not be written");
            Failure::new(ErrorCode::Internal, "an answer could not be written")
        })?;
        Ok(Self { status, location: None, task: None, body: Some(body) })
    }

    pub(super) fn empty() -> Self {
        Self { status: StatusCode::NO_CONTENT, location: None, task: None, body: None }
    }

    /// The answer, now that the revision is known.
    pub(super) fn at(&self, revision: u64) -> Response {
        let mut response = match &self.body {
            Some(body) => json_bytes(self.status, Bytes::from(body.get().to_owned())),
            None => {
                let mut response = Response::default();
                *response.status_mut() = self.status;
                response
            }
        };
        let headers = response.headers_mut();
        set(headers, REVISION, &revision.to_string());
        if let Some(location) = &self.location {
            set(headers, "location", location);
        }
        if let Some(task) = &self.task {
            set(headers, TASK, task);
        }
        response
    }
}

/// The key of a request, if it has one, and the request that it stands for.
pub(super) struct Once {
    key: Option<String>,
    digest: Sha256,
}

impl<S: Send + Sync> FromRequestParts<S> for Once {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let mut digest = Sha256::new();
        // With and without /v1 it is the same request.
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        let path = path.strip_prefix("/v1/").unwrap_or_else(|| path.trim_start_matches('/'));
        digest.update(format!("{} {path}\n", parts.method));
        let Some(key) = parts.headers.get(IDEMPOTENCY_KEY) else {
            return Ok(Self { key: None, digest });
        };
        let key = key.to_str().unwrap_or("");
        let legal = |byte: u8| byte.is_ascii_graphic();
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(legal) {
            let message =
                format!("{IDEMPOTENCY_KEY} must be 1 to {KEY_BYTES_MAX} visible characters");
            return Err(Failure::new(ErrorCode::Invalid, message).hint("a UUID"));
        }
        Ok(Self { key: Some(key.to_owned()), digest })
    }
}

impl Once {
    /// The request is this principal's, with this body.
    pub(super) fn of(self, who: &Principal, body: &[u8]) -> Keyed {
        let digest = self.digest.chain_update(body).chain_update(format!("\n{}", who.name));
        let fingerprint = hex::encode(digest.finalize());
        let key = self.key.map(|key| format!("{IDEMPOTENCY}{}/{key}", who.name));
        Keyed { key, fingerprint, expect: Expect::Absent }
    }
}

/// A request that may have been made before.
pub(super) struct Keyed {
    key: Option<String>,
    fingerprint: String,
    expect: Expect,
}

impl Keyed {
    /// The first answer, if there was one, and its revision.
    pub(super) async fn replay(
        &mut self,
        api: &Shared,
    ) -> Result<Option<(Response, u64)>, Failure> {
        let Some(key) = &self.key else { return Ok(None) };
        let Some((stored, record)) = api.read::<Stored>(key).await? else {
            self.expect = Expect::Absent;
            return Ok(None);
        };
        if stored.expires_ms <= api.now_ms() {
            self.expect = Expect::Version(record.version);
            return Ok(None);
        }
        if stored.fingerprint != self.fingerprint {
            let message = format!("this {IDEMPOTENCY_KEY} was used for another request");
            return Err(Failure::new(ErrorCode::Mismatch, message)
                .hint("a new key for each new request, the same key to repeat one"));
        }
        let written = Written {
            status: StatusCode::from_u16(stored.status).unwrap_or(StatusCode::OK),
            location: stored.location,
            task: stored.task,
            body: stored.body,
        };
        let mut response = written.at(record.revision);
        set(response.headers_mut(), REPLAYED, "true");
        Ok(Some((response, record.revision)))
    }

    /// The write that keeps the answer; none without a key.
    pub(super) fn write(&self, api: &Shared, answer: &Written) -> Result<Option<Write>, Failure> {
        let Some(key) = &self.key else { return Ok(None) };
        let stored = Stored {
            fingerprint: self.fingerprint.clone(),
            expires_ms: api.now_ms() + KEPT_MS,
            status: answer.status.as_u16(),
            location: answer.location.clone(),
            task: answer.task.clone(),
            body: answer.body.clone(),
        };
        put(key.clone(), &stored, self.expect).map(Some)
    }

    /// Whether a conflict on this key means that somebody made the same request just now.
    pub(super) fn is_mine(&self, key: &str) -> bool {
        self.key.as_deref() == Some(key)
    }
}
