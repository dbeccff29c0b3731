//! The response on its way to a client that speaks HTTP/1.1.
//!
//! `upstream.rs` and `flow.rs` say what a response is (`reply_head`, `reply_body`, `reply_end`) and never how it is
//! written: this file is the place beside which another client protocol puts its own. Small pieces are combined in
//! one page, so that head and body leave in one send and one TLS record.
//! Deliberately absent: the router's own answers (`answer.rs`), back-pressure (`upstream.rs`).

use engine::{Chunk, Engine};
use http1::{
    CHUNK_END, LAST_CHUNK, Out, Reply as ReplyHead, ResponseHead, chunk_header, encode_response,
};

use super::Core;
use super::answer::page_for;
use super::conn::BodyIn;
use super::exchange::Framing;
use super::failure::Failure;
use super::phase::Event as Happened;
use super::slab::Id;

/// Small pieces are copied together with what precedes them; more would cost more than a second vector.
pub(super) const COMBINE_MAX_BYTES: usize = 4 * 1024;

impl<E: Engine> Core<E> {
    /// The response head, into the page that the first body bytes will share.
    pub(super) fn reply_head(
        &mut self,
        id: Id,
        bytes: &[u8],
        head: &ResponseHead,
        reply: &ReplyHead<'_>,
    ) -> bool {
        let Self { engine, fields, .. } = self;
        let Some(mut page) = page_for(engine.pages(), bytes.len().min(head.head_len + 1024)) else {
            return false;
        };
        let mut out = Out::new(page.spare());
        let mut written = encode_response(&mut out, bytes, head, fields, reply).map(|()| out.len());
        if written.is_err()
            && let Ok(large) = engine.pages().large()
        {
            page = large;
            let mut out = Out::new(page.spare());
            written = encode_response(&mut out, bytes, head, fields, reply).map(|()| out.len());
        }
        let Ok(len) = written else { return false };
        page.advance(len);
        self.reply_flush(id);
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.facts.bytes_out += len as u64;
            exchange.reply.out = Some(page);
        }
        true
    }

    /// Bytes of a response as they leave, combined with what precedes them where that is cheap.
    pub(super) fn reply_bytes(&mut self, id: Id, chunk: Chunk) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if chunk.len() <= COMBINE_MAX_BYTES
            && let Some(page) = &mut exchange.reply.out
            && page.extend(&chunk).is_ok()
        {
            return;
        }
        let client = exchange.client;
        self.reply_flush(id);
        self.client_send(client, chunk);
    }

    /// Short bytes of framing.
    fn reply_text(&mut self, id: Id, text: &[u8]) {
        let Self { exchanges, engine, .. } = self;
        let Some(exchange) = exchanges.get_mut(id) else { return };
        if let Some(page) = &mut exchange.reply.out
            && page.extend(text).is_ok()
        {
            return;
        }
        let Ok(mut page) = engine.pages().small() else {
            return self.feed(id, Happened::ClientLost(Failure::Overloaded));
        };
        page.extend(text).expect("framing fits an empty page");
        self.reply_flush(id);
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.reply.out = Some(page);
        }
    }

    /// A piece of the response body, framed as the client was told.
    pub(super) fn reply_body(&mut self, id: Id, piece: Chunk) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.facts.bytes_out += piece.len() as u64;
        if exchange.reply.framing != Framing::Chunked {
            return self.reply_bytes(id, piece);
        }
        let mut text = [0; 20];
        let header = chunk_header(piece.len(), &mut text);
        self.reply_text(id, header);
        self.reply_bytes(id, piece);
        self.reply_text(id, CHUNK_END);
    }

    /// The response body is whole.
    pub(super) fn reply_end(&mut self, id: Id, body: &BodyIn) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if exchange.reply.framing == Framing::Chunked {
            let trailers = match body {
                BodyIn::Chunked(decoder) => decoder.trailers(),
                _ => b"",
            };
            if trailers.is_empty() {
                self.reply_text(id, LAST_CHUNK);
            } else if let Some(chunk) = self.last_chunk_with(trailers) {
                self.reply_bytes(id, chunk);
            } else {
                // Without its end the body must not pass as whole.
                return self.feed(id, Happened::ClientLost(Failure::Overloaded));
            }
        }
        self.reply_flush(id);
        self.feed(id, Happened::ResponseEnded);
    }

    /// Hand over what was combined.
    pub(super) fn reply_flush(&mut self, id: Id) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let client = exchange.client;
        if let Some(page) = exchange.reply.out.take() {
            self.client_send(client, page.freeze());
        }
    }
}
