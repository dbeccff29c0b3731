//! HTTP/1.1 towards the client: bytes become request heads and bodies, exchanges become response bytes.
//!
//! ```text
//!  Head ──whole head──▶ Body ──whole body──▶ Waiting ──response ended──▶ Head
//!    │ refused            │ answered early                                ▲
//!    └────▶ Lingering ◀───┘           (no body: Head ▶ Waiting at once) ──┘
//! ```
//!
//! A request that comes while another is served waits in the backlog, and reading stops: pipelining without
//! queues. Deliberately absent: which instance serves (`flow.rs`), HTTP/2 (its own file, on the same exchanges).

use std::net::SocketAddr;

use engine::{Chunk, ConnId, Engine, ListenerId};
use http1::{HeadError, Piece, RequestFraming, RequestHead, head_end, parse_request, refuse_early};

use super::answer::room_for;
use super::conn::{BodyIn, Client, IpText, Kind, Partial, Stage};
use super::exchange::Splice;
use super::failure::Failure;
use super::parting::LINGER_MS;
use super::slab::Id;
use super::{BACKLOG_HIGH_BYTES, BACKLOG_LOW_BYTES, Core, DoorKind, SPLICE_MIN_BYTES};
use crate::tls::TlsSession;

/// Bytes of an unwanted request body that are read and dropped before the connection is cut. The time-out of
/// lingering is the real bound; this one keeps a very fast sender from filling it.
const LINGER_BYTES_MAX: u32 = 1 << 28;

impl<E: Engine> Core<E> {
    // === events of the engine ===

    pub(super) fn accepted(&mut self, listener: ListenerId, conn: ConnId, peer: SocketAddr) {
        let door = u16::try_from(listener.0).unwrap_or(u16::MAX);
        let Some(kind) = self.door(door).map(|door| door.kind) else {
            return self.engine.abort(conn); // The listener was closed while this event was on its way.
        };
        if self.conns.clients() >= self.settings.limits.connections_max as usize {
            self.shared.stats.connections_refused.add(1);
            return self.engine.abort(conn);
        }
        let tls = match kind {
            DoorKind::Https => match self.hub.tls() {
                Some(store) => Some(Box::new(TlsSession::new(&store))),
                None => return self.engine.abort(conn),
            },
            _ => None,
        };
        self.count_opened(kind);
        let wait = if tls.is_some() {
            self.settings.timeouts.head
        } else {
            self.settings.timeouts.client_idle
        };
        let stage = if matches!(kind, DoorKind::Tcp(_)) { Stage::Raw } else { Stage::Head };
        let client = Client {
            peer,
            peer_text: IpText::new(peer.ip()),
            door,
            stage,
            paused: false,
            eof: false,
            taking_up: false,
            write_timed: false,
            served: 0,
            lingered: 0,
            exchange: None,
            tls,
            partial: None,
            body: BodyIn::None,
            backlog: Vec::new(),
        };
        self.conns.put(conn, Kind::Client(client));
        self.set_deadline(conn, wait);
        if let DoorKind::Tcp(addr) = kind {
            self.tcp_opened(conn, addr, peer);
        }
    }

    /// Bytes from the socket: through TLS, if the door has it.
    pub(super) fn client_data(&mut self, conn: ConnId, chunk: Chunk) {
        let Self { conns, engine, tls_out, .. } = self;
        let Some(client) = conns.client(conn) else { return };
        let Some(tls) = &mut client.tls else { return self.client_plain(conn, chunk) };
        let handshaking = tls.handshaking();
        let outcome = tls.on_bytes(chunk, engine.pages(), tls_out);
        let done = handshaking && !tls.handshaking();
        for chunk in tls_out.to_send.drain(..) {
            engine.send(conn, chunk);
        }
        if done {
            self.tls_established(conn);
        }
        let mut plaintext = std::mem::take(&mut self.tls_out.plaintext);
        for chunk in plaintext.drain(..) {
            self.client_plain(conn, chunk);
        }
        self.tls_out.plaintext = plaintext;
        let closed = std::mem::take(&mut self.tls_out.peer_closed);
        if outcome.is_err() {
            self.shared.stats.tls_failed.add(u64::from(handshaking));
            self.client_lost(conn, Failure::ClientGone);
        } else if closed {
            self.client_eof(conn);
        }
    }

    pub(super) fn client_eof(&mut self, conn: ConnId) {
        let Some(client) = self.conns.client(conn) else { return };
        client.eof = true;
        match client.stage {
            // Half a head cannot be answered to anybody's use; half a body is a request that never was.
            Stage::Head if client.backlog.is_empty() => self.client_goodbye(conn),
            Stage::Lingering => self.close(conn),
            Stage::Body => self.client_lost(conn, Failure::ClientGone),
            // The request is whole: a half-closed client still reads its response.
            Stage::Head | Stage::Waiting => {}
            Stage::Raw => {}
        }
    }

    pub(super) fn client_broken(&mut self, conn: ConnId) {
        self.client_lost(conn, Failure::ClientGone);
    }

    /// The queue towards the client shrank.
    pub(super) fn client_sent(&mut self, conn: ConnId, left: usize) {
        let Some(client) = self.conns.client(conn) else { return };
        if client.write_timed {
            if left == 0 {
                client.write_timed = false;
                let wait = self.settings.timeouts.body_silence;
                match client.stage {
                    Stage::Head => {}
                    Stage::Lingering => self.deadlines.set(conn.slot, self.engine.now(), LINGER_MS),
                    // It has taken its answers and owes the rest of its next request.
                    Stage::Body if !client.paused => self.set_deadline(conn, wait),
                    _ => self.deadlines.clear(conn.slot),
                }
            } else {
                let wait = self.settings.timeouts.body_silence;
                self.set_deadline(conn, wait);
            }
        }
        if left > BACKLOG_LOW_BYTES {
            return;
        }
        let Some(client) = self.conns.client(conn) else { return };
        if let Some(id) = client.exchange {
            self.reply_drained(id, left);
        } else if client.stage == Stage::Head
            && (client.paused || client.eof || !client.backlog.is_empty())
        {
            self.client_next(conn);
        }
    }

    pub(super) fn client_paused(&mut self, conn: ConnId) {
        let Some(id) = self.conns.client(conn).and_then(|client| client.exchange) else { return };
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if exchange.request.splice == Splice::Pausing {
            exchange.request.splice = Splice::Flushing;
            self.try_splice_request(id);
        }
    }

    pub(super) fn client_deadline(&mut self, conn: ConnId) {
        let Some(client) = self.conns.client(conn) else { return };
        let handshaking = client.tls.as_ref().is_some_and(|tls| tls.handshaking());
        if client.write_timed {
            if client.exchange.is_none() {
                return self.abort(conn);
            }
            return self.client_lost(conn, Failure::ClientSlow);
        }
        match client.stage {
            Stage::Head if handshaking => {
                self.shared.stats.tls_failed.add(1);
                self.close(conn);
            }
            Stage::Head if client.partial.is_some() => self.refuse(conn, Failure::HeadSlow),
            Stage::Head => self.client_goodbye(conn),
            Stage::Body if self.engine.splice_waits_for_target(conn) => self.upstream_stuck(conn),
            Stage::Body => self.client_lost(conn, Failure::BodySlow),
            // What the kernel still holds of the answer goes on leaving after a close; nothing is unread here.
            Stage::Lingering => self.close(conn),
            Stage::Waiting | Stage::Raw => {}
        }
    }

    // === the request ===

    /// Bytes of HTTP, after TLS.
    pub(super) fn client_plain(&mut self, conn: ConnId, mut chunk: Chunk) {
        while !chunk.is_empty() {
            let Some(client) = self.conns.client(conn) else {
                // An upgrade in this very chunk made a relay of it: the rest is the tunnel's.
                return self.relay_plain(conn, chunk);
            };
            let stage = client.stage;
            let rest = match stage {
                Stage::Head if self.client_is_full(conn) => return self.client_stash(conn, chunk),
                Stage::Head => self.client_head(conn, chunk),
                Stage::Body => self.client_body(conn, chunk),
                Stage::Waiting => return self.client_stash(conn, chunk),
                Stage::Raw => return self.tcp_early(conn, chunk),
                Stage::Lingering => return self.client_linger(conn, &chunk),
            };
            match rest {
                Some(rest) => chunk = rest,
                None => return,
            }
        }
    }

    /// Whether a client that asks has to read first. From the low mark on its time to do so is counted, and goes on
    /// while further requests are served: one who never reads must not hold pages for as long as he asks.
    pub(super) fn client_is_full(&mut self, conn: ConnId) -> bool {
        let queued = self.engine.backlog(conn);
        if queued > BACKLOG_LOW_BYTES
            && self.conns.client(conn).is_some_and(|client| !client.write_timed)
        {
            self.await_client(conn);
        }
        queued > BACKLOG_HIGH_BYTES
    }

    /// Pipelined bytes: they wait for the exchange in progress, and reading stops meanwhile.
    fn client_stash(&mut self, conn: ConnId, chunk: Chunk) {
        let chunk = chunk.compact(self.engine.pages());
        let Some(client) = self.conns.client(conn) else { return };
        client.backlog.push(chunk);
        if !client.paused {
            client.paused = true;
            self.engine.pause(conn);
        }
    }

    fn client_linger(&mut self, conn: ConnId, chunk: &Chunk) {
        let Some(client) = self.conns.client(conn) else { return };
        client.lingered =
            client.lingered.saturating_add(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
        if client.lingered > LINGER_BYTES_MAX {
            self.abort(conn);
        }
    }

    /// A head, or more of one. Gives back what follows it.
    fn client_head(&mut self, conn: ConnId, chunk: Chunk) -> Option<Chunk> {
        let client = self.conns.client(conn)?;
        match client.partial.take() {
            Some(partial) => self.client_more_head(conn, partial, chunk),
            None => match parse_request(&chunk, &mut self.fields, &self.head_limits) {
                Ok(Some(head)) => self.client_request(conn, chunk, &head),
                Ok(None) => self.client_keep_partial(conn, &chunk),
                Err(error) => self.refuse_head(conn, error),
            },
        }
    }

    /// More of a head that came in pieces.
    fn client_more_head(
        &mut self,
        conn: ConnId,
        mut partial: Box<Partial>,
        mut chunk: Chunk,
    ) -> Option<Chunk> {
        if partial.page.spare().len() < chunk.len() && partial.page.capacity() < engine::LARGE_BYTES
        {
            let Ok(mut large) = self.engine.pages().large() else {
                self.refuse(conn, Failure::Overloaded);
                return None;
            };
            large.extend(partial.page.filled()).expect("a large page holds what a small one did");
            partial.page = large;
        }
        let count = partial.page.spare().len().min(chunk.len());
        partial.page.extend(&chunk[..count]).expect("no more than fits");
        let whole = head_end(partial.page.filled(), &mut partial.searched).is_some();
        let full = partial.page.len() >= self.head_limits.bytes_max.min(engine::LARGE_BYTES);
        if !whole && !full {
            if let Err(error) = refuse_early(partial.page.filled(), &self.head_limits) {
                return self.refuse_head(conn, error);
            }
            self.conns.client(conn)?.partial = Some(partial);
            return None;
        }
        let page = partial.page.freeze();
        match parse_request(&page, &mut self.fields, &self.head_limits) {
            Ok(Some(head)) => {
                let rest = self.client_request(conn, page, &head)?;
                // Of what follows the head in the page, all came from this chunk: the head ended in it.
                chunk.advance(count - rest.len());
                Some(chunk)
            }
            Ok(None) => self.refuse_head(conn, HeadError::HeadTooLarge),
            Err(error) => self.refuse_head(conn, error),
        }
    }

    /// The beginning of a head: copied out, so that no receive page is held while the client takes its time.
    fn client_keep_partial(&mut self, conn: ConnId, chunk: &Chunk) -> Option<Chunk> {
        let Ok(mut page) = room_for(self.engine.pages(), chunk.len()) else {
            self.refuse(conn, Failure::Overloaded);
            return None;
        };
        page.extend(chunk).expect("the page was asked for with this length");
        let wait = self.settings.timeouts.head;
        self.set_deadline(conn, wait);
        let mut searched = 0;
        // What was parsed as incomplete has no end so far; this only notes how far that is known.
        debug_assert!(head_end(chunk, &mut searched).is_none());
        let searched = chunk.len();
        self.conns.client(conn)?.partial = Some(Box::new(Partial { page, searched }));
        None
    }

    fn refuse_head(&mut self, conn: ConnId, error: HeadError) -> Option<Chunk> {
        self.refuse(conn, Failure::Head { status: error.status(), code: error.code() });
        None
    }

    /// A whole head: begin its exchange. Gives back what follows the head.
    fn client_request(
        &mut self,
        conn: ConnId,
        mut chunk: Chunk,
        head: &RequestHead,
    ) -> Option<Chunk> {
        let body_wait = self.settings.timeouts.body_silence;
        let body_max = self.settings.limits.body_bytes_max;
        if let RequestFraming::Length(len) = head.framing
            && body_max > 0
            && len > body_max
        {
            self.refuse(conn, Failure::BodyTooLarge);
            return None;
        }
        let client = self.conns.client(conn)?;
        client.served = client.served.saturating_add(1);
        (client.stage, client.body) = match head.framing {
            RequestFraming::None | RequestFraming::Length(0) => (Stage::Waiting, BodyIn::None),
            RequestFraming::Length(left) => (Stage::Body, BodyIn::Length(left)),
            RequestFraming::Chunked => (Stage::Body, BodyIn::Chunked(Box::default())),
        };
        if client.stage == Stage::Body {
            self.set_deadline(conn, body_wait);
        } else if !client.write_timed {
            self.deadlines.clear(conn.slot);
        }
        self.open(conn, &chunk, head);
        chunk.advance(head.head_len);
        Some(chunk)
    }

    /// Body bytes. Gives back what follows the body.
    fn client_body(&mut self, conn: ConnId, mut chunk: Chunk) -> Option<Chunk> {
        let client = self.conns.client(conn)?;
        let id = client.exchange?;
        match &mut client.body {
            BodyIn::Length(left) => {
                let count = chunk.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                let done = *left == 0;
                let piece = chunk.split_to(count);
                self.request_body(id, piece);
                if done {
                    self.client_body_done(conn, id);
                } else {
                    self.client_wait_for_body(conn, id);
                }
                Some(chunk)
            }
            BodyIn::Chunked(decoder) => {
                let (consumed, piece) = match decoder.step(&chunk) {
                    Ok(step) => step,
                    Err(_) => {
                        self.client_lost(conn, Failure::BodyMalformed);
                        return None;
                    }
                };
                match piece {
                    Piece::Data(range) => {
                        let piece = chunk.slice(range);
                        self.request_body(id, piece);
                    }
                    Piece::More => {}
                    Piece::End => self.client_body_done(conn, id),
                }
                chunk.advance(consumed);
                if chunk.is_empty() {
                    self.client_wait_for_body(conn, id);
                }
                Some(chunk)
            }
            BodyIn::None | BodyIn::UntilClose => {
                debug_assert!(false, "a body is read, but none was announced");
                None
            }
        }
    }

    pub(super) fn client_body_done(&mut self, conn: ConnId, id: Id) {
        let Some(client) = self.conns.client(conn) else { return };
        if client.exchange != Some(id) || client.stage != Stage::Body {
            return; // The exchange ended on this very piece.
        }
        client.stage = Stage::Waiting;
        let body = std::mem::replace(&mut client.body, BodyIn::None);
        self.deadlines.clear(conn.slot);
        // The rest came while reading was being stopped for a splice that is not needed any more.
        if let Some(exchange) = self.exchanges.get_mut(id)
            && std::mem::replace(&mut exchange.request.splice, Splice::No) != Splice::No
        {
            self.client_resume(conn);
        }
        self.request_end(id, &body);
    }

    /// More body is owed: watch the clock, watch the other side, and think of splice.
    fn client_wait_for_body(&mut self, conn: ConnId, id: Id) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let upstream = exchange.upstream;
        let waiting = match upstream {
            Some(upstream) => self.engine.backlog(upstream) + exchange.request.queued_bytes,
            None => exchange.request.queued_bytes,
        };
        let wait = self.settings.timeouts.body_silence;
        let Some(client) = self.conns.client(conn) else { return };
        if client.stage != Stage::Body || client.exchange != Some(id) {
            return;
        }
        if waiting > BACKLOG_HIGH_BYTES {
            if !client.paused {
                client.paused = true;
                self.engine.pause(conn);
            }
            self.deadlines.clear(conn.slot);
            return self.await_upstream(id);
        }
        let left = match client.body {
            BodyIn::Length(left) if client.tls.is_none() && !client.paused => left,
            _ => 0,
        };
        self.set_deadline(conn, wait);
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if left >= SPLICE_MIN_BYTES
            && exchange.request.splice == Splice::No
            && exchange.is_sending()
        {
            exchange.request.splice = Splice::Pausing;
            if let Some(client) = self.conns.client(conn) {
                client.paused = true;
            }
            self.engine.pause(conn);
        }
    }

    /// The upstream takes more again: read on.
    pub(super) fn client_resume(&mut self, conn: ConnId) {
        let wait = self.settings.timeouts.body_silence;
        let Some(client) = self.conns.client(conn) else { return };
        if client.paused && client.backlog.is_empty() {
            client.paused = false;
            let body = client.stage == Stage::Body;
            self.engine.resume(conn);
            if body {
                self.set_deadline(conn, wait);
            }
        }
    }
}
