//! Changes a proxy's table at a rate while load runs on it, and measures how long each change takes to be confirmed.
//!
//! Hosts are added and, a while later, removed again, one at a time. Every so often the new host is asked for on a
//! fresh connection as soon as the change was confirmed: a confirmation that comes too early is counted.
//! Deliberately absent: reloads of configuration files; both peers here have a way without one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;

/// How the proxy is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tongue {
    /// Our admin API, waiting until all cores serve the change.
    Router,
    /// HAProxy's runtime API: `add map`, `del map`. It answers when its one thread has done it.
    Haproxy,
}

/// What is fed.
pub struct Feed {
    /// How the proxy is told.
    pub tongue: Tongue,
    /// The socket of its API.
    pub socket: PathBuf,
    /// The map file that HAProxy knows the table by, or the job that our routes lead to.
    pub subject: String,
    /// Where the proxy listens.
    pub target: SocketAddr,
    /// A host that is in the table from the start.
    pub known_host: String,
    /// Changes a second.
    pub rate: u32,
    /// For how long.
    pub lasts: Duration,
}

/// How the changes went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Fed {
    /// Changes confirmed.
    pub changes: u64,
    /// Confirmed per second.
    pub per_second: f64,
    /// From sending a change to reading its confirmation, µs.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
    /// See `p50_us`.
    pub max_us: f64,
    /// Fresh connections that asked for a host just confirmed.
    pub probes: u64,
    /// Those that did not get it.
    pub too_early: u64,
    /// What the first of those got instead.
    pub first_wrong: Option<String>,
}

/// A host is removed after so many further changes.
const LIFE: u64 = 200;
// What an odd step removes was added by an even one.
const _: () = assert!(LIFE.is_multiple_of(2));
/// One added host in this many is asked for.
const PROBE_EVERY: u64 = 25;
const TIMEOUT: Duration = Duration::from_secs(5);
/// The origin may be gone when the last changes are made.
const ORIGIN_LEAVES_BEFORE: Duration = Duration::from_millis(200);
/// The origin, started at the same time, has this long to answer.
const READY_WITHIN: Duration = Duration::from_secs(20);

impl Feed {
    /// Feeds for the given time.
    ///
    /// # Errors
    /// When the proxy cannot be reached or refuses a change.
    pub fn run(&self) -> Result<Fed, String> {
        let mut line =
            Line::open(&self.socket).map_err(|e| format!("{}: {e}", self.socket.display()))?;
        if self.tongue == Tongue::Haproxy {
            line.prompt().map_err(|e| e.to_string())?;
        }
        self.wait_for_origin()?;
        let mut latency = Histogram::default();
        let mut fed = Fed::default();
        let period = Duration::from_secs(1) / self.rate.max(1);
        let start = Instant::now();
        let mut number: u64 = 0;
        while start.elapsed() < self.lasts {
            // Late changes follow at once: the rate is kept if the proxy can keep it.
            let due = period * u32::try_from(number).unwrap_or(u32::MAX);
            if let Some(early) = due.checked_sub(start.elapsed()) {
                std::thread::sleep(early);
            }
            let (host, adds) = step(number);
            let began = Instant::now();
            self.change(&mut line, &host, adds)?;
            latency.record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
            let origin_stays = start.elapsed() + ORIGIN_LEAVES_BEFORE < self.lasts;
            if adds && origin_stays && number.is_multiple_of(2 * PROBE_EVERY) {
                fed.probes += 1;
                if let Err(wrong) = self.ask(&host) {
                    fed.too_early += 1;
                    fed.first_wrong.get_or_insert(wrong);
                }
            }
            number += 1;
        }
        let micros = |per_mille| latency.quantile_ns(per_mille) as f64 / 1e3;
        Ok(Fed {
            changes: number,
            per_second: number as f64 / start.elapsed().as_secs_f64(),
            p50_us: micros(500),
            p99_us: micros(990),
            max_us: latency.max_ns() as f64 / 1e3,
            ..fed
        })
    }

    /// Without its origin a proxy cannot serve a host however well it knows it.
    fn wait_for_origin(&self) -> Result<(), String> {
        let start = Instant::now();
        while let Err(wrong) = self.ask(&self.known_host) {
            if start.elapsed() > READY_WITHIN {
                return Err(format!("{} is not served: {wrong}", self.known_host));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn change(&self, line: &mut Line, host: &str, adds: bool) -> Result<(), String> {
        let subject = &self.subject;
        match (self.tongue, adds) {
            (Tongue::Haproxy, true) => line.command(&format!("add map {subject} {host} origin\n")),
            (Tongue::Haproxy, false) => line.command(&format!("del map {subject} {host}\n")),
            (Tongue::Router, true) => line.post(&format!(
                r#"{{"op":"put_target","endpoint":"http://{host}","job":"{subject}","weight":100,"https_only":false}}"#
            )),
            (Tongue::Router, false) => {
                line.post(&format!(r#"{{"op":"remove_route","endpoint":"http://{host}"}}"#))
            }
        }
    }

    /// Asks for a host on a fresh connection; what came instead of a 200, if that is what happened.
    fn ask(&self, host: &str) -> Result<(), String> {
        let start = || -> std::io::Result<[u8; 13]> {
            let mut stream = TcpStream::connect(self.target)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            write!(stream, "GET /load HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
            let mut start = [0; 13];
            stream.read_exact(&mut start)?;
            Ok(start)
        };
        let start = start().map_err(|e| e.to_string())?;
        if &start == b"HTTP/1.1 200 " {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&start).into_owned())
        }
    }
}

/// The host of a change, and whether it is added: added in even steps, removed `LIFE` steps later.
fn step(number: u64) -> (String, bool) {
    let adds = number.is_multiple_of(2) || number < LIFE;
    let host = if adds { number } else { number - 1 - LIFE };
    (format!("new-{host}.{}", crate::tls::SERVER_NAME), adds)
}

/// One open connection to an API.
struct Line {
    reader: BufReader<UnixStream>,
}

impl Line {
    fn open(path: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Makes HAProxy keep the connection for further commands.
    fn prompt(&mut self) -> std::io::Result<()> {
        self.reader.get_mut().write_all(b"prompt\n")?;
        self.read_to_prompt().map(|_| ())
    }

    fn command(&mut self, text: &str) -> Result<(), String> {
        self.reader.get_mut().write_all(text.as_bytes()).map_err(|e| e.to_string())?;
        let answer = self.read_to_prompt().map_err(|e| e.to_string())?;
        // It says nothing when all is well.
        if answer.trim().is_empty() {
            Ok(())
        } else {
            Err(format!("{}: {}", text.trim(), answer.trim()))
        }
    }

    /// Everything up to the prompt, which is `> ` at the start of a line.
    fn read_to_prompt(&mut self) -> std::io::Result<String> {
        let mut answer = Vec::new();
        while answer != b"> " && !answer.ends_with(b"\n> ") {
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        answer.truncate(answer.len() - 2);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn post(&mut self, change: &str) -> Result<(), String> {
        let body = format!(r#"{{"wait":"all","timeout_ms":2000,"changes":[{change}]}}"#);
        let head = format!(
            "POST /v1/changes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.reader.get_mut().write_all((head + &body).as_bytes()).map_err(|e| e.to_string())?;
        let (status, answer) = self.read_answer().map_err(|e| format!("admin API: {e}"))?;
        if status.starts_with("HTTP/1.1 200 ") {
            Ok(())
        } else {
            Err(format!("{} {answer}", status.trim()))
        }
    }

    fn read_answer(&mut self) -> std::io::Result<(String, String)> {
        let mut status = String::new();
        self.reader.read_line(&mut status)?;
        let mut length = 0;
        loop {
            let mut field = String::new();
            let count = self.reader.read_line(&mut field)?;
            if count == 0 || field == "\r\n" {
                break;
            }
            if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        const ANSWER_BYTES_MAX: usize = 1 << 20;
        let mut body = vec![0; length.min(ANSWER_BYTES_MAX)];
        self.reader.read_exact(&mut body)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_removed_was_added_before_and_only_once() {
        let mut present = std::collections::BTreeSet::new();
        for number in 0..5_000 {
            let (host, adds) = step(number);
            let changed = if adds { present.insert(host.clone()) } else { present.remove(&host) };
            assert!(changed, "step {number}: {host}, adds {adds}");
        }
        // The first hosts of odd number stay; the others do not pile up.
        assert!(present.len() < 3 * 200, "{}", present.len());
    }
}
