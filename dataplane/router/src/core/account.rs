//! What is counted and logged, and when. One writer for each number: this core.
//!
//! Deliberately absent: formatting, and any decision of the data path.

use std::net::IpAddr;

use engine::{ConnId, Engine, Now};
use http1::RequestHead;
use route::{InstanceSlot, RouteSlot};

use super::conn::{Client, Kind, RelayEnd};
use super::exchange::Exchange;
use super::failure::Failure;
use super::phase::Outcome;
use super::{Core, DoorKind};
use crate::access_log::{Record, Text};

impl<E: Engine> Core<E> {
    // === connections ===

    pub(super) fn count_opened(&self, kind: DoorKind) {
        let stats = &self.shared.stats;
        let (total, open) = match kind {
            DoorKind::Http => (&stats.connections_http, &stats.open_http),
            DoorKind::Https => (&stats.connections_https, &stats.open_https),
            DoorKind::Tcp(_) => (&stats.connections_tcp, &stats.open_tcp),
        };
        total.add(1);
        open.inc();
    }

    pub(super) fn count_closed(&self, kind: &Kind) {
        let stats = &self.shared.stats;
        match kind {
            Kind::Client(Client { stage: super::conn::Stage::Raw, .. }) => stats.open_tcp.dec(),
            Kind::Client(Client { tls: Some(_), .. }) => stats.open_https.dec(),
            Kind::Client(_) => stats.open_http.dec(),
            Kind::Upstream(upstream) => {
                stats.upstream_open.dec();
                if upstream.pooled {
                    self.count_unpooled(upstream.origin);
                }
            }
            Kind::Relay(RelayEnd { is_client: false, .. }) => stats.upstream_open.dec(),
            Kind::Relay(RelayEnd { is_tcp: true, .. }) => stats.open_tcp.dec(),
            Kind::Relay(RelayEnd { tls: Some(_), .. }) => stats.open_https.dec(),
            Kind::Relay(_) => stats.open_http.dec(),
            Kind::Free | Kind::Closing { .. } => {}
        }
    }

    pub(super) fn tls_established(&mut self, conn: ConnId) {
        let idle = self.settings.timeouts.client_idle;
        let resumed = match self.conns.client(conn).and_then(|client| client.tls.as_ref()) {
            Some(tls) => tls.facts().is_some_and(|facts| facts.reused),
            None => return,
        };
        let stats = &self.shared.stats;
        if resumed {
            stats.tls_resumed.add(1)
        } else {
            stats.tls_full.add(1)
        }
        self.set_deadline(conn, idle);
    }

    pub(super) fn publish_gauges(&self) {
        let (stats, engine) = (&self.shared.stats, self.engine.stats());
        let turn = self.engine.clock().0.saturating_sub(self.now().0);
        stats.turn_longest_us.raise(turn / 1_000);
        stats.engine_enters.set(engine.enters);
        stats.engine_starved.set(engine.starved);
        stats.pages.set(engine.pages);
        stats.pages_held.set(engine.pages_held);
    }

    // === exchanges ===

    pub(super) fn count_begun(&self, route: RouteSlot) {
        let stats = &self.shared.stats;
        stats.in_flight.inc();
        let route = stats.route(route);
        route.requests.add(1);
        route.in_flight.inc();
    }

    pub(super) fn count_at_origin(&self, slot: InstanceSlot) {
        let instance = self.shared.stats.instance(slot);
        instance.requests.add(1);
        instance.in_flight.inc();
    }

    /// A connection to the instance waits in the pool from now on.
    pub(super) fn count_pooled(&self, slot: InstanceSlot) {
        self.shared.stats.upstream_idle.inc();
        self.shared.stats.instance(slot).upstream_idle.inc();
    }

    /// It does not any more.
    pub(super) fn count_unpooled(&self, slot: InstanceSlot) {
        self.shared.stats.upstream_idle.dec();
        self.shared.stats.instance(slot).upstream_idle.dec();
    }

    /// An instance that was ejected answers again.
    pub(super) fn count_back(&self, slot: InstanceSlot) {
        self.shared.stats.instance(slot).ejected.set(0);
    }

    /// Nothing may be in flight at a removed instance any more: somebody may wait for this.
    pub(super) fn count_left_origin(&self, slot: InstanceSlot) {
        let instance = self.shared.stats.instance(slot);
        instance.in_flight.dec();
        if instance.in_flight.read() == 0 {
            self.hub.note_progress();
        }
    }

    /// An instance failed an exchange or a connect.
    pub(super) fn origin_failed(&mut self, slot: InstanceSlot, connect: bool) {
        let now = self.now();
        let stats = self.shared.stats.instance(slot);
        if connect {
            stats.connects_failed.add(1)
        } else {
            stats.failures.add(1)
        }
        if let Some(origin) = self.origins.get_mut(slot)
            && origin.health.failed(now)
        {
            self.shared.stats.upstream_ejected.add(1);
            self.shared.stats.instance(slot).ejected.set(1);
        }
    }

    /// An exchange is over; `status` is what the client was given, 0 for nothing.
    pub(super) fn account(&mut self, exchange: &Exchange, outcome: Outcome, status: u16) {
        let now = self.now();
        let stats = &self.shared.stats;
        let facts = &exchange.facts;
        let nanos = now.0.saturating_sub(facts.begun.0);
        stats.in_flight.dec();
        stats.answers.count(status);
        stats.latency.record(nanos);
        stats.client_bytes_in.add(facts.bytes_in);
        stats.client_bytes_out.add(facts.bytes_out);
        let route = stats.route(exchange.route);
        route.in_flight.dec();
        route.answers.count(status);
        route.bytes_in.add(facts.bytes_in);
        route.bytes_out.add(facts.bytes_out);
        route.latency.record(nanos);
        if let Some(slot) = exchange.origin.or(facts.last_origin) {
            let instance = stats.instance(slot);
            instance.answers.count(status);
            instance.bytes_in.add(facts.bytes_in);
            instance.bytes_out.add(facts.bytes_out);
            instance.latency.record(nanos);
        }
        let reason = match outcome {
            Outcome::Served => "",
            Outcome::Failed(failure) => {
                stats.failures.count(failure.verdict().label);
                stats.bugs.add(u64::from(failure == Failure::Bug));
                failure.verdict().label
            }
        };
        if self.log.is_some() {
            self.log_exchange(exchange, status, reason);
        }
    }

    /// A request that ended before it became an exchange.
    pub(super) fn count_answered(&self, route: RouteSlot, status: u16) {
        let stats = &self.shared.stats;
        stats.answers.count(status);
        let route = stats.route(route);
        route.requests.add(1);
        route.answers.count(status);
    }

    pub(super) fn count_refused(&mut self, conn: ConnId, failure: Failure) {
        let status = failure.verdict().status.unwrap_or(0);
        self.shared.stats.answers.count(status);
        self.shared.stats.failures.count(failure.verdict().label);
        let Some(client) = self.conns.client(conn) else { return };
        let record = Record { client: client.peer.ip().to_canonical(), ..Record::default() };
        self.log_refused(record, status, failure);
    }

    /// The table had no instance for a request.
    pub(super) fn count_failed_choice(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
        head: &RequestHead,
        client: IpAddr,
        route: Option<RouteSlot>,
        failure: Failure,
    ) {
        let status = failure.verdict().status.unwrap_or(0);
        self.shared.stats.failures.count(failure.verdict().label);
        match route {
            Some(slot) => {
                self.count_answered(slot, status);
                let denied = u64::from(failure == Failure::AclDenied);
                self.shared.stats.route(slot).denied.add(denied);
            }
            None => self.shared.stats.answers.count(status),
        }
        if self.log.is_none() {
            return;
        }
        let (tls_protocol, tls_cipher) = self.tls_names(conn).unwrap_or_default();
        let record = Record {
            client: client.to_canonical(),
            method: Text::new(head.method_span.of(bytes)),
            host: Text::new(head.host.of(bytes)),
            path: Text::new(head.path_query.of(bytes)),
            route,
            tls_protocol,
            tls_cipher,
            ..Record::default()
        };
        self.log_refused(record, status, failure);
    }

    fn tls_names(&mut self, conn: ConnId) -> Option<(&'static str, &'static str)> {
        let facts = self.conns.client(conn)?.tls.as_ref()?.facts()?;
        Some((facts.protocol, facts.cipher))
    }

    // === the access log ===

    fn wall_us(&self) -> u64 {
        self.wall_zero_us + self.now().0 / 1_000
    }

    fn log_refused(&mut self, record: Record, status: u16, failure: Failure) {
        let (wall_us, reason) = (self.wall_us(), failure.verdict().label);
        let Some(log) = &mut self.log else { return };
        if log.wants(true) {
            let record = Record { wall_us, status, reason, protocol: "HTTP/1.1", ..record };
            let kept = log.push(record);
            self.shared.stats.access_log_dropped.add(u64::from(!kept));
        }
    }

    fn log_exchange(&mut self, exchange: &Exchange, status: u16, reason: &'static str) {
        let (now, wall_us) = (self.now(), self.wall_us());
        let Some(log) = &mut self.log else { return };
        if !log.wants(!reason.is_empty() || status == 0 || status >= 500) {
            return;
        }
        let facts = &exchange.facts;
        let instance = exchange.origin.or(facts.last_origin);
        let since = |at: Now| (at.0 > 0).then(|| micros(facts.begun, at));
        let (method, path, host) =
            request_texts(exchange.request.head.as_deref().unwrap_or_default());
        let (tls_protocol, tls_cipher) = facts.tls.unwrap_or_default();
        let record = Record {
            wall_us,
            client: facts.client.to_canonical(),
            method: Text::new(method),
            host: Text::new(host),
            path: Text::new(path),
            protocol: match (exchange.request.is_tcp, exchange.request.http10) {
                (true, _) => "tcp",
                (false, true) => "HTTP/1.0",
                (false, false) => "HTTP/1.1",
            },
            status,
            reason,
            route: Some(exchange.route),
            job: Some(exchange.job),
            instance,
            upstream: instance.and_then(|slot| self.origins.get(slot)).map(|origin| origin.addr),
            upstream_reused: facts.reused,
            retries: facts.retries,
            bytes_in: facts.bytes_in,
            bytes_out: facts.bytes_out,
            head_us: since(facts.head_at),
            connect_us: since(facts.sent_at),
            first_byte_us: since(facts.first_byte_at),
            total_us: micros(facts.begun, now),
            tls_protocol,
            tls_cipher,
            request_id: Text::new(if exchange.request.is_tcp { b"" } else { &facts.request_id }),
        };
        let kept = log.push(record);
        self.shared.stats.access_log_dropped.add(u64::from(!kept));
    }
}

fn micros(from: Now, to: Now) -> u32 {
    u32::try_from(to.0.saturating_sub(from.0) / 1_000).unwrap_or(u32::MAX)
}

/// Method, target and host from a head as our encoder writes it: `M SP T SP HTTP/1.1 CRLF Host: H CRLF`.
fn request_texts(head: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let mut lines = head.split(|&byte| byte == b'\n');
    let mut words = lines.next().unwrap_or_default().split(|&byte| byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let host = lines.next().unwrap_or_default();
    let host = host.strip_prefix(b"Host: ").unwrap_or_default();
    (method, target, host.strip_suffix(b"\r").unwrap_or(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_reads_what_the_encoder_writes() {
        let head = b"GET /a?b HTTP/1.1\r\nHost: x.test:80\r\nA: b\r\n\r\n";
        assert_eq!(request_texts(head), (&b"GET"[..], &b"/a?b"[..], &b"x.test:80"[..]));
        assert_eq!(request_texts(b""), (&b""[..], &b""[..], &b""[..]));
    }
}
