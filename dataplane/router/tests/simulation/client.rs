//! A client of the HTTP door: a script of steps on one connection, polite or not.
//!
//! Deliberately absent: judgement. What comes back is reported to the ledger.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use engine::Now;
use engine::sim::{Found, Socket, World};

use super::chance::{Chance, stranger};
use super::ledger::{Answer, Ledger};
use super::pipe::{Inbox, Outbox, Pace, StreamIn, StreamOut, after};
use super::wire::{Framing, Head, Part, Reader};

/// So long a client waits for 100 Continue.
const CONTINUE_TIME: Duration = Duration::from_millis(500);

/// One step of a script.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The next bytes belong to this request.
    Begin(usize),
    Bytes(Vec<u8>),
    /// This request has left.
    Whole(usize),
    /// Until 100, a final answer, or half a second has come.
    AwaitContinue,
    /// Until all that was asked is answered.
    AwaitAnswers,
    Wait(Duration),
    Fin,
    Reset,
    /// Close the socket.
    Leave,
    /// Say nothing more, and stay.
    Stay,
    /// Read nothing more, and stay.
    StopReading,
}

impl Step {
    /// For the story that a replay tells.
    const fn name(&self) -> &'static str {
        match self {
            Self::Begin(_) => "a request of client",
            Self::Bytes(_) => "bytes of client",
            Self::Whole(_) => "whole request of client",
            Self::AwaitContinue | Self::AwaitAnswers => "answers for client",
            Self::Wait(_) => "a rest of client",
            Self::Fin => "FIN of client",
            Self::Reset => "RST of client",
            Self::Leave => "close of client",
            Self::Stay => "stay of client",
            Self::StopReading => "deafness of client",
        }
    }
}

/// See the module head.
pub(crate) struct Client {
    start_at: Now,
    from: SocketAddr,
    door: SocketAddr,
    socket: Option<Socket>,
    steps: VecDeque<Step>,
    /// Requests begun and not answered, oldest first.
    open: VecDeque<usize>,
    answering: Option<Answering>,
    reader: Reader,
    inbox: Inbox,
    outbox: Outbox,
    read_pace: Pace,
    write_pace: Pace,
    wait_until: Now,
    await_until: Option<Now>,
    continued: bool,
    deaf: bool,
    /// It never asks for anything that could be answered.
    garbage: bool,
    tunnel: Option<(StreamOut, StreamIn)>,
    chance: Chance,
    over: bool,
}

/// The answer that is being read.
#[derive(Clone, Copy, Debug)]
struct Answering {
    number: usize,
    /// `None`: the router's own.
    serial: Option<usize>,
    /// Bytes that the instance sent, by its own word. `None`: there must be no body.
    len: Option<u64>,
    got: usize,
    tail: bool,
    closes: bool,
}

impl Client {
    pub(crate) fn new(
        start_at: Now,
        from: SocketAddr,
        door: SocketAddr,
        steps: Vec<Step>,
        mut chance: Chance,
    ) -> Self {
        let bytes =
            steps.iter().map(|step| if let Step::Bytes(bytes) = step { bytes.len() } else { 0 });
        let write_pace = Pace::any(&mut chance, bytes.sum());
        let read_pace = Pace::any(&mut chance, usize::MAX);
        let garbage = !steps.iter().any(|step| matches!(step, Step::Begin(_)));
        Self {
            start_at,
            from,
            door,
            socket: None,
            steps: steps.into(),
            open: VecDeque::new(),
            answering: None,
            reader: Reader::default(),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            read_pace,
            write_pace,
            wait_until: Now(0),
            await_until: None,
            continued: false,
            deaf: false,
            garbage,
            tunnel: None,
            chance,
            over: false,
        }
    }

    /// The connection has ended, one way or another.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Read again, to see whether the router has ended the connection.
    pub(crate) fn listen_again(&mut self) {
        self.deaf = false;
        (self.read_pace, self.inbox) = (Pace::FULL, Inbox::default());
    }

    pub(crate) fn wake(&self, now: Now) -> Option<Now> {
        let waits = [Some(self.start_at), Some(self.wait_until), self.await_until];
        let waits = waits.into_iter().flatten().filter(|at| *at > now).min();
        let tunnel = self.tunnel.as_ref().and_then(|(out, _)| out.wake(now));
        [waits, self.outbox.wake(now), self.inbox.wake(now), tunnel].into_iter().flatten().min()
    }

    /// Do what can be done now. True when bytes moved.
    pub(crate) fn act(&mut self, world: &World, now: Now, ledger: &mut Ledger) -> bool {
        if self.over || now < self.start_at {
            return false;
        }
        if self.socket.is_none() {
            self.socket = Some(world.dial(self.from, self.door));
        }
        let mut moved = false;
        while !self.over && !self.deaf {
            let Some(socket) = &self.socket else { break };
            match self.inbox.read(socket, self.read_pace, now) {
                Found::Nothing => break,
                Found::Bytes(bytes) => {
                    moved = true;
                    self.take(&bytes, ledger);
                }
                Found::Eof => {
                    self.eof(ledger);
                    break;
                }
                Found::Broken(_) => {
                    ledger.note("RST for client", usize::from(self.from.port()));
                    self.end();
                }
            }
        }
        if self.socket.as_ref().is_some_and(Socket::is_up) {
            moved |= self.go_on(now, ledger);
        }
        moved
    }

    fn end(&mut self) {
        self.over = true;
        self.socket = None;
    }

    // === reading ===

    fn eof(&mut self, ledger: &mut Ledger) {
        ledger.note("FIN for client", usize::from(self.from.port()));
        if let Some((out, stream)) = &mut self.tunnel {
            if !stream.eof
                && let Err(what) = stream.end()
            {
                ledger.complain(format!("at a client: {what}"));
            }
            if out.fin_sent {
                self.end();
            }
            return;
        }
        if self.reader.is_until_close() {
            self.answer_ends(&[], ledger);
        } else if self.answering.is_some() {
            ledger.mark("cut short");
        }
        self.end();
    }

    fn take(&mut self, bytes: &[u8], ledger: &mut Ledger) {
        if let Some((_, stream)) = &mut self.tunnel {
            if let Err(what) = stream.take(bytes) {
                ledger.complain(format!("at a client: {what}"));
                self.end();
            }
            return;
        }
        self.reader.push(bytes);
        while !self.over && self.tunnel.is_none() {
            match self.reader.next() {
                Ok(Some(Part::Head(head))) => self.head(&head, ledger),
                Ok(Some(Part::Body(bytes))) => self.body(&bytes, ledger),
                Ok(Some(Part::End(trailers))) => self.answer_ends(&trailers, ledger),
                Ok(None) => break,
                Err(what) => {
                    ledger.complain(format!("at a client: {what}"));
                    self.end();
                }
            }
        }
    }

    fn head(&mut self, head: &Head, ledger: &mut Ledger) {
        let status: u16 = head.word(1).parse().unwrap_or(0);
        if !head.start.starts_with("HTTP/1.1 ") || !(100..600).contains(&status) {
            return ledger.complain(format!("a client was given {head:?}"));
        }
        if status == 100 || status == 103 {
            self.continued |= status == 100;
            ledger.mark("interim");
            return self.reader.again();
        }
        let Some(number) = self.open.pop_front() else {
            // What garbage is answered with is nobody's answer.
            match head.get("apcera-error").filter(|_| self.garbage) {
                Some(code) => ledger.mark(code),
                None => ledger.complain(format!("an answer that nobody asked for: {head:?}")),
            }
            return self.end();
        };
        let own = head.get("apcera-error");
        let serial = head.number("x-serial").and_then(|serial| usize::try_from(serial).ok());
        match (own, serial) {
            (Some(code), None) => ledger.refused(number, head.word(1), code),
            (None, Some(serial)) => {
                ledger.answered(number, serial, head.get("x-instance").unwrap_or_default());
            }
            (None, None) if status == 101 => return self.upgrade(number, ledger),
            _ => ledger.complain(format!("request {number} was answered by nobody: {head:?}")),
        }
        // A head that never was whole may have been a HEAD; who refuses it cannot know.
        let unread = own.is_some_and(|code| code.starts_with("head_"));
        let method = if unread { "" } else { ledger.requests[number].method };
        let framing = framing(status, head, method);
        self.answering = Some(Answering {
            number,
            serial,
            len: if framing == Framing::None { None } else { head.number("x-length") },
            got: 0,
            tail: head.get("x-tail").is_some() && framing == Framing::Chunked,
            closes: head.closes() || framing == Framing::UntilClose,
        });
        self.reader.begin(framing);
    }

    fn body(&mut self, bytes: &[u8], ledger: &mut Ledger) {
        let Some(answering) = &mut self.answering else { return };
        let Some(serial) = answering.serial else { return };
        if let Some(at) = stranger(serial as u64, answering.got, bytes) {
            let number = answering.number;
            ledger.complain(format!("byte {at} of the answer to request {number} is a stranger"));
            return self.end();
        }
        answering.got += bytes.len();
    }

    fn answer_ends(&mut self, trailers: &[(String, String)], ledger: &mut Ledger) {
        let Some(answering) = self.answering.take() else { return };
        let Answering { number, serial, len, got, tail, closes } = answering;
        if serial.is_some() && len.is_some_and(|len| len != got as u64) {
            ledger.complain(format!(
                "request {number} was answered, as if whole, with {got} of {len:?} bytes"
            ));
        }
        let wanted: Vec<_> = serial
            .filter(|_| tail)
            .map(|s| ("X-Tail".to_owned(), s.to_string()))
            .into_iter()
            .collect();
        if trailers != wanted {
            ledger.complain(format!("request {number}: trailers {trailers:?}, not {wanted:?}"));
        }
        ledger.ended(number, serial.is_none());
        if closes {
            // What was asked beyond this is nobody's to answer, if it was we who said so, or if a body went unread.
            if ledger.requests[number].last || serial.is_none() {
                self.open.iter().for_each(|&number| ledger.excuse(number));
            }
            self.steps.clear();
            self.outbox = Outbox::default();
        }
    }

    fn upgrade(&mut self, number: usize, ledger: &mut Ledger) {
        ledger.mark("upgraded");
        // There is no end of an upgrade but that of its streams, which judge themselves.
        ledger.requests[number].answer = Answer::Whole;
        let len = self.chance.body_len();
        let mut out = StreamOut::new(number, len, Pace::any(&mut self.chance, len));
        if ledger.requests[number].excused {
            out.breaks_at = Some(self.chance.between(0, len));
        }
        let mut stream = StreamIn::default();
        if let Err(what) = stream.take(&self.reader.take_rest()) {
            ledger.complain(what);
        }
        self.tunnel = Some((out, stream));
    }

    // === writing ===

    fn go_on(&mut self, now: Now, ledger: &mut Ledger) -> bool {
        let mut moved = false;
        while !self.over && now >= self.wait_until {
            let Some(socket) = &self.socket else { break };
            if let Some((out, stream)) = &mut self.tunnel {
                match out.write(socket, now) {
                    Ok(count) => moved |= count > 0,
                    Err(()) => {
                        socket.reset();
                        self.end();
                        break;
                    }
                }
                if out.fin_sent && stream.eof {
                    self.end();
                }
                break;
            }
            if !self.outbox.is_empty() {
                match self.outbox.write(socket, self.write_pace, now) {
                    Ok(count) => moved |= count > 0,
                    Err(()) => {
                        self.outbox = Outbox::default();
                        self.steps.clear();
                    }
                }
                if !self.outbox.is_empty() {
                    break;
                }
            }
            if !self.may_step(now) {
                break;
            }
            let Some(step) = self.steps.pop_front() else { break };
            self.step(step, now, ledger);
        }
        moved
    }

    /// Whether what the last step waits for has come.
    fn may_step(&mut self, now: Now) -> bool {
        match self.steps.front() {
            Some(Step::AwaitAnswers) => self.open.is_empty() && self.answering.is_none(),
            Some(Step::AwaitContinue) => {
                let until = *self.await_until.get_or_insert_with(|| after(now, CONTINUE_TIME));
                let answered = self.open.is_empty();
                let done = self.continued || answered || now >= until;
                if done {
                    (self.continued, self.await_until) = (false, None);
                }
                done
            }
            _ => true,
        }
    }

    fn step(&mut self, step: Step, now: Now, ledger: &mut Ledger) {
        ledger.note(step.name(), usize::from(self.from.port()));
        match step {
            Step::Begin(number) => {
                ledger.begin(number);
                self.open.push_back(number);
            }
            Step::Bytes(bytes) => self.outbox.push(&bytes),
            Step::Whole(number) => ledger.whole(number),
            Step::AwaitContinue | Step::AwaitAnswers => {}
            Step::Wait(time) => self.wait_until = after(now, time),
            Step::Fin => {
                if let Some(socket) = &self.socket {
                    socket.fin();
                }
            }
            Step::Reset => {
                if let Some(socket) = &self.socket {
                    socket.reset();
                }
                self.end();
            }
            Step::Leave => self.end(),
            Step::Stay => {}
            Step::StopReading => self.deaf = true,
        }
    }
}

fn framing(status: u16, head: &Head, method: &str) -> Framing {
    match head.number("content-length") {
        _ if method == "HEAD" || status == 204 || status == 304 => Framing::None,
        Some(len) => Framing::Length(len),
        None if head.is_chunked() => Framing::Chunked,
        None => Framing::UntilClose,
    }
}
