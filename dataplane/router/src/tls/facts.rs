//! What a finished handshake agreed on, in the words that operators and origins know: OpenSSL's.
//!
//! Deliberately absent: the header names these facts travel under; those are the header policy's.

use rustls::{CipherSuite, ProtocolVersion};

/// Facts of one session, fixed when its handshake ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// Cipher suite as OpenSSL spells it, such as `ECDHE-RSA-AES128-GCM-SHA256`.
    pub cipher: &'static str,
    /// `TLSv1.3` or `TLSv1.2`.
    pub protocol: &'static str,
    /// 64 hexadecimal digits. The same for a full handshake and every resumption that descends from it, in both
    /// versions. It travels inside our tickets; it is not the session id field of the TLS 1.2 handshake.
    pub session_id: Box<str>,
    /// Whether this handshake resumed an earlier session.
    pub reused: bool,
    /// The name the client asked for (SNI), lower case.
    pub server_name: Option<Box<str>>,
    /// The application protocol agreed on.
    pub alpn: Alpn,
}

/// An application protocol we may agree on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alpn {
    /// The client did not ask: HTTP/1.1 by custom.
    #[default]
    Unasked,
    /// `http/1.1`
    Http11,
    /// `h2`
    H2,
}

impl Alpn {
    /// The identifier on the wire; empty for `Unasked`.
    pub const fn wire(self) -> &'static [u8] {
        match self {
            Self::Unasked => b"",
            Self::Http11 => b"http/1.1",
            Self::H2 => b"h2",
        }
    }

    pub(super) fn from_wire(agreed: Option<&[u8]>) -> Self {
        match agreed {
            Some(name) if name == Self::H2.wire() => Self::H2,
            Some(name) if name == Self::Http11.wire() => Self::Http11,
            // rustls agrees only on what the store offered, and that is made of this very enum.
            _ => Self::Unasked,
        }
    }
}

/// OpenSSL's name of a suite that rustls can agree on.
pub(super) const fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "unknown",
    }
}

/// OpenSSL's name of a protocol version.
pub(super) const fn protocol_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "unknown",
    }
}

/// Bytes as hexadecimal text.
pub(super) fn hex(bytes: &[u8]) -> Box<str> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no suite that the provider may agree on is ever told to an origin as `unknown`.
    #[test]
    fn every_suite_of_the_provider_has_a_name() {
        for suite in rustls::crypto::aws_lc_rs::default_provider().cipher_suites {
            assert_ne!(cipher_name(suite.suite()), "unknown", "{suite:?}");
            assert_ne!(protocol_name(suite.version().version), "unknown", "{suite:?}");
        }
    }
}
