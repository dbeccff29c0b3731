//! The relay on io_uring: a receive for each side, and on its completion a send to the other side with the next
//! receive linked behind it, so that one completion and a share of one system call is all that a piece costs.
//!
//! Deliberately absent: half-close (an end ends both ways; the loads here never need more), and giving back memory:
//! each side's buffer is leaked and used again, as the kernel may write to it.

#![expect(
    unsafe_code,
    reason = "the submission queue takes raw pointers; each use says why it holds"
)]

use std::convert::Infallible;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};

use io_uring::{IoUring, opcode, squeue, types};

const ENTRIES: u32 = 4_096;
const BUFFER_BYTES: u32 = 64 << 10;
const TOKEN_ACCEPT: u64 = u64::MAX;
/// Set in the token of a send; only a failed one is told.
const TOKEN_SEND: u64 = 1 << 63;
/// `IORING_RECVSEND_POLL_FIRST`: nothing can have come yet, so do not look before waiting.
const POLL_FIRST: u16 = 1;

/// Two sides of a pair have numbers that differ in the lowest bit.
struct Side {
    stream: TcpStream,
    buffer: *mut u8,
}

struct Relay {
    ring: IoUring,
    listener: TcpListener,
    origin: SocketAddr,
    /// Numbers are never used again: no completion can be taken for that of a later connection.
    sides: Vec<Option<Side>>,
    buffers_free: Vec<*mut u8>,
}

/// Relays until something breaks that is not a connection.
pub(crate) fn run(listen: SocketAddr, origin: SocketAddr) -> Result<Infallible, String> {
    let text = |e: std::io::Error| e.to_string();
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_clamp().setup_cqsize(4 * ENTRIES);
    let ring = builder.build(ENTRIES).map_err(text)?;
    let listener = TcpListener::bind(listen).map_err(text)?;
    let mut relay = Relay { ring, listener, origin, sides: Vec::new(), buffers_free: Vec::new() };
    relay.accept()?;
    loop {
        match relay.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => {}
            Err(error) => return Err(error.to_string()),
        }
        while let Some(entry) = relay.next_completion() {
            relay.on_completion(entry.user_data(), entry.result())?;
        }
    }
}

impl Relay {
    fn next_completion(&mut self) -> Option<io_uring::cqueue::Entry> {
        self.ring.completion().next()
    }

    fn on_completion(&mut self, token: u64, result: i32) -> Result<(), String> {
        if token == TOKEN_ACCEPT {
            self.accept()?;
            return if result >= 0 { self.on_accepted(result) } else { Ok(()) };
        }
        let number = usize::try_from(token & !TOKEN_SEND).unwrap_or(usize::MAX);
        match u32::try_from(result) {
            Ok(length @ 1..) if token & TOKEN_SEND == 0 => self.pass_on(number, length),
            _ => {
                self.end(number);
                Ok(())
            }
        }
    }

    fn on_accepted(&mut self, result: i32) -> Result<(), String> {
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let client = unsafe { TcpStream::from_raw_fd(result) };
        let Ok(origin) = TcpStream::connect(self.origin) else { return Ok(()) };
        for stream in [client, origin] {
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            let new = || vec![0_u8; BUFFER_BYTES as usize].leak().as_mut_ptr();
            let buffer = self.buffers_free.pop().unwrap_or_else(new);
            self.sides.push(Some(Side { stream, buffer }));
        }
        let last = self.sides.len() - 1;
        self.receive(last - 1)?;
        self.receive(last)
    }

    fn pass_on(&mut self, number: usize, length: u32) -> Result<(), String> {
        let (Some(from), Some(to)) = (self.side(number), self.side(number ^ 1)) else {
            return Ok(());
        };
        let send = opcode::Send::new(types::Fd(to.stream.as_raw_fd()), from.buffer, length);
        let send = send.flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
        let flags = squeue::Flags::SKIP_SUCCESS | squeue::Flags::IO_LINK;
        let send = send.flags(flags).user_data(TOKEN_SEND | number as u64);
        // The two must be submitted together, or the link is cut.
        let has_room = {
            let queue = self.ring.submission();
            queue.capacity() - queue.len() >= 2
        };
        if !has_room {
            self.ring.submit().map_err(|e| e.to_string())?;
        }
        self.push(&send)?;
        self.receive(number)
    }

    fn side(&self, number: usize) -> Option<&Side> {
        self.sides.get(number)?.as_ref()
    }

    fn receive(&mut self, number: usize) -> Result<(), String> {
        let Some(side) = self.side(number) else { return Ok(()) };
        let fd = types::Fd(side.stream.as_raw_fd());
        let entry = opcode::Recv::new(fd, side.buffer, BUFFER_BYTES).ioprio(POLL_FIRST);
        self.push(&entry.build().user_data(number as u64))
    }

    fn accept(&mut self) -> Result<(), String> {
        let fd = types::Fd(self.listener.as_raw_fd());
        let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut());
        self.push(&entry.build().user_data(TOKEN_ACCEPT))
    }

    /// Ends a side, and makes the other one end by itself: its receive completes when its socket is shut down.
    fn end(&mut self, number: usize) {
        if let Some(other) = self.side(number ^ 1) {
            // It may have ended already.
            other.stream.shutdown(Shutdown::Both).ok();
        }
        if let Some(side) = self.sides.get_mut(number).and_then(Option::take) {
            self.buffers_free.push(side.buffer);
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<(), String> {
        if self.ring.submission().is_full() {
            self.ring.submit().map_err(|e| e.to_string())?;
        }
        // SAFETY: buffers are leaked, so they outlive every operation. A side has one operation on its buffer at a
        // time: the receive, or the send of its bytes with the next receive linked behind it. A side ends when its
        // receive or send has completed with nothing linked that could still run, and only then is its buffer free.
        unsafe { self.ring.submission().push(entry) }.map_err(|e| e.to_string())
    }
}
