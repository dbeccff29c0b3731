//! Carries out a plan with edge-triggered epoll: every kind of load.
//!
//! Deliberately absent: threads, and timers finer than one sorted list of next times; there are five of them.

use std::collections::VecDeque;
use std::process::Child;
use std::time::Instant;

use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use super::plan::{Pace, Plan};
use super::sockets;
use super::tally::{ANSWER_NS_MAX, Tally, nanos};
use super::traffic::{Client, Got, Link, Side};
use crate::outcome::Outcome;

const TOKEN_LISTENER: u64 = u64::MAX;
const TOKEN_HOLDER: u64 = u64::MAX - 1;
/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// One receive takes up to this many bytes.
const SCRATCH_BYTES: usize = 256 << 10;
/// A run with more faults than this is broken and ends at once.
const FAULTS_MAX: u64 = 1_000;
/// Nothing waits longer than this for connections to open.
const OPENING_NS_MAX: u64 = 30_000_000_000;
/// Connections open before the memory of the idle ones is counted, so that the first-use memory is not.
const IDLE_BASE: usize = 100;
/// Rest before memory is read.
const SETTLE_NS: u64 = 500_000_000;

/// Runs a plan to its end.
///
/// # Errors
/// When sockets cannot be made, or nearly everything fails.
pub(super) fn run(plan: Plan) -> Result<Outcome, String> {
    Driver::new(plan)?.drive()
}

/// Opens the idle connections of a plan, says `held` on standard output, and holds them until it is killed.
///
/// # Errors
/// When they cannot be opened.
pub fn hold(plan: Plan) -> Result<(), String> {
    let mut driver = Driver::new(plan)?;
    driver.drive()?;
    println!("held");
    loop {
        std::thread::park();
    }
}

struct Slot {
    generation: u32,
    link: Option<Box<Link>>,
}

struct Driver {
    plan: Plan,
    tally: Tally,
    start: Instant,
    /// Time at which the last events were taken: one clock read for many exchanges.
    batch_ns: u64,
    epoll: OwnedFd,
    listener: Option<OwnedFd>,
    slots: Vec<Slot>,
    slots_free: Vec<u32>,
    scratch: Vec<u8>,
    /// Clients without an exchange.
    clients_free: Vec<u32>,
    clients_open: usize,
    clients_opening: usize,
    /// Clients to have open now.
    clients_wanted: usize,
    /// Intended times that found no free client.
    late: VecDeque<u64>,
    next_due_ns: u64,
    next_request: usize,
    idle: Idle,
    holder: Option<Child>,
    max_before_ns: Option<u64>,
    leaves_ns: u64,
}

/// Progress of [`Pace::Once`].
#[derive(Clone, Copy)]
enum Idle {
    OpeningBase,
    SettlingBase { until_ns: u64 },
    OpeningRest { base_kib: u64 },
    SettlingRest { base_kib: u64, until_ns: u64 },
}

/// What becomes of a connection after its events.
enum Next {
    Keep,
    Free,
    Reopen,
    Close,
}

impl Driver {
    fn new(plan: Plan) -> Result<Self, String> {
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| format!("epoll: {e}"))?;
        let listener = match plan.origin {
            Some(address) => {
                Some(sockets::listen(address).map_err(|e| format!("origin at {address}: {e}"))?)
            }
            None => None,
        };
        if let Some(listener) = &listener {
            watch(&epoll, listener, TOKEN_LISTENER, epoll::EventFlags::IN)?;
        }
        let is_idle = plan.pace == Pace::Once;
        // With a second process, the window opens when that one holds its connections.
        let ready_at = if plan.holder.is_some() { u64::MAX } else { plan.connections as u64 };
        let tally = Tally::new(plan.warmup, plan.window, ready_at);
        Ok(Self {
            tally,
            start: Instant::now(),
            batch_ns: 0,
            epoll,
            listener,
            slots: Vec::new(),
            slots_free: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            clients_free: Vec::new(),
            clients_open: 0,
            clients_opening: 0,
            clients_wanted: if is_idle {
                IDLE_BASE.min(plan.connections)
            } else {
                plan.connections
            },
            late: VecDeque::new(),
            next_due_ns: 0,
            next_request: 0,
            idle: Idle::OpeningBase,
            holder: None,
            max_before_ns: None,
            leaves_ns: u64::MAX,
            plan,
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn drive(&mut self) -> Result<Outcome, String> {
        self.start_holder()?;
        self.open_clients()?;
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(format!("epoll: {error}")),
            }
            self.batch_ns = self.now_ns();
            for event in &events {
                self.on_event(event.data.u64(), event.flags)?;
            }
            if let Some(outcome) = self.on_time()? {
                return Ok(outcome);
            }
            if self.tally.failed() > FAULTS_MAX {
                let (failed, done) = (self.tally.failed(), self.tally.completed());
                return Err(format!(
                    "{failed} failures, {done} right; first: {}",
                    self.tally.first_fault()
                ));
            }
        }
    }

    fn timeout(&self) -> Timespec {
        const ROUND_NS: u64 = 20_000_000;
        let now_ns = self.now_ns();
        let due_ns = match self.plan.pace {
            Pace::PerSecond(_) => self.next_due_ns,
            Pace::Closed | Pace::Once => u64::MAX,
        };
        let wait_ns = due_ns.saturating_sub(now_ns).min(ROUND_NS);
        Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait_ns).unwrap_or(0) }
    }

    /// Everything that happens by the clock.
    fn on_time(&mut self) -> Result<Option<Outcome>, String> {
        let now_ns = self.now_ns();
        match self.plan.pace {
            Pace::Once => return self.on_time_idle(now_ns),
            Pace::Closed => {}
            Pace::PerSecond(rate) => self.send_due(now_ns, rate)?,
        }
        if now_ns >= self.leaves_ns {
            self.leaves_ns = u64::MAX;
            self.max_before_ns = Some(self.tally.take_max_ns());
            if let Some(holder) = &mut self.holder {
                holder.kill().map_err(|e| format!("ending the holder: {e}"))?;
            }
        }
        if !self.tally.at(now_ns, self.plan.meter.as_ref())? {
            return Ok(None);
        }
        self.count_unanswered(now_ns);
        let mut outcome = self.tally.outcome(now_ns, self.plan.meter.as_ref())?;
        outcome.max_before_us = self.max_before_ns.map(|ns| ns as f64 / 1e3);
        Ok(Some(outcome))
    }

    fn send_due(&mut self, now_ns: u64, rate: u32) -> Result<(), String> {
        let period_ns = 1_000_000_000 / u64::from(rate.max(1));
        if self.clients_open < self.plan.connections && self.tally.completed() == 0 {
            self.next_due_ns = now_ns + period_ns;
            return Ok(());
        }
        while self.next_due_ns <= now_ns {
            let intended_ns = self.next_due_ns;
            self.tally.late(intended_ns, now_ns);
            self.next_due_ns += period_ns;
            match self.clients_free.pop() {
                Some(slot) => {
                    self.with_link(slot, |driver, link| driver.begin(link, intended_ns))?
                }
                None => self.late.push_back(intended_ns),
            }
        }
        Ok(())
    }

    fn on_time_idle(&mut self, now_ns: u64) -> Result<Option<Outcome>, String> {
        if now_ns > OPENING_NS_MAX {
            let (done, wanted) = (self.tally.completed(), self.clients_wanted);
            return Err(format!(
                "{done} of {wanted} idle connections; first fault: {}",
                self.tally.first_fault()
            ));
        }
        let pss =
            || self.plan.meter.as_ref().map_or(Ok(0), |m| m.pss_kib()).map_err(|e| e.to_string());
        let are_open = self.tally.completed() >= self.clients_wanted as u64;
        self.idle = match self.idle {
            Idle::OpeningBase if are_open => Idle::SettlingBase { until_ns: now_ns + SETTLE_NS },
            Idle::SettlingBase { until_ns } if now_ns >= until_ns => {
                let base_kib = pss()?;
                self.clients_wanted = self.plan.connections;
                self.open_clients()?;
                Idle::OpeningRest { base_kib }
            }
            Idle::OpeningRest { base_kib } if are_open => {
                Idle::SettlingRest { base_kib, until_ns: now_ns + SETTLE_NS }
            }
            Idle::SettlingRest { base_kib, until_ns } if now_ns >= until_ns => {
                let pss_kib = pss()?;
                let more = self.plan.connections.saturating_sub(IDLE_BASE).max(1);
                let idle_bytes = (pss_kib as f64 - base_kib as f64) * 1024.0 / more as f64;
                let completed = self.tally.completed();
                let failed = self.tally.failed();
                let idle_bytes = Some(idle_bytes);
                return Ok(Some(Outcome {
                    completed,
                    failed,
                    pss_kib,
                    idle_bytes,
                    ..Outcome::default()
                }));
            }
            unchanged => unchanged,
        };
        Ok(None)
    }

    fn count_unanswered(&mut self, now_ns: u64) {
        let waiting = self.slots.iter().filter_map(|slot| match slot.link.as_ref()?.side {
            Side::Client(Client::Waiting { intended_ns } | Client::Ending { intended_ns }) => {
                Some(intended_ns)
            }
            _ => None,
        });
        let intended: Vec<u64> = waiting.chain(self.late.iter().copied()).collect();
        for intended_ns in intended {
            let age_ns = now_ns.saturating_sub(intended_ns);
            if matches!(self.plan.pace, Pace::PerSecond(_)) && age_ns > ANSWER_NS_MAX / 1000 {
                self.tally.latency(intended_ns, now_ns);
            }
            if age_ns > ANSWER_NS_MAX {
                self.tally.fail(format!("no answer for {} ms at the end", age_ns / 1_000_000));
            }
        }
    }

    // === the second process ===

    fn start_holder(&mut self) -> Result<(), String> {
        let Some(plan) = &self.plan.holder else { return Ok(()) };
        let mut holder = plan.start(self.plan.target)?;
        if let Some(output) = &holder.stdout {
            watch(
                &self.epoll,
                output,
                TOKEN_HOLDER,
                epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
            )?;
        } else {
            holder.kill().map_err(|e| e.to_string())?;
        }
        self.holder = Some(holder);
        Ok(())
    }

    fn on_holder(&mut self) -> Result<(), String> {
        let (Some(plan), Some(holder)) = (&self.plan.holder, &mut self.holder) else {
            return Ok(());
        };
        if let Some(status) = holder.try_wait().map_err(|e| e.to_string())? {
            return Err(format!("the holder of idle connections ended: {status}"));
        }
        let leaves_after_ns = nanos(plan.leaves_after);
        let now_ns = self.now_ns();
        self.leaves_ns = self.tally.begin(now_ns) + leaves_after_ns;
        Ok(())
    }

    // === connections ===

    fn open_clients(&mut self) -> Result<(), String> {
        while self.clients_open < self.clients_wanted
            && self.clients_opening < self.plan.opening_max
        {
            let fd = sockets::connect(self.plan.target).map_err(|e| format!("connect: {e}"))?;
            let session = self.plan.tls.as_mut().map(crate::tls::TlsClient::connect).transpose()?;
            self.insert(Link::new(fd, Side::Client(Client::Opening), session))?;
            self.clients_open += 1;
            self.clients_opening += 1;
        }
        Ok(())
    }

    fn insert(&mut self, link: Link) -> Result<(), String> {
        let slot = self.slots_free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, link: None });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let entry = &mut self.slots[slot as usize];
        let token = u64::from(entry.generation) << 32 | u64::from(slot);
        use epoll::EventFlags as F;
        let flags = F::IN | F::OUT | F::RDHUP | F::ET;
        watch(&self.epoll, &link.fd, token, flags)?;
        entry.link = Some(Box::new(link));
        Ok(())
    }

    fn accept_all(&mut self) -> Result<(), String> {
        let Some(listener) = &self.listener else { return Ok(()) };
        let mut accepted = Vec::new();
        while let Some(fd) = sockets::accept(listener).map_err(|e| format!("accept: {e}"))? {
            accepted.push(fd);
        }
        accepted.into_iter().try_for_each(|fd| self.insert(Link::new(fd, Side::Origin, None)))
    }

    fn on_event(&mut self, token: u64, flags: epoll::EventFlags) -> Result<(), String> {
        match token {
            TOKEN_LISTENER => self.accept_all(),
            TOKEN_HOLDER => self.on_holder(),
            _ => {
                let slot = u32::try_from(token & u64::from(u32::MAX)).unwrap_or(u32::MAX);
                let is_current = u64::from(self.slots[slot as usize].generation) == token >> 32;
                if !is_current {
                    return Ok(());
                }
                self.with_link(slot, |driver, link| driver.on_link(link, flags))
            }
        }
    }

    /// Lends a connection to `act` and does what it says should become of it.
    fn with_link(
        &mut self,
        slot: u32,
        act: impl FnOnce(&mut Self, &mut Link) -> Result<Next, String>,
    ) -> Result<(), String> {
        let Some(mut link) = self.slots[slot as usize].link.take() else { return Ok(()) };
        let was_client = matches!(link.side, Side::Client(_));
        let next = act(self, &mut link).unwrap_or_else(|fault| {
            // An origin's connection that breaks shows as a failed exchange at the client, if it matters.
            if was_client {
                self.tally.fail(fault);
            }
            if was_client { Next::Reopen } else { Next::Close }
        });
        match next {
            Next::Keep => self.slots[slot as usize].link = Some(link),
            Next::Free => {
                self.slots[slot as usize].link = Some(link);
                self.clients_free.push(slot);
            }
            Next::Reopen | Next::Close => {
                if matches!(link.side, Side::Client(Client::Opening)) {
                    self.clients_opening -= 1;
                }
                drop(link);
                self.slots[slot as usize].generation += 1;
                self.slots_free.push(slot);
                self.clients_free.retain(|&free| free != slot);
                if was_client {
                    self.clients_open -= 1;
                    self.open_clients()?;
                }
            }
        }
        Ok(())
    }

    fn on_link(&mut self, link: &mut Link, flags: epoll::EventFlags) -> Result<Next, String> {
        use epoll::EventFlags as F;
        if matches!(link.side, Side::Client(Client::Opening)) {
            if flags.intersects(F::ERR | F::HUP) {
                return Err("connection refused".to_owned());
            }
            if !flags.contains(F::OUT) {
                return Ok(Next::Keep);
            }
            return self.on_open(link);
        }
        if flags.contains(F::OUT) {
            link.flush()?;
        }
        if !flags.intersects(F::IN | F::HUP | F::ERR) {
            return Ok(Next::Keep);
        }
        let shape = if link.side == Side::Origin { self.plan.ask } else { self.plan.answer };
        loop {
            let Some((got, more)) = link.receive(shape, &mut self.scratch)? else {
                return Ok(Next::Keep);
            };
            let next = match got {
                Got::More => Next::Keep,
                Got::Message => self.on_message(link)?,
                Got::End => return self.on_end(link),
            };
            // A short read means that nothing more is there, but for an end of stream: that raises no second edge.
            let may_end = flags.contains(F::RDHUP);
            if !(more || may_end) || !matches!(next, Next::Keep) {
                return Ok(next);
            }
        }
    }

    fn on_open(&mut self, link: &mut Link) -> Result<Next, String> {
        // An idle connection counts as opening until it was answered, to spare the proxy's backlog.
        if self.plan.pace != Pace::Once {
            self.clients_opening -= 1;
        }
        link.side = Side::Client(Client::Free);
        match self.plan.pace {
            Pace::PerSecond(_) => Ok(Next::Free),
            Pace::Closed | Pace::Once => {
                let batch_ns = self.batch_ns;
                self.begin(link, batch_ns)
            }
        }
    }

    fn begin(&mut self, link: &mut Link, intended_ns: u64) -> Result<Next, String> {
        let request = self.plan.requests[self.next_request];
        self.next_request = (self.next_request + 1) % self.plan.requests.len();
        link.side = Side::Client(Client::Waiting { intended_ns });
        link.send(request)?;
        Ok(Next::Keep)
    }

    fn on_message(&mut self, link: &mut Link) -> Result<Next, String> {
        match link.side {
            Side::Origin => {
                link.send(self.plan.reply)?;
                Ok(Next::Keep)
            }
            Side::Client(Client::Waiting { intended_ns }) => {
                if self.plan.close_each {
                    link.side = Side::Client(Client::Ending { intended_ns });
                    return Ok(Next::Keep);
                }
                self.tally.complete();
                link.side = Side::Client(Client::Free);
                self.after_answer(link, intended_ns)
            }
            Side::Client(_) => Err("an answer that nobody asked for".to_owned()),
        }
    }

    fn after_answer(&mut self, link: &mut Link, intended_ns: u64) -> Result<Next, String> {
        match self.plan.pace {
            // A closed loop needs no clock for each answer: its latency says little, so it is not taken.
            Pace::Closed => {
                let batch_ns = self.batch_ns;
                self.begin(link, batch_ns)
            }
            Pace::Once => {
                self.clients_opening -= 1;
                self.open_clients()?;
                Ok(Next::Keep)
            }
            Pace::PerSecond(_) => {
                let now_ns = self.now_ns();
                self.tally.latency(intended_ns, now_ns);
                match self.late.pop_front() {
                    Some(late_ns) => self.begin(link, late_ns),
                    None => Ok(Next::Free),
                }
            }
        }
    }

    fn on_end(&mut self, link: &mut Link) -> Result<Next, String> {
        match link.side {
            Side::Origin => Ok(Next::Close),
            Side::Client(Client::Ending { .. }) => {
                let completed = self.tally.completed();
                let must_resume =
                    self.plan.tls.as_ref().is_some_and(|tls| tls.must_resume(completed));
                if must_resume && !link.resumed() {
                    return Err("a full handshake where a resumption was due".to_owned());
                }
                self.tally.complete();
                Ok(Next::Reopen)
            }
            Side::Client(_) => Err("the proxy closed without an answer".to_owned()),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            // Ending it twice is no error; there is nobody left to tell.
            holder.kill().ok();
            holder.wait().ok();
        }
    }
}

fn watch(
    epoll: &OwnedFd,
    fd: impl std::os::fd::AsFd,
    token: u64,
    flags: epoll::EventFlags,
) -> Result<(), String> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(token), flags)
        .map_err(|e| format!("epoll: {e}"))
}
