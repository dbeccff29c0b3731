//! Raw clients: bytes out, strictly read responses in, over plain TCP or TLS.
//!
//! Deliberately absent: connection reuse, redirects, retries: one value is one connection, and what comes is told.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::message::Response;
use crate::server::{ignore, reset};
use crate::wait::DEADLINE;
use crate::wire::Wire;

/// Interim answers to one request beyond which a client calls them endless.
pub const INTERIM_MAX: usize = 1_000;

/// What a client speaks over.
pub trait Stream: Read + Write + Send {
    /// The socket below.
    fn tcp(&self) -> &TcpStream;
    /// Send what ends the stream: FIN, after a close_notify over TLS.
    fn end_writing(&mut self);
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn end_writing(&mut self) {
        ignore(self.shutdown(Shutdown::Write));
    }
}

/// A TLS client over a socket.
pub type TlsClient = StreamOwned<ClientConnection, TcpStream>;

impl Stream for TlsClient {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }

    fn end_writing(&mut self) {
        self.conn.send_close_notify();
        ignore(self.flush());
        ignore(self.sock.shutdown(Shutdown::Write));
    }
}

/// How the router ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN; over TLS with close_notify before it.
    Clean,
    /// RST.
    Reset,
    /// FIN without close_notify, over TLS.
    Truncated,
}

/// One connection to the router.
pub struct Client<S: Stream = TcpStream> {
    /// The connection and what was read from it.
    pub wire: Wire<S>,
}

impl Client {
    /// Connect by plain TCP.
    ///
    /// # Panics
    /// When nobody listens there.
    pub fn connect(addr: SocketAddr) -> Self {
        Self::over(dial(addr))
    }

    /// Connect by plain TCP to a router that may turn the connection away before this call returns.
    ///
    /// # Errors
    /// When nobody listens there, or the router reset the connection at once.
    pub fn try_connect(addr: SocketAddr) -> io::Result<Self> {
        TcpStream::connect_timeout(&addr, DEADLINE).map(|stream| Self::over(with_deadlines(stream)))
    }

    /// Whether the router ends a new connection without a byte, by FIN or RST, early or late.
    ///
    /// # Panics
    /// When it keeps the connection open.
    pub fn turned_away(addr: SocketAddr) -> bool {
        match Self::try_connect(addr) {
            Ok(mut client) => client.read_to_end().0.is_empty(),
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    /// Connect with a receive buffer of about this many bytes, so that the peer is stopped early.
    ///
    /// # Panics
    /// When nobody listens there.
    pub fn connect_narrow(addr: SocketAddr, receive_bytes: usize) -> Self {
        let kind = socket2::Type::STREAM;
        let socket = socket2::Socket::new(socket2::Domain::for_address(addr), kind, None);
        let socket = socket.expect("a descriptor is free");
        socket.set_recv_buffer_size(receive_bytes).expect("a size the kernel can round");
        socket.connect(&addr.into()).unwrap_or_else(|e| panic!("connect to {addr}: {e}"));
        Self::over(with_deadlines(socket.into()))
    }
}

impl Client<TlsClient> {
    /// Connect by TLS; `name` goes into SNI and must be in the certificate if `config` checks it.
    ///
    /// # Errors
    /// What the handshake says.
    pub fn connect_tls(
        addr: SocketAddr,
        config: &Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).expect("a host name");
        let conn = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(conn, dial(addr));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self::over(stream))
    }

    /// The TLS session, for its facts.
    pub fn tls(&self) -> &ClientConnection {
        &self.wire.stream.conn
    }
}

impl<S: Stream> Client<S> {
    /// A client over a stream that is up.
    pub fn over(stream: S) -> Self {
        Self { wire: Wire::new(stream) }
    }

    /// Our own address, as the router should see it.
    pub fn local_addr(&self) -> SocketAddr {
        self.wire.stream.tcp().local_addr().expect("a connected socket has an address")
    }

    /// Send bytes as they are.
    ///
    /// # Panics
    /// When the router does not take them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).expect("the router takes what it is sent");
        self
    }

    /// Send bytes to a router that may have ended the connection already.
    ///
    /// # Errors
    /// What the socket says.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.stream.write_all(bytes.as_ref())?;
        self.wire.stream.flush()
    }

    /// Send FIN (after close_notify over TLS); reading goes on.
    pub fn end_writing(&mut self) -> &mut Self {
        self.wire.stream.end_writing();
        self
    }

    /// Leave by RST.
    pub fn reset(self) {
        reset(self.wire.stream.tcp());
    }

    /// `GET path` with that host, and its whole response.
    ///
    /// # Panics
    /// When no whole response comes.
    pub fn get(&mut self, host: &str, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.response()
    }

    /// The next whole response, to a method other than HEAD.
    ///
    /// # Panics
    /// When none comes.
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// The next whole response to that method.
    ///
    /// # Panics
    /// When none comes.
    pub fn response_to(&mut self, method: &str) -> Response {
        self.try_response(method).unwrap_or_else(|error| panic!("no whole response: {error}"))
    }

    /// The next whole response to that method.
    ///
    /// # Errors
    /// When the connection ends before its end, at the deadline, or at the first invalid byte.
    pub fn try_response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.try_head(method)?;
        let framing = response.framing;
        response.body.read(&mut self.wire, framing)?;
        match response.body.faults.first() {
            Some(fault) => Err(io::Error::new(ErrorKind::InvalidData, fault.clone())),
            None => Ok(response),
        }
    }

    /// The head of the next final response (or 101); its body is left on the wire.
    ///
    /// # Errors
    /// As [`Client::try_response`].
    pub fn try_head(&mut self, method: &str) -> io::Result<Response> {
        let mut interim = Vec::new();
        loop {
            let response = self.try_any_head(method)?;
            if (100..200).contains(&response.status) && response.status != 101 {
                interim.push((response.status, response.fields));
                if interim.len() > INTERIM_MAX {
                    return Err(io::Error::new(ErrorKind::InvalidData, "endless interim answers"));
                }
                continue;
            }
            return Ok(Response { interim, ..response });
        }
    }

    /// The next head, 1xx included.
    ///
    /// # Errors
    /// As [`Client::try_response`].
    pub fn try_any_head(&mut self, method: &str) -> io::Result<Response> {
        let head = self.wire.through(b"\r\n\r\n")?;
        let head =
            head.ok_or_else(|| io::Error::new(ErrorKind::UnexpectedEof, "no response at all"))?;
        Response::parse(head, method).map_err(|text| io::Error::new(ErrorKind::InvalidData, text))
    }

    /// Exactly this many bytes.
    ///
    /// # Panics
    /// When fewer come.
    pub fn read_exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        let outcome = self.wire.exactly(count as u64, |piece| bytes.extend_from_slice(piece));
        outcome.unwrap_or_else(|e| panic!("wanted {count} bytes, got {}: {e}", bytes.len()));
        bytes
    }

    /// Read to the end of the connection: what came, and how it ended.
    ///
    /// # Panics
    /// When it does not end before the deadline.
    pub fn read_to_end(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        loop {
            bytes.extend_from_slice(self.wire.buffered());
            self.wire.consume(self.wire.buffered().len());
            match self.wire.fill() {
                Ok(0) => return (bytes, End::Clean),
                Ok(_) => {}
                Err(error) => match error.kind() {
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                        return (bytes, End::Reset);
                    }
                    ErrorKind::UnexpectedEof => return (bytes, End::Truncated),
                    _ => panic!("the router did not end the connection: {error}"),
                },
            }
        }
    }

    /// The router ends the connection and sends nothing more.
    ///
    /// # Panics
    /// When it sends anything, or does not end it before the deadline.
    pub fn expect_end(&mut self) -> End {
        let (bytes, end) = self.read_to_end();
        assert!(bytes.is_empty(), "more came: {:?}", crate::message::latin1(&bytes));
        end
    }
}

/// A plain connection with deadlines on both directions.
///
/// # Panics
/// When nobody listens there.
pub fn dial(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, DEADLINE);
    with_deadlines(stream.unwrap_or_else(|e| panic!("connect to {addr}: {e}")))
}

fn with_deadlines(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).expect("a TCP socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out above zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("a time-out above zero");
    stream
}
