//! Answers that go on: JSON a line, and server-sent events.
//!
//! A stream says something at least every [`BEAT`], so that both sides notice when the other is gone. Deliberately
//! absent: what is said.

use super::respond::Failure;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use futures_util::Stream;
use serde::Serialize;
use std::convert::Infallible;
use std::time::Duration;
use wire::ErrorCode;

/// Between two signs of life.
pub(super) const BEAT: Duration = Duration::from_secs(15);

/// One JSON object on each line. Values that cannot be written are left out; none of ours are such.
pub(super) fn lines<T: Serialize>(values: &[T]) -> Bytes {
    let mut bytes = Vec::new();
    for value in values {
        let begin = bytes.len();
        if serde_json::to_writer(&mut bytes, value).is_ok() {
            bytes.push(b'\n');
        } else {
            bytes.truncate(begin);
        }
    }
    bytes.into()
}

/// Lines that are there already.
pub(super) fn whole_ndjson<T: Serialize>(values: &[T]) -> Response {
    typed(Body::from(lines(values)), "application/x-ndjson")
}

/// Lines as they come.
pub(super) fn ndjson<S>(lines: S) -> Response
where
    S: Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
{
    typed(Body::from_stream(lines), "application/x-ndjson")
}

fn typed(body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// One server-sent event. With an `id`, a client that comes back goes on after it.
pub(super) fn event<T: Serialize>(id: Option<u64>, name: &str, data: &T) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    // JSON of serde_json has no line breaks.
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    format!("{id}event: {name}\ndata: {data}\n\n").into()
}

/// Nothing happened, but we are here.
pub(super) fn alive() -> Bytes {
    Bytes::from_static(b":\n\n")
}

/// Server-sent events as they come.
pub(super) fn sse<S>(events: S) -> Response
where
    S: Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
{
    typed(Body::from_stream(events), "text/event-stream")
}

/// Where a client that comes back stands: the header of a browser, or what it says itself.
pub(super) fn resume(headers: &HeaderMap, after: Option<u64>) -> Result<Option<u64>, Failure> {
    let Some(header) = headers.get("last-event-id") else { return Ok(after) };
    let id = header.to_str().ok().and_then(|text| text.trim().parse().ok());
    id.map(Some).ok_or_else(|| {
        Failure::new(ErrorCode::Invalid, "Last-Event-ID is not an id that this server gave")
            .hint("leave it out, and read everything again")
    })
}
