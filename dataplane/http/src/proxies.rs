//! Which client a request comes from, when trusted proxies stand in between.
//!
//! Only a trusted peer's X-Forwarded-For is read at all, and from right to left: each address
//! was written by the hop to its right, so the first one we do not trust is the last one that
//! somebody we trust has seen.
//! Deliberately absent: the leftmost address. Anybody can write that one.

use core::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::scan::trim;

/// Addresses of X-Forwarded-For that are looked at, from the right.
pub const ADDRESSES_MAX: usize = 64;

/// A network that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address or network; write `192.0.2.7`, `10.0.0.0/8` or `2001:db8::/32`")]
pub struct TrustedProxiesError {
    /// What was given.
    pub text: String,
}

/// The peers whose word about the client is taken. None by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Box<[IpNet]>);

impl TrustedProxies {
    /// Reads networks (`10.0.0.0/8`) and single addresses.
    ///
    /// # Errors
    /// The first text that is neither.
    pub fn parse<'a>(
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TrustedProxiesError> {
        let network = |text: &str| {
            let single = || text.parse::<IpAddr>().map(IpNet::from);
            let parsed = text.parse::<IpNet>().map(|network| network.trunc()).or_else(|_| single());
            parsed.map_err(|_| TrustedProxiesError { text: text.to_owned() })
        };
        texts.into_iter().map(network).collect::<Result<_, _>>().map(Self)
    }

    /// True when nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when `address` is trusted; an IPv4 address within IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The address of the client: the peer's own, or, when the peer is trusted, the last address in
/// X-Forwarded-For that is not. `forwarded_for` are the field's values in the order sent.
///
/// Stops at the first thing that is no address: what lies to the left of it was vouched for by
/// nobody we know.
pub fn client_address<'a>(
    trusted: &TrustedProxies,
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.contains(client) {
        return client;
    }
    let hops = forwarded_for.rev().flat_map(|value| value.rsplit(|&byte| byte == b','));
    for hop in hops.take(ADDRESSES_MAX) {
        let Some(address) = read_address(trim(hop)) else { break };
        client = address;
        if !trusted.contains(client) {
            break;
        }
    }
    client
}

/// An address, with or without port.
fn read_address(text: &[u8]) -> Option<IpAddr> {
    let text = core::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &[&str], peer: &str, values: &[&str]) -> String {
        let trusted = TrustedProxies::parse(trusted.iter().copied()).expect("networks");
        let values = values.iter().map(|value| value.as_bytes());
        client_address(&trusted, peer.parse().expect("address"), values).to_string()
    }

    #[test]
    fn the_last_untrusted_hop_is_the_client() {
        let ten = ["10.0.0.0/8", "::1"];
        let cases: [(&str, &[&str], &str); 11] = [
            ("192.0.2.1", &["203.0.113.9"], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("::1", &["203.0.113.9,"], "::1"),
        ];
        for (peer, values, expected) in cases {
            assert_eq!(client(&ten, peer, values), expected, "{peer} {values:?}");
        }
        assert_eq!(client(&[], "10.0.0.1", &["1.1.1.1"]), "10.0.0.1");
    }

    #[test]
    fn bad_networks_are_named() {
        let refused = TrustedProxies::parse(["10.0.0.0/8", "10.0.0.0/33"]);
        assert_eq!(refused, Err(TrustedProxiesError { text: "10.0.0.0/33".to_owned() }));
    }

    #[test]
    fn the_walk_is_bounded() {
        let chain = vec!["10.0.0.9"; ADDRESSES_MAX + 1].join(",");
        let chain = format!("1.1.1.1,{chain}");
        assert_eq!(client(&["10.0.0.0/8"], "10.0.0.1", &[&chain]), "10.0.0.9");
    }
}
