//! The middle of an exchange: which job, which instance, which connection; and the actions that `phase.rs` orders.
//!
//! Knows neither the client's protocol nor the sockets' world. Deliberately absent: reading (see `client.rs`,
//! `upstream.rs`) and the rules of what may follow what.

use std::net::{IpAddr, SocketAddr};

use engine::{Chunk, ConnId, Engine, Now};
use http1::{
    Forward, Known, Out, RequestFraming, RequestHead, TlsFacts, Version, client_address,
    encode_request,
};
use route::{JobSlot, Route, RouteSlot, Splitter, Table, Targets};

use super::Core;
use super::answer::page_for;
use super::conn::{BodyIn, IpText, Kind, UpStage, Upstream};
use super::exchange::{Exchange, Facts, Framing, Reply, Request, Splice};
use super::failure::Failure;
use super::origins::Origins;
use super::phase::{Action, Event as Happened, Outcome, Phase, step};
use super::slab::Id;

/// The splitters of a core, by slot of their route.
pub(super) type Splitters = Vec<Option<(RouteSlot, Splitter)>>;

/// What the table says to a request.
enum Choice {
    Serve { route: RouteSlot, job: JobSlot },
    Redirect { route: RouteSlot },
    Fail { route: Option<RouteSlot>, failure: Failure },
}

impl<E: Engine> Core<E> {
    /// Begin an exchange for a request head; the connection's stage is set already.
    pub(super) fn open(&mut self, conn: ConnId, bytes: &[u8], head: &RequestHead) {
        self.shared.stats.requests.add(1);
        let Some((peer, tls)) = self.peer_of(conn) else { return };
        let trusted = self.trusted.contains(peer);
        // Behind a balancer that ends TLS, its word counts: a redirect would come back for ever.
        let https = tls || trusted && self.came_by_https(bytes);
        let client_ip = if trusted { self.client_behind(peer, bytes) } else { peer };
        let mut keep = head.keep_alive && self.keeps_alive(conn);
        if head.max_forwards == Some(0) {
            self.answer_options(conn, keep);
            return self.client_replied(conn, keep);
        }
        match self.choose(head.host.of(bytes), head.route_path(bytes), client_ip, https) {
            Choice::Serve { route, job } => {
                let exchange = self.new_exchange(conn, head, route, job, client_ip, keep);
                self.launch(exchange, bytes, head, trusted);
            }
            Choice::Redirect { route } => {
                keep &= !head.has_body();
                keep &= self.redirect(conn, bytes, head, keep);
                self.count_answered(route, 301);
                self.client_replied(conn, keep);
            }
            Choice::Fail { route, failure } => {
                let is_head = head.method == http1::Method::Head;
                keep &= !head.has_body();
                keep &= self.answer(conn, failure, is_head, keep) > 0;
                self.count_failed_choice(conn, bytes, head, client_ip, route, failure);
                self.client_replied(conn, keep);
            }
        }
    }

    fn peer_of(&mut self, conn: ConnId) -> Option<(IpAddr, bool)> {
        let client = self.conns.client(conn)?;
        Some((client.peer.ip(), client.tls.is_some()))
    }

    /// What a trusted proxy says of the scheme; of several the one nearest to us.
    fn came_by_https(&self, bytes: &[u8]) -> bool {
        let mut said = self.fields.values(Known::XForwardedProto, bytes);
        said.next_back().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https"))
    }

    /// The last hop that is not one of ours, from what a trusted proxy says.
    fn client_behind(&self, peer: IpAddr, bytes: &[u8]) -> IpAddr {
        client_address(&self.trusted, peer, self.fields.values(Known::XForwardedFor, bytes))
    }

    fn keeps_alive(&mut self, conn: ConnId) -> bool {
        let max = self.settings.limits.connection_requests_max;
        let serving = self.life == crate::hub::Phase::Serving;
        serving && self.conns.client(conn).is_some_and(|client| max == 0 || client.served < max)
    }

    /// Host, path, https-only, client ACL, live instances, weights: in this order.
    fn choose(&mut self, host: &[u8], path: &[u8], client: IpAddr, https: bool) -> Choice {
        let Self { table, origins, splitters, shared, .. } = self;
        let Ok(route) = table.find(host, path) else {
            return Choice::Fail { route: None, failure: Failure::NoRoute };
        };
        let slot = route.slot;
        if route.https_only && !https {
            return Choice::Redirect { route: slot };
        }
        match choose_job(table, origins, splitters, route, client) {
            Ok(at) => {
                shared.stats.route(slot).picks.count(&route.targets, at);
                Choice::Serve { route: slot, job: route.targets.list[at].job }
            }
            Err(failure) => Choice::Fail { route: Some(slot), failure },
        }
    }

    /// The job for a TCP client.
    pub(super) fn choose_tcp(
        &mut self,
        addr: SocketAddr,
        client: IpAddr,
    ) -> Result<(RouteSlot, JobSlot), (Option<RouteSlot>, Failure)> {
        let Self { table, origins, splitters, shared, .. } = self;
        let route = table.tcp_route(addr).ok_or((None, Failure::NoRoute))?;
        let at = choose_job(table, origins, splitters, route, client)
            .map_err(|failure| (Some(route.slot), failure))?;
        shared.stats.route(route.slot).picks.count(&route.targets, at);
        Ok((route.slot, route.targets.list[at].job))
    }

    fn new_exchange(
        &mut self,
        conn: ConnId,
        head: &RequestHead,
        route: RouteSlot,
        job: JobSlot,
        client: IpAddr,
        keep: bool,
    ) -> Exchange {
        let now = self.now();
        let request = Request {
            head: None,
            queued: Vec::new(),
            queued_bytes: 0,
            chunked: head.framing == RequestFraming::Chunked,
            body_bytes: 0,
            whole: !head.has_body(),
            replayable: head.method.is_idempotent() && !head.has_body(),
            upgrade: head.upgrade.is_some(),
            is_head: head.method == http1::Method::Head,
            is_tcp: false,
            http10: head.version == Version::Http10,
            keep_alive: keep,
            splice: Splice::No,
        };
        let facts = Facts { bytes_in: head.head_len as u64, ..Facts::new(now, client) };
        Exchange::new(conn, self.give_up_at(now), route, job, request, facts)
    }

    pub(super) fn give_up_at(&self, now: Now) -> Now {
        let budget = self.settings.timeouts.connect_budget.as_nanos();
        Now(now.0.saturating_add(u64::try_from(budget).unwrap_or(u64::MAX)))
    }

    /// Encode the request for the instance, store the exchange, find a connection.
    fn launch(&mut self, mut exchange: Exchange, bytes: &[u8], head: &RequestHead, trusted: bool) {
        let (conn, client_ip) = (exchange.client, exchange.facts.client);
        exchange.facts.request_id = self.ids.next();
        let encoded = self.encode_head(&mut exchange, bytes, head, trusted);
        let (route, is_head) = (exchange.route, exchange.request.is_head);
        let stored = match encoded {
            Ok(chunk) => {
                exchange.request.head = Some(chunk);
                self.exchanges.insert(exchange).map_err(|_| Failure::Overloaded)
            }
            Err(failure) => Err(failure),
        };
        match stored {
            Ok(id) => {
                if let Some(client) = self.conns.client(conn) {
                    client.exchange = Some(id);
                }
                self.count_begun(route);
                self.attach(id);
            }
            Err(failure) => {
                self.answer(conn, failure, is_head, false);
                self.count_failed_choice(conn, bytes, head, client_ip, Some(route), failure);
                self.client_replied(conn, false);
            }
        }
    }

    fn encode_head(
        &mut self,
        exchange: &mut Exchange,
        bytes: &[u8],
        head: &RequestHead,
        trusted: bool,
    ) -> Result<Chunk, Failure> {
        let Self { conns, engine, doors, fields, .. } = self;
        let client = conns.client(exchange.client).ok_or(Failure::ClientGone)?;
        let port_text = doors.get(usize::from(client.door)).and_then(Option::as_ref);
        let port_text = port_text.map_or("", |door| door.port_text.as_str());
        let facts = client.tls.as_ref().and_then(|tls| tls.facts());
        exchange.facts.tls = facts.map(|facts| (facts.protocol, facts.cipher));
        let behind = trusted.then(|| IpText::new(exchange.facts.client));
        let client_ip = behind.as_ref().map_or(client.peer_text.as_str(), IpText::as_str);
        let forward = Forward {
            client_ip,
            peer_ip: client.peer_text.as_str(),
            peer_trusted: trusted,
            https: facts.map(|facts| TlsFacts {
                cipher: facts.cipher,
                protocol: facts.protocol,
                session_id: &facts.session_id,
                reused: facts.reused,
                server_name: facts.server_name.as_deref().unwrap_or_default(),
            }),
            port_text,
            request_id: &exchange.facts.request_id,
            framing: head.framing,
            expect_continue: head.expect_continue && head.version == Version::Http11,
            via: "",
            lines: b"",
        };
        let mut page = page_for(engine.pages(), head.head_len).ok_or(Failure::Overloaded)?;
        let mut out = Out::new(page.spare());
        let mut written =
            encode_request(&mut out, bytes, head, fields, &forward).map(|()| out.len());
        if written.is_err() && page.capacity() < engine::LARGE_BYTES {
            page = engine.pages().large().map_err(|_| Failure::Overloaded)?;
            let mut out = Out::new(page.spare());
            written = encode_request(&mut out, bytes, head, fields, &forward).map(|()| out.len());
        }
        let len = written.map_err(|_| Failure::Head { status: 431, code: "head_too_large" })?;
        page.advance(len);
        Ok(page.freeze())
    }

    // === finding a connection ===

    /// Choose an instance and a connection to it: one that idles, or a new one.
    pub(super) fn attach(&mut self, id: Id) {
        let now = self.now();
        let Self { origins, table, exchanges, rng, .. } = self;
        let Some(exchange) = exchanges.get_mut(id) else { return };
        let tried = exchange.tried.as_slice();
        let picked = origins.pick(exchange.job, table, tried, now, |sides| rng.below(sides));
        let fresh = matches!(exchange.phase, Phase::Connecting { .. }) || exchange.request.is_tcp;
        let Some(slot) = picked else {
            return self.feed(id, Happened::Nobody(Failure::NoInstance));
        };
        let origin = origins.get_mut(slot).expect("a picked instance is known");
        origin.in_flight += 1;
        exchange.origin = Some(slot);
        let idle = if fresh { None } else { origin.idle.pop() };
        let addr = origin.addr;
        self.count_at_origin(slot);
        if let Some(conn) = idle
            && let Some(upstream) = self.conns.upstream(conn)
        {
            upstream.exchange = Some(id);
            upstream.stage = UpStage::Head;
            upstream.pooled = false;
            self.count_unpooled(slot);
            self.note_upstream(id, conn, true);
            return self.feed(id, Happened::Reused);
        }
        match self.engine.connect(addr) {
            Ok(conn) => {
                let upstream = Upstream {
                    origin: slot,
                    stage: UpStage::Connecting,
                    paused: false,
                    pooled: false,
                    patient: false,
                    exchange: Some(id),
                    partial: None,
                    body: BodyIn::None,
                };
                self.conns.put(conn, Kind::Upstream(upstream));
                self.shared.stats.upstream_open.inc();
                let wait = self.settings.timeouts.connect;
                self.set_deadline(conn, wait);
                self.note_upstream(id, conn, false);
                self.feed(id, Happened::Dialled);
            }
            // No socket: not the instance's fault, and another instance would not help.
            Err(_) => {
                self.leave_origin(id);
                self.feed(id, Happened::Nobody(Failure::Overloaded));
            }
        }
    }

    fn note_upstream(&mut self, id: Id, conn: ConnId, reused: bool) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.upstream = Some(conn);
            exchange.facts.reused = reused;
        }
        self.shared.stats.upstream_reused.add(reused.into());
    }

    /// The exchange is not counted at its instance any more.
    pub(super) fn leave_origin(&mut self, id: Id) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let Some(slot) = exchange.origin.take() else { return };
        exchange.facts.last_origin = Some(slot);
        if let Some(origin) = self.origins.get_mut(slot) {
            origin.in_flight = origin.in_flight.saturating_sub(1);
            self.origins.forget_if_idle(slot);
        }
        self.count_left_origin(slot);
    }

    // === the phase machine ===

    /// Feed an event, carry out what it asks for.
    pub(super) fn feed(&mut self, id: Id, event: Happened) {
        let now = self.now();
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let (phase, action) = step(exchange.phase, event, now);
        exchange.phase = phase;
        match action {
            Action::Nothing => {}
            Action::Send => self.send_request(id),
            Action::Dial => self.dial_again(id),
            Action::Answer(failure) => self.end_with_answer(id, failure),
            Action::Cut(failure) => self.end_with_cut(id, failure),
            Action::Release => self.end_served(id),
        }
    }

    fn dial_again(&mut self, id: Id) {
        self.drop_upstream(id);
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.facts.retries = exchange.facts.retries.saturating_add(1);
            if let Some(slot) = exchange.facts.last_origin {
                self.shared.stats.instance(slot).retries.add(1);
            }
        }
        self.shared.stats.upstream_retries.add(1);
        self.attach(id);
    }

    /// Close the exchange's upstream connection, if it has one, and leave the instance.
    fn drop_upstream(&mut self, id: Id) {
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        if let Some(conn) = exchange.upstream.take() {
            self.abort(conn);
        }
        self.leave_origin(id);
    }

    fn end_with_answer(&mut self, id: Id, failure: Failure) {
        self.drop_upstream(id);
        let Some(mut exchange) = self.exchanges.remove(id) else { return };
        let client = exchange.client;
        if exchange.request.is_tcp {
            self.account(&exchange, Outcome::Failed(failure), 0);
            return self.abort(client);
        }
        let keep = exchange.request.keep_alive && exchange.request.whole;
        let len = self.answer(client, failure, exchange.request.is_head, keep);
        let answered = len > 0;
        exchange.facts.bytes_out += len;
        let status = failure.verdict().status.filter(|_| answered).unwrap_or(0);
        self.account(&exchange, Outcome::Failed(failure), status);
        self.client_replied(client, keep && answered);
    }

    fn end_with_cut(&mut self, id: Id, failure: Failure) {
        self.drop_upstream(id);
        let Some(exchange) = self.exchanges.remove(id) else { return };
        self.account(&exchange, Outcome::Failed(failure), exchange.facts.status);
        // Only a reset tells a client of a close-delimited body that something is missing.
        if exchange.reply.framing == Framing::UntilClose || failure == Failure::ClientSlow {
            self.abort(exchange.client);
        } else {
            self.close(exchange.client);
        }
    }

    fn end_served(&mut self, id: Id) {
        self.release_upstream(id);
        self.leave_origin(id);
        let Some(exchange) = self.exchanges.remove(id) else { return };
        self.account(&exchange, Outcome::Served, exchange.facts.status);
        self.client_replied(exchange.client, !exchange.reply.close);
    }

    /// Whether the client came over TLS: its bytes are ours to encrypt, so nothing is spliced.
    pub(super) fn is_tls(&mut self, conn: ConnId) -> bool {
        self.conns.client(conn).is_some_and(|client| client.tls.is_some())
    }
}

/// Among the jobs that admit the client and have an instance, by weight: its place in the list of targets.
fn choose_job(
    table: &Table,
    origins: &mut Origins,
    splitters: &mut Splitters,
    route: &Route,
    client: IpAddr,
) -> Result<usize, Failure> {
    let targets = &route.targets;
    let (mut admissible, mut denied, mut admitted) = (0_u64, false, false);
    for (at, target) in targets.list.iter().enumerate() {
        if !target.weight.is_active() {
            continue;
        }
        let Some(job) = origins.job(target.job, table) else { continue };
        if !job.acl.is_open() && !job.acl.admits(client) {
            denied = true;
            continue;
        }
        admitted = true;
        admissible |= u64::from(job.is_live()) << at;
    }
    let at = match (admissible, targets.list.len()) {
        (0, _) if denied && !admitted => return Err(Failure::AclDenied),
        (0, _) => return Err(Failure::NoInstance),
        (_, 1) => Some(0),
        _ => splitter(splitters, route.slot, targets).pick(targets, admissible),
    };
    at.ok_or(Failure::NoInstance)
}

/// The splitter of a route: kept while the route lives, made at its first request.
fn splitter<'a>(all: &'a mut Splitters, route: RouteSlot, targets: &Targets) -> &'a mut Splitter {
    let at = route.0.index as usize;
    if all.len() <= at {
        all.resize_with(at + 1, || None);
    }
    let entry = &mut all[at];
    if !matches!(entry, Some((owner, _)) if *owner == route) {
        *entry = Some((route, Splitter::new(targets)));
    }
    let (_, splitter) = entry.as_mut().expect("set in the line above");
    splitter
}

impl Exchange {
    /// A new exchange at its start.
    pub(super) const fn new(
        client: ConnId,
        give_up_at: Now,
        route: RouteSlot,
        job: JobSlot,
        request: Request,
        facts: Facts,
    ) -> Self {
        let reply = Reply {
            out: None,
            framing: Framing::Plain,
            close: false,
            interim: 0,
            reusable: false,
            splice: Splice::No,
        };
        Self {
            client,
            phase: Phase::Start { give_up_at },
            route,
            job,
            origin: None,
            upstream: None,
            request,
            reply,
            tried: Vec::new(),
            facts,
        }
    }

    /// The upstream is connected and takes bytes.
    pub(super) const fn is_sending(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. } | Phase::Relaying)
    }
}
