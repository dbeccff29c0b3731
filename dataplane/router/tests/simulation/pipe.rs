//! How actors use their sockets: paced writing and reading, and streams that prove themselves whole.
//!
//! Deliberately absent: protocols.

use std::collections::VecDeque;
use std::time::Duration;

use engine::Now;
use engine::sim::{Found, Socket};

use super::chance::{Chance, body_part, stranger};

/// How fast an actor moves bytes: so many at a time, then a rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) piece: usize,
    pub(crate) rest: Duration,
}

impl Pace {
    pub(crate) const FULL: Self = Self { piece: 64 * 1024, rest: Duration::ZERO };

    /// Mostly at once; some dribble. A dribbler's message is small enough to end within the time-outs.
    pub(crate) fn any(chance: &mut Chance, bytes: usize) -> Self {
        match chance.below(6) {
            0 if bytes < 2_000 => {
                Self { piece: chance.between(1, 40).max(bytes / 60), rest: chance.millis(0, 20) }
            }
            1 => Self { piece: chance.between(1_000, 9_000), rest: chance.millis(0, 8) },
            _ => Self::FULL,
        }
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: VecDeque<u8>,
    next_at: Now,
}

impl Outbox {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Write what the pace and the network take. `Err`: the connection takes nothing any more.
    pub(crate) fn write(&mut self, socket: &Socket, pace: Pace, now: Now) -> Result<usize, ()> {
        let mut written = 0;
        while !self.bytes.is_empty() && now >= self.next_at {
            let count = self.bytes.len().min(pace.piece);
            let piece = &self.bytes.make_contiguous()[..count];
            let Ok(taken) = socket.write(piece) else { return Err(()) };
            if taken == 0 {
                break;
            }
            self.bytes.drain(..taken);
            written += taken;
            if !pace.rest.is_zero() {
                self.next_at = after(now, pace.rest);
            }
        }
        Ok(written)
    }

    /// When the pace allows more.
    pub(crate) fn wake(&self, now: Now) -> Option<Now> {
        (!self.bytes.is_empty() && self.next_at > now).then_some(self.next_at)
    }
}

/// Reading at a pace.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    next_at: Now,
}

impl Inbox {
    /// One read, when the pace allows it.
    pub(crate) fn read(&mut self, socket: &Socket, pace: Pace, now: Now) -> Found {
        if now < self.next_at {
            return Found::Nothing;
        }
        let found = socket.read(pace.piece.min(16 * 1024));
        if matches!(found, Found::Bytes(_)) && !pace.rest.is_zero() {
            self.next_at = after(now, pace.rest);
        }
        found
    }

    pub(crate) fn wake(&self, now: Now) -> Option<Now> {
        (self.next_at > now).then_some(self.next_at)
    }
}

pub(crate) fn after(now: Now, time: Duration) -> Now {
    Now(now.0 + u64::try_from(time.as_nanos()).expect("a short time"))
}

/// Bytes of the header of a stream: its number and its length.
const STREAM_HEAD: usize = 16;

/// One direction out of a tunnel or a TCP session: number, length, and the body of that number.
#[derive(Debug)]
pub(crate) struct StreamOut {
    number: u64,
    len: usize,
    at: usize,
    outbox: Outbox,
    pub(crate) pace: Pace,
    /// Break the connection when so many bytes were written.
    pub(crate) breaks_at: Option<usize>,
    pub(crate) fin_sent: bool,
}

impl StreamOut {
    pub(crate) fn new(number: usize, len: usize, pace: Pace) -> Self {
        let mut outbox = Outbox::default();
        outbox.push(&(number as u64).to_le_bytes());
        outbox.push(&(len as u64).to_le_bytes());
        Self { number: number as u64, len, at: 0, outbox, pace, breaks_at: None, fin_sent: false }
    }

    /// Write on; FIN after the last byte. `Err`: the connection broke, or is to be broken now.
    pub(crate) fn write(&mut self, socket: &Socket, now: Now) -> Result<usize, ()> {
        if self.fin_sent {
            return Ok(0);
        }
        if self.outbox.is_empty() && self.at < self.len {
            let end = self.len.min(self.at + 32 * 1024);
            self.outbox.push(&body_part(self.number, self.at, end - self.at));
            self.at = end;
        }
        let written = self.outbox.write(socket, self.pace, now)?;
        if self.breaks_at.is_some_and(|end| self.at >= end) {
            return Err(());
        }
        if self.outbox.is_empty() && self.at == self.len {
            self.fin_sent = true;
            socket.fin();
        }
        Ok(written)
    }

    pub(crate) fn wake(&self, now: Now) -> Option<Now> {
        self.outbox.wake(now)
    }
}

/// One direction into it.
#[derive(Debug, Default)]
pub(crate) struct StreamIn {
    head: Vec<u8>,
    got: usize,
    pub(crate) eof: bool,
}

impl StreamIn {
    /// The number of the stream, once it is known.
    pub(crate) fn number(&self) -> Option<u64> {
        self.word(0)
    }

    fn len(&self) -> Option<u64> {
        self.word(8)
    }

    fn word(&self, at: usize) -> Option<u64> {
        let bytes = self.head.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    /// Bytes came. `Err` says what is wrong with them.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        let missing = STREAM_HEAD - self.head.len();
        let (head, rest) = bytes.split_at(missing.min(bytes.len()));
        self.head.extend(head);
        bytes = rest;
        let Some(number) = self.number() else { return Ok(()) };
        if let Some(at) = stranger(number, self.got, bytes) {
            return Err(format!("byte {at} of stream {number} is a stranger"));
        }
        self.got += bytes.len();
        Ok(())
    }

    /// FIN came: then all must have come.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.eof = true;
        match self.len() {
            Some(len) if len == self.got as u64 => Ok(()),
            wanted => Err(format!(
                "stream {:?} ended properly with {} of {wanted:?} bytes",
                self.number(),
                self.got
            )),
        }
    }
}
