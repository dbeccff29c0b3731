//! The two rings shared with the kernel, and the only place that writes submissions.
//!
//! A submission may name memory. What the kernel reads only while it takes the submission (addresses, message headers,
//! lists of pieces: `IORING_FEAT_SUBMIT_STABLE`) lies in an arena that is reused after every submitted batch. What it
//! reads or writes later (the bytes themselves) is kept alive by the connection until the completion has come; that
//! contract is each `unsafe fn`'s. Deliberately absent: knowledge of connections.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::queue::{PIECES_MAX, SendQueue};
use crate::slab::GENERATION_MASK;
use crate::sys::RawAddr;
use crate::{ConnId, sys};

/// Submissions queued between two system calls; more spill into a list and follow in a second call.
const SUBMISSIONS: u32 = 1024;
/// Completions the kernel can post before it must keep them in memory of its own.
const COMPLETIONS: u32 = 8192;
/// Vectored sends in one batch; connections beyond wait for the next poll.
const MESSAGES_MAX: usize = 64;
/// Connects in one batch.
const ADDRESSES_MAX: usize = 64;
/// `IORING_ENTER_GETEVENTS`: also run deferred work and post completions.
const ENTER_GETEVENTS: u32 = 1;
/// `IORING_ENTER_EXT_ARG`: a time-out is given.
const ENTER_EXT_ARG: u32 = 8;

/// Which operation a completion belongs to. Stands in the top byte of its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    /// Nobody waits for it (failed cancels, failed closes).
    Ignored = 0,
    Receive = 1,
    Send = 2,
    Connect = 3,
    Accept = 4,
    Bell = 5,
    /// Readiness of a transfer's source or target; the id is the transfer's.
    Source = 6,
    Target = 7,
    /// Readiness of a connect that the batch had no room for.
    ConnectReady = 8,
    /// A receive was not found by the cancel that should end it.
    Missed = 9,
}

/// The `user_data` of an operation: what it is and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) op: Op,
    pub(super) id: ConnId,
}

impl Tag {
    const IGNORED: u64 = 0;

    const fn pack(self) -> u64 {
        debug_assert!(self.id.generation <= GENERATION_MASK);
        (self.op as u64) << 56 | (self.id.generation as u64) << 32 | self.id.slot as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes the fields of a tag apart")]
    const fn unpack(data: u64) -> Self {
        let op = match (data >> 56) as u8 {
            1 => Op::Receive,
            2 => Op::Send,
            3 => Op::Connect,
            4 => Op::Accept,
            5 => Op::Bell,
            6 => Op::Source,
            7 => Op::Target,
            8 => Op::ConnectReady,
            9 => Op::Missed,
            _ => Op::Ignored,
        };
        let generation = (data >> 32) as u32 & GENERATION_MASK;
        Self { op, id: ConnId { slot: data as u32, generation } }
    }
}

/// One completion.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) tag: Tag,
    /// A count or a descriptor; below zero an `errno`.
    pub(super) result: i32,
    /// More completions of the same submission will follow.
    pub(super) more: bool,
    /// The receive buffer that was used.
    pub(super) buffer: Option<u16>,
}

/// A vectored send's header and pieces, as the kernel reads them.
struct Message {
    header: libc::msghdr,
    pieces: [libc::iovec; PIECES_MAX],
}

/// Fixed room for `N` values that the kernel reads through plain pointers: never borrowed as a whole.
struct Arena<T> {
    first: NonNull<T>,
    room: usize,
    used: usize,
}

impl<T> Arena<T> {
    fn new(room: usize, empty: impl FnMut() -> T) -> Self {
        let values: Box<[T]> = std::iter::repeat_with(empty).take(room).collect();
        let first = NonNull::from(Box::leak(values)).cast();
        Self { first, room, used: 0 }
    }

    /// The next unused place. Valid until `reset`, which waits for the kernel.
    fn take(&mut self) -> Option<NonNull<T>> {
        if self.used == self.room {
            return None;
        }
        // SAFETY: `used < room`, so the place is within the allocation.
        let place = unsafe { self.first.add(self.used) };
        self.used += 1;
        Some(place)
    }
}

impl<T> Drop for Arena<T> {
    fn drop(&mut self) {
        let values = NonNull::slice_from_raw_parts(self.first, self.room);
        // SAFETY: this is the boxed slice leaked by `new`; nobody uses places of it after the ring is gone.
        drop(unsafe { Box::from_raw(values.as_ptr()) });
    }
}

/// Both rings, what waits to be submitted, and how many operations the kernel has.
pub(super) struct Ring {
    uring: IoUring,
    /// Entries in the submission ring that the kernel has not taken.
    queued: u32,
    /// Entries that found the ring full.
    spill: VecDeque<squeue::Entry>,
    /// Operations whose last completion has not come.
    in_flight: usize,
    messages: Arena<Message>,
    addresses: Arena<RawAddr>,
    pub(super) enters: u64,
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            uring: build()?,
            queued: 0,
            spill: VecDeque::new(),
            in_flight: 0,
            messages: Arena::new(MESSAGES_MAX, || Message {
                // SAFETY: zero is a valid msghdr: no name, no pieces, no control data.
                header: unsafe { std::mem::zeroed() },
                pieces: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PIECES_MAX],
            }),
            addresses: Arena::new(ADDRESSES_MAX, RawAddr::empty),
            enters: 0,
        })
    }

    pub(super) const fn uring(&self) -> &IoUring {
        &self.uring
    }

    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queue an entry.
    ///
    /// # Safety
    /// Memory that the entry names stays valid until the kernel has submitted it, and what the operation reads or
    /// writes afterwards until its last completion.
    unsafe fn push(&mut self, entry: squeue::Entry) {
        if self.spill.is_empty() {
            // SAFETY: by the contract above.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                self.queued += 1;
                return;
            }
        }
        self.spill.push_back(entry);
    }

    /// Queue an entry whose end is told by a completion.
    ///
    /// # Safety
    /// As `push`.
    unsafe fn start(&mut self, entry: squeue::Entry, tag: Tag) {
        self.in_flight += 1;
        // SAFETY: by the contract of this function.
        unsafe { self.push(entry.user_data(tag.pack())) };
    }

    /// Receive again and again into buffers of the group, until cancelled, ended, or out of buffers.
    /// With a `cap`, at most so many bytes before other connections and the caller get their turn.
    pub(super) fn receive(&mut self, fd: RawFd, group: u16, cap: Option<u32>, id: ConnId) {
        let mut entry = opcode::RecvMulti::new(types::Fd(fd), group).build();
        if let Some(bytes) = cap {
            set_len(&mut entry, bytes);
        }
        // SAFETY: names no memory; the buffers belong to the group, whose owner outlives the operations.
        unsafe { self.start(entry, Tag { op: Op::Receive, id }) };
    }

    /// Send the front of `queue`. `false`: no room in this batch, try after the next `enter`.
    ///
    /// # Safety
    /// The chunks of `queue` stay until the completion: no `consume`, no `clear`, no drop before it.
    pub(super) unsafe fn send(&mut self, fd: RawFd, queue: &SendQueue, id: ConnId) -> bool {
        let entry = if let Some(chunk) = queue.sole() {
            let len = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            opcode::Send::new(types::Fd(fd), chunk.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build()
        } else {
            let Some(message) = self.messages.take() else { return false };
            let message = message.as_ptr();
            // SAFETY: `message` is a place of the arena that nobody else uses until the next reset; it is
            // initialised. The borrow of the pieces ends before the kernel may look.
            unsafe {
                let pieces = &mut (*message).pieces;
                let count = queue.pieces(pieces);
                (*message).header.msg_iov = pieces.as_mut_ptr();
                (*message).header.msg_iovlen = count;
            }
            // SAFETY: as above; only the address of the field is taken.
            let header = unsafe { &raw const (*message).header };
            opcode::SendMsg::new(types::Fd(fd), header)
                .flags(libc::MSG_NOSIGNAL.unsigned_abs())
                .build()
        };
        // SAFETY: header and pieces lie in the arena until the batch is submitted; the bytes stay by our contract.
        unsafe { self.start(entry, Tag { op: Op::Send, id }) };
        true
    }

    /// Connect. `false`: no room in this batch.
    pub(super) fn connect(&mut self, fd: RawFd, peer: SocketAddr, id: ConnId) -> bool {
        let Some(place) = self.addresses.take() else { return false };
        let (raw, len) = RawAddr::new(peer);
        // SAFETY: `place` is a place of the arena that nobody else uses until the next reset.
        unsafe { place.write(raw) };
        let entry = opcode::Connect::new(types::Fd(fd), place.as_ptr().cast(), len).build();
        // SAFETY: the address lies in the arena until the batch is submitted; the kernel copies it then.
        unsafe { self.start(entry, Tag { op: Op::Connect, id }) };
        true
    }

    /// Accept again and again.
    pub(super) fn accept(&mut self, fd: RawFd, listener: u32) {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let entry = opcode::AcceptMulti::new(types::Fd(fd)).flags(flags).build();
        // SAFETY: names no memory.
        unsafe { self.start(entry, accept_tag(listener)) };
    }

    /// Tell once when `fd` is ready for `events`.
    pub(super) fn ready(&mut self, fd: RawFd, events: libc::c_short, tag: Tag) {
        let events = u32::from(events.unsigned_abs());
        let entry = opcode::PollAdd::new(types::Fd(fd), events).build();
        // SAFETY: names no memory.
        unsafe { self.start(entry, tag) };
    }

    /// Tell each time the waker's eventfd is written. It is never read: each write is an edge.
    pub(super) fn bell(&mut self, fd: RawFd) {
        let events = u32::from(libc::POLLIN.unsigned_abs());
        let entry = opcode::PollAdd::new(types::Fd(fd), events).multi(true).build();
        let id = ConnId { slot: 0, generation: 0 };
        // SAFETY: names no memory.
        unsafe { self.start(entry, Tag { op: Op::Bell, id }) };
    }

    /// End the receive of this connection. A receive that is between two turns in the kernel's work list is not
    /// found; then `Missed` is told, and the caller tries again.
    pub(super) fn cancel_receive(&mut self, id: ConnId) {
        let entry = opcode::AsyncCancel::new(Tag { op: Op::Receive, id }.pack()).build();
        let missed = Tag { op: Op::Missed, id }.pack();
        // SAFETY: names no memory.
        unsafe { self.push(entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(missed)) };
    }

    /// End the operation that has this tag; its own completion tells the end.
    pub(super) fn cancel(&mut self, tag: Tag) {
        let entry = opcode::AsyncCancel::new(tag.pack()).build();
        // SAFETY: names no memory.
        unsafe { self.push(quiet(entry)) };
    }

    /// Close after everything that was queued before.
    pub(super) fn close(&mut self, fd: OwnedFd) {
        let entry = opcode::Close::new(types::Fd(fd.into_raw_fd())).build();
        // SAFETY: names no memory; the descriptor was ours alone and is the kernel's to close now.
        unsafe { self.push(quiet(entry)) };
    }

    /// End every operation.
    pub(super) fn cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        // SAFETY: names no memory.
        unsafe { self.push(quiet(entry)) };
    }

    /// Whether completions lie ready.
    pub(super) fn has_done(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// The next completion.
    pub(super) fn pop(&mut self) -> Option<Done> {
        let entry = self.uring.completion().next()?;
        let tag = Tag::unpack(entry.user_data());
        let more = cqueue::more(entry.flags());
        if !more && !matches!(tag.op, Op::Ignored | Op::Missed) {
            self.in_flight -= 1;
        }
        let buffer = cqueue::buffer_select(entry.flags());
        Some(Done { tag, result: entry.result(), more, buffer })
    }

    /// Submit all, run the kernel's deferred work, and wait until something is done or the time is over.
    pub(super) fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        loop {
            self.pull_spill();
            let last = self.spill.is_empty();
            let wait = if last { wait } else { Some(Duration::ZERO) };
            self.enter_once(wait)?;
            if self.queued == 0 && last {
                self.messages.used = 0;
                self.addresses.used = 0;
                return Ok(());
            }
            if self.queued > 0 {
                // The kernel is short of memory or of completion room: let the engine reap, then try again.
                return Ok(());
            }
        }
    }

    fn pull_spill(&mut self) {
        let mut submission = self.uring.submission();
        while let Some(entry) = self.spill.front() {
            // SAFETY: the contract was given when the entry was pushed; its arena is reset only after it has left.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.queued += 1;
            self.spill.pop_front();
        }
    }

    fn enter_once(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.enters += 1;
        let submitter = self.uring.submitter();
        let nothing = None::<&libc::sigset_t>;
        let result = match wait {
            // SAFETY: no argument is given.
            None => unsafe { submitter.enter(self.queued, 1, ENTER_GETEVENTS, nothing) },
            Some(Duration::ZERO) => {
                // SAFETY: no argument is given.
                unsafe { submitter.enter(self.queued, 0, ENTER_GETEVENTS, nothing) }
            }
            Some(wait) => {
                let timeout = types::Timespec::from(wait);
                let arguments = types::SubmitArgs::new().timespec(&timeout);
                let flags = ENTER_GETEVENTS | ENTER_EXT_ARG;
                // SAFETY: with EXT_ARG the kernel reads `arguments`, which borrow the time-out, during the call only.
                unsafe { submitter.enter(self.queued, 1, flags, Some(&arguments)) }
            }
        };
        match result {
            Ok(taken) => {
                self.queued = self.queued.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
                Ok(())
            }
            Err(error) => match error.raw_os_error() {
                // The time was over, a signal came, or completions must be reaped first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }
}

/// The tag of a listener's accept.
pub(super) const fn accept_tag(listener: u32) -> Tag {
    Tag { op: Op::Accept, id: ConnId { slot: listener, generation: 0 } }
}

/// Only a failure is told, and nobody listens to it.
fn quiet(entry: squeue::Entry) -> squeue::Entry {
    entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(Tag::IGNORED)
}

/// Set the field `len` of an entry, which the builder of a multishot receive leaves at zero. Kernels from 6.17 on take
/// it as the most bytes of one turn; older ones refuse it with EINVAL.
fn set_len(entry: &mut squeue::Entry, bytes: u32) {
    /// Offset of `len` in `struct io_uring_sqe`, which is fixed by the kernel's interface.
    const LEN_AT: usize = 24;
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    // SAFETY: an entry is exactly one `io_uring_sqe` (`repr(C)` around it, checked to be 64 bytes), whose bytes 24 to
    // 27 are the plain integer `len`, aligned to 4; the borrow is exclusive.
    unsafe { std::ptr::from_mut(entry).cast::<u8>().add(LEN_AT).cast::<u32>().write(bytes) };
}

/// The best set-up this kernel knows: deferred task work (6.1), else cooperative (6.0).
fn build() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_cqsize(COMPLETIONS)
        .setup_clamp()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun();
    let uring = builder.build(SUBMISSIONS).or_else(|first| {
        if first.raw_os_error() != Some(libc::EINVAL) {
            return Err(first);
        }
        let mut builder = IoUring::builder();
        builder
            .setup_cqsize(COMPLETIONS)
            .setup_clamp()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_coop_taskrun();
        builder.build(SUBMISSIONS)
    })?;
    let parameters = uring.params();
    let complete = parameters.is_feature_nodrop()
        && parameters.is_feature_submit_stable()
        && parameters.is_feature_fast_poll()
        && parameters.is_feature_ext_arg()
        && parameters.is_feature_skip_cqe_on_success();
    if complete { Ok(uring) } else { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) }
}

/// The descriptor that a completed accept brought.
pub(super) fn accepted(done: Done) -> Option<OwnedFd> {
    let fd = (done.tag.op == Op::Accept && done.result >= 0).then_some(done.result)?;
    // SAFETY: the result of an accept that succeeded is a fresh descriptor, and a `Done`, which
    // only `pop` makes, ends here.
    Some(unsafe { sys::own(fd) })
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ring(fd {}, {} in flight)", self.uring.as_raw_fd(), self.in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_the_kernel() {
        let ids = [(0, 0), (u32::MAX, GENERATION_MASK), (7, 12_345)];
        for (slot, generation) in ids {
            for op in [Op::Receive, Op::Send, Op::Connect, Op::Bell, Op::Source, Op::Target] {
                let tag = Tag { op, id: ConnId { slot, generation } };
                assert_eq!(Tag::unpack(tag.pack()), tag);
            }
        }
        assert_eq!(Tag::unpack(Tag::IGNORED).op, Op::Ignored);
    }
}
