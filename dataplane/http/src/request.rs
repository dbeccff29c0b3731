//! A request head: parsed, checked, and understood in one go from left to right.
//!
//! ```text
//!  (CR LF)* method SP target SP version CR LF (field CR LF)* CR LF ──▶ RequestHead + Fields
//! ```
//!
//! Whatever two readers could read differently is refused. Nothing is allocated.
//! Deliberately absent: httparse. It accepts what must be told apart here (a bare LF, say), and
//! its second list of slices costs as much as this whole pass.

use crate::fault::HeadError;
use crate::fields::{Fields, HeadLimits, Sender};
use crate::framing::{self, Framing, Version};
use crate::known::Known;
use crate::scan::{Span, TOKEN, decimal, is, is_token, list, run_end};
use crate::target::{self, TargetForm};

/// Bytes of a method. The longest registered one has 17.
pub const METHOD_BYTES_MAX: usize = 32;

/// Blank lines tolerated before a request (RFC 9112 2.2 asks for at least one).
pub const LEADING_LINES_MAX: usize = 2;

/// Methods the router treats in a way of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the method of the same name")]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    /// Any other token; see [`RequestHead::method_span`].
    Other,
}

impl Method {
    /// RFC 9110 9.2.2: a repeated request has the effect of one. Unknown methods count as not.
    pub const fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options)
    }

    /// Sorts a method; methods are case-sensitive. CONNECT would make the router an open proxy,
    /// TRACE would show a client what the router tells the job.
    fn read(text: &[u8]) -> Result<Self, HeadError> {
        match text {
            b"GET" => Ok(Self::Get),
            b"HEAD" => Ok(Self::Head),
            b"POST" => Ok(Self::Post),
            b"PUT" => Ok(Self::Put),
            b"DELETE" => Ok(Self::Delete),
            b"OPTIONS" => Ok(Self::Options),
            b"PATCH" => Ok(Self::Patch),
            b"CONNECT" | b"TRACE" | b"PRI" => Err(HeadError::MethodUnsupported),
            _ => Ok(Self::Other),
        }
    }
}

/// How the body of a request is delimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RequestFraming {
    /// No body, and no field says so.
    #[default]
    None,
    /// Content-Length, which may be 0.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// A request head, by position. The fields are in the [`Fields`] it was parsed into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Bytes of the head, tolerated blank lines before it and the blank line after it included.
    pub head_len: usize,
    /// The method, if it is one we know.
    pub method: Method,
    /// The method as sent.
    pub method_span: Span,
    /// Version of the client.
    pub version: Version,
    /// Host and port as sent (an empty port left out): the Host field, or the authority of
    /// absolute-form, which agree.
    pub host: Span,
    /// How the target was written.
    pub form: TargetForm,
    /// Path and query as sent. Use [`RequestHead::target`] for what is forwarded: absolute-form
    /// may leave the path out.
    pub path_query: Span,
    /// Path as sent, up to the `?`. Use [`RequestHead::route_path`] to look a route up.
    pub path: Span,
    /// How the body is delimited.
    pub framing: RequestFraming,
    /// The client lets the connection stay open.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends its body.
    pub expect_continue: bool,
    /// The protocol asked for: only when Connection nominates it, it is a single one other than
    /// HTTP or TLS, and the request has no body.
    pub upgrade: Option<Span>,
    /// The client takes trailers.
    pub te_trailers: bool,
    /// Of an OPTIONS request: how many more hops it may take. At 0 it must be answered here.
    pub max_forwards: Option<u64>,
}

impl RequestHead {
    /// What stands in the request line towards an origin: two pieces to be written one after
    /// the other.
    pub fn target<'a>(&self, bytes: &'a [u8]) -> (&'static [u8], &'a [u8]) {
        match self.form {
            TargetForm::Origin | TargetForm::Absolute => (b"", self.path_query.of(bytes)),
            TargetForm::AbsoluteWithoutPath => (b"/", self.path_query.of(bytes)),
            TargetForm::Asterisk => (b"*", b""),
        }
    }

    /// The path to look a route up with: always begins with `/`.
    pub fn route_path<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match self.form {
            TargetForm::Origin | TargetForm::Absolute => self.path.of(bytes),
            TargetForm::AbsoluteWithoutPath | TargetForm::Asterisk => b"/",
        }
    }

    /// True when the body has at least one byte, or may have.
    pub const fn has_body(&self) -> bool {
        !matches!(self.framing, RequestFraming::None | RequestFraming::Length(0))
    }
}

/// Parses the request head at the start of `bytes` into `fields`.
///
/// `Ok(None)` means: good so far, but not complete. What is refused is refused at the same byte
/// no matter how the bytes were split on their way.
///
/// # Errors
/// A [`HeadError`] when the head is malformed, ambiguous or beyond the limits; its status is
/// what the client is to be answered before the connection is closed.
pub fn parse_request(
    bytes: &[u8],
    fields: &mut Fields,
    limits: &HeadLimits,
) -> Result<Option<RequestHead>, HeadError> {
    let (window, may_grow) = limits.window(bytes);
    match parse_window(window, fields, limits)? {
        None if !may_grow => Err(HeadError::HeadTooLarge),
        parsed => Ok(parsed),
    }
}

fn parse_window(
    window: &[u8],
    fields: &mut Fields,
    limits: &HeadLimits,
) -> Result<Option<RequestHead>, HeadError> {
    let Some(start) = skip_blank_lines(window)? else { return Ok(None) };
    let Some((method, method_end)) = read_method(window, start)? else { return Ok(None) };
    let target_start = method_end + 1;
    let Some((path_end, target_end)) = target::scan(window, target_start, limits.target_bytes_max)?
    else {
        return Ok(None);
    };
    let is_options = method == Method::Options;
    let target = target::sort(window, target_start, path_end, target_end, is_options)?;
    let Some((version, line_end)) = read_version(window, target_end + 1)? else { return Ok(None) };
    let Some(head_len) = fields.read(window, line_end, limits.fields_max, Sender::Client)? else {
        return Ok(None);
    };
    fields.read_connection(window)?;
    let port_default = target.authority.map_or(80, |authority| authority.port_default());
    let host = fields.first(Known::Host).ok_or(HeadError::HostMissing)?.value;
    let host = target::host_field(window, host, port_default)?;
    let framing = match framing::read(fields, window, version)? {
        Framing::Unstated => RequestFraming::None,
        Framing::Length(length) => RequestFraming::Length(length),
        Framing::Chunked => RequestFraming::Chunked,
    };
    let mut head = RequestHead {
        head_len,
        method,
        method_span: Span::between(start, method_end),
        version,
        host: target::host_of(&target, host, window)?,
        form: target.form,
        path_query: target.path_query,
        path: target.path,
        framing,
        keep_alive: keep_alive(fields, version),
        expect_continue: false,
        upgrade: None,
        te_trailers: false,
        max_forwards: None,
    };
    read_rare_fields(&mut head, fields, window)?;
    Ok(Some(head))
}

/// RFC 9112 9.3.
pub(crate) fn keep_alive(fields: &Fields, version: Version) -> bool {
    let options = fields.options();
    !options.close && (version == Version::Http11 || options.keep_alive)
}

/// Where the request line starts, once blank lines are skipped.
fn skip_blank_lines(window: &[u8]) -> Result<Option<usize>, HeadError> {
    let mut at = 0;
    for _ in 0..=LEADING_LINES_MAX {
        match window.get(at) {
            None => return Ok(None),
            Some(b'\r') => {}
            Some(b'\n') => return Err(HeadError::BareLf),
            Some(_) => return Ok(Some(at)),
        }
        match window.get(at + 1) {
            None => return Ok(None),
            Some(b'\n') => at += 2,
            Some(_) => return Err(HeadError::BareCr),
        }
    }
    Err(HeadError::LeadingBlankLines)
}

/// The method and the offset of the space behind it.
#[inline]
fn read_method(window: &[u8], start: usize) -> Result<Option<(Method, usize)>, HeadError> {
    let end = run_end(window, start, TOKEN);
    if end - start > METHOD_BYTES_MAX {
        return Err(HeadError::MethodUnsupported);
    }
    match window.get(end) {
        None => Ok(None),
        Some(b' ') if end > start => {
            Ok(Some((Method::read(window.get(start..end).unwrap_or_default())?, end)))
        }
        // A TLS record: handshake, major version 3. Worth a word of its own in the answer.
        Some(0x16) if end == start => match window.get(end + 1) {
            None => Ok(None),
            Some(3) => Err(HeadError::TlsOnPlainPort),
            Some(_) => Err(HeadError::MethodMalformed),
        },
        Some(_) => Err(HeadError::MethodMalformed),
    }
}

/// The version and the offset behind its line end.
#[inline]
fn read_version(window: &[u8], start: usize) -> Result<Option<(Version, usize)>, HeadError> {
    let rest = window.get(start..).unwrap_or_default();
    match rest.first_chunk::<10>() {
        Some(b"HTTP/1.1\r\n") => Ok(Some((Version::Http11, start + 10))),
        Some(b"HTTP/1.0\r\n") => Ok(Some((Version::Http10, start + 10))),
        _ => odd_version(rest).map(|()| None),
    }
}

/// Tells what is wrong with a version that is not one of the two we serve; nothing, when only
/// bytes are missing.
#[cold]
fn odd_version(rest: &[u8]) -> Result<(), HeadError> {
    for (index, &byte) in rest.iter().take(10).enumerate() {
        let good = match index {
            0..5 => byte == b"HTTP/"[index],
            5 | 7 => byte.is_ascii_digit(),
            6 => byte == b'.',
            8 => byte == b'\r',
            _ => byte == b'\n',
        };
        if !good {
            return Err(match (index, byte) {
                (8, b'\n') => HeadError::BareLf,
                (8, _) => HeadError::RequestLineMalformed,
                (9, _) => HeadError::BareCr,
                (0, b' ') => HeadError::RequestLineMalformed,
                _ => HeadError::VersionMalformed,
            });
        }
        if index == 7 && !matches!(&rest[5..8], b"1.1" | b"1.0") {
            return Err(HeadError::VersionUnsupported);
        }
    }
    Ok(())
}

/// The fields most requests do not have.
fn read_rare_fields(
    head: &mut RequestHead,
    fields: &Fields,
    bytes: &[u8],
) -> Result<(), HeadError> {
    if fields.has(Known::Expect) {
        head.expect_continue = expectation(head, fields, bytes)?;
    }
    if fields.has(Known::Te) {
        head.te_trailers = head.version == Version::Http11
            && fields
                .values(Known::Te, bytes)
                .any(|value| list(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers")));
    }
    if fields.has(Known::Upgrade) && fields.options().upgrade {
        head.upgrade = upgrade(head, fields, bytes);
    }
    if fields.has(Known::MaxForwards) && head.method == Method::Options {
        let mut values = fields.values(Known::MaxForwards, bytes);
        let number = values.next().and_then(|value| decimal(value, LENGTH_DIGITS));
        if number.is_none() || values.next().is_some() {
            return Err(HeadError::MaxForwardsMalformed);
        }
        head.max_forwards = number;
    }
    Ok(())
}

const LENGTH_DIGITS: usize = framing::LENGTH_DIGITS_MAX;

/// RFC 9110 10.1.1: `100-continue` or nothing; ignored in HTTP/1.0 and without a body.
fn expectation(head: &RequestHead, fields: &Fields, bytes: &[u8]) -> Result<bool, HeadError> {
    if head.version == Version::Http10 {
        return Ok(false);
    }
    if fields.values(Known::Expect, bytes).all(|value| value.eq_ignore_ascii_case(b"100-continue"))
    {
        Ok(head.has_body())
    } else {
        Err(HeadError::ExpectationUnknown)
    }
}

/// The protocol to switch to, or nothing: a server may ignore Upgrade, and does so when it is
/// in doubt. HTTP is never a choice: `h2c` behind our back would be a tunnel past every rule.
fn upgrade(head: &RequestHead, fields: &Fields, bytes: &[u8]) -> Option<Span> {
    if head.version == Version::Http10 || head.framing != RequestFraming::None {
        return None;
    }
    let mut all = fields.all_of(Known::Upgrade);
    let (only, none) = (all.next()?, all.next());
    none.is_none().then_some(())?;
    let value = only.value.of(bytes);
    is_foreign_protocol(value).then_some(only.value)
}

/// `token ["/" token]`, and neither HTTP nor TLS.
pub(crate) fn is_foreign_protocol(value: &[u8]) -> bool {
    let mut parts = value.splitn(2, |&byte| byte == b'/');
    let name = parts.next().unwrap_or_default();
    let ours = [&b"http"[..], b"https", b"h2", b"h2c", b"h3", b"tls"];
    is_token(name)
        && parts.next().is_none_or(is_token)
        && !ours.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Where the head that starts at `bytes` ends, or `None`: a cheap test for incomplete heads.
///
/// `searched` remembers how far earlier calls have looked, so that a head that comes byte by
/// byte costs linear time. It starts at 0, belongs to one head, and only complete heads need be
/// parsed. It finds the end of a *good* head; a bad one may have no end, see [`refuse_early`].
pub fn head_end(bytes: &[u8], searched: &mut usize) -> Option<usize> {
    // Blank lines before the request line are no end of a head.
    let first = bytes.iter().take(2 * LEADING_LINES_MAX).position(|&b| b != b'\r' && b != b'\n');
    let from = first.unwrap_or_else(|| bytes.len().min(2 * LEADING_LINES_MAX));
    let mut at = from.max(searched.saturating_sub(3));
    while let Some(offset) = memchr::memchr(b'\n', bytes.get(at..).unwrap_or_default()) {
        let line_feed = at + offset;
        if line_feed >= from + 3 && bytes[line_feed - 3..=line_feed] == *b"\r\n\r\n" {
            return Some(line_feed + 1);
        }
        at = line_feed + 1;
    }
    *searched = bytes.len();
    None
}

/// Refuses what cannot become a request from its first bytes: TLS on a plain port, binary
/// garbage, an endless method or target. Costs little and looks at no field.
///
/// # Errors
/// The same [`HeadError`] that [`parse_request`] gives.
pub fn refuse_early(bytes: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
    let (window, may_grow) = limits.window(bytes);
    if let Some(start) = skip_blank_lines(window)?
        && let Some((_, end)) = read_method(window, start)?
    {
        target::scan(window, end + 1, limits.target_bytes_max)?;
    }
    if may_grow { Ok(()) } else { Err(HeadError::HeadTooLarge) }
}

/// True for a byte that may start a request line.
pub fn may_start_request(byte: u8) -> bool {
    is(byte, TOKEN) || byte == b'\r'
}
