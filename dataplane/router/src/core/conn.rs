//! What a core remembers of each connection, in a table indexed by the engine's slots.
//!
//! An idle connection is its entry here and nothing else: pages, exchanges and queues exist only while bytes move.
//! Deliberately absent: behaviour. `client.rs`, `upstream.rs` and `relay.rs` own that.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use engine::{Chunk, ConnId, Page};
use http1::Chunked;
use route::InstanceSlot;

use super::slab::Id;
use crate::tls::TlsSession;

/// One entry of the table.
pub(crate) struct Conn {
    /// Which connection this is; the entry of another generation is somebody else's.
    pub id: ConnId,
    /// What it is.
    pub kind: Kind,
}

/// What a connection is to the router.
pub(crate) enum Kind {
    /// Nothing: the slot is free.
    Free,
    /// A client that speaks HTTP/1.1, or a TCP client whose instance is not connected yet.
    Client(Client),
    /// A connection to an instance that speaks HTTP/1.1, or one that is being made.
    Upstream(Upstream),
    /// One end of a tunnel or of a TCP session.
    Relay(RelayEnd),
    /// Handed to the engine to send what is left. When nothing of it left within the time-out, it is cut.
    Closing {
        /// Bytes that were queued when the time-out was set.
        left: usize,
    },
}

/// A client connection.
pub(crate) struct Client {
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// The peer's address as text, for headers.
    pub peer_text: IpText,
    /// Index of the door (listener) that it came through.
    pub door: u16,
    /// What is being read.
    pub stage: Stage,
    /// Reading is stopped.
    pub paused: bool,
    /// The client has sent FIN.
    pub eof: bool,
    /// What was stashed is being taken up: whoever ends an exchange meanwhile leaves the rest to that loop.
    pub taking_up: bool,
    /// The deadline in force is for the client to read.
    pub write_timed: bool,
    /// Requests begun on this connection.
    pub served: u32,
    /// Bytes dropped while lingering.
    pub lingered: u32,
    /// The exchange in progress.
    pub exchange: Option<Id>,
    /// TLS, when the door has it.
    pub tls: Option<Box<TlsSession>>,
    /// A request head of which not all has come.
    pub partial: Option<Box<Partial>>,
    /// What is left to read of the request body.
    pub body: BodyIn,
    /// Pipelined bytes that wait for the exchange in progress.
    pub backlog: Vec<Chunk>,
}

/// What is being read from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A request head, or nothing yet.
    Head,
    /// A request body.
    Body,
    /// Nothing: the exchange in progress has its whole request.
    Waiting,
    /// The rest of a request that was answered early is dropped, so that the answer arrives.
    Lingering,
    /// A TCP session that has no instance yet.
    Raw,
}

/// A connection to an instance.
pub(crate) struct Upstream {
    /// Which instance.
    pub origin: InstanceSlot,
    /// What is being read.
    pub stage: UpStage,
    /// Reading is stopped because the client does not take more.
    pub paused: bool,
    /// It waits in the pool and is counted there.
    pub pooled: bool,
    /// The shorter of two time-outs of a splice has passed, and the longer one runs.
    pub patient: bool,
    /// The exchange in progress.
    pub exchange: Option<Id>,
    /// A response head of which not all has come.
    pub partial: Option<Box<Partial>>,
    /// What is left to read of the response body.
    pub body: BodyIn,
}

/// What is being read from an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpStage {
    /// The connection is being made.
    Connecting,
    /// Nothing: it waits in the pool.
    Idle,
    /// A response head.
    Head,
    /// A response body.
    Body,
}

/// What is left of a message body, as it is framed on the wire.
pub(crate) enum BodyIn {
    /// Nothing.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Box<Chunked>),
    /// All that comes before FIN.
    UntilClose,
}

/// The beginning of a head.
pub(crate) struct Partial {
    /// Its bytes.
    pub page: Page,
    /// How far the end was looked for.
    pub searched: usize,
}

/// One end of a relay.
pub(crate) struct RelayEnd {
    /// Which relay.
    pub relay: Id,
    /// This is the client's end.
    pub is_client: bool,
    /// The client came by a TCP route, not by an upgrade. Its door may be closed by now.
    pub is_tcp: bool,
    /// TLS towards the client.
    pub tls: Option<Box<TlsSession>>,
}

/// An IP address as text, without allocation.
#[derive(Clone, Copy)]
pub(crate) struct IpText {
    len: u8,
    text: [u8; 45],
}

impl IpText {
    /// The canonical text; an IPv4-mapped address is written as IPv4.
    pub(crate) fn new(ip: IpAddr) -> Self {
        let mut text = Self { len: 0, text: [0; 45] };
        write!(text, "{}", ip.to_canonical()).expect("the longest IPv6 text has 45 bytes");
        text
    }

    /// As a string.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl std::fmt::Write for IpText {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let at = usize::from(self.len);
        let room = self.text.get_mut(at..at + part.len()).ok_or(std::fmt::Error)?;
        room.copy_from_slice(part.as_bytes());
        self.len += u8::try_from(part.len()).map_err(|_| std::fmt::Error)?;
        Ok(())
    }
}

/// Entries that are made at a time. A table that grew by copying itself would leave holes as big as it was.
const BLOCK: usize = 256;

/// The table. See the module head.
#[derive(Default)]
pub(crate) struct Conns {
    blocks: Vec<Box<[Conn]>>,
    clients: usize,
}

impl Conns {
    /// Note what a connection is from now on; gives what it was.
    pub(crate) fn put(&mut self, id: ConnId, kind: Kind) -> Kind {
        while self.blocks.len() * BLOCK <= id.slot as usize {
            let free = || Conn { id: ConnId { slot: 0, generation: 0 }, kind: Kind::Free };
            self.blocks.push(std::iter::repeat_with(free).take(BLOCK).collect());
        }
        let slot = id.slot as usize;
        let entry = &mut self.blocks[slot / BLOCK][slot % BLOCK];
        entry.id = id;
        let is_client = kind.is_client();
        let old = std::mem::replace(&mut entry.kind, kind);
        self.clients -= usize::from(old.is_client());
        self.clients += usize::from(is_client);
        old
    }

    /// Take a connection out of the table.
    pub(crate) fn take(&mut self, id: ConnId) -> Option<Kind> {
        self.get(id)?;
        Some(self.put(id, Kind::Free))
    }

    /// The entry of this very connection.
    pub(crate) fn get(&mut self, id: ConnId) -> Option<&mut Kind> {
        let slot = id.slot as usize;
        let entry = &mut self.blocks.get_mut(slot / BLOCK)?[slot % BLOCK];
        (entry.id == id && !matches!(entry.kind, Kind::Free)).then_some(&mut entry.kind)
    }

    /// The client of this id.
    pub(crate) fn client(&mut self, id: ConnId) -> Option<&mut Client> {
        match self.get(id)? {
            Kind::Client(client) => Some(client),
            _ => None,
        }
    }

    /// The upstream of this id.
    pub(crate) fn upstream(&mut self, id: ConnId) -> Option<&mut Upstream> {
        match self.get(id)? {
            Kind::Upstream(upstream) => Some(upstream),
            _ => None,
        }
    }

    /// The connection in a slot, if there is one.
    pub(crate) fn in_slot(&self, slot: u32) -> Option<ConnId> {
        let slot = slot as usize;
        let entry = &self.blocks.get(slot / BLOCK)?[slot % BLOCK];
        (!matches!(entry.kind, Kind::Free)).then_some(entry.id)
    }

    /// Connections that came from clients, relays included.
    pub(crate) const fn clients(&self) -> usize {
        self.clients
    }

    /// Every connection, for a drain.
    pub(crate) fn ids(&self) -> Vec<ConnId> {
        let used = self.blocks.iter().flatten().filter(|entry| !matches!(entry.kind, Kind::Free));
        used.map(|entry| entry.id).collect()
    }
}

impl Kind {
    const fn is_client(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Relay(RelayEnd { is_client: true, .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_canonically() {
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        for (given, wanted) in
            [("::ffff:10.1.2.3", "10.1.2.3"), ("2001:db8::1", "2001:db8::1"), (longest, longest)]
        {
            assert_eq!(IpText::new(given.parse().unwrap()).as_str(), wanted);
        }
    }

    /// Goal: the user memory of an idle connection stays within the promise (with the engine's slot, 0.5 KiB).
    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Conn>() <= 256, "{} bytes", size_of::<Conn>());
    }

    #[test]
    fn an_old_id_does_not_reach_the_successor() {
        let mut conns = Conns::default();
        let old = ConnId { slot: 2, generation: 0 };
        let new = ConnId { slot: 2, generation: 1 };
        conns.put(old, Kind::Closing { left: 1 });
        conns.put(new, Kind::Closing { left: 1 });
        assert!(conns.get(old).is_none());
        assert!(conns.take(old).is_none());
        assert!(conns.take(new).is_some());
        assert!(conns.in_slot(2).is_none());
    }
}
