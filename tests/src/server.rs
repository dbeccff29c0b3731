//! A TCP server on a free port with one thread a connection, and every way to end it that a test needs.
//!
//! Deliberately absent: HTTP. `origin.rs` speaks it on top of this.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::wait::until;

/// Connections that the kernel may queue before they are accepted.
const BACKLOG: i32 = 1024;

/// A listening server. Dropping it refuses new connections and cuts the running ones.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    listener: Mutex<Option<Socket>>,
    streams: Mutex<Vec<(usize, TcpStream)>>,
    accepted: AtomicUsize,
    running: AtomicUsize,
}

impl Server {
    /// Serve on a free port of 127.0.0.1; `serve` gets each connection and its number, from 0.
    pub fn start(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), serve)
    }

    /// Serve at this address, which may have been used a moment ago.
    ///
    /// # Panics
    /// When the address cannot be had.
    pub fn start_at(
        addr: SocketAddr,
        serve: impl Fn(TcpStream, usize) + Send + Sync + 'static,
    ) -> Self {
        let listener = listener(addr, BACKLOG).unwrap_or_else(|e| panic!("listen at {addr}: {e}"));
        let addr = listener.local_addr().ok().and_then(|a| a.as_socket()).expect("bound to an IP");
        let own = listener.try_clone().expect("a descriptor is free");
        let shared = Arc::new(Shared { listener: Mutex::new(Some(listener)), ..Shared::default() });
        let (inner, serve) = (Arc::clone(&shared), Arc::new(serve));
        thread::spawn(move || accept_all(&own, &inner, &serve));
        Self { addr, shared }
    }

    /// Where it listens, or listened.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(SeqCst)
    }

    /// Connections whose thread still runs.
    pub fn running(&self) -> usize {
        self.shared.running.load(SeqCst)
    }

    /// Refuse new connections from now on; running ones live on.
    pub fn stop_listening(&self) {
        let taken = lock(&self.shared.listener).take();
        if let Some(listener) = taken {
            // On Linux this ends a blocked accept and refuses what comes later. It fails only on a socket not listening.
            listener.shutdown(Shutdown::Both).expect("a listening socket can be shut down");
        }
    }

    /// Send FIN on every connection and read no more.
    pub fn cut_connections(&self) {
        for (_, stream) in lock(&self.shared.streams).drain(..) {
            ignore(stream.shutdown(Shutdown::Both));
        }
    }

    /// End every connection by RST.
    pub fn reset_connections(&self) {
        for (_, stream) in lock(&self.shared.streams).drain(..) {
            reset(&stream);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_listening();
        self.cut_connections();
    }
}

fn accept_all<F>(listener: &Socket, shared: &Arc<Shared>, serve: &Arc<F>)
where
    F: Fn(TcpStream, usize) + Send + Sync + 'static,
{
    while let Ok((socket, _)) = listener.accept() {
        let stream = TcpStream::from(socket);
        ignore(stream.set_nodelay(true));
        let number = shared.accepted.fetch_add(1, SeqCst);
        shared.running.fetch_add(1, SeqCst);
        if let Ok(copy) = stream.try_clone() {
            lock(&shared.streams).push((number, copy));
        }
        let (inner, serve) = (Arc::clone(shared), Arc::clone(serve));
        thread::spawn(move || {
            serve(stream, number);
            // The clone kept for cutting would hold the socket open: let go of it.
            lock(&inner.streams).retain(|(kept, _)| *kept != number);
            inner.running.fetch_sub(1, SeqCst);
        });
    }
}

/// A listening socket with a backlog of our choice.
///
/// # Errors
/// What the kernel says, usually that the address is in use.
pub fn listener(addr: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(addr))?;
    socket.listen(backlog)?;
    Ok(socket)
}

/// Make a connection end by RST: its thread finds the end of the stream, drops it, and the last close is a reset.
pub fn reset(stream: &TcpStream) {
    ignore(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)));
    ignore(stream.shutdown(Shutdown::Read));
}

/// A listener whose queue is full: further connects hang, as at a host that drops packets.
#[derive(Debug)]
pub struct BlackHole {
    addr: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    /// Fill the queue of a listener that never accepts.
    ///
    /// # Panics
    /// When the kernel never stops to accept connections for it.
    pub fn start() -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = listener(addr, 0).expect("a free port");
        let addr = listener.local_addr().ok().and_then(|a| a.as_socket()).expect("bound to an IP");
        let mut queued = Vec::new();
        until("the queue of a listener that never accepts is full", || {
            match TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
                Ok(stream) => {
                    queued.push(stream);
                    false
                }
                Err(error) => error.kind() == io::ErrorKind::TimedOut,
            }
        });
        Self { addr, _listener: listener, _queued: queued }
    }

    /// Where nobody answers.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Lock that survives a panic of another thread: a failing test must still be able to clean up.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For outcomes that do not matter because the peer may have gone first.
pub fn ignore<T, E>(outcome: Result<T, E>) {
    drop(outcome);
}
