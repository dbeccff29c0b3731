//! What `router` does without a file: a demonstration table, and two small origins for it in this process.
//!
//! The origins are what a test wants to look at: they answer with their name and with what they were sent.
//! Deliberately absent: everything that a real server needs. They speak just enough HTTP/1.1 for the router.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::{Config, parse_str};

/// Connections of one origin at a time; each is a thread.
const CONNECTIONS_MAX: usize = 1_024;
/// Bytes of a head, or of a body, that an origin reads.
const INPUT_BYTES_MAX: u64 = 64 * 1024;
/// Ports tried first, so that the address is easy to remember.
const HTTP_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9080;

/// Start the origins and give the configuration that routes to them.
pub fn start() -> io::Result<Config> {
    let blue = origin("blue")?;
    let green = origin("green")?;
    let http = free_port(HTTP_PORT)?;
    let admin = free_port(ADMIN_PORT)?;
    let tcp = free_port(0)?;
    let text = format!(
        r#"
[listen]
http = ["{http}"]
admin = "{admin}"

[[job]]
name = "job::/demo::blue"
instances = ["{blue}"]

[[job]]
name = "job::/demo::green"
instances = ["{green}"]

[[job]]
name = "job::/demo::vault"
client_acl = "deny 0.0.0.0/0"
instances = ["{green}"]

[[route]]
endpoint = "http://localhost"
targets = [ {{ job = "job::/demo::blue", weight = 75 }}, {{ job = "job::/demo::green" }} ]

[[route]]
endpoint = "http://localhost/green"
targets = [ {{ job = "job::/demo::green" }} ]

[[route]]
endpoint = "http://127.0.0.1"
targets = [ {{ job = "job::/demo::blue", weight = 75 }}, {{ job = "job::/demo::green" }} ]

[[route]]
endpoint = "http://*.localhost"
targets = [ {{ job = "job::/demo::green" }} ]

[[route]]
endpoint = "http://vault.localhost"
targets = [ {{ job = "job::/demo::vault" }} ]

[[route]]
endpoint = "tcp://{tcp}"
targets = [ {{ job = "job::/demo::blue" }} ]
"#
    );
    parse_str(&text).map_err(|errors| io::Error::other(errors.to_string()))
}

/// What to type, given the addresses that were really taken.
pub fn try_these(http: SocketAddr, tcp: Option<SocketAddr>, admin: &str) -> String {
    let port = http.port();
    let mut lines = vec![
        (format!("curl http://localhost:{port}/"), "three of four answers are blue"),
        (format!("curl http://localhost:{port}/green/x"), "the longest prefix decides"),
        (format!("curl -H 'Host: any.localhost' http://127.0.0.1:{port}/"), "a wildcard"),
        (
            format!("curl -i -H 'Host: vault.localhost' http://127.0.0.1:{port}/"),
            "its ACL denies: 403",
        ),
    ];
    if let Some(tcp) = tcp {
        lines.push((format!("curl http://{tcp}/"), "the same origin by a TCP route"));
    }
    if !admin.starts_with("unix:") {
        lines.push((
            format!("curl 'http://{admin}/v1/explain?url=http://localhost/green/x&format=text'"),
            "why",
        ));
        lines.push((format!("http://{admin}/"), "the dashboard, for a browser"));
    }
    let width = lines.iter().map(|(line, _)| line.len()).filter(|len| *len < 70).max().unwrap_or(0);
    lines.iter().map(|(line, note)| format!("  {line:width$}  # {note}\n")).collect()
}

/// The address with `port` if nobody listens there, else with any free port.
fn free_port(port: u16) -> io::Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bind(port).or_else(|_| bind(0))?.local_addr()
}

/// Start an origin on a free port.
fn origin(name: &'static str) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    let open = Arc::new(AtomicUsize::new(0));
    std::thread::Builder::new().name(format!("demo-{name}")).spawn(move || {
        for stream in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let open_here = Arc::clone(&open);
            let spawned = std::thread::Builder::new().spawn(move || {
                // A client that goes away is the ordinary end.
                drop(converse(name, &stream));
                open_here.fetch_sub(1, Ordering::Relaxed);
            });
            if spawned.is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    })?;
    Ok(addr)
}

/// Answer requests on one connection until it ends.
fn converse(name: &str, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(head) = read_head(&mut reader)? {
        let header = |wanted: &str| {
            let lines = head.iter().skip(1).filter_map(|line| line.split_once(':'));
            lines
                .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.trim())
                .next()
        };
        if header("transfer-encoding").is_some() {
            read_chunks(&mut reader)?;
        } else if let Some(length) = header("content-length").and_then(|value| value.parse().ok()) {
            io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        }
        let mut body = format!("This is {name}. It got:\n\n");
        for line in &head {
            body.push_str("    ");
            body.push_str(line);
            body.push('\n');
        }
        let length = body.len();
        let answer_head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nX-Demo-Origin: {name}\r\n\r\n"
        );
        let is_head = head[0].starts_with("HEAD ");
        let mut stream = stream;
        stream.write_all(answer_head.as_bytes())?;
        if !is_head {
            stream.write_all(body.as_bytes())?;
        }
        if header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return Ok(());
        }
    }
    Ok(())
}

/// The lines of a head; `None` at the end of the connection.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut reader = reader.take(INPUT_BYTES_MAX);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() && !lines.is_empty() {
            return Ok(Some(lines));
        }
        if !line.is_empty() {
            lines.push(line.to_owned());
        }
    }
}

/// Skip a chunked body.
fn read_chunks(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.take(INPUT_BYTES_MAX).read_line(&mut line)?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "chunk size"))?;
        io::copy(&mut reader.take(size + 2), &mut io::sink())?;
        if size == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the demonstration table is always a good file, and its origins answer on a kept connection.
    #[test]
    fn the_demonstration_answers() {
        let config = start().unwrap();
        assert_eq!(config.desired.routes.len(), 6);
        let blue = config.desired.jobs["job::/demo::blue"].instances.iter().next().unwrap();
        let mut stream = TcpStream::connect(blue).unwrap();
        stream
            .write_all(
                b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                  GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            )
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text.matches("This is blue").count(), 2);
        assert!(text.contains("POST /a HTTP/1.1") && text.contains("GET /b HTTP/1.1"), "{text}");
    }
}
