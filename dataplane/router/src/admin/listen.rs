//! Where the admin API listens: an address or a unix socket, with a bound on connections.
//!
//! Deliberately absent: TLS. The API belongs on loopback, a unix socket, or behind something that asks who is there.

use std::io;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::AdminAddress;

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// Nobody but the owner may connect.
const SOCKET_MASK: u32 = 0o177;

/// A bound listener. Dropping it removes the unix socket.
pub struct AdminListener {
    socket: Socket,
    permits: Arc<Semaphore>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl AdminListener {
    /// Bind; must be called within a Tokio runtime. A unix socket that nobody listens on any more is replaced.
    pub fn bind(address: &AdminAddress) -> io::Result<Self> {
        let socket = match address {
            AdminAddress::Tcp(addr) => {
                let listener = std::net::TcpListener::bind(addr)?;
                listener.set_nonblocking(true)?;
                Socket::Tcp(TcpListener::from_std(listener)?)
            }
            AdminAddress::Unix(path) => {
                let listener = bind_unix(path)?;
                listener.set_nonblocking(true)?;
                Socket::Unix(UnixListener::from_std(listener)?, path.clone())
            }
        };
        Ok(Self { socket, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) })
    }

    /// The address with the port filled in.
    pub fn address(&self) -> io::Result<AdminAddress> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => AdminAddress::Tcp(listener.local_addr()?),
            Socket::Unix(_, path) => AdminAddress::Unix(path.clone()),
        })
    }

    pub(super) fn is_loopback(&self) -> bool {
        matches!(self.address(), Ok(AdminAddress::Tcp(addr)) if addr.ip().is_loopback())
    }
}

fn bind_unix(path: &Path) -> io::Result<unix::UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    if let Ok(found) = std::fs::symlink_metadata(path)
        && found.file_type().is_socket()
        // A socket that refuses has no listener: left over from a process that was killed.
        && unix::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    // Set before the socket exists, so that there is no moment in which others may connect.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(SOCKET_MASK));
    let bound = unix::UnixListener::bind(path);
    rustix::process::umask(before);
    bound
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            // Already gone is as good.
            drop(std::fs::remove_file(path));
        }
    }
}

/// Either kind of stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// One connection, with its place in the count.
pub struct AdminIo {
    stream: Box<dyn Stream>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Listener for AdminListener {
    type Io = AdminIo;
    type Addr = ();

    async fn accept(&mut self) -> (AdminIo, ()) {
        // The semaphore is never closed; without a permit we would merely not count.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let stream: Box<dyn Stream> = match &mut self.socket {
            Socket::Tcp(listener) => Box::new(Listener::accept(listener).await.0),
            Socket::Unix(listener, _) => Box::new(Listener::accept(listener).await.0),
        };
        (AdminIo { stream, _permit: permit }, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for AdminIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for AdminIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
