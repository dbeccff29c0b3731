//! The request on its way to the instance: sent at once, or queued until there is a connection.
//!
//! HTTP/1.1 on the wire, whatever the client speaks. Deliberately absent: reading from the client (`client.rs`),
//! the encoding of the head (`flow.rs` keeps it for a replay).

use engine::{Chunk, Engine};
use http1::{CHUNK_END, LAST_CHUNK, LAST_CHUNK_START, chunk_header};

use super::Core;
use super::answer::room_for;
use super::conn::BodyIn;
use super::failure::Failure;
use super::phase::{Event as Happened, Phase};
use super::reply::COMBINE_MAX_BYTES;
use super::slab::Id;

impl<E: Engine> Core<E> {
    /// The connection is there: send the head and what came of the body.
    pub(super) fn send_request(&mut self, id: Id) {
        let now = self.now();
        let Self { exchanges, engine, .. } = self;
        let Some(exchange) = exchanges.get_mut(id) else { return };
        if exchange.request.is_tcp {
            return self.tcp_connected(id);
        }
        let Some(conn) = exchange.upstream else { return };
        exchange.facts.sent_at = now;
        if let Some(head) = &exchange.request.head {
            engine.send(conn, head.clone());
        }
        for chunk in exchange.request.queued.drain(..) {
            engine.send(conn, chunk);
        }
        exchange.request.queued_bytes = 0;
        let (client, whole) = (exchange.client, exchange.request.whole);
        if whole {
            let wait = self.settings.timeouts.origin_silence;
            self.set_deadline(conn, wait);
        } else {
            self.deadlines.clear(conn.slot);
            self.client_resume(client);
        }
    }

    /// A piece of the request body.
    pub(super) fn request_body(&mut self, id: Id, piece: Chunk) {
        let max = self.settings.limits.body_bytes_max;
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.facts.bytes_in += piece.len() as u64;
        exchange.request.body_bytes += piece.len() as u64;
        if max > 0 && exchange.request.body_bytes > max {
            return self.feed(id, Happened::ClientLost(Failure::BodyTooLarge));
        }
        if !exchange.request.chunked {
            return self.request_bytes(id, piece);
        }
        let mut text = [0; 20];
        let header = chunk_header(piece.len(), &mut text);
        if header.len() + piece.len() + CHUNK_END.len() <= COMBINE_MAX_BYTES
            && let Ok(mut page) =
                room_for(self.engine.pages(), header.len() + piece.len() + CHUNK_END.len())
        {
            let parts = [header, &piece[..], CHUNK_END];
            parts.iter().for_each(|part| page.extend(part).expect("asked for with this length"));
            return self.request_bytes(id, page.freeze());
        }
        let Ok(mut page) = self.engine.pages().small() else {
            return self.feed(id, Happened::ClientLost(Failure::Overloaded));
        };
        page.extend(header).expect("a chunk header is 20 bytes at most");
        self.request_bytes(id, page.freeze());
        self.request_bytes(id, piece);
        self.request_bytes(id, Chunk::from_static(CHUNK_END));
    }

    /// The request is whole.
    pub(super) fn request_end(&mut self, id: Id, body: &BodyIn) {
        if let BodyIn::Chunked(decoder) = body {
            let trailers = decoder.trailers();
            if trailers.is_empty() {
                self.request_bytes(id, Chunk::from_static(LAST_CHUNK));
            } else if let Some(chunk) = self.last_chunk_with(trailers) {
                self.request_bytes(id, chunk);
            } else {
                return self.feed(id, Happened::ClientLost(Failure::Overloaded));
            }
        }
        let wait = self.settings.timeouts.origin_silence;
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.request.whole = true;
        let waiting = matches!(exchange.phase, Phase::Waiting { .. });
        if let (Some(conn), true) = (exchange.upstream, waiting) {
            self.set_deadline(conn, wait);
        }
    }

    /// The end of a chunked body that has trailers, in one page.
    pub(super) fn last_chunk_with(&self, trailers: &[u8]) -> Option<Chunk> {
        let len = LAST_CHUNK_START.len() + trailers.len() + CHUNK_END.len();
        let mut page = room_for(self.engine.pages(), len).ok()?;
        for part in [LAST_CHUNK_START, trailers, CHUNK_END] {
            page.extend(part).ok()?;
        }
        Some(page.freeze())
    }

    /// Bytes as they leave: now, or when there is a connection.
    fn request_bytes(&mut self, id: Id, chunk: Chunk) {
        let Self { exchanges, engine, .. } = self;
        let Some(exchange) = exchanges.get_mut(id) else { return };
        match exchange.upstream {
            Some(conn) if exchange.is_sending() => engine.send(conn, chunk),
            _ if matches!(exchange.phase, Phase::Closed(_)) => {}
            _ => {
                exchange.request.queued_bytes += chunk.len();
                exchange.request.queued.push(chunk);
            }
        }
    }
}
