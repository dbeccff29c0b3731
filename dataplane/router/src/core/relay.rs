//! Bytes both ways between a client and an instance: tunnels after an upgrade, and TCP sessions.
//!
//! ```text
//!  each direction:  Copying ──full pages in a row──▶ Pausing ──▶ Flushing ──▶ Splicing ──FIN──▶ Ended
//!                      └──────────────────────── FIN ────────────────────────────────────────────▲
//! ```
//!
//! A FIN of one side is passed on and the other direction lives on; a reset ends both. Small messages are copied,
//! bulk moves by splice(2). Deliberately absent: any reading of the bytes.

use engine::{Chunk, ConnId, Engine, LARGE_BYTES, SpliceEnd};

use super::conn::{Kind, RelayEnd};
use super::failure::Failure;
use super::phase::Outcome;
use super::slab::Id;
use super::{BACKLOG_HIGH_BYTES, BACKLOG_LOW_BYTES, Core};

/// So many full pages in a row are bulk.
const FULL_PAGES_TO_SPLICE: u8 = 4;

/// One direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Copying { full: u8 },
    Pausing,
    Flushing,
    Splicing,
    Ended,
}

/// A pair of connections. See the module head.
pub(crate) struct Relay {
    client: ConnId,
    upstream: ConnId,
    exchange: Id,
    /// From the client, and from the upstream.
    flows: [Flow; 2],
    /// Reading from the client, and from the upstream, is stopped until the other side takes more.
    paused: [bool; 2],
    /// The client's bytes are ours to encrypt: no splice.
    tls: bool,
}

impl Relay {
    const fn other(&self, is_client: bool) -> ConnId {
        if is_client { self.upstream } else { self.client }
    }
}

const fn side(is_client: bool) -> usize {
    if is_client { 0 } else { 1 }
}

impl<E: Engine> Core<E> {
    /// Make a relay of a client connection and the upstream of its exchange.
    pub(super) fn begin_relay(&mut self, id: Id) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let (client, Some(upstream)) = (exchange.client, exchange.upstream) else { return };
        let is_tcp = exchange.request.is_tcp;
        let Some(Kind::Client(was)) = self.conns.take(client) else { return };
        let relay = Relay {
            client,
            upstream,
            exchange: id,
            flows: [Flow::Copying { full: 0 }; 2],
            paused: [was.paused, false],
            tls: was.tls.is_some(),
        };
        let taken = self.conns.take(upstream);
        self.deadlines.clear(upstream.slot);
        let Ok(relay) = self.relays.insert(relay) else {
            self.count_closed(&Kind::Client(was));
            taken.iter().for_each(|kind| self.count_closed(kind));
            self.engine.abort(client);
            self.engine.abort(upstream);
            return self.end_exchange(id, Outcome::Failed(Failure::Overloaded));
        };
        let end = |is_client, tls| Kind::Relay(RelayEnd { relay, is_client, is_tcp, tls });
        self.conns.put(client, end(true, was.tls));
        self.conns.put(upstream, end(false, None));
        let wait = self.settings.timeouts.tunnel_idle;
        self.set_deadline(client, wait);
        for chunk in was.backlog {
            self.relay_plain(client, chunk);
        }
        self.relay_sent(upstream, self.engine.backlog(upstream));
        if was.eof {
            self.relay_eof(client);
        }
    }

    /// The exchange behind a 101 becomes a tunnel.
    pub(super) fn upgrade(&mut self, id: Id) {
        self.shared.stats.open_tunnels.inc();
        self.begin_relay(id);
    }

    fn end_of(&mut self, conn: ConnId) -> Option<(Id, bool)> {
        match self.conns.get(conn)? {
            Kind::Relay(end) => Some((end.relay, end.is_client)),
            _ => None,
        }
    }

    // === events of the engine ===

    pub(super) fn relay_data(&mut self, conn: ConnId, chunk: Chunk) {
        let Self { conns, engine, tls_out, .. } = self;
        let Some(Kind::Relay(end)) = conns.get(conn) else { return };
        let Some(tls) = &mut end.tls else { return self.relay_plain(conn, chunk) };
        let outcome = tls.on_bytes(chunk, engine.pages(), tls_out);
        for chunk in tls_out.to_send.drain(..) {
            engine.send(conn, chunk);
        }
        let mut plaintext = std::mem::take(&mut self.tls_out.plaintext);
        for chunk in plaintext.drain(..) {
            self.relay_plain(conn, chunk);
        }
        self.tls_out.plaintext = plaintext;
        let closed = std::mem::take(&mut self.tls_out.peer_closed);
        if outcome.is_err() {
            self.relay_broken(conn);
        } else if closed {
            self.relay_eof(conn);
        }
    }

    /// Bytes for the other side.
    pub(super) fn relay_plain(&mut self, conn: ConnId, chunk: Chunk) {
        let Some((id, is_client)) = self.end_of(conn) else { return };
        let Some(relay) = self.relays.get_mut(id) else { return };
        let (to, tls, exchange) = (relay.other(is_client), relay.tls, relay.exchange);
        let len = chunk.len();
        let flow = &mut relay.flows[side(is_client)];
        let mut bulk = false;
        if let Flow::Copying { full } = flow {
            *full = if len >= LARGE_BYTES { full.saturating_add(1) } else { 0 };
            // Where reading is stopped already, nothing would tell that it has stopped.
            bulk = *full >= FULL_PAGES_TO_SPLICE && !tls && !relay.paused[side(is_client)];
            if bulk {
                *flow = Flow::Pausing;
            }
        }
        self.count_relayed(exchange, is_client, len as u64);
        if is_client {
            self.engine.send(to, chunk)
        } else {
            self.client_send(to, chunk)
        }
        if bulk {
            self.engine.pause(conn);
        } else if self.engine.backlog(to) > BACKLOG_HIGH_BYTES
            && let Some(relay) = self.relays.get_mut(id)
            && matches!(relay.flows[side(is_client)], Flow::Copying { .. })
            && !std::mem::replace(&mut relay.paused[side(is_client)], true)
        {
            self.engine.pause(conn);
        }
        self.relay_progress(conn);
    }

    pub(super) fn relay_sent(&mut self, conn: ConnId, left: usize) {
        self.relay_progress(conn);
        let Some((id, is_client)) = self.end_of(conn) else { return };
        let Some(relay) = self.relays.get_mut(id) else { return };
        let (source, from) = (side(!is_client), relay.other(is_client));
        match relay.flows[source] {
            Flow::Flushing if left == 0 => {
                relay.flows[source] = Flow::Splicing;
                self.engine.splice(from, conn, None);
            }
            Flow::Copying { .. }
                if left <= BACKLOG_LOW_BYTES && std::mem::take(&mut relay.paused[source]) =>
            {
                self.engine.resume(from);
            }
            _ => {}
        }
    }

    pub(super) fn relay_paused(&mut self, conn: ConnId) {
        let Some((id, is_client)) = self.end_of(conn) else { return };
        let Some(relay) = self.relays.get_mut(id) else { return };
        let to = relay.other(is_client);
        let flow = &mut relay.flows[side(is_client)];
        if *flow != Flow::Pausing {
            return;
        }
        *flow = Flow::Flushing;
        if self.engine.backlog(to) == 0 {
            *flow = Flow::Splicing;
            self.engine.splice(conn, to, None);
        }
    }

    pub(super) fn relay_spliced(&mut self, from: ConnId, to: ConnId, moved: u64, end: SpliceEnd) {
        let Some((id, is_client)) = self.end_of(from) else { return };
        let Some(exchange) = self.relays.get(id).map(|relay| relay.exchange) else { return };
        self.count_relayed(exchange, is_client, moved);
        self.shared.stats.spliced_bytes.add(moved);
        match end {
            SpliceEnd::Limit | SpliceEnd::Eof => self.relay_eof(from),
            SpliceEnd::SourceBroken(_) => self.relay_broken(from),
            SpliceEnd::TargetBroken(_) => self.relay_broken(to),
        }
    }

    pub(super) fn relay_eof(&mut self, conn: ConnId) {
        let Some((id, is_client)) = self.end_of(conn) else { return };
        let Some(relay) = self.relays.get_mut(id) else { return };
        let to = relay.other(is_client);
        relay.flows[side(is_client)] = Flow::Ended;
        let both = relay.flows == [Flow::Ended; 2];
        if !is_client {
            self.relay_goodbye(to);
        }
        self.engine.shutdown_write(to);
        if both {
            self.end_relay(id, Outcome::Served);
        }
    }

    pub(super) fn relay_broken(&mut self, conn: ConnId) {
        let Some((id, is_client)) = self.end_of(conn) else { return };
        let failure = if is_client {
            Failure::ClientGone
        } else {
            Failure::UpstreamReset { response_begun: true }
        };
        self.end_relay(id, Outcome::Failed(failure));
    }

    pub(super) fn relay_deadline(&mut self, conn: ConnId) {
        let Some((id, _)) = self.end_of(conn) else { return };
        self.end_relay(id, Outcome::Failed(Failure::TunnelIdle));
    }

    /// Something moved: the tunnel is not idle. Its one deadline is the client's.
    pub(super) fn relay_progress(&mut self, conn: ConnId) {
        let Some((id, _)) = self.end_of(conn) else { return };
        let Some(client) = self.relays.get(id).map(|relay| relay.client) else { return };
        let wait = self.settings.timeouts.tunnel_idle;
        self.set_deadline(client, wait);
    }

    // === within ===

    fn count_relayed(&mut self, exchange: Id, from_client: bool, bytes: u64) {
        let Some(exchange) = self.exchanges.get_mut(exchange) else { return };
        let facts = &mut exchange.facts;
        *(if from_client { &mut facts.bytes_in } else { &mut facts.bytes_out }) += bytes;
    }

    /// TLS says goodbye before FIN does.
    fn relay_goodbye(&mut self, conn: ConnId) {
        let Self { conns, engine, tls_send, .. } = self;
        let Some(Kind::Relay(RelayEnd { tls: Some(tls), .. })) = conns.get(conn) else { return };
        // A session that cannot say goodbye ends without.
        drop(tls.close_notify(engine.pages(), tls_send));
        for chunk in tls_send.drain(..) {
            engine.send(conn, chunk);
        }
    }

    fn end_relay(&mut self, id: Id, outcome: Outcome) {
        let Some(relay) = self.relays.remove(id) else { return };
        for conn in [relay.client, relay.upstream] {
            if outcome == Outcome::Served { self.close(conn) } else { self.abort(conn) }
        }
        self.end_exchange(relay.exchange, outcome);
    }

    /// The exchange behind a relay is over.
    fn end_exchange(&mut self, id: Id, outcome: Outcome) {
        self.leave_origin(id);
        let Some(exchange) = self.exchanges.remove(id) else { return };
        if !exchange.request.is_tcp {
            self.shared.stats.open_tunnels.dec();
        }
        self.account(&exchange, outcome, exchange.facts.status);
    }
}
