//! The life of one connection of the epoll world: receive, accept, send, close.
//!
//! Everything here makes at most one system call for each connection and step; who gets the next step is decided by
//! `poll` and `next`. Deliberately absent: waiting, and readiness, which is noted where the kernel tells it.

use std::os::fd::{AsRawFd, RawFd};

use super::{
    ACCEPT_RETRY, Conn, EpollEngine, RECEIVES_IN_ROW_MAX, SENDS_PER_TURN_MAX, after, conn_key,
};
use crate::queue::{PIECES_MAX, SendQueue};
use crate::{CLOSES_PER_POLL_MAX, ConnId, Errno, Event, ListenerId, Page, sys};

impl EpollEngine {
    // === receiving and accepting ===

    pub(super) fn receive(&mut self, id: ConnId) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        if conn.may_read()
            && let Ok(page) = self.pages.for_receive()
        {
            conn.in_ready = false;
            return self.receive_into(id, page);
        }
        if conn.may_read() {
            // It stays marked as `in_ready`: it lies in one of the two lists.
            self.stats.starved += 1;
            self.starved.push_back(id);
        } else {
            conn.in_ready = false;
        }
        None
    }

    fn receive_into(&mut self, id: ConnId, mut page: Page) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        match sys::recv(conn.raw(), page.spare()) {
            Ok(0) => {
                conn.eof = true;
                match conn.send_error.take() {
                    Some(error) => self.break_now(id, error),
                    None => return Some(Event::Eof { conn: id }),
                }
            }
            Ok(count) => {
                page.advance(count);
                self.receives_left -= 1;
                // A short read has emptied the socket: the next byte is a new edge.
                let full = count == page.capacity();
                conn.readable = full || conn.hung_up;
                if full && self.receives_in_row < RECEIVES_IN_ROW_MAX {
                    self.receives_in_row += 1;
                    conn.in_ready = true;
                    self.ready.push_front(conn_key(id));
                } else {
                    self.receives_in_row = 0;
                    self.make_ready(id);
                }
                return Some(Event::Data { conn: id, chunk: page.freeze() });
            }
            Err(Errno(libc::EINTR)) => self.make_ready(id),
            Err(Errno(libc::EAGAIN)) => {
                conn.readable = false;
                if let Some(error) = conn.send_error.take() {
                    self.break_now(id, error);
                }
            }
            Err(error) => self.break_now(id, error),
        }
        None
    }

    pub(super) fn accept(&mut self, id: u32) -> Option<Event> {
        let listener = self.listeners.get_mut(&id)?;
        listener.in_ready = false;
        match sys::accept(listener.fd.as_raw_fd()) {
            Ok((fd, peer)) => {
                self.listener_ready(id);
                // Without an address the client has left already; without a registration we have no room for it.
                let (Some(peer), Ok(conn)) = (peer, self.adopt(fd, false)) else {
                    self.stats.accept_failed += 1;
                    return None;
                };
                self.stats.accepted += 1;
                Some(Event::Accepted { listener: ListenerId(id), conn, peer })
            }
            Err(Errno(libc::EAGAIN)) => None,
            Err(Errno(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) => {
                self.stats.accept_failed += 1;
                self.stalled.push_back(id);
                self.stalled_until = after(self.now, ACCEPT_RETRY);
                None
            }
            // That one connection failed (ECONNABORTED, EPROTO, a firewall): the next may not.
            Err(_) => {
                self.stats.accept_failed += 1;
                self.listener_ready(id);
                None
            }
        }
    }

    /// Whom lack of memory or descriptors stopped gets another try.
    pub(super) fn retry_starved(&mut self) {
        // A page is the proof that there are pages again.
        if !self.starved.is_empty() && self.pages.for_receive().is_ok() {
            self.ready.extend(self.starved.drain(..).map(conn_key));
        }
        if !self.stalled.is_empty() && self.now >= self.stalled_until {
            for _ in 0..self.stalled.len() {
                let id = self.stalled.pop_front().expect("counted");
                self.listener_ready(id);
            }
        }
    }

    // === sending ===

    pub(super) fn flush_dirty(&mut self) {
        std::mem::swap(&mut self.dirty, &mut self.dirty_before);
        for index in 0..self.dirty_before.len() {
            let id = self.dirty_before[index];
            if let Some(conn) = self.conns.get_mut(id) {
                conn.in_dirty = false;
                self.flush(id);
            }
        }
        self.dirty_before.clear();
    }

    /// Send what is queued, as much as the kernel takes.
    pub(super) fn flush(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.connecting || conn.broken {
            return;
        }
        let before = conn.queue.bytes();
        let mut turns = 0;
        while conn.writable && !conn.queue.is_empty() {
            if turns == SENDS_PER_TURN_MAX {
                mark_dirty(&mut self.dirty, conn, id);
                break;
            }
            turns += 1;
            let (wanted, result) = send_front(conn.raw(), &conn.queue);
            match result {
                Ok(count) => {
                    conn.queue.consume(count, &mut self.spares);
                    conn.writable = count == wanted;
                }
                Err(Errno(libc::EAGAIN)) => conn.writable = false,
                Err(Errno(libc::EINTR)) => {}
                Err(error) => return self.send_failed(id, error),
            }
        }
        let left = conn.queue.bytes();
        if left < before && !conn.closing {
            self.told.push_back(Event::Sent { conn: id, left });
        }
        if left == 0 {
            self.drained(id);
        }
    }

    /// Nothing is queued any more: what waited for that, happens.
    fn drained(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.closing {
            self.finish(id);
            return;
        }
        if conn.shutdown_wanted {
            sys::shutdown_write(conn.raw());
        }
        let into = conn.transfer_in;
        self.transfers.wake(into);
    }

    fn send_failed(&mut self, id: ConnId, error: Errno) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.queue.clear(&mut self.spares);
        if conn.closing {
            self.finish(id);
        } else if conn.paused || conn.eof {
            self.break_now(id, error);
        } else {
            // What the peer sent before it left may be an answer: it is told first.
            conn.send_error = Some(error);
            conn.readable = true;
            self.make_ready(id);
        }
    }

    fn break_now(&mut self, id: ConnId, error: Errno) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if !conn.broken && !conn.closing {
            conn.broken = true;
            conn.queue.clear(&mut self.spares);
            self.told.push_back(Event::Broken { conn: id, error });
        }
    }

    // === closing ===

    /// Free the slot; the socket is closed by a later poll.
    pub(super) fn finish(&mut self, id: ConnId) {
        let Some(mut conn) = self.conns.remove(id) else { return };
        if conn.closing && !conn.queue.is_empty() {
            conn.queue.clear(&mut self.spares);
        }
        if conn.closing {
            self.lingering -= 1;
        }
        self.closing.extend(conn.fd);
    }

    pub(super) fn close_some(&mut self) {
        for _ in 0..CLOSES_PER_POLL_MAX.min(self.closing.len()) {
            drop(self.closing.pop_front());
        }
    }

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
}

pub(super) fn mark_dirty(dirty: &mut Vec<ConnId>, conn: &mut Conn, id: ConnId) {
    if !conn.in_dirty {
        conn.in_dirty = true;
        dirty.push(id);
    }
}

/// One send of the front of the queue; gives how many bytes were offered, and the outcome.
fn send_front(fd: RawFd, queue: &SendQueue) -> (usize, Result<usize, Errno>) {
    if let Some(chunk) = queue.sole() {
        return (chunk.len(), sys::send(fd, chunk));
    }
    let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PIECES_MAX];
    let count = queue.pieces(&mut pieces);
    let pieces = &pieces[..count];
    let wanted = pieces.iter().map(|piece| piece.iov_len).sum();
    // SAFETY: the pieces describe chunks of `queue`, which is borrowed for the whole call.
    (wanted, unsafe { sys::send_vectored(fd, pieces) })
}
