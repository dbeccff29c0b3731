//! HTTP/1.1 towards the client, after a response: the next request, or the end of the connection.
//!
//! An end must not cost the client its last answer: bytes that nobody reads would turn a close into a reset, so the
//! router says FIN, reads and drops for a while, and times a client only by whether it still takes what is queued.
//! Deliberately absent: requests (`client.rs`), and what an answer says (`answer.rs`).

use engine::{Chunk, ConnId, Engine};

use super::Core;
use super::conn::{BodyIn, Kind, Stage};
use super::failure::Failure;
use super::phase::Event as Happened;
use crate::hub::Phase as Life;

/// Time that an answered client has to stop sending and to close, once it has its answer, in milliseconds.
pub(super) const LINGER_MS: u32 = 2_000;

impl<E: Engine> Core<E> {
    /// Bytes of a response, through TLS if the door has it.
    pub(super) fn client_send(&mut self, conn: ConnId, chunk: Chunk) {
        let Self { conns, engine, tls_send, .. } = self;
        let tls = match conns.get(conn) {
            Some(Kind::Client(client)) => client.tls.as_mut(),
            Some(Kind::Relay(end)) => end.tls.as_mut(),
            _ => return,
        };
        let Some(tls) = tls else { return engine.send(conn, chunk) };
        let encrypted = tls.encrypt(&chunk, engine.pages(), tls_send);
        for chunk in tls_send.drain(..) {
            engine.send(conn, chunk);
        }
        if encrypted.is_err() {
            // The session is over, or no page is left: the response cannot be whole, and must not pass for it.
            if let Some(client) = conns.client(conn) {
                client.write_timed = true;
            }
            self.deadlines.set(conn.slot, self.engine.now(), 1);
        }
    }

    /// The exchange is over and the response is with the engine: go on with the next request, or end.
    pub(super) fn client_replied(&mut self, conn: ConnId, keep: bool) {
        let idle = self.settings.timeouts.client_idle;
        let draining = self.life != Life::Serving;
        let Some(client) = self.conns.client(conn) else { return };
        client.exchange = None;
        let whole = client.stage == Stage::Waiting;
        client.body = BodyIn::None;
        if !whole || !keep || draining {
            // Unread bytes would turn the close into a reset and could cost the client its response.
            let unread = !whole || !client.backlog.is_empty();
            client.backlog.clear();
            return if unread && !client.eof {
                self.linger(conn)
            } else {
                self.client_goodbye(conn)
            };
        }
        client.stage = Stage::Head;
        if client.backlog.is_empty() && !client.paused && !client.eof {
            self.set_deadline(conn, idle);
        } else if !client.taking_up {
            self.client_next(conn);
        }
    }

    /// Take up what was stashed, oldest first, until an exchange runs or nothing is left.
    pub(super) fn client_next(&mut self, conn: ConnId) {
        loop {
            let Some(client) = self.conns.client(conn) else { return };
            let (stage, busy) = (client.stage, client.exchange.is_some());
            let more = stage == Stage::Head && !client.backlog.is_empty();
            if busy && stage != Stage::Body || more && self.client_is_full(conn) {
                return;
            }
            let Some(client) = self.conns.client(conn) else { return };
            let mut stashed = std::mem::take(&mut client.backlog).into_iter();
            let Some(first) = stashed.next() else { break };
            client.taking_up = true;
            self.client_plain(conn, first);
            // What the first chunk left over was stashed again: it comes before the others.
            if let Some(client) = self.conns.client(conn) {
                client.taking_up = false;
                client.backlog.extend(stashed);
            }
        }
        let idle = self.settings.timeouts.client_idle;
        let Some(client) = self.conns.client(conn) else { return };
        match client.stage {
            Stage::Head if client.eof => return self.client_goodbye(conn),
            // As when the end comes by itself: half a body is a request that never was.
            Stage::Body if client.eof => return self.client_lost(conn, Failure::ClientGone),
            _ => {}
        }
        let idling = client.stage == Stage::Head && client.partial.is_none();
        if client.paused {
            client.paused = false;
            self.engine.resume(conn);
        }
        if idling {
            self.set_deadline(conn, idle);
        }
    }

    /// Close politely: TLS says goodbye, what is queued leaves.
    pub(super) fn client_goodbye(&mut self, conn: ConnId) {
        self.client_close_notify(conn);
        self.close(conn);
    }

    fn client_close_notify(&mut self, conn: ConnId) {
        let Self { conns, engine, tls_send, .. } = self;
        let Some(tls) = conns.client(conn).and_then(|client| client.tls.as_mut()) else { return };
        // A session that cannot say goodbye is closed without.
        drop(tls.close_notify(engine.pages(), tls_send));
        for chunk in tls_send.drain(..) {
            engine.send(conn, chunk);
        }
    }

    /// Send FIN, then read and drop for a while: the answer must not be lost to a reset.
    pub(super) fn linger(&mut self, conn: ConnId) {
        self.client_close_notify(conn);
        let Some(client) = self.conns.client(conn) else { return };
        client.stage = Stage::Lingering;
        client.exchange = None;
        client.partial = None;
        client.body = BodyIn::None;
        client.backlog.clear();
        client.write_timed = false;
        if std::mem::take(&mut client.paused) {
            self.engine.resume(conn);
        }
        self.engine.shutdown_write(conn);
        if self.engine.backlog(conn) > 0 {
            return self.await_client(conn);
        }
        self.deadlines.set(conn.slot, self.engine.now(), LINGER_MS);
    }

    /// The client is gone, too slow or wrong: end its exchange, if any, and the connection.
    pub(super) fn client_lost(&mut self, conn: ConnId, failure: Failure) {
        let Some(client) = self.conns.client(conn) else { return };
        match client.exchange {
            Some(id) => self.feed(id, Happened::ClientLost(failure)),
            None => self.close(conn),
        }
    }

    /// Answer a request of which no exchange came to be, and end the connection: what follows cannot be trusted.
    pub(super) fn refuse(&mut self, conn: ConnId, failure: Failure) {
        self.answer(conn, failure, false, false);
        self.count_refused(conn, failure);
        self.linger(conn);
    }
}
