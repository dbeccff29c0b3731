//! What the three relays share, so that only their runtimes differ: head parsing, host look-up, rewriting.
//!
//! The least that can be called an HTTP proxy. Deliberately absent: request bodies, chunking, limits, time-outs,
//! retries, counters, and every check that a real proxy owes its users; our router does all of that in the same
//! comparison.

mod rent;

use std::collections::HashMap;
use std::net::SocketAddr;

/// Room for one head or one piece of a body, bytes.
pub const BUFFER_BYTES: usize = 16 << 10;
const FIELDS_MAX: usize = 32;

/// Where to listen, and the table: one host, one origin.
pub struct Setup {
    pub listen: SocketAddr,
    pub hosts: HashMap<Vec<u8>, SocketAddr>,
}

impl Setup {
    /// Reads `--listen ADDRESS --origin ADDRESS`.
    pub fn from_arguments() -> Result<Self, String> {
        let words: Vec<String> = std::env::args().collect();
        let address = |name: &str| {
            let at = words.iter().position(|word| word == name).ok_or(format!("{name} is needed"))?;
            let text = words.get(at + 1).ok_or(format!("{name} needs a value"))?;
            text.parse().map_err(|e| format!("{text}: {e}"))
        };
        let hosts = HashMap::from([(b"bench.example.com".to_vec(), address("--origin")?)]);
        Ok(Self { listen: address("--listen")?, hosts })
    }

    /// Rewrites the request head in `head` into `out`, for the origin of its host. `None` while it is incomplete.
    pub fn rewrite(&self, head: &[u8], out: &mut Vec<u8>) -> Result<Option<SocketAddr>, String> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        if request.parse(head).map_err(|e| e.to_string())?.is_partial() {
            return Ok(None);
        }
        out.clear();
        out.extend_from_slice(request.method.unwrap_or("").as_bytes());
        out.push(b' ');
        out.extend_from_slice(request.path.unwrap_or("").as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let mut origin = None;
        for field in request.headers.iter() {
            if field.name.eq_ignore_ascii_case("host") {
                origin = self.hosts.get(field.value).copied();
            }
            if field.name.eq_ignore_ascii_case("connection") {
                continue;
            }
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"X-Forwarded-For: 127.0.0.1\r\n\r\n");
        origin.map(Some).ok_or_else(|| "no such host".to_owned())
    }
}

/// Length of the whole answer whose beginning is in `bytes`. `None` while its head is incomplete.
pub fn answer_len(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head_len) = response.parse(bytes).map_err(|e| e.to_string())? else {
        return Ok(None);
    };
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let text = length.and_then(|field| std::str::from_utf8(field.value).ok()).ok_or("no Content-Length")?;
    let body: usize = text.parse().map_err(|_| "unreadable Content-Length".to_owned())?;
    Ok(Some(head_len + body))
}
