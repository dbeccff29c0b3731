//! Client ACL of a job: `allow 128.66.3.0/24, deny 128.66.0.0/16`.
//!
//! Rules are tried from left to right, the first match decides, no match allows. The first rule
//! may leave out its verb and then allows. A bare address is a network of one.
//!
//! Two decisions on the safe side. An IPv4 client that arrives as `::ffff:a.b.c.d`, and a rule
//! written that way, are IPv4. And a `deny` of a whole family (`0.0.0.0/0` or `::/0`), with which
//! an operator closes a list, closes it to both: "only 127.0.0.1" must not mean "and all of IPv6".
//! Deliberately absent: host names, and any knowledge of trusted proxies.

use crate::mistake::SyntaxError;
use ipnet::{IpNet, Ipv4Net};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Most rules of one ACL.
pub const RULES_MAX: usize = 256;
/// An IPv4 network of n bits is one of 96 + n bits among the mapped addresses.
const MAPPED_BITS: u8 = 96;

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The client may pass.
    Allow,
    /// The client is refused with 403.
    Deny,
}

/// One rule of an ACL, compiled: a comparison under a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    action: Action,
    /// Host bits cleared, never IPv4-mapped.
    net: IpNet,
    /// Families it speaks of, as bits.
    families: u8,
    bits: u128,
    mask: u128,
}

const IPV4: u8 = 1;
const IPV6: u8 = 2;

/// Family and bits of an address; those of IPv4 are the highest, so that masks are alike.
#[inline]
fn family_and_bits(ip: IpAddr) -> (u8, u128) {
    match ip {
        IpAddr::V4(ip) => (IPV4, u128::from(u32::from(ip)) << 96),
        IpAddr::V6(ip) => (IPV6, u128::from(ip)),
    }
}

impl Rule {
    fn new(action: Action, net: IpNet) -> Self {
        let net = unmapped(net.trunc());
        let (family, bits) = family_and_bits(net.addr());
        let closes_all = action == Action::Deny && net.prefix_len() == 0;
        let families = if closes_all { IPV4 | IPV6 } else { family };
        let mask = u128::MAX.checked_shl(128 - u32::from(net.prefix_len())).unwrap_or(0);
        Self { action, net, families, bits, mask }
    }

    /// What the rule does.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Whom it concerns.
    #[must_use]
    pub const fn net(&self) -> IpNet {
        self.net
    }

    /// Whether the rule speaks of a client.
    #[inline]
    const fn matches(&self, (family, bits): (u8, u128)) -> bool {
        self.families & family != 0 && bits & self.mask == self.bits
    }
}

/// Which clients may reach the routes of a job. The default allows everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientAcl {
    rules: Box<[Rule]>,
}

impl ClientAcl {
    /// Whether there are no rules, so that everybody is admitted.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules from left to right.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether `client` may pass.
    #[must_use]
    #[inline]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.is_open() || self.admits_traced(client, |_, _, _| ())
    }

    /// The same decision; `tried` hears of every rule up to the deciding one: its position from
    /// 0, the rule, and whether it matches.
    #[inline]
    pub(crate) fn admits_traced(
        &self,
        client: IpAddr,
        mut tried: impl FnMut(usize, &Rule, bool),
    ) -> bool {
        let client = family_and_bits(client.to_canonical());
        let decides = |(number, rule): &(usize, &Rule)| {
            let matches = rule.matches(client);
            tried(*number, rule, matches);
            matches
        };
        let decided = self.rules.iter().enumerate().find(decides);
        decided.is_none_or(|(_, rule)| rule.action == Action::Allow)
    }

    /// The rule that decides about `client`, with its position from 0.
    #[must_use]
    #[inline]
    pub fn first_match(&self, client: IpAddr) -> Option<(usize, &Rule)> {
        let client = family_and_bits(client.to_canonical());
        self.rules.iter().enumerate().find(|(_, rule)| rule.matches(client))
    }
}

impl FromStr for ClientAcl {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut rules = Vec::new();
        let mut start = 0;
        for part in text.split(',') {
            if rules.len() == RULES_MAX {
                let what = format!("an ACL may have {RULES_MAX} rules");
                return Err(SyntaxError::at(text, start, what, "wider networks, fewer rules"));
            }
            rules.push(parse_rule(text, start, part, rules.is_empty())?);
            start += part.len() + 1;
        }
        Ok(Self { rules: rules.into() })
    }
}

/// Parses `part`, which begins at byte `start` of `text`.
fn parse_rule(text: &str, start: usize, part: &str, first: bool) -> Result<Rule, SyntaxError> {
    const HINT: &str = "allow or deny and a network, as in deny 128.66.0.0/16";
    let mut words = Words { text: part, at: 0 };
    let Some((at, word)) = words.next() else {
        return Err(SyntaxError::at(text, start, "a rule is missing between commas", HINT));
    };
    let (action, verb) = match word {
        "allow" => (Action::Allow, true),
        "deny" => (Action::Deny, true),
        _ => (Action::Allow, false),
    };
    let (at, network) = if verb {
        words.next().ok_or_else(|| {
            SyntaxError::at(text, start + at, format!("`{word}` names no network"), HINT)
        })?
    } else if !first || !word.contains(|c: char| c.is_ascii_digit() || c == ':') {
        let what = if looks_like_network(word) {
            format!("only the first rule may leave out its verb, and `{word}` is not the first")
        } else {
            format!("`{}` is neither `allow` nor `deny`", word.escape_debug())
        };
        return Err(SyntaxError::at(text, start + at, what, HINT));
    } else {
        (at, word)
    };
    if let Some((extra, word)) = words.next() {
        let what = format!("`{}` after the network", word.escape_debug());
        return Err(SyntaxError::at(text, start + extra, what, "a comma between rules"));
    }
    Ok(Rule::new(action, parse_network(text, start + at, network)?))
}

fn looks_like_network(word: &str) -> bool {
    let address = word.split('/').next().unwrap_or(word);
    address.parse::<IpAddr>().is_ok()
}

/// Parses the network `word`, which begins at byte `at` of `text`.
fn parse_network(text: &str, at: usize, word: &str) -> Result<IpNet, SyntaxError> {
    const HINT: &str = "a network such as 128.66.0.0/16 or 2001:db8::/32, or one address";
    let (address, bits) = match word.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (word, None),
    };
    let Ok(ip) = address.parse::<IpAddr>() else {
        let hint = if word == "all" { "0.0.0.0/0, which denies everybody" } else { HINT };
        let what = format!("`{}` is not an IP address", address.escape_debug());
        return Err(SyntaxError::at(text, at, what, hint));
    };
    let bits_max = if ip.is_ipv4() { 32 } else { 128 };
    let Some(bits) = bits else {
        return Ok(IpNet::from(ip));
    };
    let plain = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
    match bits.parse::<u8>().ok().filter(|&n| plain && n <= bits_max) {
        Some(n) => Ok(IpNet::new_assert(ip, n)),
        None => {
            let what =
                format!("`{}` is no number of bits from 0 to {bits_max}", bits.escape_debug());
            Err(SyntaxError::at(text, at + address.len() + 1, what, HINT))
        }
    }
}

/// A network of IPv4-mapped addresses as the IPv4 network that is meant.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(six) = net else { return net };
    match (six.network().to_ipv4_mapped(), six.prefix_len().checked_sub(MAPPED_BITS)) {
        (Some(four), Some(bits)) => IpNet::V4(Ipv4Net::new_assert(four, bits)),
        _ => net,
    }
}

/// The words of a text with their byte offsets.
struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Words<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.text[self.at..];
        let begin = self.at + rest.find(|c: char| !c.is_whitespace())?;
        let word = self.text[begin..].split(char::is_whitespace).next()?;
        self.at = begin + word.len();
        Some((begin, word))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.action, self.net)
    }
}

/// The canonical text: every verb written out, host bits cleared.
impl fmt::Display for ClientAcl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, rule) in self.rules.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{rule}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn acl(text: &str) -> ClientAcl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn admits(text: &str, client: &str) -> bool {
        acl(text).admits(client.parse().unwrap())
    }

    #[test]
    fn the_first_match_decides_and_no_match_allows() {
        let text = "allow 128.66.3.0/24, deny 128.66.0.0/16";
        assert!(admits(text, "128.66.3.9"), "by the first rule");
        assert!(!admits(text, "128.66.4.9"), "by the second rule");
        assert!(admits(text, "10.0.0.1"), "no match");
        assert!(!admits("deny 128.66.0.0/16, allow 128.66.3.0/24", "128.66.3.9"), "order matters");
        assert!(admits("", "128.66.3.9"));
    }

    #[test]
    fn the_first_verb_may_be_left_out() {
        assert_eq!(
            acl("128.66.3.0/24, deny 128.66.0.0/16"),
            acl("allow 128.66.3.0/24, deny 128.66.0.0/16")
        );
    }

    #[test]
    fn a_final_deny_makes_the_list_opt_in_for_both_families() {
        let text = "allow 127.0.0.1/32, deny 0.0.0.0/0";
        assert!(admits(text, "127.0.0.1"));
        assert!(admits(text, "::ffff:127.0.0.1"));
        for other in ["127.0.0.2", "8.8.8.8", "::1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(!admits(text, other), "{other}");
        }
        assert!(!admits("allow ::1, deny ::/0", "8.8.8.8"));
        assert!(!admits("allow ::/0, deny 0.0.0.0/0", "8.8.8.8"), "an allow speaks of its family");
        assert!(admits("allow ::/0, deny 0.0.0.0/0", "::1"));
    }

    #[test]
    fn canonical_text() {
        let cases = [
            ("", ""),
            ("  ", ""),
            ("10.0.0.1", "allow 10.0.0.1/32"),
            ("deny 10.1.2.3/8", "deny 10.0.0.0/8"),
            ("::1 ,deny\t2001:DB8::/32", "allow ::1/128, deny 2001:db8::/32"),
            ("deny ::ffff:10.0.0.0/104", "deny 10.0.0.0/8"),
            ("deny ::ffff:10.0.0.1", "deny 10.0.0.1/32"),
            ("deny ::/64", "deny ::/64"),
        ];
        for (text, expected) in cases {
            assert_eq!(acl(text).to_string(), expected, "{text}");
        }
    }

    #[test]
    fn refusals_name_the_place() {
        let cases = [
            (",", 1, "a rule is missing between commas"),
            ("10.0.0.1,", 10, "a rule is missing between commas"),
            ("10.0.0.1, , deny 1.1.1.1", 10, "a rule is missing between commas"),
            ("alow 10.0.0.0/8", 1, "`alow` is neither `allow` nor `deny`"),
            ("allow", 1, "`allow` names no network"),
            (
                "allow 10.0.0.0/8, 11.0.0.0/8",
                19,
                "only the first rule may leave out its verb, and `11.0.0.0/8` is not the first",
            ),
            ("allow 1.1.1.1, permit 1.1.1.2", 16, "`permit` is neither `allow` nor `deny`"),
            ("deny all", 6, "`all` is not an IP address"),
            ("deny 10.0.0/8", 6, "`10.0.0` is not an IP address"),
            ("deny 10.0.0.0/33", 15, "`33` is no number of bits from 0 to 32"),
            ("deny 10.0.0.0/", 15, "`` is no number of bits from 0 to 32"),
            ("deny 10.0.0.0/+8", 15, "`+8` is no number of bits from 0 to 32"),
            ("deny ::/129", 9, "`129` is no number of bits from 0 to 128"),
            ("deny 10.0.0.0/8 deny 11.0.0.0/8", 17, "`deny` after the network"),
            ("dény 10.0.0.0/8", 1, "`dény` is neither `allow` nor `deny`"),
        ];
        for (text, column, what) in cases {
            let error = text.parse::<ClientAcl>().expect_err(text);
            assert_eq!((error.column, error.what.as_ref()), (column, what), "{text}");
        }
        let many = vec!["deny 10.0.0.1"; RULES_MAX + 1].join(",");
        assert!(many.parse::<ClientAcl>().unwrap_err().what.contains("256 rules"));
    }

    fn network() -> impl Strategy<Value = IpNet> {
        let four = (0u32..8, 28u8..=32).prop_map(|(ip, n)| (IpAddr::V4(Ipv4Addr::from(ip)), n));
        let wide = (any::<u32>(), 0u8..=32).prop_map(|(ip, n)| (IpAddr::V4(Ipv4Addr::from(ip)), n));
        let six =
            (any::<u128>(), 0u8..=128).prop_map(|(ip, n)| (IpAddr::V6(Ipv6Addr::from(ip)), n));
        prop_oneof![four, wide, six].prop_map(|(ip, n)| IpNet::new_assert(ip, n))
    }

    fn any_acl() -> impl Strategy<Value = ClientAcl> {
        let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
        let rule = (action, network()).prop_map(|(action, net)| Rule::new(action, net));
        prop::collection::vec(rule, 0..6).prop_map(|rules| ClientAcl { rules: rules.into() })
    }

    proptest! {
        #[test]
        fn display_then_parse_is_identity(acl in any_acl()) {
            prop_assert_eq!(acl.to_string().parse::<ClientAcl>().unwrap(), acl);
        }

        /// Goal: the decision is the definition, bit by bit, without `ipnet`.
        #[test]
        fn admits_equals_its_definition(acl in any_acl(), low in 0u32..16, any: u32, wide: bool) {
            let bits = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => format!("4{:032b}", u32::from(ip)),
                IpAddr::V6(ip) => format!("6{:0128b}", u128::from(ip)),
            };
            let client = IpAddr::V4(Ipv4Addr::from(if wide { any } else { low }));
            let decided = acl.rules().iter().find(|rule| {
                let head = &bits(rule.net().addr())[..=usize::from(rule.net().prefix_len())];
                bits(client).starts_with(head) || (head.len() == 1 && rule.action() == Action::Deny)
            });
            let expected = decided.is_none_or(|rule| rule.action() == Action::Allow);
            prop_assert_eq!(acl.admits(client), expected);
            let IpAddr::V4(four) = client else { unreachable!() };
            prop_assert_eq!(acl.admits(IpAddr::V6(four.to_ipv6_mapped())), expected);
        }

        #[test]
        fn no_text_panics(text in "(allow|deny|[0-9./:, a-fé]|\\PC){0,30}") {
            if let Ok(acl) = text.parse::<ClientAcl>() {
                prop_assert_eq!(acl.to_string().parse::<ClientAcl>().unwrap(), acl);
            }
        }
    }
}
