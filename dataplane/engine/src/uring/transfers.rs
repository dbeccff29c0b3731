//! Splices of the io_uring world: splice(2) itself, with readiness told by poll operations.
//!
//! `IORING_OP_SPLICE` would run on worker threads of the kernel; two plain calls on ready sockets cost less.
//! Deliberately absent: the moving itself, which both real engines share (`crate::splice`).

use std::os::fd::RawFd;

use super::{Op, Receive, Tag, UringEngine};
use crate::splice::{Transfer, Wait};
use crate::{ConnId, Event, SpliceEnd};

impl UringEngine {
    pub(super) fn begin_transfer(&mut self, from: ConnId, to: ConnId, limit: Option<u64>) {
        let open = |id| self.conns.get(id).is_some_and(|conn| !conn.closing);
        if !open(from) || !open(to) {
            return;
        }
        let id = self.transfers.begin(from, to, limit);
        if let Some(source) = self.conns.get_mut(from) {
            debug_assert!(source.receive == Receive::Idle, "the source is still read");
            debug_assert!(source.paused && !source.pause_owed, "the source is not paused");
            debug_assert!(source.transfer_out.is_none(), "two splices from one connection");
            source.paused = true;
            source.transfer_out = Some(id);
        }
        if let Some(target) = self.conns.get_mut(to) {
            debug_assert!(target.transfer_in.is_none(), "two splices to one connection");
            target.transfer_in = Some(id);
        }
    }

    /// One turn for each transfer that can move, as long as the budget of this poll lasts.
    pub(super) fn run_transfers(&mut self) {
        self.transfers.begin_turns();
        while let Some((id, from, to)) = self.transfers.next_turn() {
            self.transfer_turn(id, from, to);
        }
    }

    fn transfer_turn(&mut self, id: ConnId, from: ConnId, to: ConnId) {
        let (Some(source), Some(target)) = (self.conns.get(from), self.conns.get(to)) else {
            return;
        };
        let waits = !target.queue.is_empty() && !target.broken;
        if waits || source.connecting || target.connecting {
            // What was queued before leaves first, and both must be up: `drained` and `Connected` wake it again.
            return;
        }
        let (source, target) = (source.raw(), target.raw());
        let (wait, moved, all) = self.transfers.turn(id, source, target);
        self.stats.spliced_bytes += moved;
        if moved > 0 && !matches!(wait, Wait::End(_)) {
            self.told.push_back(Event::SpliceProgress { from, moved: all });
        }
        match wait {
            Wait::Source => self.ask(id, Op::Source, source),
            Wait::Target => self.ask(id, Op::Target, target),
            Wait::Pipe | Wait::Turn => {}
            Wait::End(end) => self.end_transfer(id, end),
        }
    }

    /// Ask to be told when a side is ready, unless that is asked already: one cancel ends one poll operation.
    fn ask(&mut self, id: ConnId, op: Op, fd: RawFd) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let (asked, events) = match op {
            Op::Source => (&mut transfer.source_asked, libc::POLLIN | libc::POLLRDHUP),
            _ => (&mut transfer.target_asked, libc::POLLOUT),
        };
        if !std::mem::replace(asked, true) {
            self.ring.ready(fd, events, Tag { op, id });
        }
    }

    /// The answer to `ask`.
    pub(super) fn side_ready(&mut self, id: ConnId, op: Op) {
        if let Some(transfer) = self.transfers.get_mut(id) {
            match op {
                Op::Source => transfer.source_asked = false,
                _ => transfer.target_asked = false,
            }
        }
        self.transfers.wake(Some(id));
    }

    fn end_transfer(&mut self, id: ConnId, end: SpliceEnd) {
        let Some(transfer) = self.drop_transfer(Some(id)) else { return };
        let (from, to) = (transfer.from, transfer.to);
        if let Some(source) = self.conns.get_mut(from) {
            source.eof |= end == SpliceEnd::Eof;
            source.broken |= matches!(end, SpliceEnd::SourceBroken(_));
        }
        if let Some(target) = self.conns.get_mut(to)
            && let SpliceEnd::TargetBroken(error) = end
        {
            // A target that is read tells its own end, after what it has sent.
            target.send_error = target.send_error.or(Some(error));
        }
        self.told.push_back(Event::Spliced { from, to, moved: transfer.moved, end });
    }

    /// Take a transfer out of the world, without a word. A poll operation that waits for it is cancelled: it would
    /// keep a closed socket open.
    pub(super) fn drop_transfer(&mut self, id: Option<ConnId>) -> Option<Transfer> {
        let transfer = self.transfers.remove(id)?;
        if let Some(id) = id {
            if transfer.source_asked {
                self.ring.cancel(Tag { op: Op::Source, id });
            }
            if transfer.target_asked {
                self.ring.cancel(Tag { op: Op::Target, id });
            }
        }
        if let Some(source) = self.conns.get_mut(transfer.from) {
            source.transfer_out = None;
        }
        if let Some(target) = self.conns.get_mut(transfer.to) {
            target.transfer_in = None;
        }
        Some(transfer)
    }
}
