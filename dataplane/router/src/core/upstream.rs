//! HTTP/1.1 towards an instance: bytes become response heads and bodies, and go on to the client.
//!
//! ```text
//!  Connecting ──▶ Head ──final head──▶ Body ──whole body──▶ Idle (in the pool)
//!                  ▲ │ 1xx                                    │
//!                  └─┘        ◀───── next exchange ───────────┘
//! ```
//!
//! Deliberately absent: the choice of an instance (`flow.rs`), what the client is told on failure (`phase.rs`).

use engine::{Chunk, ConnId, Engine, LARGE_BYTES};
use http1::{
    Piece, Reply as ReplyHead, RequestFacts, ResponseFraming, ResponseHead, Version, head_end,
    parse_response,
};

use super::answer::room_for;
use super::conn::{BodyIn, Partial, UpStage, Upstream};
use super::exchange::{Framing, Splice};
use super::failure::Failure;
use super::phase::Event as Happened;
use super::slab::Id;
use super::{BACKLOG_HIGH_BYTES, BACKLOG_LOW_BYTES, Core, SPLICE_MIN_BYTES};
use crate::hub::Phase as Life;

/// Interim (1xx) responses passed on for one exchange; an instance that sends more is cut.
const INTERIM_MAX: u8 = 16;

impl<E: Engine> Core<E> {
    // === events of the engine ===

    pub(super) fn upstream_connected(&mut self, conn: ConnId) {
        self.shared.stats.upstream_connects.add(1);
        self.deadlines.clear(conn.slot);
        let Some(upstream) = self.conns.upstream(conn) else { return self.engine.abort(conn) };
        upstream.stage = UpStage::Head;
        if let Some(id) = upstream.exchange {
            self.feed(id, Happened::Connected);
        }
    }

    pub(super) fn upstream_connect_failed(&mut self, conn: ConnId, failure: Failure) {
        self.shared.stats.upstream_connects_failed.add(1);
        let Some(upstream) = self.conns.upstream(conn) else { return };
        let (slot, exchange) = (upstream.origin, upstream.exchange);
        self.origin_failed(slot, true);
        self.abort(conn);
        let Some(id) = exchange else { return };
        self.leave_origin(id);
        let Self { exchanges, origins, table, settings, .. } = self;
        let Some(exchange) = exchanges.get_mut(id) else { return };
        exchange.upstream = None;
        exchange.tried.push(slot);
        let tries_left = exchange.tried.len() < usize::from(settings.limits.attempts_max);
        let more = tries_left && origins.has_untried(exchange.job, table, &exchange.tried);
        self.feed(id, Happened::ConnectFailed { failure, more });
    }

    pub(super) fn upstream_data(&mut self, conn: ConnId, mut chunk: Chunk) {
        self.full_page = chunk.len() == LARGE_BYTES;
        while !chunk.is_empty() {
            let Some(upstream) = self.conns.upstream(conn) else {
                // A 101 in this very chunk made a relay of it: the rest is the tunnel's.
                return self.relay_data(conn, chunk);
            };
            let rest = match upstream.stage {
                UpStage::Head => self.upstream_head(conn, chunk),
                UpStage::Body => self.upstream_body(conn, chunk),
                // Nobody asked: whatever this is, it must not become the answer to the next request.
                UpStage::Idle | UpStage::Connecting => return self.upstream_discard(conn),
            };
            match rest {
                Some(rest) => chunk = rest,
                None => break,
            }
        }
        self.full_page = false;
        if let Some(id) = self.conns.upstream(conn).and_then(|upstream| upstream.exchange) {
            self.reply_flush(id);
            self.upstream_watch(conn, id);
        }
    }

    pub(super) fn upstream_eof(&mut self, conn: ConnId) {
        let Some(upstream) = self.conns.upstream(conn) else { return };
        match (upstream.stage, &upstream.body) {
            (UpStage::Idle, _) => self.upstream_discard(conn),
            (UpStage::Body, BodyIn::UntilClose) => {
                self.upstream_body_done(conn, &BodyIn::UntilClose, false)
            }
            _ => self.upstream_broken(conn),
        }
    }

    /// It broke, or ended where it must not.
    pub(super) fn upstream_broken(&mut self, conn: ConnId) {
        self.upstream_lost(conn, |response_begun| Failure::UpstreamReset { response_begun });
    }

    pub(super) fn upstream_deadline(&mut self, conn: ConnId) {
        let Some(upstream) = self.conns.upstream(conn) else { return };
        match upstream.stage {
            UpStage::Connecting => self.upstream_connect_failed(conn, Failure::ConnectSlow),
            UpStage::Idle => self.upstream_discard(conn),
            UpStage::Head => self.upstream_lost(conn, |_| Failure::UpstreamSilent),
            UpStage::Body => match self.spliced_client(conn) {
                Some(client) => self.splice_deadline(conn, client),
                None => self.upstream_broken(conn),
            },
        }
    }

    /// The client to which the body of this upstream is being spliced.
    fn spliced_client(&mut self, conn: ConnId) -> Option<ConnId> {
        let id = self.conns.upstream(conn)?.exchange?;
        let exchange = self.exchanges.get(id)?;
        (exchange.reply.splice != Splice::No).then_some(exchange.client)
    }

    pub(super) fn upstream_sent(&mut self, conn: ConnId, left: usize) {
        let Some(upstream) = self.conns.upstream(conn) else { return };
        let (stage, Some(id)) = (upstream.stage, upstream.exchange) else { return };
        if left > BACKLOG_LOW_BYTES {
            return self.await_upstream(id);
        }
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        match exchange.request.splice {
            Splice::No => {
                let client = exchange.client;
                if !exchange.request.whole {
                    // Now the client owes the next bytes.
                    if stage == UpStage::Head {
                        self.deadlines.clear(conn.slot);
                    }
                    self.client_resume(client);
                }
            }
            Splice::Flushing if left == 0 => self.try_splice_request(id),
            _ => {}
        }
    }

    /// The instance has to read before more of the request is taken from the client.
    pub(super) fn await_upstream(&mut self, id: Id) {
        let wait = self.settings.timeouts.origin_silence;
        let Some(exchange) = self.exchanges.get(id) else { return };
        let (Some(conn), false) = (exchange.upstream, exchange.request.whole) else { return };
        // A connect has its own time-out, and so has a response that comes early.
        if self.conns.upstream(conn).is_some_and(|upstream| upstream.stage == UpStage::Head) {
            self.set_deadline(conn, wait);
        }
    }

    pub(super) fn upstream_paused(&mut self, conn: ConnId) {
        let Some(id) = self.conns.upstream(conn).and_then(|upstream| upstream.exchange) else {
            return;
        };
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if exchange.reply.splice == Splice::Pausing {
            exchange.reply.splice = Splice::Flushing;
            self.try_splice_reply(id);
        }
    }

    // === the response ===

    /// A head, or more of one. Gives back what follows it.
    fn upstream_head(&mut self, conn: ConnId, mut chunk: Chunk) -> Option<Chunk> {
        let upstream = self.conns.upstream(conn)?;
        let id = upstream.exchange?;
        let partial = upstream.partial.take();
        let request = self.exchanges.get(id).map(|exchange| RequestFacts {
            is_head: exchange.request.is_head,
            upgrade: exchange.request.upgrade,
        })?;
        let (bytes, taken) = match partial {
            None => (chunk.clone(), 0),
            Some(mut partial) => {
                if partial.page.spare().len() < chunk.len()
                    && partial.page.capacity() < engine::LARGE_BYTES
                {
                    let Ok(mut large) = self.engine.pages().large() else {
                        self.upstream_lost(conn, |_| Failure::Overloaded);
                        return None;
                    };
                    large.extend(partial.page.filled()).expect("a large page holds a small one");
                    partial.page = large;
                }
                let count = partial.page.spare().len().min(chunk.len());
                partial.page.extend(&chunk[..count]).expect("no more than fits");
                let full =
                    partial.page.len() >= self.head_limits.bytes_max.min(engine::LARGE_BYTES);
                if head_end(partial.page.filled(), &mut partial.searched).is_none() && !full {
                    self.conns.upstream(conn)?.partial = Some(partial);
                    return None;
                }
                (partial.page.freeze(), count)
            }
        };
        match parse_response(&bytes, &mut self.fields, &self.head_limits, request) {
            Ok(Some(head)) => {
                let rest = bytes.len() - head.head_len;
                if !self.upstream_response(conn, id, &bytes, &head) {
                    return None;
                }
                chunk.advance(if taken == 0 { head.head_len } else { taken - rest });
                Some(chunk)
            }
            Ok(None) if taken == 0 => {
                self.upstream_keep_partial(conn, &chunk);
                None
            }
            Ok(None) | Err(_) => {
                self.upstream_malformed(conn);
                None
            }
        }
    }

    fn upstream_keep_partial(&mut self, conn: ConnId, chunk: &Chunk) {
        let Ok(mut page) = room_for(self.engine.pages(), chunk.len()) else {
            return self.upstream_lost(conn, |_| Failure::Overloaded);
        };
        page.extend(chunk).expect("the page was asked for with this length");
        if let Some(upstream) = self.conns.upstream(conn) {
            upstream.partial = Some(Box::new(Partial { page, searched: chunk.len() }));
        }
    }

    /// A whole head. False when the connection is not to be read on as a response.
    fn upstream_response(
        &mut self,
        conn: ConnId,
        id: Id,
        bytes: &[u8],
        head: &ResponseHead,
    ) -> bool {
        if head.is_interim() {
            return self.upstream_interim(conn, id, bytes, head);
        }
        let now = self.now();
        let draining = self.life != Life::Serving;
        let Some(exchange) = self.exchanges.get_mut(id) else { return false };
        let http10 = exchange.request.http10;
        let (framing, told) = match head.framing {
            ResponseFraming::None => (Framing::Plain, ResponseFraming::None),
            ResponseFraming::Length(len) => (Framing::Plain, ResponseFraming::Length(len)),
            _ if http10 => (Framing::UntilClose, ResponseFraming::UntilClose),
            _ => (Framing::Chunked, ResponseFraming::Chunked),
        };
        let upgraded = head.status == 101;
        exchange.reply.framing = framing;
        exchange.reply.close = !upgraded
            && (!exchange.request.keep_alive
                || !exchange.request.whole
                || draining
                || framing == Framing::UntilClose);
        exchange.reply.reusable = head.keep_alive && exchange.request.whole;
        exchange.facts.first_byte_at = now;
        exchange.facts.status = head.status;
        let reply = ReplyHead {
            client_version: if http10 { Version::Http10 } else { Version::Http11 },
            close: exchange.reply.close,
            framing: told,
            keep_length: head.framing == ResponseFraming::None,
            ..ReplyHead::default()
        };
        if !self.reply_head(id, bytes, head, &reply) {
            self.upstream_malformed(conn);
            return false;
        }
        let slot = self.conns.upstream(conn).map(|upstream| upstream.origin);
        if let Some(slot) = slot
            && let Some(origin) = self.origins.get_mut(slot)
            && origin.health.succeeded()
        {
            self.count_back(slot);
        }
        self.feed(id, Happened::ResponseBegun);
        if upgraded {
            self.reply_flush(id);
            self.upgrade(id);
            return true;
        }
        self.upstream_begin_body(conn, head, bytes.len() > head.head_len)
    }

    fn upstream_begin_body(&mut self, conn: ConnId, head: &ResponseHead, more: bool) -> bool {
        let Some(upstream) = self.conns.upstream(conn) else { return false };
        upstream.body = match head.framing {
            ResponseFraming::None | ResponseFraming::Length(0) => BodyIn::None,
            ResponseFraming::Length(left) => BodyIn::Length(left),
            ResponseFraming::Chunked => BodyIn::Chunked(Box::default()),
            ResponseFraming::UntilClose => BodyIn::UntilClose,
        };
        if matches!(upstream.body, BodyIn::None) {
            self.upstream_body_done(conn, &BodyIn::None, more);
        } else {
            upstream.stage = UpStage::Body;
            let wait = self.settings.timeouts.origin_silence;
            self.set_deadline(conn, wait);
        }
        true
    }

    /// 1xx: passed on to clients that know it, and the final response is still owed.
    fn upstream_interim(
        &mut self,
        conn: ConnId,
        id: Id,
        bytes: &[u8],
        head: &ResponseHead,
    ) -> bool {
        let Some(exchange) = self.exchanges.get_mut(id) else { return false };
        exchange.reply.interim += 1;
        if exchange.reply.interim > INTERIM_MAX {
            self.upstream_malformed(conn);
            return false;
        }
        if exchange.request.http10 {
            return true;
        }
        let reply = ReplyHead { client_version: Version::Http11, ..ReplyHead::default() };
        if !self.reply_head(id, bytes, head, &reply) {
            self.upstream_malformed(conn);
            return false;
        }
        self.reply_flush(id);
        let wait = self.settings.timeouts.origin_silence;
        if self.exchanges.get(id).is_some_and(|exchange| exchange.request.whole) {
            self.set_deadline(conn, wait);
        }
        true
    }

    /// Body bytes. Gives back what follows the body.
    fn upstream_body(&mut self, conn: ConnId, mut chunk: Chunk) -> Option<Chunk> {
        let upstream = self.conns.upstream(conn)?;
        let id = upstream.exchange?;
        match &mut upstream.body {
            BodyIn::Length(left) => {
                let count = chunk.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                let done = *left == 0;
                let more = chunk.len() > count;
                let piece = chunk.split_to(count);
                self.reply_body(id, piece);
                if done {
                    self.upstream_body_done(conn, &BodyIn::None, more);
                }
                Some(chunk)
            }
            BodyIn::Chunked(decoder) => {
                let Ok((consumed, piece)) = decoder.step(&chunk) else {
                    self.upstream_malformed(conn);
                    return None;
                };
                match piece {
                    Piece::Data(range) => {
                        let piece = chunk.slice(range);
                        self.reply_body(id, piece);
                    }
                    Piece::More => {}
                    Piece::End => {
                        let body = std::mem::replace(&mut upstream.body, BodyIn::None);
                        self.upstream_body_done(conn, &body, consumed < chunk.len());
                    }
                }
                chunk.advance(consumed);
                Some(chunk)
            }
            BodyIn::UntilClose => {
                self.reply_body(id, chunk);
                None
            }
            BodyIn::None => {
                debug_assert!(false, "a body is read, but none was announced");
                None
            }
        }
    }

    /// The response is whole. `more`: bytes follow it that nobody asked for, so that the connection must not serve
    /// another exchange: they could be taken for its answer.
    pub(super) fn upstream_body_done(&mut self, conn: ConnId, body: &BodyIn, more: bool) {
        let Some(upstream) = self.conns.upstream(conn) else { return };
        let until_close = matches!(body, BodyIn::UntilClose);
        upstream.body = BodyIn::None;
        // Until it is released: whatever comes now was not asked for.
        upstream.stage = UpStage::Idle;
        let Some(id) = upstream.exchange else { return };
        // The rest came while reading was being stopped for a splice that is not needed any more.
        if let Some(exchange) = self.exchanges.get_mut(id)
            && std::mem::replace(&mut exchange.reply.splice, Splice::No) != Splice::No
        {
            self.engine.resume(conn);
        }
        if (until_close || more || self.full_page)
            && let Some(exchange) = self.exchanges.get_mut(id)
        {
            exchange.reply.reusable = false;
        }
        self.reply_end(id, body);
    }

    /// After a piece: watch the clock and the client's queue, and think of splice.
    fn upstream_watch(&mut self, conn: ConnId, id: Id) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let (client, splice) = (exchange.client, exchange.reply.splice);
        let timeouts = self.settings.timeouts;
        let Some(upstream) = self.conns.upstream(conn) else { return };
        if upstream.stage != UpStage::Body {
            return;
        }
        let left = match upstream.body {
            BodyIn::Length(left) => left,
            _ => 0,
        };
        if splice == Splice::No && left >= SPLICE_MIN_BYTES && !self.is_tls(client) {
            if let Some(exchange) = self.exchanges.get_mut(id) {
                exchange.reply.splice = Splice::Pausing;
            }
            self.deadlines.clear(conn.slot);
            return self.engine.pause(conn);
        }
        if splice != Splice::No {
            return;
        }
        if self.engine.backlog(client) > BACKLOG_HIGH_BYTES {
            if let Some(upstream) = self.conns.upstream(conn)
                && !std::mem::replace(&mut upstream.paused, true)
            {
                self.engine.pause(conn);
                self.deadlines.clear(conn.slot);
                self.await_client(client);
            }
        } else {
            self.set_deadline(conn, timeouts.origin_silence);
        }
    }

    /// The client has to read before anything goes on.
    pub(super) fn await_client(&mut self, client: ConnId) {
        let wait = self.settings.timeouts.body_silence;
        if let Some(one) = self.conns.client(client) {
            one.write_timed = true;
            self.set_deadline(client, wait);
        }
    }

    /// The client's queue is short again.
    pub(super) fn reply_drained(&mut self, id: Id, left: usize) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let Some(conn) = exchange.upstream else { return };
        match exchange.reply.splice {
            Splice::Flushing if left == 0 => self.try_splice_reply(id),
            Splice::No => {
                let wait = self.settings.timeouts.origin_silence;
                if let Some(upstream) = self.conns.upstream(conn)
                    && std::mem::take(&mut upstream.paused)
                {
                    self.engine.resume(conn);
                    self.set_deadline(conn, wait);
                }
            }
            _ => {}
        }
    }

    // === the end ===

    /// After a response: into the pool, or closed.
    pub(super) fn release_upstream(&mut self, id: Id) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let Some(conn) = exchange.upstream.take() else { return };
        let reusable = exchange.reply.reusable && self.life == Life::Serving;
        let max = self.settings.limits.upstream_idle_max as usize;
        let wait = self.settings.timeouts.upstream_idle;
        let Some(upstream) = self.conns.upstream(conn) else { return };
        upstream.exchange = None;
        upstream.stage = UpStage::Idle;
        let slot = upstream.origin;
        let clean = !upstream.paused && upstream.partial.is_none();
        match self.origins.get_mut(slot) {
            Some(origin) if reusable && clean && !origin.withdrawn && origin.idle.len() < max => {
                origin.idle.push(conn);
                upstream.pooled = true;
                self.count_pooled(slot);
                self.set_deadline(conn, wait);
            }
            _ => self.close(conn),
        }
    }

    /// An idle connection ended or spoke out of turn.
    fn upstream_discard(&mut self, conn: ConnId) {
        let Some(upstream) = self.conns.upstream(conn) else { return };
        if upstream.exchange.is_some() {
            // Bytes after the end of a response that is still being handed over: nothing that follows is trusted.
            let id = upstream.exchange;
            if let Some(exchange) = id.and_then(|id| self.exchanges.get_mut(id)) {
                exchange.reply.reusable = false;
            }
            return;
        }
        let slot = upstream.origin;
        if let Some(origin) = self.origins.get_mut(slot) {
            origin.idle.retain(|&idle| idle != conn);
        }
        self.close(conn);
    }

    fn upstream_malformed(&mut self, conn: ConnId) {
        self.upstream_lost(conn, |response_begun| Failure::UpstreamMalformed { response_begun });
    }

    /// The connection is of no use any more: tell its exchange, if it has one.
    pub(super) fn upstream_lost(&mut self, conn: ConnId, failure: impl Fn(bool) -> Failure) {
        let Some(Upstream { origin, exchange, stage, partial, .. }) = self.conns.upstream(conn)
        else {
            return;
        };
        let (slot, stage, exchange, silent) = (*origin, *stage, *exchange, partial.is_none());
        let Some(id) = exchange else { return self.upstream_discard(conn) };
        if stage == UpStage::Connecting {
            return self.upstream_connect_failed(conn, Failure::UpstreamRefused);
        }
        let begun = stage != UpStage::Head;
        // The death of a kept connection says nothing of the instance; that of a fresh one does.
        let reused = self.exchanges.get(id).is_some_and(|exchange| exchange.facts.reused);
        if !reused {
            self.origin_failed(slot, false);
        }
        self.reply_flush(id);
        // An instance of which a byte has come was at work on the request: its death did not cross it.
        let replayable = self.exchanges.get(id).is_some_and(|exchange| {
            exchange.request.replayable && silent && exchange.reply.interim == 0
        });
        self.feed(id, Happened::UpstreamLost { failure: failure(begun), replayable });
    }
}
