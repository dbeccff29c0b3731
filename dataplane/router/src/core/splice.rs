//! Long bodies past this program: from socket to socket by splice(2), through a pipe of the engine.
//!
//! ```text
//!  No ──long body──▶ Pausing ──source is paused──▶ Flushing ──queue is empty──▶ Running ──all moved──▶ No
//! ```
//!
//! What was read before the source stopped goes the ordinary way first, so that no byte overtakes another.
//! Deliberately absent: chunked bodies, whose framing has to be read, and TLS, whose bytes are ours to encrypt.

use engine::{ConnId, Engine, SpliceEnd};

use super::Core;
use super::conn::{BodyIn, Kind};
use super::exchange::Splice;
use super::failure::Failure;
use super::slab::Id;

impl<E: Engine> Core<E> {
    // === splice of a request body ===

    pub(super) fn try_splice_request(&mut self, id: Id) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let (client, Some(upstream)) = (exchange.client, exchange.upstream) else { return };
        if exchange.request.splice != Splice::Flushing || self.engine.backlog(upstream) > 0 {
            return;
        }
        let Some(BodyIn::Length(left)) = self.conns.client(client).map(|client| &client.body)
        else {
            exchange.request.splice = Splice::No;
            return;
        };
        exchange.request.splice = Splice::Running;
        self.engine.splice(client, upstream, Some(*left));
    }

    pub(super) fn client_spliced(&mut self, from: ConnId, _to: ConnId, moved: u64, end: SpliceEnd) {
        let Some(client) = self.conns.client(from) else { return };
        let Some(id) = client.exchange else { return };
        if let BodyIn::Length(left) = &mut client.body {
            *left = left.saturating_sub(moved);
        }
        self.shared.stats.spliced_bytes.add(moved);
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.facts.bytes_in += moved;
            exchange.request.splice = Splice::No;
        }
        match end {
            SpliceEnd::Limit => {
                self.client_body_done(from, id);
                self.client_resume(from);
            }
            SpliceEnd::Eof | SpliceEnd::SourceBroken(_) => {
                self.client_lost(from, Failure::ClientGone);
            }
            // The instance takes no more, perhaps because it has answered already: its answer, or its end, is
            // told when all that it sent has been read.
            SpliceEnd::TargetBroken(_) => {
                let wait = self.settings.timeouts.origin_silence;
                if let Some(upstream) = self.exchanges.get(id).and_then(|one| one.upstream) {
                    self.set_deadline(upstream, wait);
                }
                self.deadlines.clear(from.slot);
            }
        }
    }

    // === splice of a response body ===

    pub(super) fn try_splice_reply(&mut self, id: Id) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let (client, Some(conn)) = (exchange.client, exchange.upstream) else { return };
        if exchange.reply.splice != Splice::Flushing {
            return;
        }
        if self.engine.backlog(client) > 0 {
            return self.await_client(client);
        }
        let Some(upstream) = self.conns.upstream(conn) else { return };
        let BodyIn::Length(left) = upstream.body else { return };
        exchange.reply.splice = Splice::Running;
        self.engine.splice(conn, client, Some(left));
        self.splice_progress(conn);
    }

    /// Nothing of a response moved for a while. Whose fault is it?
    pub(super) fn splice_deadline(&mut self, conn: ConnId, client: ConnId) {
        let timeouts = self.settings.timeouts;
        if self.engine.splice_waits_for_target(conn) {
            // A client that does not read must not count against the instance.
            return self.client_lost(client, Failure::ClientSlow);
        }
        let more = timeouts.origin_silence.saturating_sub(timeouts.body_silence);
        match self.conns.upstream(conn) {
            Some(upstream) if !upstream.patient && !more.is_zero() => {
                upstream.patient = true;
                self.set_deadline(conn, more);
            }
            _ => self.upstream_broken(conn),
        }
    }

    /// An instance takes nothing of a spliced request.
    pub(super) fn upstream_stuck(&mut self, client: ConnId) {
        let id = self.conns.client(client).and_then(|client| client.exchange);
        let upstream = id.and_then(|id| self.exchanges.get(id)).and_then(|one| one.upstream);
        if let Some(upstream) = upstream {
            self.upstream_lost(upstream, |begun| match begun {
                false => Failure::UpstreamSilent,
                true => Failure::UpstreamReset { response_begun: true },
            });
        }
    }

    pub(super) fn upstream_spliced(
        &mut self,
        from: ConnId,
        _to: ConnId,
        moved: u64,
        end: SpliceEnd,
    ) {
        let Some(upstream) = self.conns.upstream(from) else { return };
        let Some(id) = upstream.exchange else { return };
        if let BodyIn::Length(left) = &mut upstream.body {
            *left = left.saturating_sub(moved);
        }
        self.shared.stats.spliced_bytes.add(moved);
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.facts.bytes_out += moved;
        exchange.reply.splice = Splice::No;
        let client = exchange.client;
        match end {
            SpliceEnd::Limit => {
                // What follows must not become the answer to the next request.
                let more = self.engine.has_unread(from);
                self.engine.resume(from);
                self.upstream_body_done(from, &BodyIn::None, more);
            }
            SpliceEnd::Eof | SpliceEnd::SourceBroken(_) => self.upstream_broken(from),
            SpliceEnd::TargetBroken(_) => self.client_broken(client),
        }
    }

    /// Bytes moved by splice: whoever was waited for is alive. The next to be waited for may be either side;
    /// when the shorter time is over, `splice_deadline` sees which.
    pub(super) fn splice_progress(&mut self, from: ConnId) {
        let timeouts = self.settings.timeouts;
        match self.conns.get(from) {
            Some(Kind::Client(_)) => self.set_deadline(from, timeouts.body_silence),
            Some(Kind::Upstream(upstream)) => {
                upstream.patient = false;
                self.set_deadline(from, timeouts.body_silence.min(timeouts.origin_silence));
            }
            Some(Kind::Relay(_)) => self.relay_progress(from),
            _ => {}
        }
    }
}
