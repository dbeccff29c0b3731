//! The request as the origin gets it: always HTTP/1.1, origin-form, one framing, one Host.
//!
//! Runs of fields that are passed on untouched are copied in one piece; all that has a meaning
//! on this hop is left out and written anew from what was *understood*, so that an origin can
//! never read it otherwise than we did.
//! Deliberately absent: rewriting of paths, and trust in anything a client says about itself.

use crate::fields::{Field, Fields};
use crate::known::Known;
use crate::out::{Full, Out};
use crate::request::{RequestFraming, RequestHead};
use crate::target::TargetForm;

/// What is known of a TLS connection; all texts as the fields show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts<'a> {
    /// Cipher suite, as OpenSSL spells it.
    pub cipher: &'a str,
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'a str,
    /// Session id in hexadecimal; stays the same when a session is resumed.
    pub session_id: &'a str,
    /// The session was resumed.
    pub reused: bool,
    /// The name the client asked for (SNI), or empty.
    pub server_name: &'a str,
}

/// What the router knows about a request beyond its head. Texts are prepared once per
/// connection, so that nothing is formatted per request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forward<'a> {
    /// Address of the client: the peer's, or behind a trusted proxy the last untrusted hop.
    pub client_ip: &'a str,
    /// Address of the TCP peer.
    pub peer_ip: &'a str,
    /// The peer is one of the trusted proxies: what it says about the client is kept.
    pub peer_trusted: bool,
    /// Facts of the TLS connection, `None` on a plain one.
    pub https: Option<TlsFacts<'a>>,
    /// Port of the listener, as text.
    pub port_text: &'a str,
    /// Id given to the request, unless a trusted peer gave one.
    pub request_id: &'a [u8],
    /// How the body is delimited towards the origin; mostly what the head says.
    pub framing: RequestFraming,
    /// Ask the origin for `100 Continue`.
    pub expect_continue: bool,
    /// Our pseudonym in Via; empty writes no Via.
    pub via: &'a str,
    /// Complete field lines to add, each ending in CR LF.
    pub lines: &'a [u8],
}

/// Never copied, whoever sent them: written anew, or of this hop only, or dangerous.
const NEVER: u64 = Known::LookAlike.bit()
    | Known::Apcera.bit()
    | Known::Host.bit()
    | Known::Connection.bit()
    | Known::ContentLength.bit()
    | Known::TransferEncoding.bit()
    | Known::Te.bit()
    | Known::Trailer.bit()
    | Known::Upgrade.bit()
    | Known::KeepAlive.bit()
    | Known::ProxyConnection.bit()
    | Known::ProxyAuthenticate.bit()
    | Known::ProxyAuthorization.bit()
    | Known::Proxy.bit()
    | Known::Http2Settings.bit()
    | Known::Expect.bit()
    | Known::XForwardedFor.bit()
    | Known::XRealIp.bit();

/// Kept only when a trusted proxy sent them.
const TRUSTED_ONLY: u64 = Known::XForwardedProto.bit()
    | Known::XForwardedHost.bit()
    | Known::XForwardedPort.bit()
    | Known::XForwardedOther.bit()
    | Known::XRequestId.bit()
    | Known::Forwarded.bit();

/// Writes the head of the request towards an origin.
///
/// # Errors
/// [`Full`] when `out` is too small: the head's length plus about 1 KiB is enough, unless
/// `lines` is long.
pub fn encode_request(
    out: &mut Out<'_>,
    bytes: &[u8],
    head: &RequestHead,
    fields: &Fields,
    forward: &Forward<'_>,
) -> Result<(), Full> {
    let (start, rest) = head.target(bytes);
    let host = head.host.of(bytes);
    let method = head.method_span.of(bytes);
    out.put_all([method, b" ", start, rest, b" HTTP/1.1\r\nHost: ", host, b"\r\n"])?;
    let drop = dropped(head, forward);
    copy_fields(out, bytes, fields, drop)?;
    put_hop(out, bytes, head, fields, forward)?;
    put_forwarded(out, bytes, head, fields, forward)?;
    put_tls(out, forward.https.as_ref())?;
    if !forward.via.is_empty() {
        let version: &[u8] = via_version(head.version);
        out.put_all([b"Via: ", version, b" ", forward.via.as_bytes(), b"\r\n"])?;
    }
    debug_assert!(forward.lines.is_empty() || forward.lines.ends_with(b"\r\n"));
    out.put_all([forward.lines, b"\r\n"])
}

pub(crate) const fn via_version(version: crate::Version) -> &'static [u8] {
    match version {
        crate::Version::Http10 => b"1.0",
        crate::Version::Http11 => b"1.1",
    }
}

/// The kinds of fields that are left out.
fn dropped(head: &RequestHead, forward: &Forward<'_>) -> u64 {
    let mut drop = NEVER;
    if !forward.peer_trusted {
        drop |= TRUSTED_ONLY;
    }
    if forward.framing == RequestFraming::Chunked {
        drop &= !Known::Trailer.bit(); // Only a chunked body can have the trailers it announces.
    }
    if head.max_forwards.is_some() {
        drop |= Known::MaxForwards.bit();
    }
    drop
}

/// Copies all fields whose kind is not in `drop` and that are not nominated.
pub(crate) fn copy_fields(
    out: &mut Out<'_>,
    bytes: &[u8],
    fields: &Fields,
    drop: u64,
) -> Result<(), Full> {
    let mut run_start = 0;
    let mut run_end = 0;
    for field in fields.all() {
        let line_start = usize::from(field.name.start);
        let keep = field.known.bit() & drop == 0 && !field.is_nominated();
        if keep && field.is_canonical() && line_start == run_end {
            run_end = field.value.end() + 2;
            continue;
        }
        if run_end > run_start {
            out.put(bytes.get(run_start..run_end).unwrap_or_default())?;
        }
        (run_start, run_end) = (0, 0);
        if keep && field.is_canonical() {
            (run_start, run_end) = (line_start, field.value.end() + 2);
        } else if keep {
            put_rewritten(out, bytes, field)?;
        }
    }
    if run_end > run_start {
        out.put(bytes.get(run_start..run_end).unwrap_or_default())?;
    }
    Ok(())
}

/// A kept line that was written in an unusual way is written in the usual one.
#[cold]
fn put_rewritten(out: &mut Out<'_>, bytes: &[u8], field: &Field) -> Result<(), Full> {
    out.put_field(field.name.of(bytes), field.value.of(bytes))
}

/// Framing and the fields of this hop, as understood.
fn put_hop(
    out: &mut Out<'_>,
    bytes: &[u8],
    head: &RequestHead,
    fields: &Fields,
    forward: &Forward<'_>,
) -> Result<(), Full> {
    match forward.framing {
        RequestFraming::None => {}
        RequestFraming::Length(length) => put_length(out, length)?,
        RequestFraming::Chunked => out.put(b"Transfer-Encoding: chunked\r\n")?,
    }
    if let Some(protocol) = head.upgrade {
        let te: &[u8] = if head.te_trailers { b", te" } else { b"" };
        let protocol = protocol.of(bytes);
        out.put_all([b"Connection: upgrade", te, b"\r\nUpgrade: ", protocol, b"\r\n"])?;
    } else if head.te_trailers {
        out.put(b"Connection: te\r\n")?;
    }
    if head.te_trailers {
        out.put(b"TE: trailers\r\n")?;
    }
    if forward.expect_continue {
        out.put(b"Expect: 100-continue\r\n")?;
    }
    if let Some(hops) = head.max_forwards {
        debug_assert!(fields.has(Known::MaxForwards));
        out.put(b"Max-Forwards: ")?;
        out.put_decimal(hops.saturating_sub(1))?;
        out.put(b"\r\n")?;
    }
    Ok(())
}

pub(crate) fn put_length(out: &mut Out<'_>, length: u64) -> Result<(), Full> {
    let mut digits = [0; 20];
    let digits = crate::out::decimal_text(length, &mut digits);
    out.put_all([b"Content-Length: ", digits, b"\r\n"])
}

/// Who the client is, and how it came. A trusted proxy's word is kept where it gave one.
fn put_forwarded(
    out: &mut Out<'_>,
    bytes: &[u8],
    head: &RequestHead,
    fields: &Fields,
    forward: &Forward<'_>,
) -> Result<(), Full> {
    let proto: &[u8] = if forward.https.is_some() { b"https" } else { b"http" };
    let host = head.host.of(bytes);
    let port = forward.port_text.as_bytes();
    let client = forward.client_ip.as_bytes();
    if !forward.peer_trusted {
        return out.put_all([
            b"X-Forwarded-For: ",
            client,
            b"\r\nX-Forwarded-Proto: ",
            proto,
            b"\r\nX-Forwarded-Host: ",
            host,
            b"\r\nX-Forwarded-Port: ",
            port,
            b"\r\nX-Real-IP: ",
            client,
            b"\r\nX-Request-Id: ",
            forward.request_id,
            b"\r\n",
        ]);
    }
    out.put(b"X-Forwarded-For: ")?;
    for value in fields.values(Known::XForwardedFor, bytes) {
        if !value.is_empty() {
            out.put_all([value, b", "])?;
        }
    }
    out.put_all([forward.peer_ip.as_bytes(), b"\r\nX-Real-IP: ", client, b"\r\n"])?;
    let own: [(Known, &[u8], &[u8]); 4] = [
        (Known::XForwardedProto, b"X-Forwarded-Proto: ", proto),
        (Known::XForwardedHost, b"X-Forwarded-Host: ", host),
        (Known::XForwardedPort, b"X-Forwarded-Port: ", port),
        (Known::XRequestId, b"X-Request-Id: ", forward.request_id),
    ];
    for (known, name, value) in own {
        if !fields.has(known) {
            out.put_all([name, value, b"\r\n"])?;
        }
    }
    Ok(())
}

/// The `Apcera-*` fields: `Apcera-HTTPS` always, the others on TLS.
fn put_tls(out: &mut Out<'_>, https: Option<&TlsFacts<'_>>) -> Result<(), Full> {
    let Some(facts) = https else { return out.put(b"Apcera-HTTPS:\r\n") };
    out.put_all([
        b"Apcera-HTTPS: on\r\nApcera-SSL-Cipher: ",
        facts.cipher.as_bytes(),
        b"\r\nApcera-SSL-Protocol: ",
        facts.protocol.as_bytes(),
        b"\r\nApcera-SSL-Session-Id: ",
        facts.session_id.as_bytes(),
        b"\r\nApcera-SSL-Session-Reused: ",
        if facts.reused { b"r" } else { b"." },
        b"\r\nApcera-SSL-Server-Name: ",
        facts.server_name.as_bytes(),
        b"\r\n",
    ])
}

/// Writes `https://host/target`, for the redirect of a route that serves TLS only.
///
/// # Errors
/// [`Full`] when `out` is too small.
pub fn put_https_location(
    out: &mut Out<'_>,
    bytes: &[u8],
    head: &RequestHead,
    port: Option<u16>,
) -> Result<(), Full> {
    let host = head.host.of(bytes);
    // The port of the plain listener means nothing to the other one; a colon may also belong
    // to an IPv6 address, which ends in a bracket.
    let name_end = host.iter().rposition(|&byte| matches!(byte, b':' | b']'));
    let name = match name_end {
        Some(at) if host[at] == b':' => &host[..at],
        _ => host,
    };
    out.put_all([b"https://", name])?;
    if let Some(port) = port {
        out.put(b":")?;
        out.put_decimal(u64::from(port))?;
    }
    let (start, rest) = head.target(bytes);
    match head.form {
        TargetForm::Asterisk => out.put(b"/"),
        _ => out.put_all([start, rest]),
    }
}
