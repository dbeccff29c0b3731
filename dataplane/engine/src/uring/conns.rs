//! The life of one connection of the io_uring world: receive, send, pause, end.
//!
//! ```text
//!            arm                cancel                      last completion
//!   Idle ──────────▶ Armed ──────────────▶ Cancelling ─────────────────────────▶ Idle ─▶ armed again, if resumed
//! ```
//!
//! Cancelling races with bytes already received: they are told, and only the last completion confirms the pause.
//! Deliberately absent: system calls on the way of a request. The few here belong to rare turns of fate.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use super::buffers::GROUP;
use super::{Conn, Done, Op, Receive, Tag, UringEngine};
use crate::{ConnId, Errno, Event, sys};

impl UringEngine {
    // === receiving ===

    /// Start to receive, when this connection is to be read and nothing is in flight.
    pub(super) fn arm_receive(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let wanted = !conn.paused && !conn.eof && !conn.deaf() && !conn.connecting;
        if wanted && conn.receive == Receive::Idle {
            conn.receive = Receive::Armed;
            self.ring.receive(conn.raw(), GROUP, self.receive_cap, id);
        }
    }

    fn cancel_receive(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.receive == Receive::Armed {
            conn.receive = Receive::Cancelling;
            self.ring.cancel_receive(id);
        }
    }

    /// A cancel did not find its receive. When that has not ended since, it was between two turns: try again.
    pub(super) fn cancel_missed(&mut self, id: ConnId) {
        if self.conns.get_mut(id).is_some_and(|conn| conn.receive == Receive::Cancelling) {
            self.ring.cancel_receive(id);
        }
    }

    pub(super) fn received(&mut self, done: Done) -> Option<Event> {
        let id = done.tag.id;
        let count = usize::try_from(done.result).unwrap_or(0);
        let buffers = self.buffers.as_mut();
        let page = done.buffer.zip(buffers).and_then(|(buffer, ring)| ring.take(buffer, count));
        let conn = self.conns.get_mut(id);
        debug_assert!(conn.is_some(), "a slot was freed before its last completion");
        let conn = conn?;
        if !done.more {
            conn.receive = Receive::Idle;
        }
        if conn.deaf() {
            // Bytes after the core's `close` are dropped with their page.
            self.retire(id);
            return None;
        }
        let event = match (done.result, page) {
            (1.., Some(page)) => Some(Event::Data { conn: id, chunk: page.freeze() }),
            (0, _) => {
                conn.eof = true;
                match conn.send_error.take() {
                    Some(error) => self.broke(id, error),
                    None => Some(Event::Eof { conn: id }),
                }
            }
            _ => match -done.result {
                libc::ENOBUFS => {
                    self.stats.starved += 1;
                    if !std::mem::replace(&mut conn.in_starved, true) {
                        self.starved.push_back(id);
                    }
                    self.confirm_pause(id);
                    return None;
                }
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => None,
                // This kernel knows no cap: from now on receive without.
                libc::EINVAL if self.receive_cap.take().is_some() => None,
                error => {
                    let error = conn.send_error.take().unwrap_or(Errno(error));
                    self.broke(id, error)
                }
            },
        };
        if !done.more {
            self.arm_receive(id);
            self.confirm_pause(id);
        }
        event
    }

    pub(super) fn pause_receive(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.paused || conn.deaf() {
            return;
        }
        conn.paused = true;
        conn.pause_owed = true;
        self.cancel_receive(id);
        self.confirm_pause(id);
    }

    /// Tell `Paused` when it is owed and no receive is in flight any more.
    fn confirm_pause(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.paused && conn.pause_owed && conn.receive == Receive::Idle {
            self.told.push_back(Event::Paused { conn: id });
        }
    }

    // === connecting ===

    pub(super) fn connect_decided(&mut self, id: ConnId, result: i32) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        conn.connecting = false;
        if result < 0 {
            conn.broken = true;
            conn.discard_queue(&mut self.spares);
            if conn.closing {
                self.begin_end(id);
                self.retire(id);
                return None;
            }
            return Some(Event::ConnectFailed { conn: id, error: Errno(-result) });
        }
        if conn.ending {
            self.retire(id);
            return None;
        }
        let closing = conn.closing;
        let (out, into) = (conn.transfer_out, conn.transfer_in);
        if conn.queue.is_empty() {
            self.drained(id);
        } else {
            self.mark_dirty(id);
        }
        self.transfers.wake(out);
        self.transfers.wake(into);
        self.arm_receive(id);
        (!closing).then_some(Event::Connected { conn: id })
    }

    /// The batch has no room for another address: an ordinary system call, and readiness instead of a result.
    pub(super) fn connect_at_once(&mut self, id: ConnId, peer: SocketAddr) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        match sys::connect(conn.raw(), peer) {
            Ok(true) => {
                self.told.push_back(Event::Connected { conn: id });
                self.arm_receive(id);
            }
            Ok(false) => {
                conn.connecting = true;
                self.ring.ready(conn.raw(), libc::POLLOUT, Tag { op: Op::ConnectReady, id });
            }
            Err(error) => {
                conn.broken = true;
                self.told.push_back(Event::ConnectFailed { conn: id, error });
            }
        }
    }

    /// The readiness that `connect_at_once` waits for.
    pub(super) fn connect_ready(&mut self, id: ConnId, result: i32) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        let error = conn.fd.as_ref().and_then(|fd| sys::take_error(fd.as_raw_fd()));
        self.connect_decided(id, error.map_or_else(|| result.min(0), |Errno(error)| -error))
    }

    // === sending ===

    pub(super) fn mark_dirty(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if !conn.in_dirty && !conn.sending {
            conn.in_dirty = true;
            self.dirty.push(id);
        }
    }

    /// Submit a send of what is queued.
    pub(super) fn flush(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let hindered = conn.sending || conn.connecting || conn.broken || conn.ending;
        if hindered || conn.queue.is_empty() {
            return;
        }
        // SAFETY: while `sending`, this queue is not consumed, cleared or dropped: `discard_queue` and `sent` look at
        // the flag, `retire` frees the slot only without it, and the engine's end leaks what is still in flight.
        if unsafe { self.ring.send(conn.raw(), &conn.queue, id) } {
            conn.sending = true;
        } else {
            self.mark_dirty(id);
        }
    }

    pub(super) fn sent(&mut self, id: ConnId, result: i32) -> Option<Event> {
        let conn = self.conns.get_mut(id);
        debug_assert!(conn.is_some(), "a slot was freed before its last completion");
        let conn = conn?;
        conn.sending = false;
        if conn.ending || conn.broken {
            conn.queue.clear(&mut self.spares);
            self.retire(id);
            return None;
        }
        let Ok(count) = usize::try_from(result) else {
            return self.send_failed(id, Errno(-result));
        };
        conn.queue.consume(count, &mut self.spares);
        let left = conn.queue.bytes();
        let closing = conn.closing;
        if left == 0 {
            self.drained(id);
        } else {
            self.mark_dirty(id);
        }
        (!closing).then_some(Event::Sent { conn: id, left })
    }

    /// Nothing is queued any more: what waited for that, happens.
    fn drained(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.closing {
            self.begin_end(id);
            return;
        }
        if conn.shutdown_wanted {
            sys::shutdown_write(conn.raw());
        }
        let into = conn.transfer_in;
        self.transfers.wake(into);
    }

    fn send_failed(&mut self, id: ConnId, error: Errno) -> Option<Event> {
        if matches!(error, Errno(libc::EINTR | libc::EAGAIN)) {
            self.mark_dirty(id);
            return None;
        }
        let conn = self.conns.get_mut(id)?;
        conn.queue.clear(&mut self.spares);
        if conn.closing {
            self.begin_end(id);
            return None;
        }
        if conn.paused || conn.eof {
            return self.broke(id, error);
        }
        // What the peer sent before it left may be an answer: it is told first. The receive in flight, or the one that
        // starvation holds back, ends for sure on a socket that is shut.
        conn.send_error = Some(error);
        sys::shutdown_both(conn.raw());
        None
    }

    pub(super) fn broke(&mut self, id: ConnId, error: Errno) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        if conn.deaf() {
            return None;
        }
        conn.broken = true;
        conn.discard_queue(&mut self.spares);
        Some(Event::Broken { conn: id, error })
    }

    // === ending ===

    /// Begin to close: transfers end, no event is told any more.
    pub(super) fn begin_close(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(id)?;
        let (out, into) = (conn.transfer_out, conn.transfer_in);
        if !conn.closing {
            conn.closing = true;
            self.lingering += 1;
        }
        self.drop_transfer(out);
        self.drop_transfer(into);
        self.conns.get_mut(id)
    }

    /// It is to be closed as soon as its turn comes; what is queued is not sent any more.
    pub(super) fn begin_end(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if !conn.ending {
            conn.ending = true;
            conn.discard_queue(&mut self.spares);
            self.lingering -= 1;
            self.ending.push_back(id);
        }
    }

    /// Its turn: cancel what is in flight, close the socket. The operations keep the socket until they have ended,
    /// so FIN leaves with the last of them, in the same system call.
    pub(super) fn end(&mut self, id: ConnId) {
        self.cancel_receive(id);
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.sending {
            self.ring.cancel(Tag { op: Op::Send, id });
        }
        if conn.connecting {
            self.ring.cancel(Tag { op: Op::Connect, id });
            self.ring.cancel(Tag { op: Op::ConnectReady, id });
        }
        if let Some(fd) = conn.fd.take() {
            self.ring.close(fd);
        }
        self.retire(id);
    }

    /// Free the slot, when the socket is closed and the kernel has nothing of it any more.
    pub(super) fn retire(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let idle = !conn.sending && !conn.connecting && conn.receive == Receive::Idle;
        if conn.ending && conn.fd.is_none() && idle {
            debug_assert!(conn.queue.is_empty(), "discarded with the last send");
            self.conns.remove(id);
        }
    }
}
