//! An instance: an HTTP/1.1 server that plays a part drawn by chance, from faultless to hopeless.
//!
//! ```text
//!   Asking ──head──▶ Reading ──whole──▶ Answering ──▶ Asking (kept) or Over
//!                       └──answered early──▲
//! ```
//!
//! Deliberately absent: knowledge of the router. What arrives is reported to the ledger, which judges.

use std::collections::VecDeque;
use std::net::SocketAddr;

use engine::Now;
use engine::sim::{Door, Found, Socket, World};

use super::chance::{Chance, stranger};
use super::ledger::Ledger;
use super::part::{Move, Part as Role, script};
use super::pipe::{Inbox, Outbox, Pace, StreamIn, StreamOut, after};
use super::wire::{Framing, Head, Part, Reader};

/// How an instance behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Slow at times, in every framing, but faultless.
    Good,
    /// As above, and in so many of a hundred cases something is wrong.
    Foul(usize),
    /// It gives the answer to another request: only for proof that the judge sees it.
    Liar,
    /// It ends bodies properly that are not whole: only for proof.
    Shortener,
}

/// One instance. See the module head.
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    pub(crate) mood: Mood,
    world: World,
    door: Option<Door>,
    conns: Vec<Conn>,
    chance: Chance,
}

struct Conn {
    socket: Socket,
    reader: Reader,
    inbox: Inbox,
    outbox: Outbox,
    read_pace: Pace,
    write_pace: Pace,
    /// Requests begun on this connection.
    served: usize,
    asked: Option<Asked>,
    moves: VecDeque<Move>,
    wait_until: Now,
    /// Nothing is read any more.
    deaf: bool,
    tunnel: Option<(StreamOut, StreamIn)>,
    over: bool,
}

/// The request that is being read or answered.
struct Asked {
    number: usize,
    serial: usize,
    head: Head,
    got: usize,
    whole: bool,
    role: Role,
    /// The moves are planned.
    begun: bool,
}

impl Origin {
    pub(crate) fn new(world: &World, addr: SocketAddr, mood: Mood, chance: Chance) -> Self {
        let mut origin =
            Self { addr, mood, world: world.clone(), door: None, conns: Vec::new(), chance };
        origin.open();
        origin
    }

    /// Listen, if it does not.
    pub(crate) fn open(&mut self) {
        let listen = || self.world.listen(self.addr).expect("the simulated world always listens");
        self.door.get_or_insert_with(listen);
    }

    /// Refuse everybody from now on.
    pub(crate) fn shut(&mut self) {
        self.door = None;
    }

    pub(crate) fn is_open(&self) -> bool {
        self.door.is_some()
    }

    /// The process dies: all its connections break.
    pub(crate) fn die(&mut self, ledger: &mut Ledger) {
        self.shut();
        for conn in self.conns.drain(..) {
            conn.socket.reset();
            note_death(&conn, ledger);
        }
    }

    /// Connections of which the end has not been seen.
    pub(crate) fn open_conns(&self) -> usize {
        self.conns.len()
    }

    /// Do what can be done now. True when bytes moved.
    pub(crate) fn act(&mut self, now: Now, ledger: &mut Ledger) -> bool {
        while let Some((socket, _)) = self.door.as_ref().and_then(Door::accept) {
            self.conns.push(Conn::new(socket));
        }
        let mut moved = false;
        for conn in &mut self.conns {
            moved |= conn.act(self.addr, self.mood, &mut self.chance, now, ledger);
        }
        for conn in self.conns.extract_if(.., |conn| conn.over) {
            note_death(&conn, ledger);
        }
        moved
    }

    pub(crate) fn wake(&self, now: Now) -> Option<Now> {
        self.conns.iter().filter_map(|conn| conn.wake(now)).min()
    }
}

fn note_death(conn: &Conn, ledger: &mut Ledger) {
    if let Some(asked) = &conn.asked {
        ledger.arrivals[asked.serial].dead = true;
    }
}

impl Conn {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            reader: Reader::default(),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            read_pace: Pace::FULL,
            write_pace: Pace::FULL,
            served: 0,
            asked: None,
            moves: VecDeque::new(),
            wait_until: Now(0),
            deaf: false,
            tunnel: None,
            over: false,
        }
    }

    fn wake(&self, now: Now) -> Option<Now> {
        let tunnel = self.tunnel.as_ref().and_then(|(out, _)| out.wake(now));
        let wait = (self.wait_until > now).then_some(self.wait_until);
        [self.outbox.wake(now), self.inbox.wake(now), wait, tunnel].into_iter().flatten().min()
    }

    fn act(
        &mut self,
        addr: SocketAddr,
        mood: Mood,
        chance: &mut Chance,
        now: Now,
        ledger: &mut Ledger,
    ) -> bool {
        let mut moved = false;
        // In calm weather even the deaf hear that nobody speaks to them any more.
        self.deaf &= mood != Mood::Good;
        while !self.over && !self.deaf {
            match self.inbox.read(&self.socket, self.read_pace, now) {
                Found::Nothing => break,
                Found::Bytes(bytes) => {
                    moved = true;
                    self.take(&bytes, addr, mood, chance, now, ledger);
                }
                Found::Eof => {
                    self.eof(ledger);
                    break;
                }
                Found::Broken(_) => self.over = true,
            }
        }
        moved | self.go_on(addr, chance, now, ledger)
    }

    fn eof(&mut self, ledger: &mut Ledger) {
        match &mut self.tunnel {
            // A client that went before it said anything was told nothing.
            Some((_, stream)) if stream.number().is_none() => stream.eof = true,
            Some((_, stream)) if !stream.eof => {
                if let Err(what) = stream.end() {
                    ledger.complain(format!("at an instance: {what}"));
                }
            }
            Some(_) => {}
            // The router never half-closes: whatever we still have to say, nobody listens.
            None => self.over = true,
        }
    }

    fn take(
        &mut self,
        bytes: &[u8],
        addr: SocketAddr,
        mood: Mood,
        chance: &mut Chance,
        now: Now,
        ledger: &mut Ledger,
    ) {
        if let Some((_, stream)) = &mut self.tunnel {
            if let Err(what) = stream.take(bytes) {
                ledger.complain(format!("at instance {addr}: {what}"));
                self.over = true;
            }
            return;
        }
        self.reader.push(bytes);
        loop {
            match self.reader.next() {
                Ok(Some(Part::Head(head))) => self.head(head, addr, mood, chance, now, ledger),
                Ok(Some(Part::Body(bytes))) => self.body(&bytes, ledger),
                Ok(Some(Part::End(_))) => self.whole(ledger),
                Ok(None) => return,
                Err(what) => {
                    ledger.complain(format!("at instance {addr}: {what}"));
                    self.over = true;
                    return;
                }
            }
            if self.over || self.tunnel.is_some() {
                return;
            }
        }
    }

    fn head(
        &mut self,
        head: Head,
        addr: SocketAddr,
        mood: Mood,
        chance: &mut Chance,
        now: Now,
        ledger: &mut Ledger,
    ) {
        if self.asked.is_some() {
            ledger.complain(format!("a second request at {addr} before the first was answered"));
        }
        let (Some(number), Some(path)) = (head.number("x-number"), head.word(1).rsplit('/').next())
        else {
            return ledger.complain(format!("a stranger's request at {addr}: {head:?}"));
        };
        let number = usize::try_from(number).expect("a number of ours");
        if path != number.to_string() {
            ledger.complain(format!("request {number} came with another's path: {head:?}"));
        }
        if head.get("x-forwarded-port") != Some("80") {
            ledger.complain(format!("request {number} does not name its port: {head:?}"));
        }
        let Some(serial) = ledger.arrive(number, addr, self.served > 0) else {
            self.over = true;
            return;
        };
        self.served += 1;
        let framing = match head.number("content-length") {
            Some(len) => Framing::Length(len),
            None if head.is_chunked() => Framing::Chunked,
            None => Framing::None,
        };
        self.reader.begin(framing);
        let role = Role::draw(mood, &head, self.served, chance);
        (self.read_pace, self.deaf) = role.reading(chance);
        self.moves.clear();
        if head.get("expect").is_some() && chance.percent(70) && !role.is_wrong() {
            self.moves.push_back(Move::Bytes(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()));
        }
        self.wait_until = after(now, role.thinking(chance));
        self.asked = Some(Asked { number, serial, head, got: 0, whole: false, role, begun: false });
    }

    fn body(&mut self, bytes: &[u8], ledger: &mut Ledger) {
        let Some(asked) = &mut self.asked else { return };
        if let Some(at) = stranger(asked.number as u64, asked.got, bytes) {
            let number = asked.number;
            ledger.complain(format!("byte {at} of the body of request {number} is a stranger"));
            self.over = true;
            return;
        }
        asked.got += bytes.len();
    }

    fn whole(&mut self, ledger: &mut Ledger) {
        let Some(asked) = &mut self.asked else { return };
        asked.whole = true;
        ledger.body_arrived(asked.number, asked.got);
    }

    /// Answer, as the part says.
    fn go_on(
        &mut self,
        addr: SocketAddr,
        chance: &mut Chance,
        now: Now,
        ledger: &mut Ledger,
    ) -> bool {
        let mut moved = false;
        while !self.over && now >= self.wait_until {
            if let Some((out, stream)) = &mut self.tunnel {
                match out.write(&self.socket, now) {
                    Ok(count) => moved |= count > 0,
                    Err(()) => {
                        self.socket.reset();
                        self.over = true;
                    }
                }
                self.over |= out.fin_sent && stream.eof;
                break;
            }
            if !self.outbox.is_empty() {
                match self.outbox.write(&self.socket, self.write_pace, now) {
                    Ok(count) => {
                        moved |= count > 0;
                        if let Some(asked) = &self.asked {
                            ledger.arrivals[asked.serial].wrote += count;
                        }
                    }
                    // It may still be read until its end is seen.
                    Err(()) => self.outbox = Outbox::default(),
                }
                if !self.outbox.is_empty() {
                    break;
                }
            }
            let Some(next) = self.moves.pop_front() else {
                if !self.plan(addr, chance, ledger) {
                    break;
                }
                continue;
            };
            self.make(next, chance, now, ledger);
        }
        moved
    }

    /// Plan the answer, when it is time for it.
    fn plan(&mut self, addr: SocketAddr, chance: &mut Chance, ledger: &mut Ledger) -> bool {
        let Some(asked) = &mut self.asked else { return false };
        if asked.begun || !asked.whole && !asked.role.is_early() {
            return false;
        }
        asked.begun = true;
        let other = ledger.arrivals.len().saturating_sub(2);
        let script = script(&asked.head, asked.role, asked.serial, other, addr, chance);
        self.write_pace = script.pace;
        self.moves.extend(script.moves);
        true
    }

    fn make(&mut self, next: Move, chance: &mut Chance, now: Now, ledger: &mut Ledger) {
        if let Some(asked) = &self.asked {
            ledger.note(next.name(), asked.number);
        }
        if let (Move::Fin | Move::Reset | Move::Drop, Some(asked)) = (&next, &self.asked) {
            ledger.arrivals[asked.serial].dead = true;
        }
        match next {
            Move::Bytes(bytes) => self.outbox.push(&bytes),
            Move::Wait(time) => self.wait_until = after(now, time),
            Move::Fin => {
                self.socket.fin();
                self.moves.clear();
            }
            Move::Reset => {
                self.socket.reset();
                self.over = true;
            }
            Move::Drop => self.over = true,
            Move::Halt => self.moves.clear(),
            Move::Done => self.asked = None,
            Move::Tunnel => {
                let Some(asked) = &self.asked else { return };
                let len = chance.body_len();
                let mut out = StreamOut::new(asked.serial, len, Pace::any(chance, len));
                if asked.role.is_wrong() {
                    out.breaks_at = Some(chance.between(0, len));
                }
                let mut stream = StreamIn::default();
                if let Err(what) = stream.take(&self.reader.take_rest()) {
                    ledger.complain(what);
                }
                self.tunnel = Some((out, stream));
            }
        }
    }
}
