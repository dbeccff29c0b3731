//! A recording origin: keeps every byte that it was sent, judges every request, answers by a script.
//!
//! Dropping it fails the test if anything invalid was ever forwarded to it; a test of a broken proxy says
//! [`Origin::tolerate_faults`] first. Deliberately absent: a script language. A script is a closure.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::body::Body;
use crate::message::{Framing, Request};
use crate::server::{Server, ignore, lock};
use crate::wait::DEADLINE;
use crate::wire::Wire;

/// Raw bytes kept of one connection; what comes beyond is counted only.
const RAW_BYTES_MAX: usize = 1 << 20;

/// What a script does with one request. `Err` ends the connection, as does [`Exchange::close`].
pub type Script = dyn Fn(&mut Exchange<'_>) -> io::Result<()> + Send + Sync;

/// What was seen of one connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Bytes as they came, at most a megabyte of them.
    pub bytes: Vec<u8>,
    /// Sizes of the reads in which they came.
    pub reads: Vec<usize>,
    /// Whether the router ended it, and how.
    pub ended: Option<Ended>,
}

/// How the router ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// FIN between two requests.
    Clean,
    /// FIN or RST within a request.
    Within,
    /// RST between two requests.
    Reset,
    /// The script ended it itself.
    Own,
}

/// What an origin saw so far.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections in the order in which they were accepted.
    pub connections: Vec<Connection>,
    /// Requests whose head came, in that order. A body is filled in when it was read.
    pub requests: Vec<Request>,
}

impl Seen {
    /// Connections that nobody ended.
    pub fn open(&self) -> usize {
        self.connections.iter().filter(|connection| connection.ended.is_none()).count()
    }

    /// Requests with this target.
    pub fn of(&self, target: &str) -> Vec<&Request> {
        self.requests.iter().filter(|request| request.target == target).collect()
    }

    /// Everything that was wrong with what was forwarded.
    pub fn faults(&self) -> Vec<String> {
        self.requests.iter().flat_map(Request::all_faults).collect()
    }
}

struct Shared {
    name: String,
    seen: Mutex<Seen>,
    changed: Condvar,
    script: Box<Script>,
}

/// The origin. Dropping it ends its connections.
pub struct Origin {
    server: Server,
    shared: Arc<Shared>,
    faults_tolerated: bool,
}

impl Origin {
    /// An origin that answers each request with 200, `X-Origin: name` and the request line's target as the body.
    pub fn named(name: &str) -> Self {
        Self::scripted(name, |exchange| exchange.answer_target())
    }

    /// An origin with a script. A request body that the script leaves is read before the next request.
    pub fn scripted(
        name: &str,
        script: impl Fn(&mut Exchange<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::scripted_at(SocketAddr::from(([127, 0, 0, 1], 0)), name, script)
    }

    /// As [`Origin::scripted`], at an address that is free again.
    pub fn scripted_at(
        addr: SocketAddr,
        name: &str,
        script: impl Fn(&mut Exchange<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            seen: Mutex::default(),
            changed: Condvar::new(),
            script: Box::new(script),
        });
        let inner = Arc::clone(&shared);
        let server = Server::start_at(addr, move |stream, number| serve(stream, number, &inner));
        Self { server, shared, faults_tolerated: false }
    }

    /// An origin that sends `bytes` as they are after each request with its whole body.
    pub fn raw(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::scripted(name, move |exchange| {
            exchange.read_body()?;
            exchange.send(&bytes)
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The server below, to stop or cut it.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// A copy of what was seen so far.
    pub fn seen(&self) -> Seen {
        lock(&self.shared.seen).clone()
    }

    /// Look at what was seen without copying it.
    pub fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&lock(&self.shared.seen))
    }

    /// Wait until `enough` is true of what was seen.
    ///
    /// # Panics
    /// After [`DEADLINE`]; `what` says what was waited for.
    pub fn wait(&self, what: &str, mut enough: impl FnMut(&Seen) -> bool) -> Seen {
        let started = Instant::now();
        let mut seen = lock(&self.shared.seen);
        while !enough(&seen) {
            let left = DEADLINE.saturating_sub(started.elapsed());
            assert!(!left.is_zero(), "origin {}: waited in vain: {what}", self.shared.name);
            let slice = left.min(Duration::from_millis(500));
            seen = self.shared.changed.wait_timeout(seen, slice).expect("no poison").0;
        }
        seen.clone()
    }

    /// Wait for the request number `index` (from 0) and give it, body included.
    pub fn request(&self, index: usize) -> Request {
        let done = |seen: &Seen| seen.requests.get(index).is_some_and(|r| r.body.complete);
        let mut seen = self.wait(&format!("request {index} with its whole body"), done);
        seen.requests.swap_remove(index)
    }

    /// Do not fail the test for what was forwarded here.
    pub fn tolerate_faults(&mut self) {
        self.faults_tolerated = true;
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if self.faults_tolerated || std::thread::panicking() {
            return;
        }
        let faults = lock(&self.shared.seen).faults();
        assert!(
            faults.is_empty(),
            "invalid requests reached origin {}: {faults:#?}",
            self.shared.name
        );
    }
}

/// One request being answered.
pub struct Exchange<'a> {
    /// Its head; the body once it was read.
    pub request: Request,
    /// The connection, for scripts that speak something of their own.
    pub wire: &'a mut Wire<Recorder>,
    shared: &'a Shared,
    slot: usize,
    closed: bool,
}

impl Exchange<'_> {
    /// Read the request's body to its end.
    ///
    /// # Errors
    /// As [`Body::read`].
    pub fn read_body(&mut self) -> io::Result<()> {
        if self.request.body.complete {
            return Ok(());
        }
        let mut body = std::mem::take(&mut self.request.body);
        let outcome = body.read(self.wire, self.request.framing);
        if let Err(error) = &outcome
            && error.kind() == io::ErrorKind::InvalidData
        {
            body.faults.push(error.to_string());
        }
        self.keep(body);
        outcome
    }

    /// Read one more chunk of a chunked request body; false at its end.
    ///
    /// # Errors
    /// As [`Body::read_chunk`].
    pub fn read_chunk(&mut self) -> io::Result<bool> {
        let mut body = std::mem::take(&mut self.request.body);
        let outcome = body.read_chunk(self.wire);
        body.complete = matches!(outcome, Ok(false));
        self.keep(body);
        outcome
    }

    fn keep(&mut self, body: Body) {
        self.request.body = body;
        lock(&self.shared.seen).requests[self.slot].body = self.request.body.clone();
        self.shared.changed.notify_all();
    }

    /// Send bytes as they are.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.stream.write_all(bytes.as_ref())
    }

    /// Answer with a status line ending such as `200 OK`, field lines and a body with its length.
    ///
    /// # Errors
    /// What the socket says.
    pub fn answer(&mut self, status: &str, fields: &[&str], body: &[u8]) -> io::Result<()> {
        self.read_body()?;
        let mut head = format!("HTTP/1.1 {status}\r\nX-Origin: {}\r\n", self.shared.name);
        for line in fields {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut bytes = head.into_bytes();
        if self.request.method != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.send(bytes)
    }

    /// Answer 200 with the target as the body.
    ///
    /// # Errors
    /// What the socket says.
    pub fn answer_target(&mut self) -> io::Result<()> {
        let target = self.request.target.clone();
        self.answer("200 OK", &[], target.as_bytes())
    }

    /// End the connection by FIN after this request, whatever was read.
    pub fn close(&mut self) {
        ignore(self.wire.stream.tcp.shutdown(Shutdown::Write));
        self.closed = true;
    }

    /// End the connection by RST.
    pub fn reset(&mut self) {
        crate::server::reset(&self.wire.stream.tcp);
        self.closed = true;
    }
}

/// A socket whose reads are recorded.
pub struct Recorder {
    /// The socket.
    pub tcp: TcpStream,
    shared: Arc<Shared>,
    number: usize,
}

impl Read for Recorder {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.tcp.read(out)?;
        let mut seen = lock(&self.shared.seen);
        let connection = &mut seen.connections[self.number];
        let room = RAW_BYTES_MAX.saturating_sub(connection.bytes.len()).min(count);
        connection.bytes.extend_from_slice(&out[..room]);
        if room > 0 {
            connection.reads.push(count);
        }
        drop(seen);
        self.shared.changed.notify_all();
        Ok(count)
    }
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve(tcp: TcpStream, number: usize, shared: &Arc<Shared>) {
    {
        let mut seen = lock(&shared.seen);
        if seen.connections.len() <= number {
            seen.connections.resize_with(number + 1, Connection::default);
        }
    }
    shared.changed.notify_all();
    ignore(tcp.set_write_timeout(Some(DEADLINE * 3)));
    let mut wire = Wire::new(Recorder { tcp, shared: Arc::clone(shared), number });
    converse(&mut wire, shared, number);
}

fn note_end(shared: &Shared, number: usize, ended: Ended) {
    lock(&shared.seen).connections[number].ended = Some(ended);
    shared.changed.notify_all();
}

/// After our FIN: take what still comes, for a socket closed over unread bytes would send RST and spoil the answer.
fn linger(wire: &mut Wire<Recorder>, shared: &Shared, number: usize) {
    note_end(shared, number, Ended::Own);
    ignore(wire.stream.tcp.set_read_timeout(Some(DEADLINE)));
    while matches!(wire.fill(), Ok(count) if count > 0) {
        wire.consume(wire.buffered().len());
    }
}

/// Answer request after request, and note how the connection ended.
fn converse(wire: &mut Wire<Recorder>, shared: &Shared, number: usize) {
    for index in 0.. {
        let head = match wire.through(b"\r\n\r\n") {
            Ok(Some(head)) => head,
            Ok(None) => return note_end(shared, number, Ended::Clean),
            Err(_) if wire.buffered().is_empty() => return note_end(shared, number, Ended::Reset),
            Err(_) => {
                let mut request = Request::parse(wire.buffered().to_vec());
                request.faults.push("a head that never ended".to_owned());
                lock(&shared.seen).requests.push(request);
                return note_end(shared, number, Ended::Within);
            }
        };
        let request = Request { connection: number, index, ..Request::parse(head) };
        let slot = {
            let mut seen = lock(&shared.seen);
            seen.requests.push(request.clone());
            seen.requests.len() - 1
        };
        shared.changed.notify_all();
        let mut exchange = Exchange { request, wire, shared, slot, closed: false };
        if exchange.request.framing == Framing::None {
            exchange.keep(Body { complete: true, ..Body::default() });
        }
        let scripted = (shared.script)(&mut exchange);
        if exchange.closed {
            linger(wire, shared, number);
            return;
        }
        if scripted.is_err() || exchange.read_body().is_err() {
            return note_end(shared, number, Ended::Within);
        }
    }
}
