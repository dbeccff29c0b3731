//! TCP routes: a client connection looks for an instance as a request does, and becomes a relay.
//!
//! Weights and client ACL hold per connection; a refused connect goes to another instance while the connect budget
//! lasts. Deliberately absent: bytes after the connect (`relay.rs`), and any answer: TCP has none but a reset.

use std::net::SocketAddr;

use engine::{Chunk, ConnId, Engine};

use super::exchange::{Exchange, Facts, Request, Splice};
use super::failure::Failure;
use super::slab::Id;
use super::{BACKLOG_HIGH_BYTES, Core};

impl<E: Engine> Core<E> {
    /// A client came by the door of a TCP route.
    pub(super) fn tcp_opened(&mut self, conn: ConnId, addr: SocketAddr, peer: SocketAddr) {
        self.deadlines.clear(conn.slot);
        let now = self.now();
        let (route, job) = match self.choose_tcp(addr, peer.ip()) {
            Ok(chosen) => chosen,
            Err((route, failure)) => return self.tcp_refused(conn, route, failure),
        };
        let request = Request {
            head: None,
            queued: Vec::new(),
            queued_bytes: 0,
            chunked: false,
            body_bytes: 0,
            whole: false,
            replayable: false,
            upgrade: false,
            is_head: false,
            is_tcp: true,
            http10: false,
            keep_alive: false,
            splice: Splice::No,
        };
        let facts = Facts::new(now, peer.ip());
        let exchange = Exchange::new(conn, self.give_up_at(now), route, job, request, facts);
        let Ok(id) = self.exchanges.insert(exchange) else {
            return self.tcp_refused(conn, Some(route), Failure::Overloaded);
        };
        if let Some(client) = self.conns.client(conn) {
            client.exchange = Some(id);
        }
        self.count_begun(route);
        self.attach(id);
    }

    fn tcp_refused(&mut self, conn: ConnId, route: Option<route::RouteSlot>, failure: Failure) {
        self.shared.stats.failures.count(failure.verdict().label);
        if let Some(slot) = route {
            self.count_answered(slot, 0);
            let denied = u64::from(failure == Failure::AclDenied);
            self.shared.stats.route(slot).denied.add(denied);
        }
        self.abort(conn);
    }

    /// Bytes of a client whose instance is not connected yet.
    pub(super) fn tcp_early(&mut self, conn: ConnId, chunk: Chunk) {
        let chunk = chunk.compact(self.engine.pages());
        let Some(client) = self.conns.client(conn) else { return };
        let Some(exchange) = client.exchange.and_then(|id| self.exchanges.get_mut(id)) else {
            return;
        };
        exchange.request.queued_bytes += chunk.len();
        exchange.request.queued.push(chunk);
        if exchange.request.queued_bytes > BACKLOG_HIGH_BYTES && !client.paused {
            client.paused = true;
            self.engine.pause(conn);
        }
    }

    /// The instance is connected: from here on bytes move both ways.
    pub(super) fn tcp_connected(&mut self, id: Id) {
        let now = self.now();
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.facts.sent_at = now;
        exchange.facts.first_byte_at = now;
        exchange.request.queued_bytes = 0;
        let queued = std::mem::take(&mut exchange.request.queued);
        let client = exchange.client;
        let slot = exchange.origin;
        if let Some(slot) = slot
            && let Some(origin) = self.origins.get_mut(slot)
            && origin.health.succeeded()
        {
            self.count_back(slot);
        }
        if let Some(client) = self.conns.client(client) {
            client.backlog = queued;
        }
        self.begin_relay(id);
    }
}
