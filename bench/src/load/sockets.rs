//! Sockets as the load needs them: non-blocking, without Nagle's delay.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::net::{self, AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// A listener whose accepted sockets inherit `TCP_NODELAY`.
pub(super) fn listen(address: SocketAddr) -> Result<OwnedFd> {
    let fd = net::socket_with(family(address), SocketType::STREAM, FLAGS, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    net::bind(&fd, &address)?;
    net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// The next waiting connection.
pub(super) fn accept(listener: impl AsFd) -> Result<Option<OwnedFd>> {
    match net::accept_with(listener, FLAGS) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A socket that is connecting.
pub(super) fn connect(address: SocketAddr) -> Result<OwnedFd> {
    let fd = net::socket_with(family(address), SocketType::STREAM, FLAGS, None)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    match net::connect(&fd, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
        Err(error) => Err(error),
    }
}

/// Sends what the socket takes now; 0 when it is full.
pub(super) fn send(fd: impl AsFd, bytes: &[u8]) -> Result<usize> {
    match net::send(fd, bytes, SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN) => Ok(0),
        other => other,
    }
}
