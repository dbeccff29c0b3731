//! A response head from an origin: parsed, checked, and its body's end decided.
//!
//! An origin is more trusted than a client and refused for the same ambiguities all the same:
//! whoever can make an origin write a field could otherwise poison the connection's next user.
//! Deliberately absent: blank lines before the status line, and bodies that RFC 9112 forbids;
//! a response with one is passed on without it, and its connection is not used again.

use crate::fault::HeadError;
use crate::fields::{Fields, HeadLimits, Sender};
use crate::framing::{self, Framing, Version};
use crate::known::Known;
use crate::request::{is_foreign_protocol, keep_alive};
use crate::scan::{Span, value_end};

/// What the request was, as far as its response cannot be read without knowing it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestFacts {
    /// The method was HEAD: no body follows, whatever the fields say.
    pub is_head: bool,
    /// The forwarded request asked for another protocol: 101 is a legal answer.
    pub upgrade: bool,
}

/// How the body of a response is delimited, on either side of the router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResponseFraming {
    /// No body.
    #[default]
    None,
    /// Content-Length, which may be 0.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The body ends with the connection.
    UntilClose,
}

/// A response head, by position. The fields are in the [`Fields`] it was parsed into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Bytes of the head, the blank line included.
    pub head_len: usize,
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase as sent; may be empty.
    pub reason: Span,
    /// Version of the origin.
    pub version: Version,
    /// How the body is delimited.
    pub framing: ResponseFraming,
    /// What Content-Length said, also where no body follows (HEAD, 304).
    pub content_length: Option<u64>,
    /// The connection may carry another request once the body has ended.
    pub keep_alive: bool,
    /// The protocol of a 101, or the one a 426 asks for.
    pub upgrade: Option<Span>,
}

impl ResponseHead {
    /// True for 1xx other than 101: another head follows.
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// Parses the response head at the start of `bytes` into `fields`.
///
/// `Ok(None)` means: good so far, but not complete.
///
/// # Errors
/// A [`HeadError`] when the head is malformed, ambiguous or beyond the limits: the client is to
/// be answered 502, and the origin's connection to be closed.
pub fn parse_response(
    bytes: &[u8],
    fields: &mut Fields,
    limits: &HeadLimits,
    request: RequestFacts,
) -> Result<Option<ResponseHead>, HeadError> {
    let (window, may_grow) = limits.window(bytes);
    match parse_window(window, fields, limits, request)? {
        None if !may_grow => Err(HeadError::HeadTooLarge),
        parsed => Ok(parsed),
    }
}

fn parse_window(
    window: &[u8],
    fields: &mut Fields,
    limits: &HeadLimits,
    request: RequestFacts,
) -> Result<Option<ResponseHead>, HeadError> {
    let Some(line) = read_status_line(window)? else { return Ok(None) };
    let Some(head_len) = fields.read(window, line.end, limits.fields_max, Sender::Origin)? else {
        return Ok(None);
    };
    fields.read_connection(window)?;
    let stated = framing::read(fields, window, line.version)?;
    let content_length = match stated {
        Framing::Length(length) => Some(length),
        Framing::Unstated | Framing::Chunked => None,
    };
    let framing = response_framing(line.status, request, stated);
    let forbidden_body = match line.status {
        100..=199 | 204 => !matches!(stated, Framing::Unstated | Framing::Length(0)),
        _ => false,
    };
    let head = ResponseHead {
        head_len,
        status: line.status,
        reason: line.reason,
        version: line.version,
        framing,
        content_length,
        keep_alive: keep_alive(fields, line.version)
            && framing != ResponseFraming::UntilClose
            && line.status != 101
            && !forbidden_body,
        upgrade: upgrade(line.status, fields, window, request)?,
    };
    Ok(Some(head))
}

/// RFC 9112 6.3, in its order. A 101 is followed by the other protocol, not by a body.
fn response_framing(status: u16, request: RequestFacts, stated: Framing) -> ResponseFraming {
    if request.is_head || matches!(status, 100..=199 | 204 | 304) {
        return ResponseFraming::None;
    }
    match stated {
        Framing::Unstated => ResponseFraming::UntilClose,
        Framing::Length(length) => ResponseFraming::Length(length),
        Framing::Chunked => ResponseFraming::Chunked,
    }
}

/// RFC 9110 7.8: a 101 must have been asked for and must name what comes now.
fn upgrade(
    status: u16,
    fields: &Fields,
    bytes: &[u8],
    request: RequestFacts,
) -> Result<Option<Span>, HeadError> {
    if !matches!(status, 101 | 426) {
        return Ok(None);
    }
    if status == 101 && !request.upgrade {
        return Err(HeadError::UpgradeUnasked);
    }
    let mut all = fields.all_of(Known::Upgrade);
    let only = match (all.next(), all.next()) {
        (Some(only), None) if is_foreign_protocol(only.value.of(bytes)) => Some(only.value),
        _ => None,
    };
    if status == 101 && (only.is_none() || !fields.options().upgrade) {
        return Err(HeadError::UpgradeMalformed);
    }
    Ok(only)
}

struct StatusLine {
    version: Version,
    status: u16,
    reason: Span,
    end: usize,
}

/// `HTTP/1.x SP 3DIGIT [SP reason] CR LF`; the space before an empty reason may be missing.
fn read_status_line(window: &[u8]) -> Result<Option<StatusLine>, HeadError> {
    const START: usize = 12;
    for (index, &byte) in window.iter().take(START).enumerate() {
        let good = match index {
            0..=4 => byte == b"HTTP/"[index],
            5 | 7 | 10 | 11 => byte.is_ascii_digit(),
            6 => byte == b'.',
            9 => matches!(byte, b'1'..=b'9'),
            _ => byte == b' ',
        };
        if !good {
            return Err(HeadError::StatusLineMalformed);
        }
    }
    let Some(start) = window.first_chunk::<START>() else { return Ok(None) };
    let version = match (start[5], start[7]) {
        (b'1', b'1') => Version::Http11,
        (b'1', b'0') => Version::Http10,
        _ => return Err(HeadError::VersionUnsupported),
    };
    let digit = |byte: u8| u16::from(byte - b'0');
    let status = digit(start[9]) * 100 + digit(start[10]) * 10 + digit(start[11]);
    let reason_start = match window.get(START) {
        None => return Ok(None),
        Some(b' ') => START + 1,
        Some(b'\r' | b'\n') => START,
        Some(_) => return Err(HeadError::StatusLineMalformed),
    };
    let reason_end = value_end(window, reason_start);
    match (window.get(reason_end), window.get(reason_end + 1)) {
        (None, _) | (Some(b'\r'), None) => Ok(None),
        (Some(b'\r'), Some(b'\n')) => {
            let reason = Span::between(reason_start, reason_end);
            Ok(Some(StatusLine { version, status, reason, end: reason_end + 2 }))
        }
        (Some(b'\r'), Some(_)) => Err(HeadError::BareCr),
        (Some(b'\n'), _) => Err(HeadError::BareLf),
        (Some(_), _) => Err(HeadError::StatusLineMalformed),
    }
}

/// The registered reason phrase of a status the router itself answers with; empty for others.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
