//! The response as the client gets it: the origin's fields, our framing, our connection.
//!
//! Deliberately absent: interest in content. Cookies, types and caches are between the two ends.

use crate::fields::Fields;
use crate::forward::{copy_fields, put_length, via_version};
use crate::framing::Version;
use crate::known::Known;
use crate::out::{Full, Out};
use crate::response::{ResponseFraming, ResponseHead};

/// What the router decided about a response beyond its head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reply<'a> {
    /// Version of the client's request.
    pub client_version: Version,
    /// The client's connection ends with this response.
    pub close: bool,
    /// How the body is delimited towards the client.
    pub framing: ResponseFraming,
    /// With [`ResponseFraming::None`]: repeat the origin's Content-Length (HEAD, 304).
    pub keep_length: bool,
    /// Our pseudonym in Via; empty writes no Via.
    pub via: &'a str,
    /// Complete field lines to add, each ending in CR LF.
    pub lines: &'a [u8],
}

/// Never copied: written anew, or of this hop only.
const NEVER: u64 = Known::LookAlike.bit()
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
    | Known::Http2Settings.bit()
    | Known::Apcera.bit();

/// Writes the head of the response towards the client.
///
/// `Apcera-*` is ours in both directions: with `Apcera-Error` the router marks its own answers,
/// and an origin cannot pass itself off as the router.
///
/// # Errors
/// [`Full`] when `out` is too small: the head's length plus about 200 bytes is enough, unless
/// `lines` is long.
pub fn encode_response(
    out: &mut Out<'_>,
    bytes: &[u8],
    head: &ResponseHead,
    fields: &Fields,
    reply: &Reply<'_>,
) -> Result<(), Full> {
    let mut digits = [0; 20];
    let status = crate::out::decimal_text(u64::from(head.status), &mut digits);
    out.put_all([b"HTTP/1.1 ", status, b" ", head.reason.of(bytes), b"\r\n"])?;
    let mut drop = NEVER;
    if reply.framing == ResponseFraming::Chunked {
        drop &= !Known::Trailer.bit(); // Only a chunked body can have the trailers it announces.
    }
    copy_fields(out, bytes, fields, drop)?;
    if !head.is_interim() {
        put_framing(out, head, reply)?;
        put_connection(out, bytes, head, reply)?;
    }
    if !reply.via.is_empty() {
        let version: &[u8] = via_version(head.version);
        out.put_all([b"Via: ", version, b" ", reply.via.as_bytes(), b"\r\n"])?;
    }
    debug_assert!(reply.lines.is_empty() || reply.lines.ends_with(b"\r\n"));
    out.put_all([reply.lines, b"\r\n"])
}

fn put_framing(out: &mut Out<'_>, head: &ResponseHead, reply: &Reply<'_>) -> Result<(), Full> {
    match reply.framing {
        ResponseFraming::None => match head.content_length {
            Some(length) if reply.keep_length && !matches!(head.status, 101 | 204) => {
                put_length(out, length)
            }
            _ => Ok(()),
        },
        ResponseFraming::Length(length) => put_length(out, length),
        ResponseFraming::Chunked => {
            debug_assert!(reply.client_version == Version::Http11, "HTTP/1.0 knows no chunks");
            out.put(b"Transfer-Encoding: chunked\r\n")
        }
        ResponseFraming::UntilClose => {
            debug_assert!(reply.close, "a body until close must close");
            Ok(())
        }
    }
}

fn put_connection(
    out: &mut Out<'_>,
    bytes: &[u8],
    head: &ResponseHead,
    reply: &Reply<'_>,
) -> Result<(), Full> {
    if let Some(protocol) = head.upgrade {
        let close: &[u8] = if reply.close && head.status != 101 { b", close" } else { b"" };
        let protocol = protocol.of(bytes);
        return out.put_all([b"Connection: upgrade", close, b"\r\nUpgrade: ", protocol, b"\r\n"]);
    }
    match (reply.close, reply.client_version) {
        (true, _) => out.put(b"Connection: close\r\n"),
        (false, Version::Http10) => out.put(b"Connection: keep-alive\r\n"),
        (false, Version::Http11) => Ok(()),
    }
}
