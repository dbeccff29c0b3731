//! What one run of the generator does: messages, pace, window.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::message::Shape;
use crate::meter::Meter;
use crate::pattern;
use crate::tls::{SERVER_NAME, TlsClient};

/// When the next exchange begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As soon as the connection is free.
    Closed,
    /// So many in a second, evenly spaced, whether or not the last ones were answered.
    PerSecond(u32),
    /// One exchange on each connection; then they stay open.
    Once,
}

/// A second process that holds idle connections, and leaves all at once by being killed.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Idle connections it opens.
    pub connections: usize,
    /// After how much of the window it is killed.
    pub leaves_after: Duration,
    /// Command in front of its own, such as `chrt -f 1`: it must not delay the clients that stay.
    pub prefix: Vec<String>,
}

impl Holder {
    /// Starts the process. It writes a line to its standard output when all connections are open.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, target: SocketAddr) -> Result<Child, String> {
        let own = super::own_command()?;
        let mut words = self.prefix.iter().cloned().chain(own);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(["hold", "--target", &target.to_string()]);
        command.args(["--connections", &self.connections.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().map_err(|e| format!("starting the holder: {e}"))
    }
}

/// Everything a run needs to know. Messages are `'static`: the process does one run and ends.
#[derive(Clone)]
pub struct Plan {
    /// Where the proxy listens.
    pub target: SocketAddr,
    /// Where the origin of this process listens; `None` when another process is the origin.
    pub origin: Option<SocketAddr>,
    /// Client connections.
    pub connections: usize,
    /// Client connections that may be opening or waiting for their first answer at once.
    pub opening_max: usize,
    /// What clients send, in turn.
    pub requests: Vec<&'static [u8]>,
    /// What clients must get.
    pub answer: Shape,
    /// What the origin must get.
    pub ask: Shape,
    /// What the origin sends.
    pub reply: &'static [u8],
    /// Each exchange has its own connection, closed by the proxy.
    pub close_each: bool,
    /// When the next exchange begins.
    pub pace: Pace,
    /// Time before the window.
    pub warmup: Duration,
    /// The measured time.
    pub window: Duration,
    /// TLS between client and proxy.
    pub tls: Option<TlsClient>,
    /// The proxy's CPU and memory.
    pub meter: Option<Meter>,
    /// Idle connections of a second process.
    pub holder: Option<Holder>,
}

/// An HTTP request for one of the hosts of the test table.
pub fn request(host: &str, body: usize, close: bool) -> &'static [u8] {
    let connection = if close { "Connection: close\r\n" } else { "" };
    let (method, length) = match body {
        0 => ("GET", String::new()),
        _ => ("POST", format!("Content-Length: {body}\r\n")),
    };
    let head = format!(
        "{method} /load HTTP/1.1\r\nHost: {host}\r\nUser-Agent: load/1\r\nAccept: */*\r\n{length}{connection}\r\n"
    );
    [head.as_bytes(), pattern::body(body)].concat().leak()
}

/// The origin's answer: the fields a small origin sends, and the body.
pub fn reply(body: usize) -> &'static [u8] {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: load\r\nDate: Sat, 01 Jan 2000 00:00:00 GMT\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {body}\r\n\r\n"
    );
    [head.as_bytes(), pattern::body(body)].concat().leak()
}

/// Hosts of the test table: one, or many numbered ones.
pub(crate) fn host(number: usize, of: usize) -> String {
    if of <= 1 { SERVER_NAME.to_owned() } else { format!("app-{number}.{SERVER_NAME}") }
}

/// How long a name may stay in a shuffled order: visits every host once per turn, far from the last one.
pub fn shuffled_hosts(count: usize, shown_max: usize) -> Vec<String> {
    // A stride that shares no factor with the count visits each host once; the golden ratio keeps neighbours apart.
    let mut stride = (count * 618 / 1000).max(1);
    while gcd(stride, count.max(1)) != 1 {
        stride += 1;
    }
    (0..count.min(shown_max)).map(|turn| host(turn * stride % count.max(1), count)).collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Reader;

    #[test]
    fn requests_and_replies_have_their_own_shape() {
        let ask = Shape::Http { start: b"POST /load", body: 70_000 };
        assert_eq!(Reader::default().feed(ask, request("h", 70_000, false)), Ok(true));
        let ask = Shape::Http { start: b"GET /load", body: 0 };
        assert_eq!(Reader::default().feed(ask, request("h", 0, true)), Ok(true));
        let answer = Shape::Http { start: b"HTTP/1.1 200 ", body: 128 };
        assert_eq!(Reader::default().feed(answer, reply(128)), Ok(true));
    }

    #[test]
    fn every_host_is_visited_once_a_turn() {
        for count in [1, 2, 10, 1_000] {
            let mut hosts = shuffled_hosts(count, usize::MAX);
            hosts.sort();
            hosts.dedup();
            assert_eq!(hosts.len(), count);
        }
        assert_eq!(shuffled_hosts(1_000, 10).len(), 10);
    }
}
