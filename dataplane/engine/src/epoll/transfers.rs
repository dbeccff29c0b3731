//! Splices of the epoll world: who gets a turn, and what follows from its end.
//!
//! A transfer waits for an edge on one of its two sockets (or for a pipe), then lies in `runnable` once until the next
//! poll. Deliberately absent: the moving itself, which both real engines share (`crate::splice`).

use super::EpollEngine;
use crate::splice::{POLL_BYTES, Transfer, Wait};
use crate::{ConnId, Event, SpliceEnd};

impl EpollEngine {
    pub(super) fn begin_transfer(&mut self, from: ConnId, to: ConnId, limit: Option<u64>) {
        let open = |id| self.conns.get(id).is_some_and(|conn| !conn.closing);
        if !open(from) || !open(to) {
            return;
        }
        let id = self.transfers.insert(Some(Transfer::new(from, to, limit)));
        if let Some(source) = self.conns.get_mut(from) {
            debug_assert!(source.paused && !source.pause_owed, "the source is not paused");
            debug_assert!(source.transfer_out.is_none(), "two splices from one connection");
            source.paused = true;
            source.transfer_out = Some(id);
        }
        if let Some(target) = self.conns.get_mut(to) {
            debug_assert!(target.transfer_in.is_none(), "two splices to one connection");
            target.transfer_in = Some(id);
        }
        self.make_runnable(Some(id));
    }

    pub(super) fn make_runnable(&mut self, id: Option<ConnId>) {
        let Some(id) = id else { return };
        if let Some(Some(transfer)) = self.transfers.get_mut(id)
            && !transfer.queued
        {
            transfer.queued = true;
            self.runnable.push_back(id);
        }
    }

    /// One turn for each transfer that can move, as long as the budget of this poll lasts.
    pub(super) fn run_transfers(&mut self) {
        if self.pipes.available() {
            for id in std::mem::take(&mut self.pipe_waiters) {
                self.make_runnable(Some(id));
            }
        }
        let mut budget = POLL_BYTES;
        for _ in 0..self.runnable.len() {
            if budget == 0 {
                return;
            }
            let Some(id) = self.runnable.pop_front() else { return };
            budget = budget.saturating_sub(self.turn(id));
        }
    }

    /// Gives the bytes moved.
    fn turn(&mut self, id: ConnId) -> u64 {
        let Some(Some(transfer)) = self.transfers.get_mut(id) else { return 0 };
        transfer.queued = false;
        let (from, to) = (transfer.from, transfer.to);
        let (Some(source), Some(target)) = (self.conns.get(from), self.conns.get(to)) else {
            return 0;
        };
        if !target.queue.is_empty() && !target.broken {
            // What was queued before leaves first; `drained` calls again.
            return 0;
        }
        let before = transfer.moved;
        let wait = transfer.turn(source.raw(), target.raw(), &mut self.pipes);
        let moved = transfer.moved - before;
        if moved > 0 && !matches!(wait, Wait::End(_)) {
            transfer.told = transfer.moved;
            self.told.push_back(Event::SpliceProgress { from, moved: transfer.moved });
        }
        self.stats.spliced_bytes += moved;
        match wait {
            Wait::Source => {
                if let Some(source) = self.conns.get_mut(from) {
                    source.readable = false;
                }
            }
            Wait::Target => {
                if let Some(target) = self.conns.get_mut(to) {
                    target.writable = false;
                }
            }
            Wait::Pipe => self.pipe_waiters.push_back(id),
            Wait::Turn => self.make_runnable(Some(id)),
            Wait::End(end) => self.end_transfer(id, end),
        }
        moved
    }

    fn end_transfer(&mut self, id: ConnId, end: SpliceEnd) {
        let Some(transfer) = self.drop_transfer(Some(id)) else { return };
        let (from, to) = (transfer.from, transfer.to);
        if let Some(source) = self.conns.get_mut(from) {
            source.eof |= end == SpliceEnd::Eof;
            source.broken |= matches!(end, SpliceEnd::SourceBroken(_));
            // What is left in the socket made its edge long ago.
            source.readable = true;
        }
        if let Some(target) = self.conns.get_mut(to)
            && let SpliceEnd::TargetBroken(error) = end
        {
            // A target that is read tells its own end, after what it has sent.
            target.send_error = target.send_error.or(Some(error));
        }
        self.told.push_back(Event::Spliced { from, to, moved: transfer.moved, end });
    }

    /// Take a transfer out of the world, without a word.
    pub(super) fn drop_transfer(&mut self, id: Option<ConnId>) -> Option<Transfer> {
        let id = id?;
        let mut transfer = self.transfers.remove(id)??;
        transfer.give_back(&mut self.pipes);
        if let Some(source) = self.conns.get_mut(transfer.from) {
            source.transfer_out = None;
        }
        if let Some(target) = self.conns.get_mut(transfer.to) {
            target.transfer_in = None;
        }
        Some(transfer)
    }
}
