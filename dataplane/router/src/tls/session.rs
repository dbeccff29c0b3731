//! One TLS connection without its socket: bytes in, plaintext and bytes to send out.
//!
//! ```text
//!                 first bytes are HTTP, too many bytes, protocol error
//!   Handshaking ────────────────────────────────────────────────────────▶ Failed (alert is in to_send)
//!        │ finished: facts                                                   ▲
//!        ▼                                                                   │
//!      Open ──────────────────────────────────────────────────────────────────┘
//!        │ close_notify from the peer: what it sends after is ignored, we may still send
//!        │ close_notify from us: nothing more is sent, what the peer sends still arrives
//! ```
//!
//! Records that arrive whole are decrypted in the page they were received in. Only the beginning of a record whose
//! rest is still on its way is kept, on the heap, and given back as soon as the record is whole: an idle connection
//! has no buffer. Outgoing records are sized so that one record fills one page.
//!
//! rustls remembers places in bytes it has seen but not used (a handshake message in several records), so every call
//! into it gets those bytes again: never an empty slice while something is pending.
//! Deliberately absent: time-outs, sockets, half-RTT and early data. In builds with debug assertions rustls 0.23 panics
//! when a peer breaks the protocol after our `close_notify`; built for release it answers with an alert.

use std::mem;
use std::sync::Arc;

use engine::{Chunk, LARGE_BYTES, Page, PagePool, PoolExhausted};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{HandshakeKind, ProtocolVersion};

use super::facts::{self, Alpn, SessionFacts};
use super::output::{Flight, Plaintext, Server, page_for};
use super::store::TlsStore;
use super::ticket::{self, Notes};

/// Bytes a client may send until its handshake is done, hellos and all.
pub const HANDSHAKE_BYTES_MAX: usize = 32 * 1024;
/// The longest record either version allows: header, plaintext, the most that TLS 1.2 lets a cipher add.
const RECORD_BYTES_MAX: usize = RECORD_HEADER_BYTES + 16 * 1024 + 2048;
const RECORD_HEADER_BYTES: usize = 5;
/// Room in each page for what is not plaintext: header, nonce, tag, type (29 bytes), and two key updates that may
/// have to go first (27 bytes each).
const RECORD_ROOM_BYTES: usize = 96;
/// Plaintext of one outgoing record, so that the record fits a large page.
pub(super) const FRAGMENT_BYTES_MAX: usize = LARGE_BYTES - RECORD_ROOM_BYTES;
const ALERT_DECODE_ERROR: u8 = 50;
const TLS13: ProtocolVersion = ProtocolVersion::TLSv1_3;

/// What one call produced. Reuse it: the core takes the chunks out and keeps the vectors.
#[derive(Debug, Default)]
pub struct TlsOutput {
    /// Decrypted bytes, in order.
    pub plaintext: Vec<Chunk>,
    /// Bytes for the socket, in order.
    pub to_send: Vec<Chunk>,
    /// The peer said that it sends no more. Set, never cleared.
    pub peer_closed: bool,
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// The client speaks plain HTTP; `to_send` holds an answer it understands.
    #[error("plain HTTP on a TLS port")]
    PlainHttp,
    /// More than [`HANDSHAKE_BYTES_MAX`] bytes without a finished handshake.
    #[error("no finished handshake within {HANDSHAKE_BYTES_MAX} bytes")]
    HandshakeTooLong,
    /// More pending bytes than a record may have.
    #[error("a message that does not end within one record")]
    MessageTooLong,
    /// rustls ended the session; if the peer is to hear of it, `to_send` holds the alert.
    #[error("{0}")]
    Protocol(rustls::Error),
    /// Plaintext was given before the handshake was done.
    #[error("the handshake is not done")]
    Handshaking,
    /// The session has failed before, or we have said that we send no more.
    #[error("the session is closed")]
    Closed,
    /// The keys of a TLS 1.2 session have encrypted as much as is safe.
    #[error("the session's keys are used up")]
    KeysUsedUp,
    /// No page for the output; the session is lost, because records cannot be taken back.
    #[error("no page is free")]
    NoPage,
}

impl TlsError {
    /// A stable word for metrics and the access log.
    pub const fn code(&self) -> &'static str {
        use rustls::Error as E;
        match self {
            Self::PlainHttp => "tls_plain_http",
            Self::HandshakeTooLong => "tls_handshake_too_long",
            Self::MessageTooLong => "tls_message_too_long",
            Self::Handshaking => "tls_handshaking",
            Self::Closed => "tls_closed",
            Self::KeysUsedUp => "tls_keys_used_up",
            Self::NoPage => "tls_no_page",
            Self::Protocol(E::AlertReceived(_)) => "tls_alert_received",
            Self::Protocol(E::InvalidMessage(_)) => "tls_malformed",
            Self::Protocol(E::DecryptError) => "tls_bad_mac",
            Self::Protocol(E::PeerIncompatible(_)) => "tls_incompatible",
            Self::Protocol(E::NoApplicationProtocol) => "tls_no_alpn",
            Self::Protocol(E::PeerMisbehaved(_) | E::PeerSentOversizedRecord) => "tls_misbehaved",
            Self::Protocol(_) => "tls_failed",
        }
    }
}

impl From<PoolExhausted> for TlsError {
    fn from(_: PoolExhausted) -> Self {
        Self::NoPage
    }
}

/// What is needed only until the handshake is done.
struct Handshake {
    /// `None` while lent to rustls' callbacks.
    notes: Option<Box<Notes>>,
    received: usize,
}

/// One TLS connection, server side.
pub struct TlsSession {
    conn: UnbufferedServerConnection,
    /// Received and not yet used by rustls: at most one record, or one unfinished handshake message.
    pending: Vec<u8>,
    handshake: Option<Handshake>,
    facts: Option<Box<SessionFacts>>,
    /// Session tickets that wait for the first answer, to leave with it in one write.
    tickets: Option<Chunk>,
    /// No more bytes from the peer are of interest.
    peer_closed: bool,
    /// We have said that we send no more.
    closed: bool,
    failed: bool,
}

impl TlsSession {
    /// A session that waits for the client's hello. Holds on to `store` for its whole life.
    pub fn new(store: &Arc<TlsStore>) -> Self {
        let handshake = Handshake { notes: None, received: 0 };
        Self {
            conn: store.connection(),
            pending: Vec::new(),
            handshake: Some(handshake),
            facts: None,
            tickets: None,
            peer_closed: false,
            closed: false,
            failed: false,
        }
    }

    /// Whether the handshake is still going on.
    pub const fn handshaking(&self) -> bool {
        self.handshake.is_some()
    }

    /// What the handshake agreed on; `None` until it is done.
    pub fn facts(&self) -> Option<&SessionFacts> {
        self.facts.as_deref()
    }

    /// Take bytes from the socket. Appends to `out`.
    ///
    /// # Errors
    /// The session is over; `out` holds what came before, and in `to_send` the alert if there is one. Send it, then
    /// close.
    pub fn on_bytes(
        &mut self,
        mut incoming: Chunk,
        pages: &PagePool,
        out: &mut TlsOutput,
    ) -> Result<(), TlsError> {
        if self.failed {
            return Err(TlsError::Closed);
        }
        self.count_handshake_bytes(&incoming, out)?;
        while !incoming.is_empty() && !self.peer_closed {
            if self.pending.is_empty()
                && let Some(bytes) = incoming.try_mut()
            {
                let used = self.process(bytes, pages, out)?;
                self.pending.extend_from_slice(&bytes[used..]);
                break;
            }
            let room = self.pending_bytes_max().saturating_sub(self.pending.len());
            let count = self.wanted().min(incoming.len()).min(room);
            if count == 0 {
                return Err(self.refuse(TlsError::MessageTooLong, out));
            }
            self.pending.extend_from_slice(&incoming[..count]);
            incoming.advance(count);
            let mut pending = mem::take(&mut self.pending);
            let used = self.process(&mut pending, pages, out)?;
            if used < pending.len() {
                pending.drain(..used);
                self.pending = pending;
            }
        }
        if self.peer_closed {
            self.pending = Vec::new();
        }
        Ok(())
    }

    /// Bounds on what a client may do before it has proven to be one.
    fn count_handshake_bytes(
        &mut self,
        incoming: &[u8],
        out: &mut TlsOutput,
    ) -> Result<(), TlsError> {
        let Some(handshake) = &mut self.handshake else { return Ok(()) };
        if handshake.received == 0 && looks_like_http(incoming) {
            self.failed = true;
            out.to_send.push(Chunk::from_static(PLAIN_HTTP_ANSWER));
            return Err(TlsError::PlainHttp);
        }
        handshake.received += incoming.len();
        match handshake.received > HANDSHAKE_BYTES_MAX {
            true => Err(self.refuse(TlsError::HandshakeTooLong, out)),
            false => Ok(()),
        }
    }

    const fn pending_bytes_max(&self) -> usize {
        if self.handshaking() { HANDSHAKE_BYTES_MAX } else { RECORD_BYTES_MAX }
    }

    /// How many bytes complete the pending record, so that those after it can be used where they are.
    fn wanted(&self) -> usize {
        match self.pending.as_slice() {
            [] => usize::MAX,
            _ if self.handshaking() => usize::MAX,
            &[_, _, _, high, low, ..] => {
                let whole = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
                // Whole, yet pending: a handshake message that goes on in the next record.
                whole.checked_sub(self.pending.len()).filter(|&more| more > 0).unwrap_or(usize::MAX)
            }
            short => RECORD_HEADER_BYTES - short.len(),
        }
    }

    /// Let rustls work through `bytes`. Gives how many of them it needs no more.
    fn process(
        &mut self,
        bytes: &mut [u8],
        pages: &PagePool,
        out: &mut TlsOutput,
    ) -> Result<usize, TlsError> {
        let mut plaintext = Plaintext::new(bytes.len(), pages);
        let mut flight = Flight::new(pages);
        let mut used = 0;
        loop {
            self.lend_notes()?;
            let status = self.conn.process_tls_records(&mut bytes[used..]);
            let UnbufferedStatus { mut discard, state } = status;
            if let Some(handshake) = &mut self.handshake {
                handshake.notes = ticket::reclaim();
            }
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        None => break Ok(Step::Again),
                        Some(Ok(record)) => {
                            discard += record.discard;
                            if let Err(error) = plaintext.append(record.payload, &mut out.plaintext)
                            {
                                break Err(error);
                            }
                        }
                        Some(Err(error)) => break Err(TlsError::Protocol(error)),
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    out.to_send.extend(self.tickets.take());
                    flight.append(&mut record, &mut out.to_send).map(|()| Step::Again)
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => {
                    sent.done();
                    Ok(Step::Again)
                }
                Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
                // Early data is switched off, so rustls never shows any; another state is unknown to this version.
                Ok(_) => Ok(Step::Wait),
                Err(error) => Err(TlsError::Protocol(error)),
            };
            used += discard;
            match step {
                Ok(Step::Again) => self.settle(),
                Ok(Step::PeerClosed) => (self.peer_closed, out.peer_closed) = (true, true),
                Ok(Step::Wait) => break,
                Err(error) => {
                    plaintext.finish(&mut out.plaintext);
                    flight.finish(&mut out.to_send);
                    self.fail(&mut bytes[used..], pages, out);
                    return Err(error);
                }
            }
        }
        let request_is_here = plaintext.any();
        plaintext.finish(&mut out.plaintext);
        if self.finish_handshake() && request_is_here && self.conn.protocol_version() == Some(TLS13)
        {
            // Only tickets are left to send, and an answer is to be expected soon.
            self.tickets = flight.take();
        }
        flight.finish(&mut out.to_send);
        Ok(used)
    }

    /// Before each call into rustls during the handshake.
    fn lend_notes(&mut self) -> Result<(), TlsError> {
        if let Some(handshake) = &mut self.handshake {
            ticket::lend(match handshake.notes.take() {
                Some(notes) => notes,
                None => match Notes::new() {
                    Ok(notes) => Box::new(notes),
                    Err(error) => {
                        self.failed = true;
                        return Err(TlsError::Protocol(error));
                    }
                },
            });
        }
        Ok(())
    }

    /// After each call into rustls during the handshake.
    fn settle(&mut self) {
        let kind = self.conn.handshake_kind();
        if let Some(notes) = self.handshake.as_mut().and_then(|handshake| handshake.notes.as_mut())
        {
            notes.settle(kind);
        }
    }

    /// Write down the facts when the handshake is done. Gives whether it was done just now.
    fn finish_handshake(&mut self) -> bool {
        if self.handshake.is_none() || self.conn.is_handshaking() {
            return false;
        }
        self.settle();
        let (Some(suite), Some(version)) =
            (self.conn.negotiated_cipher_suite(), self.conn.protocol_version())
        else {
            return false;
        };
        let Some(notes) = self.handshake.take().and_then(|handshake| handshake.notes) else {
            return false;
        };
        self.facts = Some(Box::new(SessionFacts {
            cipher: facts::cipher_name(suite.suite()),
            protocol: facts::protocol_name(version),
            session_id: facts::hex(&notes.identity),
            reused: self.conn.handshake_kind() == Some(HandshakeKind::Resumed),
            server_name: notes.server_name.map(String::into_boxed_str),
            alpn: Alpn::from_wire(self.conn.alpn_protocol()),
        }));
        true
    }

    /// rustls has given up: collect the alert. `rest` is what it may still point into.
    fn fail(&mut self, rest: &mut [u8], pages: &PagePool, out: &mut TlsOutput) {
        self.failed = true;
        // Records are numbered: what waits goes first.
        out.to_send.extend(self.tickets.take());
        let mut flight = Flight::new(pages);
        while self.conn.wants_write() {
            match self.conn.process_tls_records(rest).state {
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    // Without a page for the alert, the peer has to do with the end of the connection.
                    if flight.append(&mut record, &mut out.to_send).is_err() {
                        break;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                _ => break,
            }
        }
        flight.finish(&mut out.to_send);
        self.pending = Vec::new();
    }

    /// We give up, for a reason rustls does not know.
    fn refuse(&mut self, error: TlsError, out: &mut TlsOutput) -> TlsError {
        const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, ALERT_DECODE_ERROR];
        self.failed = true;
        self.pending = Vec::new();
        // Once a suite is agreed on, a plain alert could not be told from an attacker's.
        if self.conn.negotiated_cipher_suite().is_none() {
            out.to_send.push(Chunk::from_static(ALERT));
        }
        error
    }

    /// Encrypt `plain`, in records of at most one page each. Appends to `to_send`.
    ///
    /// # Errors
    /// [`TlsError::Handshaking`] changes nothing; after any other error the session can only be dropped.
    pub fn encrypt(
        &mut self,
        plain: &[u8],
        pages: &PagePool,
        to_send: &mut Vec<Chunk>,
    ) -> Result<(), TlsError> {
        self.encrypt_parts(&[plain], pages, to_send)
    }

    /// As [`TlsSession::encrypt`] of all `parts` after each other. Small parts share a record: a head and its body
    /// then cost one encryption, not two.
    ///
    /// # Errors
    /// As [`TlsSession::encrypt`].
    pub fn encrypt_parts(
        &mut self,
        parts: &[&[u8]],
        pages: &PagePool,
        to_send: &mut Vec<Chunk>,
    ) -> Result<(), TlsError> {
        let mut left: usize = parts.iter().map(|part| part.len()).sum();
        let mut gathered: Option<Page> = None;
        for part in parts {
            let mut part = *part;
            while !part.is_empty() {
                let held = gathered.as_ref().map_or(0, Page::len);
                let fragment = left.min(FRAGMENT_BYTES_MAX);
                let count = part.len().min(fragment - held.min(fragment));
                if held == 0 && count == fragment {
                    // The part alone makes a record.
                    self.encrypt_record(&part[..count], pages, to_send)?;
                    left -= count;
                } else {
                    let mut page = match gathered.take() {
                        Some(page) => page,
                        None => page_for(fragment, pages)?,
                    };
                    page.extend(&part[..count]).map_err(|_| TlsError::NoPage)?;
                    if page.len() == fragment {
                        self.encrypt_record(page.filled(), pages, to_send)?;
                        left -= fragment;
                    } else {
                        gathered = Some(page);
                    }
                }
                part = &part[count..];
            }
        }
        Ok(())
    }

    /// Encrypt one record of at most [`FRAGMENT_BYTES_MAX`].
    fn encrypt_record(
        &mut self,
        plain: &[u8],
        pages: &PagePool,
        to_send: &mut Vec<Chunk>,
    ) -> Result<(), TlsError> {
        let mut page = page_for(plain.len() + RECORD_ROOM_BYTES, pages)?;
        let count = self.write(pages, to_send, |traffic| traffic.encrypt(plain, page.spare()))?;
        page.advance(count);
        to_send.push(page.freeze());
        Ok(())
    }

    /// Say that we send no more. Once; later calls do nothing, nor does one during the handshake.
    ///
    /// # Errors
    /// As [`TlsSession::encrypt`].
    pub fn close_notify(
        &mut self,
        pages: &PagePool,
        to_send: &mut Vec<Chunk>,
    ) -> Result<(), TlsError> {
        if self.closed || self.failed || self.handshaking() {
            return Ok(());
        }
        let mut page = pages.small()?;
        let count =
            self.write(pages, to_send, |traffic| traffic.queue_close_notify(page.spare()))?;
        self.closed = true;
        page.advance(count);
        to_send.push(page.freeze());
        Ok(())
    }

    /// Bring rustls to where it lets us write, and do it. What it wants to send before goes first.
    fn write(
        &mut self,
        pages: &PagePool,
        to_send: &mut Vec<Chunk>,
        mut act: impl FnMut(&mut WriteTraffic<'_, Server>) -> Result<usize, EncryptError>,
    ) -> Result<usize, TlsError> {
        if self.failed || self.closed {
            return Err(TlsError::Closed);
        }
        if self.handshaking() {
            return Err(TlsError::Handshaking);
        }
        to_send.extend(self.tickets.take());
        let (mut pending, mut used) = (mem::take(&mut self.pending), 0);
        let mut flight = Flight::new(pages);
        let result = loop {
            let status = self.conn.process_tls_records(&mut pending[used..]);
            used += status.discard;
            match status.state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    break act(&mut traffic).map_err(|error| match error {
                        EncryptError::EncryptExhausted => TlsError::KeysUsedUp,
                        // The room in each page is for the most that can go first.
                        EncryptError::InsufficientSize(_) => TlsError::NoPage,
                    });
                }
                Ok(ConnectionState::EncodeTlsData(mut record)) => {
                    if let Err(error) = flight.append(&mut record, to_send) {
                        break Err(error);
                    }
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(_) => break Err(TlsError::Closed),
                Err(error) => break Err(TlsError::Protocol(error)),
            }
        };
        flight.finish(to_send);
        pending.drain(..used);
        self.pending = pending;
        self.failed |= result.is_err();
        result
    }
}

enum Step {
    Again,
    PeerClosed,
    Wait,
}

/// Whether a client that should speak TLS speaks HTTP: no TLS record begins with a capital letter.
fn looks_like_http(bytes: &[u8]) -> bool {
    const METHODS: [&[u8]; 9] =
        [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"PATC", b"CONN", b"PRI "];
    METHODS.iter().any(|method| bytes.starts_with(method))
}

/// nginx's answer in our words.
const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 53\r\n\
    Connection: close\r\n\
    Apcera-Error: plain_http_on_tls_port\r\n\
    \r\n\
    Plain HTTP was sent to a TLS port: try https:// here\n";
