//! Which certificate answers for a server name: exact names first, then one-label wildcards, then the default.
//!
//! A client that sends no name, or one that nobody serves, gets the first certificate of the configuration: its user
//! then sees which site answered, which no handshake alert would tell. Several certificates may carry the same name
//! (RSA beside ECDSA): the first one whose key the client can verify is taken.
//! Deliberately absent: IP addresses (SNI cannot carry them), wildcards over more than one label.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::ticket;

/// Longest DNS name in its text form.
const NAME_BYTES_MAX: usize = 253;
/// Longest label of a DNS name.
const LABEL_BYTES_MAX: usize = 63;

/// Index from server names to certificates.
#[derive(Debug)]
pub(super) struct Names {
    keys: Box<[Arc<CertifiedKey>]>,
    exact: BTreeMap<Box<str>, Vec<usize>>,
    /// Keyed by what follows the `*.`.
    wildcard: BTreeMap<Box<str>, Vec<usize>>,
}

impl Names {
    /// Index `certificates`, the first of which is the default. Names must have passed [`canonical`].
    pub(super) fn new(certificates: Vec<(Arc<CertifiedKey>, Vec<String>)>) -> Self {
        let (mut exact, mut wildcard) = (BTreeMap::new(), BTreeMap::new());
        let mut keys = Vec::with_capacity(certificates.len());
        for (index, (key, names)) in certificates.into_iter().enumerate() {
            keys.push(key);
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut wildcard, rest),
                    None => (&mut exact, name.as_str()),
                };
                map.entry(Box::from(name)).or_insert_with(Vec::new).push(index);
            }
        }
        Self { keys: keys.into_boxed_slice(), exact, wildcard }
    }

    /// The certificate for `name`, lower case.
    fn find(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let candidates = name.and_then(|name| {
            let parent = || name.split_once('.').map(|(_, parent)| parent);
            self.exact.get(name).or_else(|| self.wildcard.get(parent()?))
        });
        let index = match candidates.map(Vec::as_slice) {
            None | Some([]) => 0,
            Some([only]) => *only,
            Some(several @ [first, ..]) => {
                let verifiable =
                    |index: &&usize| self.keys[**index].key.choose_scheme(schemes).is_some();
                *several.iter().find(verifiable).unwrap_or(first)
            }
        };
        self.keys.get(index)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let found = self.find(name.as_deref(), hello.signature_schemes()).cloned();
        ticket::note_server_name(name);
        found
    }
}

/// A server name as we compare it: lower case, no trailing dot.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub(super) fn canonical(name: &str) -> Result<String, &'static str> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let labels = name.strip_prefix("*.").unwrap_or(&name);
    if !labels.is_ascii() {
        return Err("is not ASCII: write the punycode form (xn--…)");
    }
    if labels.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err("is empty or longer than 253 bytes");
    }
    if labels.contains('*') {
        return Err("has `*` elsewhere than as the whole leftmost label");
    }
    if labels.parse::<std::net::IpAddr>().is_ok() {
        return Err("is an IP address, which clients never send as a server name");
    }
    let label_ok = |label: &str| {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= LABEL_BYTES_MAX && label.bytes().all(letters)
    };
    match labels.split('.').all(label_ok) {
        true => Ok(name),
        false => Err("is no host name"),
    }
}

/// Whether a certificate for `pattern` is valid for `name`; both canonical, both may be wildcards.
pub(super) fn covers(pattern: &str, name: &str) -> bool {
    pattern == name
        || match (pattern.strip_prefix("*."), name.split_once('.')) {
            (Some(suffix), Some((label, parent))) => label != "*" && suffix == parent,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_canonical_or_refused_with_a_reason() {
        for (given, wanted) in [
            ("WWW.Example.COM.", Ok("www.example.com")),
            ("*.example.com", Ok("*.example.com")),
            ("_dmarc.a-b.example", Ok("_dmarc.a-b.example")),
            ("localhost", Ok("localhost")),
            ("", Err("empty")),
            ("*.", Err("elsewhere")),
            ("*", Err("elsewhere")),
            ("a.*.com", Err("elsewhere")),
            ("*.*.com", Err("elsewhere")),
            ("bücher.example", Err("punycode")),
            ("10.0.0.1", Err("IP address")),
            ("::1", Err("IP address")),
            ("a..b", Err("host name")),
            ("a b", Err("host name")),
        ] {
            match (canonical(given), wanted) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted),
                (Err(got), Err(wanted)) => assert!(got.contains(wanted), "{given}: {got}"),
                (got, wanted) => panic!("{given}: {got:?}, wanted {wanted:?}"),
            }
        }
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        assert!(covers("*.example.com", "www.example.com"));
        assert!(covers("*.example.com", "*.example.com"));
        assert!(covers("example.com", "example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(!covers("*.example.com", "a.b.example.com"));
        assert!(!covers("*.com", "*.example.com"));
        assert!(!covers("www.example.com", "*.example.com"));
    }
}
