//! Request targets and hosts: which bytes may stand in them, and what each form means.
//!
//! What is taken beyond RFC 3986, because browsers send it raw: `|`, `^`, `` ` ``, `{`, `}`,
//! `[`, `]` anywhere, and `"`, `<`, `>`, `\` behind the first `?`. A backslash in a *path* is refused:
//! some servers read it as a slash. A fragment, a space, a control byte and any byte beyond
//! ASCII are refused everywhere.
//! Deliberately absent: percent-decoding and dot segments. A path is compared and forwarded as
//! it was sent; whoever decodes twice opens a hole.

use core::net::Ipv6Addr;

use crate::fault::HeadError;
use crate::scan::{HOST, PATH, QUERY, Span, decimal, is, run_end};

/// Bytes of a host name without its port (RFC 1035 has 253 and a final dot).
pub const HOST_NAME_BYTES_MAX: usize = 254;

/// Where the parts of a request target lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) form: TargetForm,
    /// Path and query; without the leading slash if the form says so.
    pub(crate) path_query: Span,
    pub(crate) path: Span,
    /// Host and port of absolute-form.
    pub(crate) authority: Option<Authority>,
}

/// How the target was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TargetForm {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://host/path?query`
    Absolute,
    /// `http://host` or `http://host?query`: the path is `/`, but no byte of the head says so.
    AbsoluteWithoutPath,
    /// `*`, for OPTIONS only.
    Asterisk,
}

/// A host with its port, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    /// Name or address with port; an empty port (`host:`) is left out.
    pub(crate) whole: Span,
    /// Bytes of the name or address within `whole`.
    name_len: usize,
    /// The port that is meant when none is written.
    port_default: u16,
}

impl Authority {
    /// Checks the authority at `start..end` of `bytes`.
    pub(crate) fn read(
        bytes: &[u8],
        start: usize,
        end: usize,
        port_default: u16,
    ) -> Result<Self, HeadError> {
        let text = bytes.get(start..end).unwrap_or_default();
        let name_len = host_name(text)?;
        let whole_len = match text.get(name_len..) {
            None | Some([]) => text.len(),
            Some([b':']) => name_len,
            Some([b':', port @ ..]) => match decimal(port, 5) {
                Some(number) if number <= u64::from(u16::MAX) => text.len(),
                _ => return Err(HeadError::HostMalformed),
            },
            Some(_) => return Err(HeadError::HostMalformed),
        };
        Ok(Self { whole: Span::between(start, start + whole_len), name_len, port_default })
    }

    /// True when both name the same host and port.
    fn names_the_same(&self, other: &Self, bytes: &[u8]) -> bool {
        let (mine, my_port) = self.parts(bytes);
        let (theirs, their_port) = other.parts(bytes);
        mine.eq_ignore_ascii_case(theirs) && my_port == their_port
    }

    /// The port that is meant when none is written.
    pub(crate) const fn port_default(&self) -> u16 {
        self.port_default
    }

    fn parts<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], u64) {
        let (name, port) = self.whole.of(bytes).split_at(self.name_len);
        let port = port.get(1..).and_then(|digits| decimal(digits, 5));
        (name, port.unwrap_or_else(|| u64::from(self.port_default)))
    }
}

/// Length of the name or address at the start of an authority; the rest is the port.
fn host_name(text: &[u8]) -> Result<usize, HeadError> {
    if text.first() == Some(&b'[') {
        return ipv6_literal(text);
    }
    let (mut end, mut before) = (0, b'.');
    for &byte in text {
        if byte == b'.' && before == b'.' {
            return Err(HeadError::HostMalformed); // An empty label: no name has one.
        }
        if !is(byte, HOST) {
            break;
        }
        before = byte;
        end += 1;
    }
    if end == 0 {
        return Err(if text.is_empty() {
            HeadError::HostMissing
        } else {
            HeadError::HostMalformed
        });
    }
    if end > HOST_NAME_BYTES_MAX { Err(HeadError::HostMalformed) } else { Ok(end) }
}

fn ipv6_literal(text: &[u8]) -> Result<usize, HeadError> {
    let close = text.iter().position(|&byte| byte == b']').ok_or(HeadError::HostMalformed)?;
    let inner = core::str::from_utf8(&text[1..close]).map_err(|_| HeadError::HostMalformed)?;
    inner.parse::<Ipv6Addr>().map_err(|_| HeadError::HostMalformed)?;
    Ok(close + 1)
}

/// Reads the Host field; `http` gives the port that is meant when none is written.
pub(crate) fn host_field(
    bytes: &[u8],
    value: Span,
    port_default: u16,
) -> Result<Authority, HeadError> {
    Authority::read(bytes, usize::from(value.start), value.end(), port_default)
}

/// Where the target that starts at `start` ends, and where its path ends.
///
/// `None` when it goes on beyond `window`.
#[inline]
pub(crate) fn scan(
    window: &[u8],
    start: usize,
    bytes_max: usize,
) -> Result<Option<(usize, usize)>, HeadError> {
    let stop = window.len().min(start.saturating_add(bytes_max).saturating_add(1));
    let within = window.get(..stop).unwrap_or_default();
    let mut path_end = run_end(within, start, PATH);
    let mut end = path_end;
    if within.get(end) == Some(&b'?') {
        end = run_end(within, end, QUERY);
    }
    match within.get(end) {
        Some(b' ') if end > start => {
            path_end = path_end.min(end);
            Ok(Some((path_end, end)))
        }
        Some(_) => Err(HeadError::TargetMalformed),
        None if end - start > bytes_max => Err(HeadError::TargetTooLong),
        None => Ok(None),
    }
}

/// Sorts a scanned target into its form. `is_options` admits `*`.
#[inline]
pub(crate) fn sort(
    bytes: &[u8],
    start: usize,
    path_end: usize,
    end: usize,
    is_options: bool,
) -> Result<Target, HeadError> {
    if bytes.get(start) == Some(&b'/') {
        return Ok(Target {
            form: TargetForm::Origin,
            path_query: Span::between(start, end),
            path: Span::between(start, path_end),
            authority: None,
        });
    }
    let text = bytes.get(start..end).unwrap_or_default();
    if text == b"*" && is_options {
        let all = Span::between(start, end);
        return Ok(Target {
            form: TargetForm::Asterisk,
            path_query: all,
            path: all,
            authority: None,
        });
    }
    absolute(bytes, start, path_end, end, is_options)
}

/// `http://authority[/path][?query]`; no other scheme, no user information.
#[cold]
fn absolute(
    bytes: &[u8],
    start: usize,
    path_end: usize,
    end: usize,
    is_options: bool,
) -> Result<Target, HeadError> {
    let text = bytes.get(start..path_end).unwrap_or_default();
    let starts =
        |scheme: &[u8]| text.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme));
    let (skip, port_default) = if starts(b"http://") {
        (7, 80)
    } else if starts(b"https://") {
        (8, 443)
    } else {
        return Err(HeadError::TargetMalformed);
    };
    let from = start + skip;
    let slash = bytes[from..path_end].iter().position(|&byte| byte == b'/');
    let authority_end = slash.map_or(path_end, |offset| from + offset);
    let authority = Authority::read(bytes, from, authority_end, port_default)?;
    let form = match slash {
        Some(_) => TargetForm::Absolute,
        // RFC 9112 3.2.4: the last proxy writes `OPTIONS http://host` as `OPTIONS *`.
        None if is_options && authority_end == end => TargetForm::Asterisk,
        None => TargetForm::AbsoluteWithoutPath,
    };
    Ok(Target {
        form,
        path_query: Span::between(authority_end, end),
        path: Span::between(authority_end, path_end),
        authority: Some(authority),
    })
}

/// The host a request is for: the Host field, which absolute-form must not contradict.
///
/// RFC 9112 3.2.2 lets the target win silently. A front that reads the one and a back that reads
/// the other is how caches are poisoned, so a contradiction is refused.
pub(crate) fn host_of(target: &Target, host: Authority, bytes: &[u8]) -> Result<Span, HeadError> {
    match target.authority {
        None => Ok(host.whole),
        Some(named) if named.names_the_same(&host, bytes) => Ok(named.whole),
        Some(_) => Err(HeadError::HostMismatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Result<&str, HeadError> {
        let bytes = text.as_bytes();
        let authority = Authority::read(bytes, 0, bytes.len(), 80)?;
        Ok(core::str::from_utf8(authority.whole.of(bytes)).expect("ASCII"))
    }

    #[test]
    fn hosts_that_are_taken() {
        for text in [
            "a",
            "example.com",
            "EXAMPLE.com.",
            "a_b.example.com",
            "example.com:8080",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:8080",
            "[2001:db8::1.2.3.4]",
            "a:0",
            "a:65535",
        ] {
            assert_eq!(host(text), Ok(text));
        }
        assert_eq!(host("example.com:"), Ok("example.com"));
        assert_eq!(host("[::1]:"), Ok("[::1]"));
    }

    #[test]
    fn hosts_that_are_refused() {
        assert_eq!(host(""), Err(HeadError::HostMissing));
        for text in [
            "a b",
            "a,b",
            "a/b",
            "a@b",
            "user@a",
            "a?b",
            "a#b",
            "a\\b",
            "<a>",
            "\"a\"",
            "a%62",
            "a:b",
            "a:80:80",
            "a:65536",
            "a:123456",
            "a:-1",
            "a:+1",
            "a: 80",
            ":80",
            ":",
            ".a",
            "a..b",
            ".",
            "[::1",
            "::1",
            "[::1]a",
            "[::1%25eth0]",
            "[fe80::1%eth0]",
            "[1.2.3.4]",
            "[v1.a]",
            "[]",
            "b\u{fc}cher",
            "a;b",
            "a!b",
            "a*b",
            "*",
            "a'b",
            "a(b)",
            "a=b",
            "a&b",
            "a$b",
            "a+b",
        ] {
            assert_eq!(host(text), Err(HeadError::HostMalformed), "{text}");
        }
        let long = "a".repeat(HOST_NAME_BYTES_MAX + 1);
        assert_eq!(host(&long), Err(HeadError::HostMalformed));
    }
}
