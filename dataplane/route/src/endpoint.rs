//! Endpoints: `http://host[/prefix]` and `tcp://ip:port`, from text and back.
//!
//! Two spellings of one endpoint have one canonical form, so that equality is identity: lower
//! case, no port, no final dot, `/shop/` and `/shop/*` are `/shop`, `/` and `/*` are nothing.
//! Deliberately absent: `auto`. Whoever has random numbers and free ports resolves it first.

use crate::host::{FORBIDDEN, Host};
use crate::mistake::SyntaxError;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Longest path prefix.
pub const PREFIX_BYTES_MAX: usize = 1024;
/// Most segments of a path prefix: `/a/b` has two.
pub const PREFIX_SEGMENTS_MAX: usize = 16;
/// Length of the random part of a default route name.
const RANDOM_CHARACTERS: usize = 6;

/// Where a route listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// Requests for a host, below a path prefix.
    Http(HttpEndpoint),
    /// Connections to an address.
    Tcp(SocketAddr),
}

/// A host pattern and a path prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpEndpoint {
    host: Host,
    /// `/shop`, or empty for the whole host.
    prefix: Box<str>,
}

impl Endpoint {
    /// The HTTP half.
    #[must_use]
    #[inline]
    pub const fn http(&self) -> Option<&HttpEndpoint> {
        match self {
            Self::Http(endpoint) => Some(endpoint),
            Self::Tcp(_) => None,
        }
    }

    /// The address of a TCP endpoint.
    #[must_use]
    pub const fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Http(_) => None,
            Self::Tcp(address) => Some(*address),
        }
    }

    /// `http` or `tcp`.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
        }
    }

    /// The endpoint without its scheme, as route lists print it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Http(endpoint) => endpoint.to_string(),
            Self::Tcp(address) => address.to_string(),
        }
    }
}

impl HttpEndpoint {
    /// The host pattern.
    #[must_use]
    #[inline]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The path prefix; `/` for the whole host.
    #[must_use]
    pub fn prefix(&self) -> &str {
        if self.prefix.is_empty() { "/" } else { &self.prefix }
    }

    /// Whether every path of the host is covered.
    #[must_use]
    #[inline]
    pub fn is_whole_host(&self) -> bool {
        self.prefix.is_empty()
    }

    /// The prefix as the matcher cuts it: no final slash, so empty for the whole host.
    pub(crate) fn stem(&self) -> &str {
        &self.prefix
    }

    /// Segments of the prefix.
    pub(crate) fn depth(&self) -> usize {
        self.prefix.bytes().filter(|&byte| byte == b'/').count()
    }

    /// Bytes allocated beside the value itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.host.heap_bytes() + self.prefix.len()
    }
}

impl FromStr for Endpoint {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        let (scheme, start) = match text.find("://") {
            Some(colon) => (&text[..colon], colon + 3),
            None => ("http", 0),
        };
        let name = text[start..].split('/').next().unwrap_or_default();
        if name.trim_end_matches('.').eq_ignore_ascii_case("auto") {
            let hint = "the endpoint itself; `auto` is resolved before the route table";
            return Err(SyntaxError::at(text, start, "`auto` names no endpoint", hint));
        }
        if scheme.eq_ignore_ascii_case("http") {
            parse_http(text, start).map(Self::Http)
        } else if scheme.eq_ignore_ascii_case("tcp") {
            parse_tcp(text, start).map(Self::Tcp)
        } else if scheme.eq_ignore_ascii_case("https") {
            let hint = "http://… with the https-only flag: every http route answers on both";
            Err(SyntaxError::at(text, 0, "`https` is no route type", hint))
        } else {
            let what = format!("`{scheme}` is no route type");
            Err(SyntaxError::at(text, 0, what, "http://host[/prefix] or tcp://ip:port"))
        }
    }
}

impl FromStr for HttpEndpoint {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        match text.parse()? {
            Endpoint::Http(endpoint) => Ok(endpoint),
            Endpoint::Tcp(_) => {
                Err(SyntaxError::at(text, 0, "this is a TCP endpoint", "http://host[/prefix]"))
            }
        }
    }
}

fn parse_http(text: &str, start: usize) -> Result<HttpEndpoint, SyntaxError> {
    let slash = text[start..].find('/').map_or(text.len(), |offset| start + offset);
    let host = Host::parse(text, start, slash)?;
    let prefix = parse_prefix(text, slash)?.into();
    Ok(HttpEndpoint { host, prefix })
}

/// The prefix that begins at byte `start`, without its final `/` or `/*`.
fn parse_prefix(text: &str, start: usize) -> Result<&str, SyntaxError> {
    let path = &text[start..];
    let stem = path.strip_suffix("/*").or_else(|| path.strip_suffix('/')).unwrap_or(path);
    if stem.len() > PREFIX_BYTES_MAX {
        let what = format!("the prefix has {} bytes, {PREFIX_BYTES_MAX} are allowed", stem.len());
        return Err(SyntaxError::at(text, start, what, "a shorter prefix"));
    }
    for (offset, c) in stem.char_indices() {
        let what = match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' | '~' | '/' => continue,
            '%' => "a prefix is compared as sent, so `%` would match one spelling of many".into(),
            '*' => "a star may only end a prefix, as in /shop/*".into(),
            c if FORBIDDEN.contains(&c) => format!("`{c}` is forbidden in a route name"),
            c => format!("`{}` cannot be part of a prefix", c.escape_default()),
        };
        let hint = "letters, digits, `-`, `.`, `_` and `~` between slashes";
        return Err(SyntaxError::at(text, start + offset, what, hint));
    }
    let mut at = start;
    for (number, segment) in stem.split('/').enumerate().skip(1) {
        at += 1;
        if matches!(segment, "" | "." | "..") {
            let what = format!("`{segment}` is no segment of a prefix");
            return Err(SyntaxError::at(text, at, what, "a path without empty and dot segments"));
        }
        if number > PREFIX_SEGMENTS_MAX {
            let what = format!("a prefix may have {PREFIX_SEGMENTS_MAX} segments");
            return Err(SyntaxError::at(text, at, what, "a shorter prefix"));
        }
        at += segment.len();
    }
    Ok(stem)
}

fn parse_tcp(text: &str, start: usize) -> Result<SocketAddr, SyntaxError> {
    const HINT: &str = "an address and a port such as tcp://10.0.0.1:5432 or tcp://[::1]:5432";
    let address = &text[start..];
    if let Ok(address) = address.parse::<SocketAddr>() {
        if address.port() == 0 {
            let at = start + text[start..].rfind(':').map_or(0, |colon| colon + 1);
            return Err(SyntaxError::at(text, at, "port 0 names no port", HINT));
        }
        return Ok(address);
    }
    let colon = address.rfind(':').filter(|&colon| !address[colon..].contains(']'));
    let Some(colon) = colon else {
        return Err(SyntaxError::at(text, text.len(), "the port is missing", HINT));
    };
    let host = &address[..colon];
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Err(_) => Err(SyntaxError::at(text, start, "this is not an IP address", HINT)),
        Ok(IpAddr::V6(_)) if bare == host => {
            Err(SyntaxError::at(text, start, "an IPv6 address needs brackets before a port", HINT))
        }
        Ok(_) => {
            let what = "the port is not a number from 1 to 65535";
            Err(SyntaxError::at(text, start + colon + 1, what, HINT))
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(endpoint) => write!(f, "http://{endpoint}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// The route's name: host and prefix without the scheme.
impl fmt::Display for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.prefix)
    }
}

/// The endpoint of an application that asked for none: `<app without dots>-<random>.<suffix>`.
///
/// `random` is six letters `a` to `z` or digits, chosen by the caller; `suffix` is the domain of
/// the cluster or what policy puts in its place.
///
/// # Errors
/// When the parts do not make a host name; the column counts in the assembled name.
pub fn default_route_name(
    app: &str,
    random: &str,
    suffix: &str,
) -> Result<HttpEndpoint, SyntaxError> {
    let app = app.replace('.', "");
    let name = format!("{app}-{random}.{suffix}");
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if random.len() != RANDOM_CHARACTERS || !random.bytes().all(allowed) {
        let what = format!("`{random}` is not six letters a to z or digits");
        return Err(SyntaxError::at(&name, app.len() + 1, what, "a random part such as h3f435"));
    }
    whole_host(&name)
}

/// The endpoint that releases up to 449 chose: `<app>.<namespace reversed>.<domain>`.
///
/// # Errors
/// When the parts do not make a host name; the column counts in the assembled name.
pub fn legacy_route_name(
    app: &str,
    namespace: &str,
    domain: &str,
) -> Result<HttpEndpoint, SyntaxError> {
    let mut labels = vec![app];
    labels.extend(namespace.rsplit('/').filter(|part| !part.is_empty()));
    labels.push(domain);
    whole_host(&labels.join("."))
}

fn whole_host(name: &str) -> Result<HttpEndpoint, SyntaxError> {
    Ok(HttpEndpoint { host: Host::parse(name, 0, name.len())?, prefix: "".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Endpoint>().unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
    }

    #[test]
    fn one_endpoint_has_one_canonical_form() {
        let cases = [
            ("app.example.com", "http://app.example.com"),
            ("http://App.Example.COM", "http://app.example.com"),
            ("HTTP://app.example.com.", "http://app.example.com"),
            ("http://app.example.com/", "http://app.example.com"),
            ("http://app.example.com/*", "http://app.example.com"),
            ("app.example.com/shop", "http://app.example.com/shop"),
            ("app.example.com/shop/", "http://app.example.com/shop"),
            ("app.example.com/shop/*", "http://app.example.com/shop"),
            ("app.example.com/Shop/v1.2", "http://app.example.com/Shop/v1.2"),
            ("*.example.com", "http://*.example.com"),
            ("localhost", "http://localhost"),
            ("my_app.local", "http://my_app.local"),
            ("10.0.0.1/x", "http://10.0.0.1/x"),
            ("http://[0:0::1]", "http://[::1]"),
            ("tcp://10.0.0.1:5432", "tcp://10.0.0.1:5432"),
            ("tcp://[0::1]:5432", "tcp://[::1]:5432"),
        ];
        for (text, expected) in cases {
            assert_eq!(canonical(text), expected, "{text}");
            assert_eq!(canonical(expected), expected, "canonical text is a fixed point");
        }
    }

    #[test]
    fn every_refusal_names_the_place() {
        let cases = [
            ("", 1, "the host is missing"),
            ("http://", 8, "the host is missing"),
            ("http:///shop", 8, "the host is missing"),
            ("auto", 1, "`auto` names no endpoint"),
            ("tcp://auto", 7, "`auto` names no endpoint"),
            ("auto/", 1, "`auto` names no endpoint"),
            ("http://AUTO./shop", 8, "`auto` names no endpoint"),
            ("https://a.b", 1, "`https` is no route type"),
            ("udp://1.2.3.4:53", 1, "`udp` is no route type"),
            ("http://a.b:80", 11, "`:` is forbidden in a route name"),
            ("1.2.3.4:80", 8, "`:` is forbidden in a route name"),
            ("a b.c", 2, "` ` cannot be part of a host"),
            ("münchen.de", 2, "`ü` is not ASCII"),
            ("a.*.c", 3, "a star stands for the whole first label and nothing else"),
            ("a*.c", 2, "a star stands for the whole first label and nothing else"),
            ("*", 1, "a star stands for the whole first label and nothing else"),
            ("*.", 1, "a star stands for the whole first label and nothing else"),
            ("*..", 3, "a label between dots is empty"),
            ("a..b", 3, "a label between dots is empty"),
            (".a", 1, "a label between dots is empty"),
            ("-a.b", 1, "a label cannot begin with `-`"),
            ("a-.b", 2, "a label cannot end with `-`"),
            ("10.0.0.256", 1, "a host that ends in a number must be an IPv4 address"),
            ("*.0.0.1", 1, "a host that ends in a number must be an IPv4 address"),
            ("[::1", 5, "`]` is missing"),
            ("[::g]", 2, "this is not an IPv6 address"),
            ("[::1]:80", 6, "text after `]`"),
            ("a.b/shop//x", 10, "`` is no segment of a prefix"),
            ("a.b/shop/../x", 10, "`..` is no segment of a prefix"),
            ("a.b/shop?x", 9, "`?` is forbidden in a route name"),
            (
                "a.b/sh%6fp",
                7,
                "a prefix is compared as sent, so `%` would match one spelling of many",
            ),
            ("a.b/shop*", 9, "a star may only end a prefix, as in /shop/*"),
            ("a.b/a#b", 6, "`#` cannot be part of a prefix"),
            ("tcp://example.com:80", 7, "this is not an IP address"),
            ("tcp://10.0.0.1", 15, "the port is missing"),
            ("tcp://[::1]", 12, "the port is missing"),
            ("tcp://::1:80", 7, "an IPv6 address needs brackets before a port"),
            ("tcp://10.0.0.1:0", 16, "port 0 names no port"),
            ("tcp://10.0.0.1:65536", 16, "the port is not a number from 1 to 65535"),
        ];
        for (text, column, what) in cases {
            let error = text.parse::<Endpoint>().expect_err(text);
            assert_eq!((error.column, error.what.as_ref()), (column, what), "{text}");
            assert!(!error.hint.is_empty());
        }
    }

    #[test]
    fn each_forbidden_character_is_refused_in_host_and_prefix() {
        for c in FORBIDDEN {
            if *c != '/' {
                for text in [format!("ab{c}c.example.com"), format!("h/ab{c}c")] {
                    let error = text.parse::<Endpoint>().expect_err(&text);
                    assert_eq!(error.what, format!("`{c}` is forbidden in a route name"));
                    assert_eq!(error.column, text.find(*c).unwrap() + 1);
                }
            }
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let label = "a".repeat(63);
        let longest = [&*label, &label, &label, &"b".repeat(61)].join(".");
        assert_eq!(longest.len(), 253);
        assert!(longest.parse::<Endpoint>().is_ok());
        assert_eq!(format!("{longest}c").parse::<Endpoint>().unwrap_err().column, 254);
        assert_eq!(format!("{label}a.b").parse::<Endpoint>().unwrap_err().column, 64);
        let deep = "/a".repeat(PREFIX_SEGMENTS_MAX);
        assert!(format!("h{deep}").parse::<Endpoint>().is_ok());
        assert_eq!(format!("h{deep}/a").parse::<Endpoint>().unwrap_err().column, 35);
        let long = format!("h/{}", "a".repeat(PREFIX_BYTES_MAX));
        assert_eq!(long.parse::<Endpoint>().unwrap_err().column, 2);
    }

    #[test]
    fn default_names_drop_dots_and_carry_the_suffix() {
        let name = |app, random, suffix| default_route_name(app, random, suffix);
        assert_eq!(
            name("mywebsite", "h3f435", "apcera.test").unwrap().to_string(),
            "mywebsite-h3f435.apcera.test"
        );
        assert_eq!(
            name("My.App.v2", "abc123", "cluster.example.com").unwrap().to_string(),
            "myappv2-abc123.cluster.example.com"
        );
        for bad in ["abc12", "abc1234", "ABC123", "ab-123"] {
            assert_eq!(name("app", bad, "a.b").unwrap_err().column, 5, "{bad}");
        }
        assert_eq!(name("my app", "abc123", "a.b").unwrap_err().column, 3);
    }

    #[test]
    fn legacy_names_reverse_the_namespace() {
        let name = legacy_route_name("my-app", "/sandbox/jane", "cluster.example.com").unwrap();
        assert_eq!(name.to_string(), "my-app.jane.sandbox.cluster.example.com");
    }
}
