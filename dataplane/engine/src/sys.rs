//! Sockets, spoken to the kernel directly: every system call both real engines make, once.
//!
//! All sockets are non-blocking, close-on-exec and without Nagle's delay. Errors are plain `errno` values: the hot
//! path builds no `io::Error`. Deliberately absent: anything that waits.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::{Errno, Now};

/// A socket address as the kernel reads and writes it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union RawAddr {
    v6: libc::sockaddr_in6,
    v4: libc::sockaddr_in,
    family: libc::sa_family_t,
}

/// Bytes of a `socklen_t`-typed constant; sizes of socket addresses and options are far below its range.
macro_rules! socklen_of {
    ($type:ty) => {{
        const LEN: usize = mem::size_of::<$type>();
        const _: () = assert!(LEN < 1024);
        #[expect(clippy::cast_possible_truncation, reason = "below 1024 by the line above")]
        {
            LEN as libc::socklen_t
        }
    }};
}

impl RawAddr {
    /// Room for the kernel to write an address.
    pub(crate) const fn empty() -> Self {
        // SAFETY: all three variants are plain integers; zero is a value of each.
        unsafe { mem::zeroed() }
    }

    /// The address in the kernel's form, and how many bytes of it count.
    pub(crate) fn new(addr: SocketAddr) -> (Self, libc::socklen_t) {
        let mut raw = Self::empty();
        match addr {
            SocketAddr::V4(addr) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: AF_INET,
                    sin_port: addr.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (raw, socklen_of!(libc::sockaddr_in))
            }
            SocketAddr::V6(addr) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: AF_INET6,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: addr.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                    sin6_scope_id: addr.scope_id(),
                };
                (raw, socklen_of!(libc::sockaddr_in6))
            }
        }
    }

    pub(crate) const fn as_ptr(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(self).cast()
    }

    /// What the kernel wrote. An IPv4 address mapped into IPv6 (a dual-stack listener) is given as IPv4.
    pub(crate) fn read(&self) -> Option<SocketAddr> {
        // SAFETY: every bit pattern is a valid value of every variant, and all bytes are initialised by `empty`.
        unsafe {
            match self.family {
                AF_INET => {
                    let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(self.v4.sin_port)))
                }
                AF_INET6 => {
                    let ip = Ipv6Addr::from(self.v6.sin6_addr.s6_addr);
                    let port = u16::from_be(self.v6.sin6_port);
                    Some(match ip.to_ipv4_mapped() {
                        Some(ip) => SocketAddr::new(IpAddr::V4(ip), port),
                        None => SocketAddr::V6(SocketAddrV6::new(
                            ip,
                            port,
                            self.v6.sin6_flowinfo,
                            self.v6.sin6_scope_id,
                        )),
                    })
                }
                _ => None,
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "AF_INET is 2")]
const AF_INET: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "AF_INET6 is 10")]
const AF_INET6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;

/// The `errno` the last failed call left.
pub(crate) fn errno() -> Errno {
    // SAFETY: points to this thread's own errno.
    Errno(unsafe { *libc::__errno_location() })
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A byte count, or the `errno`.
fn count(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| errno())
}

fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` is a readable int for the length of the call.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), socklen_of!(i32)) })
        .map(drop)
}

/// Own a descriptor that the kernel has just given us.
///
/// # Safety
/// `fd` is open and nobody else owns it.
pub(crate) unsafe fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: by the contract above.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A TCP socket of the family of `addr`.
pub(crate) fn tcp_socket(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { own(fd) };
    set_option(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    Ok(fd)
}

/// A listening socket with `SO_REUSEPORT`, and the address it got. Accepted sockets inherit `TCP_NODELAY`.
pub(crate) fn listen(addr: SocketAddr, backlog: u32) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = tcp_socket(addr)?;
    let fd = socket.as_raw_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    let (raw, len) = RawAddr::new(addr);
    // SAFETY: `raw` is readable for `len` bytes.
    check(unsafe { libc::bind(fd, raw.as_ptr(), len) })?;
    let backlog = if backlog == 0 { BACKLOG_DEFAULT } else { backlog };
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd, i32::try_from(backlog).unwrap_or(i32::MAX)) })?;
    let mut raw = RawAddr::empty();
    let mut len = socklen_of!(RawAddr);
    // SAFETY: `raw` is writable for `len` bytes.
    check(unsafe { libc::getsockname(fd, (&raw mut raw).cast(), &raw mut len) })?;
    let bound = raw.read().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
    Ok((socket, bound))
}

/// Queue of connections not yet accepted when the caller names none; the kernel caps it at `somaxconn`.
const BACKLOG_DEFAULT: u32 = 4096;

/// Take one connection out of the queue of a listener.
pub(crate) fn accept(listener: RawFd) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
    let mut raw = RawAddr::empty();
    let mut len = socklen_of!(RawAddr);
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `raw` is writable for `len` bytes.
    let fd = unsafe { libc::accept4(listener, (&raw mut raw).cast(), &raw mut len, flags) };
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok((unsafe { own(fd) }, raw.read()))
}

/// The other end of a connection; `None` when it is gone already.
pub(crate) fn peer_of(fd: RawFd) -> Option<SocketAddr> {
    let mut raw = RawAddr::empty();
    let mut len = socklen_of!(RawAddr);
    // SAFETY: `raw` is writable for `len` bytes.
    let result = unsafe { libc::getpeername(fd, (&raw mut raw).cast(), &raw mut len) };
    if result < 0 { None } else { raw.read() }
}

/// Begin to connect. `Ok(true)`: connected already. `Ok(false)`: it becomes writable when decided.
pub(crate) fn connect(fd: RawFd, peer: SocketAddr) -> Result<bool, Errno> {
    let (raw, len) = RawAddr::new(peer);
    // SAFETY: `raw` is readable for `len` bytes.
    if unsafe { libc::connect(fd, raw.as_ptr(), len) } == 0 {
        return Ok(true);
    }
    match errno() {
        Errno(libc::EINPROGRESS | libc::EINTR) => Ok(false),
        error => Err(error),
    }
}

/// The error a socket holds for us, which is then forgotten by the kernel.
pub(crate) fn take_error(fd: RawFd) -> Option<Errno> {
    let mut value: i32 = 0;
    let mut len = socklen_of!(i32);
    // SAFETY: `value` is a writable int, `len` says so.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    match (result, value) {
        (0, 0) => None,
        (0, value) => Some(Errno(value)),
        _ => Some(errno()),
    }
}

/// Read what has arrived; 0 is the peer's FIN.
pub(crate) fn recv(fd: RawFd, into: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: `into` is writable for its length.
    count(unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), 0) })
}

/// Hand over bytes; gives how many the kernel took.
pub(crate) fn send(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: `bytes` is readable for its length.
    count(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// Hand over several pieces at once; gives how many bytes the kernel took.
///
/// # Safety
/// Each `iovec` points to bytes that are readable for its length.
pub(crate) unsafe fn send_vectored(fd: RawFd, pieces: &[libc::iovec]) -> Result<usize, Errno> {
    // SAFETY: zero is a valid msghdr: no name, no pieces, no control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut();
    message.msg_iovlen = pieces.len();
    // SAFETY: `msg_iov` points to `msg_iovlen` pieces that are readable by the contract above; sendmsg writes to none.
    count(unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) })
}

/// Send FIN. A connection that is gone has no use for it: the error is of no interest.
pub(crate) fn shutdown_write(fd: RawFd) {
    // SAFETY: no pointers.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Whether bytes, FIN or an error wait to be received.
pub(crate) fn has_unread(fd: RawFd) -> bool {
    let mut byte = 0_u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the one byte is ours for the length of the call.
    let count = unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, flags) };
    count >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock
}

/// End both directions of a connection whose sending failed: what was received before stays readable.
pub(crate) fn shutdown_both(fd: RawFd) {
    // SAFETY: no pointers.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Stop listening at once: connections not yet accepted are refused, accepts that wait end.
pub(crate) fn shutdown_listener(fd: RawFd) {
    // SAFETY: no pointers.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Make the coming close send RST and drop what is queued.
pub(crate) fn linger_zero(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: `linger` is readable for its length. Failure means that the connection is gone.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            socklen_of!(libc::linger),
        )
    };
}

/// Nanoseconds of the monotonic clock.
pub(crate) fn clock() -> Now {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Now(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// splice(2) to a socket has no MSG_NOSIGNAL: a peer that left must not kill the process.
/// Rust's runtime does this for its own binaries; an engine may live in any.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: SIG_IGN installs no handler code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_to_the_kernel() {
        for text in ["127.0.0.1:80", "255.1.2.3:65535", "[::1]:443", "[fe80::1%3]:1"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddr::new(addr).0.read(), Some(addr));
        }
    }

    #[test]
    fn a_mapped_address_is_told_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:9".parse().unwrap();
        assert_eq!(RawAddr::new(mapped).0.read(), Some("10.1.2.3:9".parse().unwrap()));
        assert_eq!(RawAddr::empty().read(), None);
    }
}
