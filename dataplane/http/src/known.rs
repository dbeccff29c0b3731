//! Which field names we care about, and how one is recognised.
//!
//! A name is looked up once per field, by length and first letter, and only then compared. A
//! name that an application server might *read* as one of ours (`Content_Length`,
//! `X.Forwarded-For`: CGI and its heirs fold every odd byte to `_`) is a look-alike: it is
//! never forwarded.
//! Deliberately absent: what is done with a field. `forward.rs` and `reply.rs` decide.

use crate::scan::{TOKEN, is};

/// The names with a meaning of their own on this hop; all others are [`Known::Other`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each variant is the field of the same name")]
pub enum Known {
    /// Any field that is passed on as it is, unless Connection nominates it.
    #[default]
    Other = 0,
    /// Reads like a protected name once odd bytes are folded; never forwarded.
    LookAlike,
    /// `Apcera-*`: ours alone.
    Apcera,
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Te,
    Trailer,
    Upgrade,
    KeepAlive,
    ProxyConnection,
    ProxyAuthenticate,
    ProxyAuthorization,
    /// `Proxy`: CGI turns it into `HTTP_PROXY`, which clients inside the job obey ("httpoxy").
    Proxy,
    Http2Settings,
    Expect,
    MaxForwards,
    Via,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    XForwardedPort,
    /// `X-Forwarded-*` beyond the four above.
    XForwardedOther,
    XRealIp,
    XRequestId,
    Forwarded,
    Cookie,
    SetCookie,
}

impl Known {
    /// One bit per name, for sets.
    #[inline]
    pub(crate) const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// The name, if it stands for exactly one.
    #[inline]
    fn recognise(name: &[u8]) -> Self {
        let Some(&first) = name.first() else { return Self::Other };
        let (text, known): (&[u8], Self) = match (name.len(), first | 0x20) {
            (2, b't') => (b"te", Self::Te),
            (3, b'v') => (b"via", Self::Via),
            (4, b'h') => (b"host", Self::Host),
            (5, b'p') => (b"proxy", Self::Proxy),
            (6, b'c') => (b"cookie", Self::Cookie),
            (6, b'e') => (b"expect", Self::Expect),
            (7, b't') => (b"trailer", Self::Trailer),
            (7, b'u') => (b"upgrade", Self::Upgrade),
            (9, b'f') => (b"forwarded", Self::Forwarded),
            (9, b'x') => (b"x-real-ip", Self::XRealIp),
            (10, b'c') => (b"connection", Self::Connection),
            (10, b'k') => (b"keep-alive", Self::KeepAlive),
            (10, b's') => (b"set-cookie", Self::SetCookie),
            (12, b'm') => (b"max-forwards", Self::MaxForwards),
            (12, b'x') => (b"x-request-id", Self::XRequestId),
            (14, b'c') => (b"content-length", Self::ContentLength),
            (14, b'h') => (b"http2-settings", Self::Http2Settings),
            (15, b'x') => (b"x-forwarded-for", Self::XForwardedFor),
            (16, b'p') => (b"proxy-connection", Self::ProxyConnection),
            (16, b'x') => return Self::forwarded_16(name),
            (17, b'x') => (b"x-forwarded-proto", Self::XForwardedProto),
            (17, b't') => (b"transfer-encoding", Self::TransferEncoding),
            (18, b'p') => (b"proxy-authenticate", Self::ProxyAuthenticate),
            (19, b'p') => (b"proxy-authorization", Self::ProxyAuthorization),
            _ => return Self::Other,
        };
        if same(name, text) {
            known
        } else if folds_to(name, text) {
            Self::LookAlike
        } else {
            Self::Other
        }
    }

    /// The two names of sixteen bytes that start with `x`.
    fn forwarded_16(name: &[u8]) -> Self {
        const PAIRS: [(&[u8], Known); 2] = [
            (b"x-forwarded-host", Known::XForwardedHost),
            (b"x-forwarded-port", Known::XForwardedPort),
        ];
        for (text, known) in PAIRS {
            if same(name, text) {
                return known;
            }
            if folds_to(name, text) {
                return Self::LookAlike;
            }
        }
        Self::Other
    }

    /// What a field name means to us.
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        let first = name.first().map_or(0, |byte| byte & 0x1f);
        if LENGTHS[usize::from(first)] >> name.len().min(31) & 1 == 0 {
            return Self::Other;
        }
        Self::of_candidate(name)
    }

    /// As [`Known::of`], for the few whose first letter and length are right.
    fn of_candidate(name: &[u8]) -> Self {
        let known = Self::recognise(name);
        if known == Self::Other { Self::of_family(name) } else { known }
    }

    /// The two families of names that share a prefix.
    #[inline]
    fn of_family(name: &[u8]) -> Self {
        match name.first() {
            Some(b'a' | b'A') if name.get(1).is_some_and(|byte| byte | 0x20 == b'p') => {
                family(name, b"apcera-", Self::Apcera)
            }
            Some(b'x' | b'X') if name.get(2).is_some_and(|byte| byte | 0x20 == b'f') => {
                family(name, b"x-forwarded-", Self::XForwardedOther)
            }
            _ => Self::Other,
        }
    }
}

/// True when `name`, a token, is `text`, which is lower case and as long.
///
/// Setting the bit that tells the cases apart is exact here: no two bytes of a token other than
/// a letter in its two cases become the same byte of a name of ours.
#[inline]
fn same(name: &[u8], text: &[u8]) -> bool {
    debug_assert_eq!(name.len(), text.len());
    match name.len() {
        4..=7 => ends_are_same::<4>(name, text),
        8..=16 => ends_are_same::<8>(name, text),
        17..=32 => ends_are_same::<16>(name, text),
        _ => name.eq_ignore_ascii_case(text),
    }
}

/// Compares the first and the last `N` of at most `2 * N` bytes.
#[inline]
fn ends_are_same<const N: usize>(name: &[u8], text: &[u8]) -> bool {
    let lower = |bytes: &[u8; N]| bytes.map(|byte| byte | 0x20);
    let first = |bytes: &[u8]| bytes.first_chunk::<N>().map(lower);
    let last = |bytes: &[u8]| bytes.last_chunk::<N>().map(lower);
    first(name) == first(text) && last(name) == last(text)
}

/// For each first letter (its five low bits) the lengths a name of ours can have, as bits: most
/// fields are none of ours and are told so by one load. 31 stands for all that is longer.
const LENGTHS: [u32; 32] = {
    const fn lengths(list: &[u32]) -> u32 {
        let mut bits = 0;
        let mut index = 0;
        while index < list.len() {
            bits |= 1 << list[index];
            index += 1;
        }
        bits
    }
    let mut table = [0; 32];
    table[letter(b'a')] = !lengths(&[0, 1, 2, 3, 4, 5, 6]); // Any name in `apcera-`.
    table[letter(b'c')] = lengths(&[6, 10, 14]);
    table[letter(b'e')] = lengths(&[6]);
    table[letter(b'f')] = lengths(&[9]);
    table[letter(b'h')] = lengths(&[4, 14]);
    table[letter(b'k')] = lengths(&[10]);
    table[letter(b'm')] = lengths(&[12]);
    table[letter(b'p')] = lengths(&[5, 16, 18, 19]);
    table[letter(b's')] = lengths(&[10]);
    table[letter(b't')] = lengths(&[2, 7, 17]);
    table[letter(b'u')] = lengths(&[7]);
    table[letter(b'v')] = lengths(&[3]);
    // Any name in `x-forwarded-`, and two others.
    table[letter(b'x')] = !lengths(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]);
    table
};

const fn letter(byte: u8) -> usize {
    (byte & 0x1f) as usize
}

/// `known` when the name starts with `prefix`, a look-alike when it only folds to it.
fn family(name: &[u8], prefix: &[u8], known: Known) -> Known {
    match name.get(..prefix.len()) {
        Some(start) if start.eq_ignore_ascii_case(prefix) => known,
        Some(start) if folds_to(start, prefix) => Known::LookAlike,
        _ => Known::Other,
    }
}

/// True when `name` reads as `text` once every byte that is no letter is taken for the odd byte
/// in its place. `text` is lower case.
fn folds_to(name: &[u8], text: &[u8]) -> bool {
    name.len() == text.len()
        && name.iter().zip(text).all(|(&byte, &wanted)| {
            if wanted.is_ascii_lowercase() {
                byte.to_ascii_lowercase() == wanted
            } else {
                !byte.is_ascii_alphabetic() && is(byte, TOKEN)
            }
        })
}

/// Fields that RFC 9110 6.5.1 keeps out of trailers: those that frame, route, authorise, cache,
/// or change how the content is read. A set of our own besides: conditions and redirections.
const TRAILER_FORBIDDEN: [&[u8]; 38] = [
    b"accept-ranges",
    b"age",
    b"alt-svc",
    b"authorization",
    b"cache-control",
    b"clear-site-data",
    b"content-disposition",
    b"content-encoding",
    b"content-language",
    b"content-location",
    b"content-range",
    b"content-security-policy",
    b"content-type",
    b"date",
    b"expires",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"last-modified",
    b"link",
    b"location",
    b"origin",
    b"pragma",
    b"range",
    b"referer",
    b"refresh",
    b"retry-after",
    b"set-cookie",
    b"status",
    b"strict-transport-security",
    b"user-agent",
    b"vary",
    b"warning",
    b"www-authenticate",
    b"x-http-method-override",
    b"x-original-url",
];

/// True when a trailer of this name must not be passed on: everything with a meaning on this
/// hop, every look-alike, and everything a recipient must not take from a trailer.
pub(crate) fn forbidden_in_trailer(name: &[u8]) -> bool {
    Known::of(name) != Known::Other
        || TRAILER_FORBIDDEN
            .iter()
            .any(|text| name.eq_ignore_ascii_case(text) || folds_to(name, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every name is found in any case, and not with a letter more or less.
    #[test]
    fn names_are_found_in_any_case() {
        let cases: [(&str, Known); 27] = [
            ("Apcera-HTTPS", Known::Apcera),
            ("Apcera-", Known::Apcera),
            ("Host", Known::Host),
            ("Connection", Known::Connection),
            ("Content-Length", Known::ContentLength),
            ("Transfer-Encoding", Known::TransferEncoding),
            ("TE", Known::Te),
            ("Trailer", Known::Trailer),
            ("Upgrade", Known::Upgrade),
            ("Keep-Alive", Known::KeepAlive),
            ("Proxy-Connection", Known::ProxyConnection),
            ("Proxy-Authenticate", Known::ProxyAuthenticate),
            ("Proxy-Authorization", Known::ProxyAuthorization),
            ("Proxy", Known::Proxy),
            ("HTTP2-Settings", Known::Http2Settings),
            ("Expect", Known::Expect),
            ("Max-Forwards", Known::MaxForwards),
            ("Via", Known::Via),
            ("X-Forwarded-For", Known::XForwardedFor),
            ("X-Forwarded-Proto", Known::XForwardedProto),
            ("X-Forwarded-Host", Known::XForwardedHost),
            ("X-Forwarded-Port", Known::XForwardedPort),
            ("X-Real-IP", Known::XRealIp),
            ("X-Request-Id", Known::XRequestId),
            ("Forwarded", Known::Forwarded),
            ("Cookie", Known::Cookie),
            ("Set-Cookie", Known::SetCookie),
        ];
        for (name, known) in cases {
            for text in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
                assert_eq!(Known::of(text.as_bytes()), known, "{text}");
            }
            if known != Known::Apcera {
                assert_eq!(Known::of(format!("Q{name}").as_bytes()), Known::Other, "Q{name}");
                let shorter = &name[..name.len() - 1];
                assert_ne!(Known::of(shorter.as_bytes()), known, "{shorter}");
            }
        }
        assert_eq!(Known::of(b"X-Forwarded-Server"), Known::XForwardedOther);
    }

    /// Goal: whatever folds to a protected name is a look-alike, whatever does not is left alone.
    #[test]
    fn look_alikes_are_seen() {
        for name in [
            "Content_Length",
            "content.length",
            "Content1Length",
            "Transfer_Encoding",
            "transfer!encoding",
            "Apcera_HTTPS",
            "APCERA_SSL_CIPHER",
            "apcera.x",
            "X_Forwarded_For",
            "X-Forwarded_Host",
            "X_Forwarded-Port",
            "X-Forwarded_Anything",
            "X_Real_IP",
            "x_request_id",
            "Keep_Alive",
            "HTTP2_Settings",
            "http--settings",
        ] {
            assert_eq!(Known::of(name.as_bytes()), Known::LookAlike, "{name}");
        }
        for name in ["Apceras-X", "Content-Lengt", "ContentLength", "my_header", "X-Forwarde", "x"]
        {
            assert_eq!(Known::of(name.as_bytes()), Known::Other, "{name}");
        }
    }

    #[test]
    fn trailers_keep_out_what_matters() {
        for name in ["Content-Length", "host", "Set-Cookie", "Authorization", "apcera-https", "TE"]
        {
            assert!(forbidden_in_trailer(name.as_bytes()), "{name}");
        }
        for name in ["content_type", "X_Real_IP", "If_Match"] {
            assert!(forbidden_in_trailer(name.as_bytes()), "{name}");
        }
        for name in ["grpc-status", "grpc-message", "Server-Timing", "Digest", "ETag"] {
            assert!(!forbidden_in_trailer(name.as_bytes()), "{name}");
        }
    }
}
