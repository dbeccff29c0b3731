//! Host patterns as an operator writes them, and hosts as a client sends them.
//!
//! A pattern is `app.example.com`, `*.example.com` (one label in place of the star), `10.0.0.1`
//! or `[::1]`; it is kept in lower case, without port and final dot. Deliberately absent:
//! internationalised names. The wire only knows their `xn--` form, so that is what is written.

use crate::mistake::SyntaxError;
use std::fmt;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest host name, as in DNS, without the final dot.
pub const HOST_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
/// Names up to this length, default routes among them, need no allocation of their own, and a
/// lookup compares them without one more read from far memory.
const SHORT_BYTES: usize = 38;
/// `[` + 45 bytes of address + `]`, rounded up.
pub(crate) const LITERAL_BYTES_MAX: usize = 48;

/// Characters that the route naming convention forbids.
pub(crate) const FORBIDDEN: &[char] = &['$', '&', '+', ',', '/', ':', ';', '=', '?', '@'];

/// A host pattern in canonical form.
#[derive(Clone)]
pub struct Host(Text);

#[derive(Clone)]
enum Text {
    Short { len: u8, bytes: [u8; SHORT_BYTES] },
    Long(Box<str>),
}

impl Host {
    /// Parses `text[start..end]`; columns in errors count from the start of `text`.
    pub(crate) fn parse(text: &str, start: usize, end: usize) -> Result<Self, SyntaxError> {
        let host = &text[start..end];
        if host.starts_with('[') {
            return Self::parse_literal(text, start, end);
        }
        check_characters(text, start, end)?;
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.is_empty() {
            let hint = "a host such as app.example.com";
            return Err(SyntaxError::at(text, start, "the host is missing", hint));
        }
        if name.len() > HOST_BYTES_MAX {
            let what = format!("the host has {} bytes, {HOST_BYTES_MAX} are allowed", name.len());
            return Err(SyntaxError::at(text, start + HOST_BYTES_MAX, what, "a shorter name"));
        }
        check_labels(text, start, name)?;
        Ok(Self::canonical(&name.to_ascii_lowercase()))
    }

    fn parse_literal(text: &str, start: usize, end: usize) -> Result<Self, SyntaxError> {
        let hint = "an IPv6 literal such as [2001:db8::1]";
        let Some(close) = text[start..end].find(']') else {
            return Err(SyntaxError::at(text, end, "`]` is missing", hint));
        };
        let Ok(address) = text[start + 1..start + close].parse::<Ipv6Addr>() else {
            return Err(SyntaxError::at(text, start + 1, "this is not an IPv6 address", hint));
        };
        if start + close + 1 < end {
            let hint = "the address alone: routes have no port, listeners do";
            return Err(SyntaxError::at(text, start + close + 1, "text after `]`", hint));
        }
        Ok(Self::canonical(&format!("[{address}]")))
    }

    fn canonical(name: &str) -> Self {
        let mut bytes = [0; SHORT_BYTES];
        match (u8::try_from(name.len()), bytes.get_mut(..name.len())) {
            (Ok(len), Some(short)) => {
                short.copy_from_slice(name.as_bytes());
                Self(Text::Short { len, bytes })
            }
            _ => Self(Text::Long(name.into())),
        }
    }

    /// Whether the first label is a star.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.as_bytes().first() == Some(&b'*')
    }

    /// The pattern in ASCII.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Short { len, bytes } => &bytes[..usize::from(*len)],
            Text::Long(name) => name.as_bytes(),
        }
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("only ASCII text becomes a host")
    }

    /// What is looked up: the whole name, or of a wildcard what follows its star and dot.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        let name = self.as_bytes();
        name.strip_prefix(b"*.").unwrap_or(name)
    }

    /// Bytes allocated beside the value itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        match &self.0 {
            Text::Short { .. } => 0,
            Text::Long(name) => name.len(),
        }
    }
}

fn check_characters(text: &str, start: usize, end: usize) -> Result<(), SyntaxError> {
    const PLAIN: &str = "letters, digits, `-`, `_` and `.` only";
    let host = &text[start..end];
    for (offset, c) in host.char_indices() {
        let (what, hint) = match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => continue,
            '*' if offset == 0 && host.len() > 2 && host[1..].starts_with('.') => continue,
            '*' => {
                let what = "a star stands for the whole first label and nothing else";
                (what.to_owned(), "a pattern such as *.example.com")
            }
            ':' => {
                let hint = "no port: routes have none, listeners do; a TCP route is tcp://ip:port";
                ("`:` is forbidden in a route name".to_owned(), hint)
            }
            c if FORBIDDEN.contains(&c) => (format!("`{c}` is forbidden in a route name"), PLAIN),
            c if !c.is_ascii() => {
                let what = format!("`{c}` is not ASCII");
                (what, "the name in its xn-- form, as it is sent on the wire")
            }
            c => (format!("`{}` cannot be part of a host", c.escape_default()), PLAIN),
        };
        return Err(SyntaxError::at(text, start + offset, what, hint));
    }
    Ok(())
}

fn check_labels(text: &str, start: usize, name: &str) -> Result<(), SyntaxError> {
    let mut at = start;
    for label in name.split('.') {
        let (offset, what, hint) = if label.is_empty() {
            (0, "a label between dots is empty", "one dot between labels")
        } else if label.len() > LABEL_BYTES_MAX {
            (LABEL_BYTES_MAX, "a label may have 63 bytes", "a shorter label")
        } else if label.starts_with('-') {
            (0, "a label cannot begin with `-`", "a letter or digit first")
        } else if label.ends_with('-') {
            (label.len() - 1, "a label cannot end with `-`", "a letter or digit last")
        } else {
            at += label.len() + 1;
            continue;
        };
        return Err(SyntaxError::at(text, at + offset, what, hint));
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|byte| byte.is_ascii_digit()) && name.parse::<Ipv4Addr>().is_err() {
        let what = "a host that ends in a number must be an IPv4 address";
        return Err(SyntaxError::at(text, start, what, "four numbers such as 10.0.0.1"));
    }
    Ok(())
}

/// The host a client asks for, without port and final dot; case stays as it was sent.
///
/// IPv6 literals are written into `scratch` in canonical form. What is no host comes back in a
/// form that no pattern has, so that it is simply not found.
#[inline]
pub(crate) fn asked<'a>(sent: &'a [u8], scratch: &'a mut [u8; LITERAL_BYTES_MAX]) -> &'a [u8] {
    if sent.first() == Some(&b'[') {
        return asked_literal(sent, scratch);
    }
    let host = without_port(sent);
    host.strip_suffix(b".").unwrap_or(host)
}

/// Cuts off `:` and digits at the end. A port has at most five digits.
#[inline]
fn without_port(sent: &[u8]) -> &[u8] {
    let digits = sent.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let end = sent.len() - digits;
    if digits <= 5 && end > 0 && sent[end - 1] == b':' { &sent[..end - 1] } else { sent }
}

fn asked_literal<'a>(sent: &'a [u8], scratch: &'a mut [u8; LITERAL_BYTES_MAX]) -> &'a [u8] {
    let literal = without_port(sent);
    let address = literal
        .strip_prefix(b"[")
        .and_then(|rest| rest.strip_suffix(b"]"))
        .and_then(|inside| std::str::from_utf8(inside).ok())
        .and_then(|inside| inside.parse::<Ipv6Addr>().ok());
    let Some(address) = address else { return sent };
    let mut rest = &mut scratch[..];
    if write!(rest, "[{address}]").is_err() {
        return sent;
    }
    let written = LITERAL_BYTES_MAX - rest.len();
    &scratch[..written]
}

impl PartialEq for Host {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Host {}

impl PartialOrd for Host {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Host {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl std::hash::Hash for Host {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({self})")
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_text(sent: &str) -> String {
        let mut scratch = [0; LITERAL_BYTES_MAX];
        String::from_utf8(asked(sent.as_bytes(), &mut scratch).to_vec()).unwrap()
    }

    #[test]
    fn what_clients_send_loses_port_and_final_dot() {
        let cases = [
            ("app.example.com", "app.example.com"),
            ("App.Example.com:8080", "App.Example.com"),
            ("app.example.com.", "app.example.com"),
            ("app.example.com.:80", "app.example.com"),
            ("app.example.com:", "app.example.com"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("[::1]:8080", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
            ("[2001:DB8::00A]", "[2001:db8::a]"),
            ("[::ffff:10.0.0.1]", "[::ffff:10.0.0.1]"),
        ];
        for (sent, expected) in cases {
            assert_eq!(asked_text(sent), expected, "{sent}");
        }
    }

    #[test]
    fn what_is_no_host_keeps_a_character_that_no_pattern_has() {
        for sent in
            ["", ":80", "a:b", "a:123456", "a:80:80", "[::1", "[::1]x", "[fe80::1%1]", "::1"]
        {
            let left = asked_text(sent);
            assert!(Host::parse(&left, 0, left.len()).is_err(), "{sent} became {left}");
        }
    }

    #[test]
    fn short_and_long_names_are_equally_good() {
        for length in [1, SHORT_BYTES - 1, SHORT_BYTES, SHORT_BYTES + 1, 60] {
            let name = "a".repeat(length);
            let host = Host::parse(&name, 0, length).unwrap();
            assert_eq!(host.as_str(), name);
            assert_eq!(host.heap_bytes(), if length <= SHORT_BYTES { 0 } else { length });
        }
        assert_eq!(size_of::<Host>(), 40);
    }
}
