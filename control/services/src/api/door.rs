//! Connections: how many there may be, and how long one may do nothing.
//!
//! ```text
//!   accept ──▶ seat taken ──▶ bytes either way ──▶ … ──▶ closed, seat free
//!                   │ idle too long, or sends too slowly, or the server's end
//!                   └──────────────────────────────────▶ cut
//! ```
//!
//! Deliberately absent: HTTP. A connection is cut from below, so that no handler has to think of clients that stall.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Pause after an accept that failed, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long the server waits for its clients.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Connections at once; more wait in the kernel.
    pub connections_max: usize,
    /// No byte in either direction for this long ends a connection. Longer than any answer takes to begin, and than the
    /// pause between signs of life in a stream.
    pub idle: Duration,
    /// A write that the client does not take for this long ends the connection.
    pub stalled: Duration,
    /// From so long after the beginning of a request …
    pub slow_after: Duration,
    /// … it must have come with so many bytes a second.
    pub slow_bytes_per_second: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            idle: Duration::from_secs(75),
            stalled: Duration::from_secs(30),
            slow_after: Duration::from_secs(30),
            slow_bytes_per_second: 1_024,
        }
    }
}

/// The listener.
pub(super) struct Door {
    pub tcp: TcpListener,
    pub seats: Arc<Semaphore>,
    pub patience: Patience,
    /// Cuts every connection.
    pub cut: CancellationToken,
}

impl axum::serve::Listener for Door {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        let seat = Arc::clone(&self.seats).acquire_owned().await.expect("seats are never closed");
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    // Costs latency at worst.
                    stream.set_nodelay(true).ok();
                    return (Line::new(stream, seat, self), peer);
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// One connection.
pub(super) struct Line {
    stream: TcpStream,
    patience: Patience,
    /// Runs out when nothing has moved for too long.
    timer: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    moved: Instant,
    /// Since when a write waits.
    waiting: Option<Instant>,
    request: Request,
    _seat: OwnedSemaphorePermit,
}

/// What came since the last byte of an answer.
#[derive(Clone, Copy, Default)]
struct Request {
    since: Option<Instant>,
    bytes: u64,
}

impl Request {
    /// Takes note of bytes; false when they come too slowly.
    fn take(&mut self, bytes: usize, now: Instant, patience: &Patience) -> bool {
        let since = *self.since.get_or_insert(now);
        self.bytes += bytes as u64;
        let passed = now - since;
        if passed < patience.slow_after {
            return true;
        }
        let due = passed.as_millis() * u128::from(patience.slow_bytes_per_second) / 1_000;
        u128::from(self.bytes) >= due
    }
}

impl Line {
    fn new(stream: TcpStream, seat: OwnedSemaphorePermit, door: &Door) -> Self {
        Self {
            stream,
            patience: door.patience,
            timer: Box::pin(tokio::time::sleep(door.patience.idle)),
            cut: Box::pin(door.cut.clone().cancelled_owned()),
            moved: Instant::now(),
            waiting: None,
            request: Request::default(),
            _seat: seat,
        }
    }

    fn deadline(&self) -> Instant {
        let idle = self.moved + self.patience.idle;
        self.waiting.map_or(idle, |since| idle.min(since + self.patience.stalled))
    }

    /// Called when nothing can be done now: an error once the patience is over, and a promise to wake up for it.
    fn patience_over(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Some(io::Error::new(io::ErrorKind::ConnectionAborted, "the server ends"));
        }
        let deadline = self.deadline();
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        let over = self.timer.as_mut().poll(context).is_ready();
        over.then(|| io::Error::new(io::ErrorKind::TimedOut, "the client does nothing"))
    }

    fn written<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            self.waiting.get_or_insert_with(Instant::now);
            return self
                .patience_over(context)
                .map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
        }
        self.moved = Instant::now();
        self.waiting = None;
        self.request = Request::default();
        polled
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_pending() {
            return self
                .patience_over(context)
                .map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
        }
        let (came, now, patience) = (buffer.filled().len() - before, Instant::now(), self.patience);
        self.moved = now;
        if came > 0 && !self.request.take(came, now, &patience) {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the client sends too slowly");
            return Poll::Ready(Err(error));
        }
        polled
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn connected(patience: Patience) -> (TcpStream, Line, Door) {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let seats = Arc::new(Semaphore::new(patience.connections_max));
        let mut door = Door { tcp, seats, patience, cut: CancellationToken::new() };
        let addr = door.local_addr().unwrap();
        let (client, (line, _)) = tokio::join!(TcpStream::connect(addr), door.accept());
        (client.unwrap(), line, door)
    }

    /// Goal: silence, a client that does not read, and the server's end each cut the connection and free its seat.
    #[tokio::test]
    async fn a_connection_that_does_nothing_is_cut() {
        let short = Duration::from_millis(30);
        let patience = Patience { idle: short, ..Patience::default() };
        let (_client, mut line, door) = connected(patience).await;
        assert_eq!(line.read_u8().await.unwrap_err().to_string(), "the client does nothing");
        drop(line);
        assert_eq!(door.seats.available_permits(), patience.connections_max);

        let patience = Patience { stalled: short, ..Patience::default() };
        let (_client, mut line, door) = connected(patience).await;
        let flood = vec![0; 64 << 20];
        assert_eq!(
            line.write_all(&flood).await.unwrap_err().to_string(),
            "the client does nothing"
        );

        door.cut.cancel();
        assert_eq!(line.read_u8().await.unwrap_err().to_string(), "the server ends");
    }

    /// Goal: a trickle is told from an upload, and an answer makes a new beginning.
    #[test]
    fn a_trickle_is_too_slow() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _in_it = runtime.enter();
        let (patience, start) = (Patience::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut trickle = Request::default();
        assert!(trickle.take(1, at(0), &patience) && trickle.take(1, at(29), &patience));
        assert!(!trickle.take(1, at(30), &patience));
        let mut upload = Request::default();
        assert!(upload.take(1 << 20, at(0), &patience) && upload.take(1, at(1_000), &patience));
        assert!(!upload.take(1, at(1_100), &patience));
    }
}
