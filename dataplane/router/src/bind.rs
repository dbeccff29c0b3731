//! Reserving listen addresses before the cores open them, so that a wrong address is an error of the caller.
//!
//! A reserved socket is bound with `SO_REUSEPORT` but does not listen: the kernel gives it no connections, and every
//! core can bind the same address while it lives. Deliberately absent: accepting.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// A bound address that waits for its cores; dropping it ends the reservation.
pub struct Reserved {
    /// The address with the port filled in.
    pub addr: SocketAddr,
    _socket: OwnedFd,
}

/// Bind `addr` (port 0: any free port). Errors are the system's: in use, no such address, not permitted.
pub fn reserve(addr: SocketAddr) -> io::Result<Reserved> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // As the cores do it: an address in TIME_WAIT is free, and several cores share one port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &addr)?;
    let addr = rustix::net::getsockname(&socket)?;
    let addr = SocketAddr::try_from(addr)
        .map_err(|_| io::Error::other("the kernel gave an address that is not an IP address"))?;
    Ok(Reserved { addr, _socket: socket })
}
