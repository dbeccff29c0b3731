//! Answers that go on: JSON a line, and server-sent events.
//!
//! A stream says something at least every [`BEAT`], so that both sides notice when the other is gone. Deliberately
//! absent: what is said.

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header;
use axum::response::Response;
use futures_util::Stream;
use serde::Serialize;
use std::convert::Infallible;
use std::time::Duration;

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
