//! One connection of the load: what it still has to send, how far its message is, who it is.
//!
//! ```text
//!   client:  Opening ──▶ Waiting ⇄ Free            (keep-alive)
//!            Opening ──▶ Waiting ──▶ Ending ──▶ gone  (a connection for each exchange)
//!   origin:  reads a request, answers, for ever
//! ```
//!
//! Deliberately absent: choosing when an exchange begins (`epoll.rs`).

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::net::{self, RecvFlags};
use rustls::{ClientConnection, HandshakeKind};

use super::sockets;
use crate::message::{Fault, Reader, Shape};

/// Bodies are discarded unread by the kernel when at least this much is left, except on sampled exchanges.
const SKIP_BYTES_MIN: usize = 32 << 10;
/// One exchange in this many is read and compared byte by byte however long it is; the first one always.
const SAMPLE_EVERY: u32 = 16;

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    Opening,
    Free,
    Waiting {
        intended_ns: u64,
    },
    /// The answer was right; the proxy has to close now.
    Ending {
        intended_ns: u64,
    },
}

/// Which end of the proxy a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client(Client),
    Origin,
}

/// What the incoming bytes amount to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// Nothing whole yet.
    More,
    /// One whole message.
    Message,
    /// The peer has closed, between messages.
    End,
}

/// One connection.
pub(super) struct Link {
    pub(super) fd: OwnedFd,
    pub(super) side: Side,
    reader: Reader,
    unsent: &'static [u8],
    tls: Option<Box<Secured>>,
    messages: u32,
}

struct Secured {
    session: ClientConnection,
    sealed: Vec<u8>,
    sealed_sent: usize,
}

impl Link {
    pub(super) fn new(fd: OwnedFd, side: Side, session: Option<ClientConnection>) -> Self {
        let secure = |session| Box::new(Secured { session, sealed: Vec::new(), sealed_sent: 0 });
        let reader = Reader::default();
        Self { fd, side, reader, unsent: &[], tls: session.map(secure), messages: 0 }
    }

    /// Whether TLS, if there is any, resumed an earlier session.
    pub(super) fn resumed(&self) -> bool {
        self.tls
            .as_ref()
            .is_none_or(|tls| tls.session.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Begins to send a message.
    pub(super) fn send(&mut self, message: &'static [u8]) -> Result<(), String> {
        if let Some(tls) = &mut self.tls {
            tls.session.writer().write_all(message).map_err(|e| e.to_string())?;
        } else {
            debug_assert!(self.unsent.is_empty(), "one message at a time");
            self.unsent = message;
        }
        self.flush()
    }

    /// Sends what is waiting, as far as the socket takes it.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        let text = |e: rustix::io::Errno| format!("send: {e}");
        if let Some(tls) = &mut self.tls {
            while tls.session.wants_write() {
                tls.session.write_tls(&mut tls.sealed).map_err(|e| e.to_string())?;
            }
            tls.sealed_sent +=
                sockets::send(&self.fd, &tls.sealed[tls.sealed_sent..]).map_err(text)?;
            if tls.sealed_sent == tls.sealed.len() {
                tls.sealed.clear();
                tls.sealed_sent = 0;
            }
            return Ok(());
        }
        while !self.unsent.is_empty() {
            match sockets::send(&self.fd, self.unsent).map_err(text)? {
                0 => break,
                sent => self.unsent = &self.unsent[sent..],
            }
        }
        Ok(())
    }

    /// Receives once. `None` when nothing more is there now; the flag tells that more may be there.
    pub(super) fn receive(
        &mut self,
        shape: Shape,
        scratch: &mut [u8],
    ) -> Result<Option<(Got, bool)>, String> {
        let skips = !self.messages.is_multiple_of(SAMPLE_EVERY)
            && self.reader.body_left(shape) >= SKIP_BYTES_MIN;
        let skips = skips && self.tls.is_none();
        let room =
            if skips { self.reader.body_left(shape).min(scratch.len()) } else { scratch.len() };
        let flags = if skips { RecvFlags::TRUNC } else { RecvFlags::empty() };
        let received = match net::recv(&self.fd, &mut scratch[..room], flags) {
            Ok((_, received)) => received,
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(format!("receive: {error}")),
        };
        if received == 0 {
            let between = self.reader.is_between();
            return if between {
                Ok(Some((Got::End, false)))
            } else {
                Err("cut inside a message".to_owned())
            };
        }
        let fault = |fault: Fault| fault.to_string();
        let done = if skips {
            self.reader.skip(shape, received).map_err(fault)?
        } else if self.tls.is_some() {
            self.decrypt(shape, &scratch[..received])?
        } else {
            self.reader.feed(shape, &scratch[..received]).map_err(fault)?
        };
        self.messages += u32::from(done);
        Ok(Some((if done { Got::Message } else { Got::More }, received == room)))
    }

    fn decrypt(&mut self, shape: Shape, mut bytes: &[u8]) -> Result<bool, String> {
        let Some(tls) = &mut self.tls else { return Ok(false) };
        let mut plain = [0; 4096];
        let mut done = false;
        while !bytes.is_empty() {
            tls.session.read_tls(&mut bytes).map_err(|e| e.to_string())?;
            tls.session.process_new_packets().map_err(|e| format!("TLS: {e}"))?;
            while let Ok(count @ 1..) = tls.session.reader().read(&mut plain) {
                done |= self.reader.feed(shape, &plain[..count]).map_err(|e| e.to_string())?;
            }
        }
        self.flush()?;
        Ok(done)
    }
}
