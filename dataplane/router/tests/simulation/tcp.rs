//! Clients and instances of TCP routes: a stream each way that proves itself whole, or breaks.
//!
//! Deliberately absent: HTTP. Tunnels after an upgrade use the same streams.

use std::net::SocketAddr;

use engine::Now;
use engine::sim::{Door, Found, Socket, World};

use super::chance::Chance;
use super::ledger::{Answer, Ledger};
use super::origin::Mood;
use super::pipe::{Inbox, Pace, StreamIn, StreamOut};

/// What an actor of either side does with its connection.
struct Talk {
    socket: Socket,
    out: Option<StreamOut>,
    stream: StreamIn,
    inbox: Inbox,
    read_pace: Pace,
    deaf: bool,
    over: bool,
    /// Both directions ended properly.
    whole: bool,
}

impl Talk {
    fn new(socket: Socket, chance: &mut Chance) -> Self {
        Self {
            socket,
            out: None,
            stream: StreamIn::default(),
            inbox: Inbox::default(),
            read_pace: Pace::any(chance, usize::MAX),
            deaf: false,
            over: false,
            whole: false,
        }
    }

    fn act(&mut self, now: Now, ledger: &mut Ledger) -> bool {
        let mut moved = false;
        while !self.over && !self.deaf && !self.stream.eof {
            let outcome = match self.inbox.read(&self.socket, self.read_pace, now) {
                Found::Nothing => break,
                Found::Bytes(bytes) => {
                    moved = true;
                    self.stream.take(&bytes)
                }
                // A side that never said its number was told nothing, so nothing is missing.
                Found::Eof if self.stream.number().is_none() => {
                    self.stream.eof = true;
                    Ok(())
                }
                Found::Eof => self.stream.end(),
                Found::Broken(_) => {
                    self.over = true;
                    Ok(())
                }
            };
            if let Err(what) = outcome {
                ledger.complain(format!("on a TCP route: {what}"));
                self.over = true;
            }
        }
        if !self.over && self.socket.is_up() {
            moved |= self.write(now);
        }
        moved
    }

    fn write(&mut self, now: Now) -> bool {
        let Some(out) = &mut self.out else {
            // It went before it said who it is.
            self.over |= self.stream.eof;
            return false;
        };
        let Ok(count) = out.write(&self.socket, now) else {
            self.socket.reset();
            self.over = true;
            return false;
        };
        if out.fin_sent && self.stream.eof {
            (self.over, self.whole) = (true, true);
        }
        count > 0
    }

    fn wake(&self, now: Now) -> Option<Now> {
        let out = self.out.as_ref().and_then(|out| out.wake(now));
        [out, self.inbox.wake(now)].into_iter().flatten().min()
    }
}

/// A client of a TCP route.
pub(crate) struct TcpClient {
    start_at: Now,
    from: SocketAddr,
    door: SocketAddr,
    number: usize,
    manner: Manner,
    talk: Option<Talk>,
    chance: Chance,
    over: bool,
}

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Polite,
    /// It breaks the connection on the way.
    Breaks,
    /// It does not read.
    Deaf,
}

impl TcpClient {
    pub(crate) fn new(
        start_at: Now,
        from: SocketAddr,
        door: SocketAddr,
        number: usize,
        manner: Manner,
        chance: Chance,
    ) -> Self {
        Self { start_at, from, door, number, manner, talk: None, chance, over: false }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    pub(crate) fn listen_again(&mut self) {
        if let Some(talk) = &mut self.talk {
            talk.deaf = false;
            (talk.read_pace, talk.inbox) = (Pace::FULL, Inbox::default());
        }
    }

    pub(crate) fn wake(&self, now: Now) -> Option<Now> {
        let start = (self.start_at > now).then_some(self.start_at);
        start.or_else(|| self.talk.as_ref().and_then(|talk| talk.wake(now)))
    }

    pub(crate) fn act(&mut self, world: &World, now: Now, ledger: &mut Ledger) -> bool {
        if self.over || now < self.start_at {
            return false;
        }
        let Self { from, door, number, manner, chance, .. } = self;
        let talk = self.talk.get_or_insert_with(|| {
            ledger.begin(*number);
            let mut talk = Talk::new(world.dial(*from, *door), chance);
            let len = chance.body_len();
            let mut out = StreamOut::new(*number, len, Pace::any(chance, len));
            out.breaks_at = (*manner == Manner::Breaks).then(|| chance.between(0, len));
            talk.deaf = *manner == Manner::Deaf;
            talk.out = Some(out);
            talk
        });
        let moved = talk.act(now, ledger);
        if talk.out.as_ref().is_some_and(|out| out.fin_sent) {
            ledger.requests[self.number].whole = true;
        }
        if let Some(serial) = talk.stream.number().and_then(|serial| usize::try_from(serial).ok())
            && ledger.arrivals.get(serial).is_none_or(|arrival| arrival.request != self.number)
        {
            ledger.complain(format!("TCP session {} talks with {serial}'s partner", self.number));
        }
        if talk.over {
            if talk.whole {
                ledger.requests[self.number].answer = Answer::Whole;
                ledger.mark("TCP session served whole");
            }
            self.over = true;
            self.talk = None;
        }
        moved
    }
}

/// An instance of a TCP route.
pub(crate) struct TcpOrigin {
    pub(crate) addr: SocketAddr,
    pub(crate) mood: Mood,
    door: Door,
    talks: Vec<Talk>,
    chance: Chance,
}

impl TcpOrigin {
    pub(crate) fn new(world: &World, addr: SocketAddr, mood: Mood, chance: Chance) -> Self {
        let door = world.listen(addr).expect("the simulated world always listens");
        Self { addr, mood, door, talks: Vec::new(), chance }
    }

    pub(crate) fn open_conns(&self) -> usize {
        self.talks.len()
    }

    pub(crate) fn act(&mut self, now: Now, ledger: &mut Ledger) -> bool {
        let wrong = match self.mood {
            Mood::Foul(share) => share,
            _ => 0,
        };
        while let Some((socket, _)) = self.door.accept() {
            let mut talk = Talk::new(socket, &mut self.chance);
            talk.deaf = self.chance.percent(wrong / 2);
            talk.over = self.chance.percent(wrong / 2);
            self.talks.push(talk);
        }
        let mut moved = false;
        for talk in &mut self.talks {
            talk.deaf &= self.mood != Mood::Good;
            moved |= talk.act(now, ledger);
            let number = talk.stream.number().and_then(|number| usize::try_from(number).ok());
            if let (None, Some(number)) = (&talk.out, number) {
                let Some(serial) = ledger.arrive(number, self.addr, false) else { continue };
                let len = self.chance.body_len();
                let mut out = StreamOut::new(serial, len, Pace::any(&mut self.chance, len));
                out.breaks_at = self.chance.percent(wrong).then(|| self.chance.between(0, len));
                talk.out = Some(out);
                moved = true;
            }
        }
        self.talks.retain(|talk| !talk.over);
        moved
    }

    pub(crate) fn wake(&self, now: Now) -> Option<Now> {
        self.talks.iter().filter_map(|talk| talk.wake(now)).min()
    }
}
