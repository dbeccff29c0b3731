//! Splices of the epoll world: who gets a turn, and what follows from its end.
//!
//! A transfer waits for an edge on one of its two sockets (or for a pipe), then gets a turn in the next poll. Deliberately absent: the moving itself, which both real engines share (`crate::splice`).

use super::EpollEngine;
use crate::splice::{Transfer, Wait};
use crate::{ConnId, Event, SpliceEnd};

impl EpollEngine {
    pub(super) fn begin_transfer(&mut self, from: ConnId, to: ConnId, limit: Option<u64>) {
        let open = |id| self.conns.get(id).is_some_and(|conn| !conn.closing);
        if !open(from) || !open(to) {
            return;
        }
        let id = self.transfers.begin(from, to, limit);
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
        let (wait, moved, all) = self.transfers.turn(id, source.raw(), target.raw());
        self.stats.spliced_bytes += moved;
        if moved > 0 && !matches!(wait, Wait::End(_)) {
            self.told.push_back(Event::SpliceProgress { from, moved: all });
        }
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
            Wait::Pipe | Wait::Turn => {}
            Wait::End(end) => self.end_transfer(id, end),
        }
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
        let transfer = self.transfers.remove(id)?;
        if let Some(source) = self.conns.get_mut(transfer.from) {
            source.transfer_out = None;
        }
        if let Some(target) = self.conns.get_mut(transfer.to) {
            target.transfer_in = None;
        }
        Some(transfer)
    }
}
