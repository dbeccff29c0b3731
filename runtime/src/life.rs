//! The life of one instance as a table: what happened, where it stands, what must be done.
//!
//! ```text
//! New ─▶ Setup ─▶ Starting ──▶ Running ──▶ Draining ──▶ Stopping ──▶ Teardown ─▶ Removed
//!          │         │ └─ never listened ──────────────────▲             ▲
//!          └─────────┴──────────── failed, or the process ended ─────────┘
//! ```
//!
//! Pure: no process, no socket, no clock. `manager` feeds events and carries out actions. One timer per life: arming it
//! anew replaces it, and what its end means depends on the phase alone. Deliberately absent: `STARTING_WAIT`; nothing
//! that an instance could wait for exists yet.

use wire::InstanceState as S;

/// For the packages, before a start is given up.
pub const SETUP_MS: u64 = 600_000;
/// For a process to vanish after KILL, or to appear after its start was given up.
pub const KILL_MS: u64 = 10_000;
/// On top of the stop time-out before a drain that does not end by itself is taken as done.
pub const DRAIN_SLACK_MS: u64 = 2_000;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exit {
    /// Its status, 128 + signal when a signal ended it; none when whoever watched it died first.
    pub code: Option<i32>,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

/// What of a job decides about the life of its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// It counts as running only when its ports answer.
    pub probed: bool,
    /// For a process that ends by itself with status 0: that was its work, not a failure.
    pub may_finish: bool,
    /// Until its ports must answer.
    pub start_ms: u64,
    /// For the last requests, and then again for the process.
    pub stop_ms: u64,
}

/// Where a life stands. A variant holds exactly the facts that are true in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted.
    New,
    /// Packages are laid out.
    Setup,
    /// The process is made, or is there and does not listen yet.
    Starting {
        /// It is there.
        spawned: bool,
    },
    /// Serves.
    Running,
    /// Withdrawn: the last requests end, or a process appears that nobody wants any more.
    Draining {
        /// It is there.
        spawned: bool,
    },
    /// Told to end.
    Stopping {
        /// By KILL.
        killed: bool,
    },
    /// What is left of it is removed.
    Teardown,
    /// Nothing is left.
    Removed,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Go.
    Begin,
    /// Packages are there.
    Prepared,
    /// They are not, or the process could not be made.
    Failed(String),
    /// The process is there.
    Spawned,
    /// Its ports answer.
    Listening,
    /// Every live router has it, or the time for that is over.
    Routed,
    /// Its ports answered, and do no longer.
    Deaf(String),
    /// The process ended.
    Exited(Exit),
    /// Somebody wants it to end.
    Stop(String),
    /// Nobody sends it requests any more, or the time for that is over.
    Drained,
    /// The stop command could not be run or failed.
    StopCommandFailed,
    /// The job has a new version that needs no restart.
    Update(u64),
    /// The timer ended.
    TimeUp,
    /// Nothing is left.
    Destroyed,
}

/// What must be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell everybody that it stands here now.
    Switch(S),
    /// Lay out packages; ends in `Prepared` or `Failed`.
    Prepare,
    /// Stop laying out packages.
    Abandon,
    /// Make the process; ends in `Spawned` or `Failed`.
    Spawn,
    /// Try the ports until they answer; ends in `Listening`.
    Probe,
    /// Tell routers where it is.
    Announce,
    /// Tell routers to send it nothing new.
    Withdraw,
    /// Wait until all routers are done with it; ends in `Drained`.
    Drain,
    /// Stop command, or TERM where there is none.
    Tell,
    /// TERM.
    Term,
    /// KILL.
    Kill,
    /// This version of the job is the one that runs now.
    Take(u64),
    /// `TimeUp` after so many milliseconds, instead of what was armed before.
    Arm(u64),
    /// Keep the end, remove the process and its files; ends in `Destroyed`.
    Destroy(End),
}

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Otherwise than asked.
    pub failed: bool,
    /// Somebody asked for it.
    pub asked: bool,
    /// Of its process.
    pub exit_code: Option<i32>,
    /// How long it served.
    pub ran_ms: u64,
    /// A sentence.
    pub reason: String,
}

/// One life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    phase: Phase,
    terms: Terms,
    asked: Option<String>,
    failure: Option<String>,
    running_since_ms: Option<u64>,
    /// While `Running`: routers know it. Only then may an older instance go in its favour.
    routed: bool,
}

impl Life {
    /// Just accepted.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self {
            phase: Phase::New,
            terms,
            asked: None,
            failure: None,
            running_since_ms: None,
            routed: false,
        }
    }

    /// A life that another process of the instance manager began: `phase` as it was last kept.
    #[must_use]
    pub fn resumed(
        terms: Terms,
        phase: Phase,
        asked: Option<String>,
        failure: Option<String>,
        running_since_ms: Option<u64>,
    ) -> Self {
        Self { phase, terms, asked, failure, running_since_ms, routed: true }
    }

    /// What to do first after [`Life::resumed`], with the process alive.
    pub fn resume(&mut self, now_ms: u64) -> Vec<Action> {
        match self.phase {
            Phase::Starting { .. } => {
                let mut actions = vec![Action::Arm(self.terms.start_ms)];
                actions.extend(self.step(Event::Spawned, now_ms));
                actions
            }
            Phase::Running => vec![Action::Announce],
            Phase::Draining { .. } => {
                vec![Action::Drain, Action::Arm(self.terms.stop_ms + DRAIN_SLACK_MS)]
            }
            Phase::Stopping { .. } => vec![Action::Tell, Action::Arm(self.terms.stop_ms)],
            _ => Vec::new(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Where it stands, in the words of everybody else.
    #[must_use]
    pub fn state(&self) -> S {
        match self.phase {
            Phase::New => S::New,
            Phase::Setup => S::Setup,
            Phase::Starting { .. } => S::Starting,
            Phase::Running if !self.routed => S::FirstRunning,
            Phase::Running => S::Running,
            Phase::Draining { .. } => S::StoppingWait,
            Phase::Stopping { .. } => S::Stopping,
            Phase::Teardown => S::Teardown,
            Phase::Removed => S::Removed,
        }
    }

    /// Why it was asked to end, if it was.
    #[must_use]
    pub fn asked(&self) -> Option<&str> {
        self.asked.as_deref()
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Since when it serves.
    #[must_use]
    pub fn running_since_ms(&self) -> Option<u64> {
        self.running_since_ms
    }

    /// The whole life on one screen. Pairs that are no line are late or doubled and change nothing.
    pub fn step(&mut self, event: Event, now_ms: u64) -> Vec<Action> {
        use {Action as A, Event as E, Phase as P};
        match (self.phase, event) {
            (P::New, E::Begin) => {
                self.phase = P::Setup;
                vec![A::Switch(S::Setup), A::Arm(SETUP_MS), A::Prepare]
            }
            (P::Setup, E::Prepared) => {
                self.phase = P::Starting { spawned: false };
                vec![A::Switch(S::Starting), A::Arm(self.terms.start_ms), A::Spawn]
            }
            (P::New | P::Setup, E::Stop(why)) => {
                self.asked = Some(why);
                self.after(A::Abandon, None, now_ms)
            }
            (P::Setup, E::TimeUp) => {
                self.fail("packages were not laid out in time".to_owned());
                self.after(A::Abandon, None, now_ms)
            }
            (P::Setup | P::Starting { spawned: false }, E::Failed(why)) => {
                self.fail(why);
                self.tear_down(None, now_ms)
            }
            (P::Starting { .. }, E::Spawned) if self.terms.probed => {
                self.phase = P::Starting { spawned: true };
                vec![A::Probe]
            }
            (P::Starting { .. }, E::Spawned | E::Listening) => self.run(now_ms),
            (P::Starting { spawned }, E::TimeUp) => {
                let seconds = self.terms.start_ms / 1_000;
                self.fail(match self.terms.probed {
                    true => format!("nothing listened on its ports ($PORT) within {seconds} s"),
                    false => format!("did not start within {seconds} s"),
                });
                self.leave_start(spawned)
            }
            (P::Starting { spawned }, E::Stop(why)) => {
                self.asked = Some(why);
                self.leave_start(spawned)
            }
            (P::Running, E::Routed) if !self.routed => {
                self.routed = true;
                vec![A::Switch(S::Running)]
            }
            (P::Running, E::Stop(why)) => {
                self.asked = Some(why);
                self.drain()
            }
            (P::Running, E::Deaf(why)) => {
                self.fail(why);
                self.drain()
            }
            (P::Running, E::Update(version)) => {
                self.routed = true;
                vec![A::Switch(S::Updating), A::Take(version), A::Switch(S::Running)]
            }
            (P::Running, E::Exited(exit)) => self.after(A::Withdraw, Some(exit), now_ms),
            // Wanted dead before it was born: it is stopped like any other as soon as it is there.
            (P::Draining { spawned: false }, E::Spawned)
            | (P::Draining { spawned: true }, E::Drained | E::TimeUp) => self.tell(),
            (P::Draining { spawned: false }, E::Failed(_) | E::TimeUp)
            | (P::Stopping { killed: true }, E::TimeUp) => self.tear_down(None, now_ms),
            (P::Stopping { killed: false }, E::TimeUp) => {
                self.phase = P::Stopping { killed: true };
                vec![A::Kill, A::Arm(KILL_MS)]
            }
            (P::Stopping { killed: false }, E::StopCommandFailed) => vec![A::Term],
            (P::Starting { .. } | P::Draining { .. } | P::Stopping { .. }, E::Exited(exit)) => {
                self.tear_down(Some(exit), now_ms)
            }
            (P::Teardown, E::Destroyed) => {
                self.phase = P::Removed;
                vec![A::Switch(S::Removed)]
            }
            _ => Vec::new(),
        }
    }

    fn run(&mut self, now_ms: u64) -> Vec<Action> {
        self.phase = Phase::Running;
        self.running_since_ms = Some(now_ms);
        self.routed = false;
        vec![Action::Switch(S::FirstRunning), Action::Announce]
    }

    /// Out of `Starting`, where no router knows of it: nothing to drain.
    fn leave_start(&mut self, spawned: bool) -> Vec<Action> {
        let mut actions = vec![Action::Switch(S::StoppingWait)];
        if spawned {
            actions.extend(self.tell());
        } else {
            self.phase = Phase::Draining { spawned: false };
            actions.push(Action::Arm(KILL_MS));
        }
        actions
    }

    fn drain(&mut self) -> Vec<Action> {
        self.phase = Phase::Draining { spawned: true };
        let wait_ms = self.terms.stop_ms + DRAIN_SLACK_MS;
        vec![Action::Switch(S::StoppingWait), Action::Withdraw, Action::Arm(wait_ms), Action::Drain]
    }

    fn tell(&mut self) -> Vec<Action> {
        self.phase = Phase::Stopping { killed: false };
        vec![Action::Switch(S::Stopping), Action::Arm(self.terms.stop_ms), Action::Tell]
    }

    fn after(&mut self, first: Action, exit: Option<Exit>, now_ms: u64) -> Vec<Action> {
        let mut actions = vec![first];
        actions.extend(self.tear_down(exit, now_ms));
        actions
    }

    fn tear_down(&mut self, exit: Option<Exit>, now_ms: u64) -> Vec<Action> {
        self.phase = Phase::Teardown;
        vec![Action::Switch(S::Teardown), Action::Destroy(self.end(exit, now_ms))]
    }

    fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    fn end(&self, exit: Option<Exit>, now_ms: u64) -> End {
        let exit_code = exit.and_then(|exit| exit.code);
        let until_ms = exit.map_or(now_ms, |exit| exit.at_ms.min(now_ms));
        // One millisecond at least: 0 says that it never served.
        let ran_ms = self.running_since_ms.map_or(0, |since| until_ms.saturating_sub(since).max(1));
        let asked = self.asked.is_some();
        let by_itself = !asked && self.failure.is_none();
        let finished = self.terms.may_finish && exit_code == Some(0) && ran_ms > 0;
        let reason = match (&self.failure, &self.asked, exit_code) {
            (Some(why), _, _) | (None, Some(why), _) => why.clone(),
            (None, None, Some(code)) => format!("ended by itself with status {code}"),
            (None, None, None) => "ended by itself, its status is lost".to_owned(),
        };
        let failed = self.failure.is_some() && !asked || by_itself && !finished;
        End { failed, asked, exit_code, ran_ms, reason }
    }
}

#[cfg(test)]
mod tests;
