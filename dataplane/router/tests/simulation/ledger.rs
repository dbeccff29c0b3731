//! What was asked, what arrived where, what was answered; and the judge of it all. It never looks inside the router.
//!
//! ```text
//!   client ──begin, whole──▶ Request ◀──answered, ended── client
//!                               ▲
//!                    Arrival ───┘ ◀── origin: arrive, wrote, died
//! ```
//!
//! Every request has a number of its own, and so has every arrival at an instance: a response names both, and its
//! body is that of the arrival's number. So a stranger's bytes, a hole or a second answer cannot pass.
//! Deliberately absent: sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use engine::Now;

use super::tables::Tables;

/// One request of a client, or one session on a TCP route.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    /// Host, for HTTP.
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) body_len: usize,
    pub(crate) has_body: bool,
    /// It says that it is the last one of its connection.
    pub(crate) last: bool,
    /// Address of the TCP route; `None` for HTTP.
    pub(crate) tcp: Option<SocketAddr>,
    /// The oldest version that a core served when the first byte left. `None`: not begun.
    pub(crate) seen_from: Option<u64>,
    /// All of it was handed to the network.
    pub(crate) whole: bool,
    /// The client did something for which it may go without an answer.
    pub(crate) excused: bool,
    pub(crate) arrivals: Vec<usize>,
    pub(crate) answer: Answer,
}

/// What a client got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answer {
    #[default]
    None,
    /// A head came, its end did not.
    Begun,
    /// The router's own, whole.
    Own,
    /// An instance's, whole.
    Whole,
}

impl Request {
    /// May be sent twice by HTTP's own rules.
    pub(crate) fn is_replayable(&self) -> bool {
        let idempotent = !matches!(self.method, "POST" | "PATCH");
        idempotent && !self.has_body && self.tcp.is_none()
    }
}

/// A request as an instance saw it.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) request: usize,
    pub(crate) instance: SocketAddr,
    /// The connection had carried a request before.
    pub(crate) reused: bool,
    /// Bytes of a response that the instance wrote.
    pub(crate) wrote: usize,
    /// The instance has ended the connection, or seen its end.
    pub(crate) dead: bool,
}

/// See the module head.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Nothing in this life may fail a client that behaves.
    pub(crate) fair: bool,
    /// The network itself breaks connections, so that an instance does not know what the router has seen.
    pub(crate) breaks: bool,
    pub(crate) tables: Tables,
    pub(crate) requests: Vec<Request>,
    pub(crate) arrivals: Vec<Arrival>,
    /// What happened how often, so that a simulation in which nothing happens is noticed.
    pub(crate) marks: BTreeMap<String, u64>,
    pub(crate) complaints: Vec<String>,
    /// A digest of all that happened, in order: two lives of one seed must have the same.
    pub(crate) digest: u64,
    /// Virtual time, for the story.
    pub(crate) now: Now,
    /// Print what happens.
    pub(crate) aloud: bool,
}

impl Ledger {
    pub(crate) fn mark(&mut self, what: &str) {
        *self.marks.entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    pub(crate) fn note(&mut self, what: &str, number: usize) {
        if self.aloud {
            println!("{:>12.6} {what} {number}", self.now.0 as f64 / 1e9);
        }
        for byte in what.bytes().chain(number.to_le_bytes()) {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    // === what clients say ===

    /// A number for a request that is going to be made.
    pub(crate) fn plan(&mut self, request: Request) -> usize {
        self.requests.push(request);
        self.requests.len() - 1
    }

    /// Its first byte leaves.
    pub(crate) fn begin(&mut self, number: usize) {
        self.note("begin", number);
        self.requests[number].seen_from = Some(self.tables.served);
    }

    /// Its last byte has left.
    pub(crate) fn whole(&mut self, number: usize) {
        self.note("whole", number);
        self.requests[number].whole = true;
    }

    pub(crate) fn excuse(&mut self, number: usize) {
        self.requests[number].excused = true;
    }

    /// The head of an instance's response.
    pub(crate) fn answered(&mut self, number: usize, serial: usize, instance: &str) {
        self.note("answered", serial);
        let Some(arrival) = self.arrivals.get(serial) else {
            return self.complain(format!("answer {serial} to request {number} was never made"));
        };
        if arrival.request != number {
            let other = arrival.request;
            self.complain(format!("request {number} got the answer to request {other}"));
        } else if arrival.instance.to_string() != instance {
            self.complain(format!("answer {serial} is not of instance {instance}"));
        }
        self.head_came(number);
    }

    /// The head of an answer that the router made itself.
    pub(crate) fn refused(&mut self, number: usize, status: &str, code: &str) {
        self.note(code, number);
        self.mark(code);
        let request = &self.requests[number];
        let possible = match code {
            "no_route" => self.tables.may_have_no_route(request),
            "no_instance" => self.tables.may_have_no_instance(request),
            _ => !self.fair || request.excused,
        };
        if !possible {
            self.complain(format!(
                "request {number} was refused with {status} {code}: {request:?}"
            ));
        }
        self.head_came(number);
    }

    fn head_came(&mut self, number: usize) {
        if self.requests[number].answer != Answer::None {
            self.complain(format!("request {number} was answered twice"));
        }
        self.requests[number].answer = Answer::Begun;
    }

    /// The answer ended where it should.
    pub(crate) fn ended(&mut self, number: usize, own: bool) {
        self.note("ended", number);
        self.mark(if own { "answered by the router" } else { "served whole" });
        self.requests[number].answer = if own { Answer::Own } else { Answer::Whole };
    }

    // === what instances say ===

    /// A request, or a session, is at an instance. Gives the number of its answer.
    pub(crate) fn arrive(
        &mut self,
        number: usize,
        instance: SocketAddr,
        reused: bool,
    ) -> Option<usize> {
        self.note(&format!("at {instance} arrives"), number);
        let Some(request) = self.requests.get(number).cloned() else {
            self.complain(format!("request {number} was never made, but is at {instance}"));
            return None;
        };
        if !self.tables.may_serve(&request, instance) {
            let from = request.seen_from;
            let to = self.tables.newest;
            self.complain(format!(
                "request {number} is at {instance}, which no version from {from:?} to {to} allows: {request:?}"
            ));
        }
        if let Some(&first) = request.arrivals.first() {
            let before = self.arrivals[first].clone();
            let died = self.breaks || before.dead && before.wrote == 0;
            let allowed = request.is_replayable() && before.reused && died;
            if !allowed || request.arrivals.len() > 1 {
                self.complain(format!(
                    "request {number} reached an instance again: {request:?}, first {before:?}"
                ));
            }
            self.mark("replayed");
        }
        let serial = self.arrivals.len();
        self.arrivals.push(Arrival { request: number, instance, reused, wrote: 0, dead: false });
        self.requests[number].arrivals.push(serial);
        Some(serial)
    }

    /// The request body is whole, as far as the instance can tell.
    pub(crate) fn body_arrived(&mut self, number: usize, len: usize) {
        let wanted = self.requests[number].body_len;
        if len != wanted {
            self.complain(format!("request {number} arrived whole with {len} of {wanted} bytes"));
        }
    }

    // === the end ===

    /// In a fair life everybody who behaved has been served.
    pub(crate) fn check_served(&mut self) {
        if !self.fair {
            return;
        }
        let unserved = self.requests.iter().enumerate().filter(|(_, request)| {
            request.whole && !request.excused && request.answer != Answer::Whole
        });
        let unserved: Vec<_> =
            unserved.map(|(number, request)| format!("request {number}: {request:?}")).collect();
        self.complaints.extend(unserved.iter().map(|one| format!("not served: {one}")));
    }
}
