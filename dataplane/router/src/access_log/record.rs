//! What is known of one exchange at its end, in one fixed-size copy.
//!
//! Deliberately absent: names of route and job. They are slots here; the writer looks them up.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use route::{InstanceSlot, JobSlot, RouteSlot};

/// Text of at most `N` bytes that remembers having been longer. `N` is at most 255.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    len: u8,
    cut: bool,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    const FITS: () = assert!(N <= 255, "the length is kept in one byte");

    /// Nothing.
    pub const EMPTY: Self = {
        let () = Self::FITS;
        Self { len: 0, cut: false, bytes: [0; N] }
    };

    /// The first `N` bytes of `text`.
    #[expect(clippy::cast_possible_truncation, reason = "N is at most 255")]
    pub fn new(text: &[u8]) -> Self {
        let mut new = Self::EMPTY;
        let len = text.len().min(N);
        new.bytes[..len].copy_from_slice(&text[..len]);
        new.len = len as u8;
        new.cut = text.len() > N;
        new
    }

    /// What was kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The text was longer than what was kept.
    pub const fn is_cut(&self) -> bool {
        self.cut
    }
}

impl<const N: usize> std::fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}{}", String::from_utf8_lossy(self.bytes()), if self.cut { "…" } else { "" })
    }
}

/// One exchange, or one TCP connection, when it is over. Times are microseconds since the exchange began
/// (first byte of the head; for TCP: accept); `None` means that the exchange never came so far.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// End of the exchange, microseconds since 1970.
    pub wall_us: u64,
    /// The client, after `trusted_proxies`.
    pub client: IpAddr,
    /// `GET`; empty for TCP.
    pub method: Text<16>,
    /// Authority as sent.
    pub host: Text<80>,
    /// Path and query as sent.
    pub path: Text<160>,
    /// `HTTP/1.1`, `tcp`, …
    pub protocol: &'static str,
    /// Status sent to the client; 0: none.
    pub status: u16,
    /// Reason code when the router answered or cut by itself; else empty.
    pub reason: &'static str,
    /// The route that matched.
    pub route: Option<RouteSlot>,
    /// The job that was chosen.
    pub job: Option<JobSlot>,
    /// The instance that served, or was tried last.
    pub instance: Option<InstanceSlot>,
    /// Address of that instance.
    pub upstream: Option<SocketAddr>,
    /// The exchange ran on a kept connection.
    pub upstream_reused: bool,
    /// Tries beyond the first.
    pub retries: u8,
    /// Bytes from the client, head included.
    pub bytes_in: u64,
    /// Bytes to the client, head included.
    pub bytes_out: u64,
    /// The head was complete.
    pub head_us: Option<u32>,
    /// The upstream was connected (or taken from the pool).
    pub connect_us: Option<u32>,
    /// The first byte of the answer came.
    pub first_byte_us: Option<u32>,
    /// The last byte was given to the kernel, or the exchange was given up.
    pub total_us: u32,
    /// `TLSv1.3`; empty without TLS.
    pub tls_protocol: &'static str,
    /// As OpenSSL spells it; empty without TLS.
    pub tls_cipher: &'static str,
    /// `X-Request-Id` as the origin got it.
    pub request_id: Text<40>,
}

/// A ring of [`super::RING_RECORDS`] records is the memory that logging costs a core.
const _: () = assert!(size_of::<Record>() <= 512);

impl Default for Record {
    fn default() -> Self {
        Self {
            wall_us: 0,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            method: Text::EMPTY,
            host: Text::EMPTY,
            path: Text::EMPTY,
            protocol: "",
            status: 0,
            reason: "",
            route: None,
            job: None,
            instance: None,
            upstream: None,
            upstream_reused: false,
            retries: 0,
            bytes_in: 0,
            bytes_out: 0,
            head_us: None,
            connect_us: None,
            first_byte_us: None,
            total_us: 0,
            tls_protocol: "",
            tls_cipher: "",
            request_id: Text::EMPTY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let text = Text::<4>::new(b"abcdef");
        assert_eq!((text.bytes(), text.is_cut()), (&b"abcd"[..], true));
        let text = Text::<4>::new(b"abcd");
        assert_eq!((text.bytes(), text.is_cut()), (&b"abcd"[..], false));
        assert_eq!(format!("{:?}", Text::<2>::new(b"abc")), "\"ab\"…");
    }
}
