//! Ports held for servers that cannot take port 0: nginx, and the TCP routes of the router.
//!
//! A bound socket that does not listen keeps the port from everybody who asks for a free one; a server that sets
//! `SO_REUSEPORT` may bind and listen there beside it, and gets all connections, for the holder does not listen.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A port of 127.0.0.1 that nobody else is given as long as this lives.
#[derive(Debug)]
pub struct HeldPort {
    addr: SocketAddr,
    _socket: Option<Socket>,
}

impl HeldPort {
    /// Hold a free port.
    ///
    /// # Panics
    /// When there is none.
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
        let socket = socket.expect("a descriptor is free");
        socket.set_reuse_port(true).expect("Linux has SO_REUSEPORT");
        let any = SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)));
        socket.bind(&any).expect("a free port");
        let addr = socket.local_addr().ok().and_then(|a| a.as_socket()).expect("bound to an IP");
        Self { addr, _socket: Some(socket) }
    }

    /// An address that was held and now is left to a server that does not share.
    pub fn released(addr: SocketAddr) -> Self {
        Self { addr, _socket: None }
    }

    /// The address held.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Default for HeldPort {
    fn default() -> Self {
        Self::new()
    }
}
