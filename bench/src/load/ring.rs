//! Carries out the small closed loops on io_uring: one system call for many exchanges, so that the generator stays
//! cheaper than what it measures.
//!
//! One receive and one send of static memory are in flight for a connection at most; connections are made by
//! ordinary blocking calls. Deliberately absent: TLS, rates, long bodies (`epoll.rs`), and buffers whose life would
//! have to be reasoned about: all memory lent to the kernel is leaked, for a process that does one run.

#![expect(
    unsafe_code,
    reason = "the submission queue takes raw pointers; each use says why it holds"
)]

use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::net::{self, AddressFamily, SocketType, sockopt};

use super::plan::{Pace, Plan};
use super::tally::{ANSWER_NS_MAX, Tally};
use crate::message::{Reader, Shape};
use crate::outcome::Outcome;

const ENTRIES: u32 = 4_096;
/// Room for one message on each connection.
const BUFFER_BYTES: usize = 4 << 10;
const FAULTS_MAX: u64 = 1_000;
const TOKEN_ACCEPT: u64 = u64::MAX;
/// Set in the token of a send; only a failed one is told.
const TOKEN_SEND: u64 = 1 << 63;
/// `IORING_RECVSEND_POLL_FIRST`: nothing can have come yet, so do not look before waiting.
const POLL_FIRST: u16 = 1;

/// Whether the plan is one of the small closed loops.
pub(super) fn can_run(plan: &Plan) -> bool {
    let length = |shape| match shape {
        Shape::Fixed { bytes } => bytes,
        Shape::Http { body, .. } => body + 1024,
    };
    let is_small = length(plan.ask).max(length(plan.answer)) <= BUFFER_BYTES;
    let is_plain = plan.tls.is_none() && plan.holder.is_none() && !plan.close_each;
    is_small && is_plain && plan.pace == Pace::Closed && plan.origin.is_some_and(|o| o.is_ipv4())
}

/// A ring for one thread.
pub(super) fn make() -> std::io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_clamp();
    builder.setup_cqsize(4 * ENTRIES).build(ENTRIES)
}

struct Peer {
    socket: OwnedFd,
    reader: Reader,
    is_client: bool,
    began_ns: u64,
}

struct Driver {
    plan: Plan,
    ring: IoUring,
    listener: OwnedFd,
    peers: Vec<Option<Peer>>,
    /// Where each connection receives; leaked, as the kernel may write until the ring is gone.
    buffers: Vec<*mut u8>,
    tally: Tally,
    start: Instant,
    batch_ns: u64,
    next_request: usize,
}

/// Runs a plan for which [`can_run`] is true.
pub(super) fn run(plan: Plan, ring: IoUring) -> Result<Outcome, String> {
    let text = |e: rustix::io::Errno| format!("origin: {e}");
    let listener = net::socket(AddressFamily::INET, SocketType::STREAM, None).map_err(text)?;
    sockopt::set_socket_reuseaddr(&listener, true).map_err(text)?;
    sockopt::set_tcp_nodelay(&listener, true).map_err(text)?;
    if let Some(origin) = plan.origin {
        net::bind(&listener, &origin).map_err(text)?;
    }
    net::listen(&listener, 4_096).map_err(text)?;
    let tally = Tally::new(plan.warmup, plan.window, plan.connections as u64);
    let mut driver = Driver {
        ring,
        listener,
        peers: Vec::new(),
        buffers: Vec::new(),
        tally,
        start: Instant::now(),
        batch_ns: 0,
        next_request: 0,
        plan,
    };
    driver.drive()
}

impl Driver {
    fn drive(&mut self) -> Result<Outcome, String> {
        self.submit_accept()?;
        for _ in 0..self.plan.connections {
            self.connect()?;
        }
        loop {
            let wait = types::Timespec::new().nsec(20_000_000);
            let arguments = types::SubmitArgs::new().timespec(&wait);
            match self.ring.submitter().submit_with_args(1, &arguments) {
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ETIME | libc::EINTR | libc::EBUSY)
                    ) => {}
                Err(error) => return Err(format!("io_uring: {error}")),
            }
            self.batch_ns = self.now_ns();
            while let Some(entry) = self.next_completion() {
                self.on_completion(&entry)?;
            }
            let now_ns = self.now_ns();
            if self.tally.at(now_ns, self.plan.meter.as_ref())? {
                self.count_unanswered(now_ns);
                return self.tally.outcome(now_ns, self.plan.meter.as_ref());
            }
            if self.tally.failed() > FAULTS_MAX {
                let (failed, done) = (self.tally.failed(), self.tally.completed());
                return Err(format!(
                    "{failed} failures, {done} right; first: {}",
                    self.tally.first_fault()
                ));
            }
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn count_unanswered(&mut self, now_ns: u64) {
        for peer in self.peers.iter().flatten().filter(|peer| peer.is_client) {
            let age_ns = now_ns.saturating_sub(peer.began_ns);
            if age_ns > ANSWER_NS_MAX {
                self.tally.fail(format!("no answer for {} ms at the end", age_ns / 1_000_000));
            }
        }
    }

    fn connect(&mut self) -> Result<(), String> {
        let stream = TcpStream::connect(self.plan.target).map_err(|e| format!("connect: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let began_ns = self.now_ns();
        let number = self.insert(stream.into(), true, began_ns);
        self.ask(number)
    }

    /// Numbers are never used again: no completion can be taken for that of a later connection.
    fn insert(&mut self, socket: OwnedFd, is_client: bool, began_ns: u64) -> usize {
        self.peers.push(Some(Peer { socket, reader: Reader::default(), is_client, began_ns }));
        self.buffers.push(vec![0_u8; BUFFER_BYTES].leak().as_mut_ptr());
        self.peers.len() - 1
    }

    fn on_completion(&mut self, entry: &cqueue::Entry) -> Result<(), String> {
        let token = entry.user_data();
        if token == TOKEN_ACCEPT {
            return self.on_accepted(entry.result());
        }
        let number = usize::try_from(token & !TOKEN_SEND).unwrap_or(usize::MAX);
        let fault = if token & TOKEN_SEND != 0 {
            Some(format!("send: errno {}", -entry.result()))
        } else {
            self.on_received(number, entry.result())?
        };
        let Some(fault) = fault else { return Ok(()) };
        let Some(peer) = self.peers.get_mut(number).and_then(Option::take) else { return Ok(()) };
        if peer.is_client {
            self.tally.fail(fault);
            drop(peer);
            self.connect()?;
        }
        Ok(())
    }

    fn on_accepted(&mut self, result: i32) -> Result<(), String> {
        self.submit_accept()?;
        if result < 0 {
            return Ok(());
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let socket = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(result) };
        let number = self.insert(socket, false, 0);
        self.submit_receive(number)
    }

    /// What was wrong with it, if anything was.
    fn on_received(&mut self, number: usize, result: i32) -> Result<Option<String>, String> {
        let Some(Some(peer)) = self.peers.get_mut(number) else { return Ok(None) };
        let Ok(length @ 1..) = usize::try_from(result) else {
            return Ok(Some(match result {
                0 => "the proxy closed without an answer".to_owned(),
                error => format!("receive: errno {}", -error),
            }));
        };
        // SAFETY: the receive into this buffer of BUFFER_BYTES has ended with `length` bytes, and the next one
        // begins only after this borrow.
        let bytes = unsafe { std::slice::from_raw_parts(self.buffers[number], length) };
        let shape = if peer.is_client { self.plan.answer } else { self.plan.ask };
        let is_client = peer.is_client;
        match peer.reader.feed(shape, bytes) {
            Err(fault) => Ok(Some(fault.to_string())),
            Ok(false) => self.submit_receive(number).map(|()| None),
            Ok(true) if is_client => {
                self.tally.complete();
                self.ask(number).map(|()| None)
            }
            Ok(true) => {
                self.submit_send(number, self.plan.reply)?;
                self.submit_receive(number).map(|()| None)
            }
        }
    }

    fn ask(&mut self, number: usize) -> Result<(), String> {
        let request = self.plan.requests[self.next_request];
        self.next_request = (self.next_request + 1) % self.plan.requests.len();
        if let Some(Some(peer)) = self.peers.get_mut(number) {
            peer.began_ns = self.batch_ns;
        }
        self.submit_send(number, request)?;
        self.submit_receive(number)
    }

    // === submissions ===

    fn submit_accept(&mut self) -> Result<(), String> {
        let fd = types::Fd(self.listener.as_raw_fd());
        let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut());
        self.push(&entry.build().user_data(TOKEN_ACCEPT))
    }

    fn submit_receive(&mut self, number: usize) -> Result<(), String> {
        let Some(Some(peer)) = self.peers.get(number) else { return Ok(()) };
        let fd = types::Fd(peer.socket.as_raw_fd());
        let room = u32::try_from(BUFFER_BYTES).unwrap_or(0);
        let entry = opcode::Recv::new(fd, self.buffers[number], room).ioprio(POLL_FIRST);
        self.push(&entry.build().user_data(number as u64))
    }

    fn submit_send(&mut self, number: usize, bytes: &'static [u8]) -> Result<(), String> {
        let Some(Some(peer)) = self.peers.get(number) else { return Ok(()) };
        let fd = types::Fd(peer.socket.as_raw_fd());
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        let entry = opcode::Send::new(fd, bytes.as_ptr(), length);
        let entry = entry.flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
        self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(TOKEN_SEND | number as u64))
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<(), String> {
        if self.ring.submission().is_full() {
            self.ring.submit().map_err(|e| format!("io_uring: {e}"))?;
        }
        // SAFETY: what an entry points to is either `'static` (messages) or leaked (buffers), and a buffer has one
        // receive in flight at most. Descriptors are open when pushed; should one be closed before the entry is
        // submitted, the operation fails or is carried out on a connection of this process, which the checks of
        // every message would show.
        unsafe { self.ring.submission().push(entry) }.map_err(|e| e.to_string())
    }
}
