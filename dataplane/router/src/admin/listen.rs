//! Where the admin API listens: an address or a unix socket, with bounds on connections and on the time that each may
//! take, so that no client keeps the others out.
//!
//! Deliberately absent: TLS. The API belongs on loopback, a unix socket, or behind something that asks who is there.

use std::io;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::settings::AdminAddress;

/// Connections at a time; more wait in the kernel's queue.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// From the accept, or the end of the last answer, to the end of the next head.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(10);
/// After so long a connection takes no further request.
const CONNECTION_TIME: Duration = Duration::from_secs(900);
/// For the answer that runs then; longer than any wait that can be asked for.
const LAST_ANSWER_TIME: Duration = Duration::from_millis(super::drain::WAIT_MS_MAX + 60_000);
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

impl AdminListener {
    /// Answer until dropped.
    pub(super) async fn serve(mut self, routes: axum::Router) {
        let service = TowerToHyperService::new(routes);
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
        let mut connections = JoinSet::new();
        loop {
            // The semaphore is never closed; without a permit we would merely not count.
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
            let stream: Box<dyn Stream> = match &mut self.socket {
                Socket::Tcp(listener) => Box::new(Listener::accept(listener).await.0),
                Socket::Unix(listener, _) => Box::new(Listener::accept(listener).await.0),
            };
            while connections.try_join_next().is_some() {}
            let connection = server.serve_connection(TokioIo::new(stream), service.clone());
            connections.spawn(async move {
                let mut connection = std::pin::pin!(connection);
                if timeout(CONNECTION_TIME, connection.as_mut()).await.is_err() {
                    connection.as_mut().graceful_shutdown();
                    // What a client breaks off is its own affair.
                    drop(timeout(LAST_ANSWER_TIME, connection).await);
                }
                drop(permit);
            });
        }
    }
}
