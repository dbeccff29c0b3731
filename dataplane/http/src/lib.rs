//! HTTP/1.1 as a set of pure functions: bytes in, decisions out.
//!
//! ```text
//!  bytes ──▶ parse_request ──▶ RequestHead + Fields ──▶ encode_request ──▶ bytes for the origin
//!  bytes ──▶ parse_response ─▶ ResponseHead + Fields ─▶ encode_response ─▶ bytes for the client
//!  bytes ──▶ Chunked::step ──▶ where the data lies, where the body ends
//! ```
//!
//! The rule of the house: strict by the grammar of RFC 9110 and RFC 9112; what two readers could
//! read differently is refused; nothing is forwarded that we would refuse ourselves.
//! Deliberately absent: sockets, clocks, buffers, routes, HTTP/2. Heads are positions in bytes,
//! so another decoder can fill the same structures. No `unsafe`.

#![forbid(unsafe_code)]

mod chunked;
mod fault;
mod fields;
mod forward;
mod framing;
mod known;
mod out;
mod proxies;
mod reply;
mod request;
mod response;
mod scan;
mod target;

pub use chunked::{
    CHUNK_BYTES_MAX, CHUNK_END, CHUNK_EXTENSION_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, Chunked,
    LAST_CHUNK, LAST_CHUNK_START, Piece, TRAILER_BYTES_MAX, TRAILER_FIELDS_MAX, chunk_header,
};
pub use fault::{ChunkError, HeadError};
pub use fields::{FIELDS_MAX, Field, Fields, HeadLimits, NOMINATIONS_MAX};
pub use forward::{Forward, TlsFacts, encode_request, put_https_location};
pub use framing::{LENGTH_DIGITS_MAX, Version};
pub use known::Known;
pub use out::{Full, Out};
pub use proxies::{ADDRESSES_MAX, TrustedProxies, TrustedProxiesError, client_address};
pub use reply::{Reply, encode_response};
pub use request::{
    LEADING_LINES_MAX, METHOD_BYTES_MAX, Method, RequestFraming, RequestHead, head_end,
    may_start_request, parse_request, refuse_early,
};
pub use response::{RequestFacts, ResponseFraming, ResponseHead, parse_response, reason_phrase};
pub use scan::{HEAD_BYTES_CEILING, Span};
pub use target::{HOST_NAME_BYTES_MAX, TargetForm};
