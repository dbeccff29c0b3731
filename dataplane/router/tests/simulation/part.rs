//! The part that an instance plays for one request, and the moves of its answer.
//!
//! Deliberately absent: sockets and time; see `origin.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use super::chance::{Chance, body};
use super::origin::Mood;
use super::pipe::Pace;
use super::wire::Head;

/// One thing that an instance does on a connection.
#[derive(Clone, Debug)]
pub(crate) enum Move {
    Bytes(Vec<u8>),
    Wait(Duration),
    /// FIN, then wait for the other side's end.
    Fin,
    /// RST.
    Reset,
    /// Close without looking: a RST when bytes are unread.
    Drop,
    /// Never do anything again.
    Halt,
    /// The answer is over; the connection is kept.
    Done,
    /// From here on the connection is a tunnel.
    Tunnel,
}

impl Move {
    /// For the story that a replay tells.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Bytes(_) => "bytes of the answer to",
            Self::Wait(_) => "a rest in the answer to",
            Self::Fin => "FIN instead of, or after, the answer to",
            Self::Reset => "RST instead of the answer to",
            Self::Drop => "close instead of the answer to",
            Self::Halt => "silence for",
            Self::Done => "end of the answer to",
            Self::Tunnel => "tunnel for",
        }
    }
}

/// What goes wrong, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Right,
    /// Answers before the request is whole.
    Early,
    /// Ends the connection without a word.
    DieAtOnce,
    DieInHead,
    DieInBody,
    /// Says something that is not HTTP.
    Garbage,
    /// Says nothing.
    Silent,
    /// Does not even read.
    Deaf,
    /// Says more than the answer.
    Extra,
    /// Keeps the connection, then ends it while it idles.
    LeaveIdle,
    /// Too many interim responses.
    Babble,
    /// Breaks the tunnel.
    BreakTunnel,
    /// For proof that the judge sees it.
    Liar,
    Shortener,
}

impl Part {
    pub(crate) fn draw(mood: Mood, head: &Head, served: usize, chance: &mut Chance) -> Self {
        let share = match mood {
            Mood::Good => 0,
            Mood::Foul(share) => share,
            Mood::Liar if served > 1 => return Self::Liar,
            Mood::Shortener => return Self::Shortener,
            Mood::Liar => return Self::Right,
        };
        if !chance.percent(share) {
            return Self::Right;
        }
        if head.get("upgrade").is_some() && chance.percent(50) {
            return Self::BreakTunnel;
        }
        *chance.pick(&[
            Self::Early,
            Self::Early,
            Self::DieAtOnce,
            Self::DieAtOnce,
            Self::DieInHead,
            Self::DieInBody,
            Self::DieInBody,
            Self::Garbage,
            Self::Silent,
            Self::Deaf,
            Self::Extra,
            Self::LeaveIdle,
            Self::LeaveIdle,
            Self::LeaveIdle,
            Self::Babble,
        ])
    }

    pub(crate) fn is_early(self) -> bool {
        matches!(self, Self::Early | Self::DieAtOnce | Self::Garbage)
    }

    pub(crate) fn is_wrong(self) -> bool {
        self != Self::Right
    }

    /// How the rest of the request is read, and whether it is not.
    pub(crate) fn reading(self, chance: &mut Chance) -> (Pace, bool) {
        (Pace::any(chance, usize::MAX), self == Self::Deaf)
    }

    /// Time before the answer.
    pub(crate) fn thinking(self, chance: &mut Chance) -> Duration {
        if chance.percent(70) { Duration::ZERO } else { chance.millis(0, 120) }
    }
}

/// The moves of an answer, and how fast they are made.
pub(crate) struct Script {
    pub(crate) moves: Vec<Move>,
    pub(crate) pace: Pace,
}

/// How the body of the answer is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    None,
    Length,
    Chunked,
    UntilClose,
}

/// Plan the answer to a request.
pub(crate) fn script(
    head: &Head,
    part: Part,
    serial: usize,
    other: usize,
    addr: SocketAddr,
    chance: &mut Chance,
) -> Script {
    let halt = |moves| Script { moves, pace: Pace::FULL };
    match part {
        Part::DieAtOnce => {
            return halt(vec![chance.pick(&[Move::Fin, Move::Reset, Move::Drop]).clone()]);
        }
        Part::Silent | Part::Deaf => return halt(vec![Move::Halt]),
        Part::Garbage => {
            let garbage =
                chance.pick(&["SSH-2.0-x\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "\0\0\0\0\r\n"]);
            return halt(vec![Move::Bytes(garbage.as_bytes().to_vec()), Move::Halt]);
        }
        _ => {}
    }
    let mut moves = interims(part, chance);
    if head.get("upgrade").is_some() && chance.percent(80) {
        moves.push(Move::Bytes(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
                .to_vec(),
        ));
        moves.push(Move::Tunnel);
        return Script { moves, pace: Pace::FULL };
    }
    answer(&mut moves, head, part, serial, other, addr, chance)
}

fn interims(part: Part, chance: &mut Chance) -> Vec<Move> {
    let count = match part {
        Part::Babble => 40,
        _ if chance.percent(85) => 0,
        _ => chance.between(1, 2),
    };
    let one = Move::Bytes(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec());
    vec![one; count]
}

fn answer(
    moves: &mut Vec<Move>,
    head: &Head,
    part: Part,
    serial: usize,
    other: usize,
    addr: SocketAddr,
    chance: &mut Chance,
) -> Script {
    let status = *chance.pick(&[200, 200, 200, 200, 201, 204, 304, 404, 500]);
    let is_head = head.word(0) == "HEAD";
    let framing = match chance.below(10) {
        _ if status == 204 => Body::None,
        _ if status == 304 => Body::None,
        0..=4 => Body::Length,
        5..=7 => Body::Chunked,
        _ => Body::UntilClose,
    };
    let len = if framing == Body::None { 0 } else { chance.body_len() };
    let sent = if part == Part::Shortener { len / 2 } else { len };
    let named = if part == Part::Liar { other } else { serial };
    let close = framing == Body::UntilClose || head.closes() || chance.percent(10);
    let trailer = framing == Body::Chunked && chance.percent(30);
    let mut text = format!(
        "HTTP/1.1 {status} Fine\r\nX-Serial: {named}\r\nX-Instance: {addr}\r\nX-Length: {len}\r\n"
    );
    match framing {
        Body::Length => text += &format!("Content-Length: {sent}\r\n"),
        Body::Chunked => text += "Transfer-Encoding: chunked\r\n",
        Body::None | Body::UntilClose => {}
    }
    text += if trailer { "X-Tail: yes\r\n" } else { "" };
    text += if close { "Connection: close\r\n\r\n" } else { "\r\n" };
    let mut bytes = text.into_bytes();
    if part == Part::DieInHead {
        bytes.truncate(chance.between(1, bytes.len() - 1));
        moves.push(Move::Bytes(bytes));
        moves.push(chance.pick(&[Move::Fin, Move::Reset, Move::Drop]).clone());
        return Script { moves: std::mem::take(moves), pace: Pace::FULL };
    }
    let head_len = bytes.len();
    let without_body = is_head || framing == Body::None;
    if !without_body {
        let whole = body(named as u64, sent);
        bytes.extend(framed(&whole, framing, trailer.then_some(serial), chance));
    }
    let pace = Pace::any(chance, bytes.len());
    if part == Part::DieInBody && bytes.len() > head_len {
        bytes.truncate(chance.between(head_len, bytes.len() - 1));
        moves.push(Move::Bytes(bytes));
        // The end of a body that has no other end cannot be told from its death, except by a reset.
        let ends: &[Move] = if framing == Body::UntilClose {
            &[Move::Reset]
        } else {
            &[Move::Fin, Move::Reset, Move::Drop]
        };
        moves.push(chance.pick(ends).clone());
        return Script { moves: std::mem::take(moves), pace };
    }
    if part == Part::Extra && framing != Body::UntilClose {
        bytes.extend_from_slice(b"\x01\x01\x01 and more\r\n");
    }
    moves.push(Move::Bytes(bytes));
    ending(moves, part, close, chance);
    Script { moves: std::mem::take(moves), pace }
}

fn ending(moves: &mut Vec<Move>, part: Part, close: bool, chance: &mut Chance) {
    if close {
        moves.push(Move::Fin);
        return;
    }
    moves.push(Move::Done);
    if part == Part::LeaveIdle {
        moves.push(Move::Wait(chance.millis(0, 30)));
        moves.push(chance.pick(&[Move::Fin, Move::Reset, Move::Drop]).clone());
    }
}

fn framed(whole: &[u8], framing: Body, trailer: Option<usize>, chance: &mut Chance) -> Vec<u8> {
    if framing != Body::Chunked {
        return whole.to_vec();
    }
    let trailer = trailer.map(|serial| format!("X-Tail: {serial}\r\n")).unwrap_or_default();
    chunked(whole, &trailer, chance)
}

/// A body in chunks of any size.
pub(crate) fn chunked(whole: &[u8], trailer: &str, chance: &mut Chance) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = whole;
    while !rest.is_empty() {
        let most = if chance.percent(30) { 40_000 } else { 3_000 };
        let (now, later) = rest.split_at(chance.between(1, most).min(rest.len()));
        bytes.extend_from_slice(format!("{:x}\r\n", now.len()).as_bytes());
        bytes.extend_from_slice(now);
        bytes.extend_from_slice(b"\r\n");
        rest = later;
    }
    bytes.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
    bytes
}
