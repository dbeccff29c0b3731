//! One request on its way through the router and the response on its way back: the facts, not the steps.
//!
//! An exchange knows nothing of the client's protocol: it names who asks, and `reply.rs` knows how to tell them.
//! Many exchanges may name one connection. A TCP session uses the same record while it looks for an instance. Deliberately absent: sockets, parsing, decisions (`phase.rs`).

use std::net::IpAddr;

use engine::{Chunk, ConnId, Now, Page};
use route::{InstanceSlot, JobSlot, RouteSlot};

use super::phase::Phase;

/// One exchange. See the module head.
pub(crate) struct Exchange {
    /// Who asks.
    pub client: ConnId,
    /// Where it stands.
    pub phase: Phase,
    /// The route that matched.
    pub route: RouteSlot,
    /// The job that serves it.
    pub job: JobSlot,
    /// The instance that it is counted at.
    pub origin: Option<InstanceSlot>,
    /// The connection to it.
    pub upstream: Option<ConnId>,
    /// The request, towards the instance.
    pub request: Request,
    /// The response, towards the client.
    pub reply: Reply,
    /// Instances that could not be connected to.
    pub tried: Vec<InstanceSlot>,
    /// For the access log and the histograms.
    pub facts: Facts,
}

/// The request as it leaves towards the instance.
pub(crate) struct Request {
    /// The encoded head: kept for a replay, and for the access log.
    pub head: Option<Chunk>,
    /// Body that came before there was a connection to send it on.
    pub queued: Vec<Chunk>,
    /// Its bytes.
    pub queued_bytes: usize,
    /// The body leaves in chunks.
    pub chunked: bool,
    /// Body bytes so far, for the limit.
    pub body_bytes: u64,
    /// All of the request has been read from the client.
    pub whole: bool,
    /// Idempotent and without a body: may be sent twice.
    pub replayable: bool,
    /// The client asked for another protocol on this connection.
    pub upgrade: bool,
    /// It is a HEAD request.
    pub is_head: bool,
    /// It is not HTTP at all: a TCP session.
    pub is_tcp: bool,
    /// The client speaks HTTP/1.0.
    pub http10: bool,
    /// The client wants to go on with the connection.
    pub keep_alive: bool,
    /// How the body is moved past this program.
    pub splice: Splice,
}

/// The response as it leaves towards the client.
pub(crate) struct Reply {
    /// Bytes that wait to leave together with the next ones.
    pub out: Option<Page>,
    /// How the body is framed towards the client.
    pub framing: Framing,
    /// The client's connection ends with this response.
    pub close: bool,
    /// Interim responses so far.
    pub interim: u8,
    /// The upstream can serve another exchange after this one.
    pub reusable: bool,
    /// How the body is moved past this program.
    pub splice: Splice,
}

/// Framing of a body towards the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body, or a known length: bytes as they are.
    Plain,
    /// Chunks.
    Chunked,
    /// All until the connection ends.
    UntilClose,
}

/// Whether a body moves by splice(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Splice {
    /// It is copied.
    No,
    /// The source is being paused.
    Pausing,
    /// The source is paused; what was copied has to leave first.
    Flushing,
    /// It is spliced.
    Running,
}

/// What is told of an exchange afterwards. Times are the engine's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// The client, after trusted proxies.
    pub client: IpAddr,
    /// The first byte of the head was read.
    pub begun: Now,
    /// The head was whole.
    pub head_at: Now,
    /// The request was first sent to an instance.
    pub sent_at: Now,
    /// The final response head came.
    pub first_byte_at: Now,
    /// Bytes from the client, the head included.
    pub bytes_in: u64,
    /// Bytes to the client, the head included.
    pub bytes_out: u64,
    /// Status that the client was given; 0 for none.
    pub status: u16,
    /// Further connects after the first.
    pub retries: u8,
    /// A pooled connection was used.
    pub reused: bool,
    /// Protocol and cipher, when the client came over TLS.
    pub tls: Option<(&'static str, &'static str)>,
    /// The instance that it was counted at last.
    pub last_origin: Option<InstanceSlot>,
    /// The id that was sent to the instance.
    pub request_id: [u8; 32],
}

impl Facts {
    /// Of an exchange that begins now.
    pub(crate) const fn new(now: Now, client: IpAddr) -> Self {
        Self {
            client,
            begun: now,
            head_at: now,
            sent_at: Now(0),
            first_byte_at: Now(0),
            bytes_in: 0,
            bytes_out: 0,
            status: 0,
            retries: 0,
            reused: false,
            tls: None,
            last_origin: None,
            request_id: [0; 32],
        }
    }
}
