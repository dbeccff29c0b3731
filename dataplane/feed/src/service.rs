//! The loop around the state: hears, asks, commits, answers, saves. It decides nothing.
//!
//! ```text
//!  inbox, answers, time ─▶ State::apply ─▶ touched ─▶ Applied::commit ─▶ hub ─▶ cores
//!                                      └▶ asks ─▶ tasks ─▶ answers
//! ```
//!
//! Messages that wait together are committed together. Whatever happens to the bus, the table stays. Deliberately absent:
//! a way to end by mistake: only the token ends it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus::{Bus, BusError, Delivery, Until};
use futures_util::FutureExt;
use router::hub::Hub;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::announce::EndpointsAll;
use wire::routing::{Explain, Explained, Proof, RouterBeat, RoutesPage, RoutesPageRequest};
use wire::{ImId, subject};

use crate::applied::Applied;
use crate::inbox::{Heard, Inbox, Topic};
use crate::join::Touched;
use crate::lenient::Lenient;
use crate::numbers::Numbers;
use crate::questions::Questions;
use crate::saver::Saver;
use crate::state::{Ask, Event, Identity, State};
use crate::{Settings, Shared, ims, proof};

/// Messages taken together into one commit.
const BATCH_MAX: usize = 256;
/// Answers that may wait for the loop: as many as questions, and the discovery.
const ANSWERS_MAX: usize = 2 * ims::ASKS_MAX;
/// One question to one other.
const ASK_TIMEOUT: Duration = Duration::from_millis(800);
/// How long instance managers have to say that they exist.
const DISCOVERY: Duration = Duration::from_millis(300);
/// Longest wait for all subscriptions.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest pause between two attempts to subscribe.
const SUBSCRIBE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Between two beats.
const BEAT: Duration = Duration::from_millis(wire::routing::ROUTING_BEAT_MS);
/// A farewell that the bus does not take in this time is left unsaid.
const FAREWELL: Duration = Duration::from_millis(500);

/// What tasks tell the loop.
pub(crate) enum Answer {
    Page { ask: u64, page: Option<RoutesPage> },
    Endpoints { ask: ims::Ask, all: Option<EndpointsAll> },
    Exists(ImId, u64),
    Discovered,
    Saved { took: Duration, ok: bool },
}

/// What all cores are known to serve.
#[derive(Clone, Default)]
struct Served {
    revision: u64,
    ims: Vec<(ImId, u64, u64)>,
}

pub(crate) struct Service {
    pub(crate) identity: Identity,
    pub(crate) bus: Bus,
    pub(crate) hub: Arc<Hub>,
    pub(crate) state: State,
    pub(crate) applied: Applied,
    pub(crate) questions: Questions,
    pub(crate) saver: Saver,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: CancellationToken,
    pub(crate) answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    pub(crate) numbers: Numbers,
    served: Arc<Mutex<Served>>,
    discovered: bool,
    touched: Touched,
}

impl Service {
    pub(crate) fn new(
        settings: &Settings,
        bus: Bus,
        hub: Arc<Hub>,
        shared: Arc<Shared>,
        stop: CancellationToken,
    ) -> Self {
        let now_ms = bus.clock().unix_ms();
        Self {
            identity: Identity { router: settings.router, hostname: settings.hostname.clone() },
            state: State::new(now_ms),
            applied: Applied::default(),
            questions: Questions::new(
                settings.router,
                Arc::clone(&hub),
                Arc::clone(&shared.drains_idle),
            ),
            saver: Saver::new(settings.table_file.clone()),
            answers: mpsc::channel(ANSWERS_MAX),
            numbers: Numbers::default(),
            served: Arc::default(),
            discovered: false,
            touched: Touched::default(),
            bus,
            hub,
            shared,
            stop,
        }
    }

    /// Serve what the file has, before anything else.
    pub(crate) fn restore(&mut self) {
        let now_ms = self.bus.clock().unix_ms();
        let Some(saved) = self.saver.load() else { return };
        let State { jobs, ims, join } = &mut self.state;
        jobs.restore(saved.head, saved.verified_ms, saved.jobs, saved.gone, join);
        for one in saved.ims {
            ims.restore(one, join, now_ms);
        }
        self.touched.add(join.take_touched());
        self.commit();
        if self.state.jobs.count() > 0 {
            self.shared.set_ready();
        }
    }

    /// Until the token is cancelled.
    pub(crate) async fn run(mut self) {
        let mut pause = SUBSCRIBE_PAUSE.0;
        while !self.stop.is_cancelled() {
            match self.subscribe().await {
                Ok(inbox) => {
                    pause = SUBSCRIBE_PAUSE.0;
                    self.serve(inbox).await;
                    self.numbers.on_the_bus = false;
                }
                Err(mistake) => {
                    tracing::warn!(%mistake, "no subscription: the last good table is served");
                }
            }
            self.note();
            let stop = self.stop.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(SUBSCRIBE_PAUSE.1);
        }
        self.farewell().await;
        while self.saver.is_busy() {
            // Two writers of one file would spoil it.
            let Some(answer) = self.answers.1.recv().await else { break };
            self.answered(answer);
        }
        self.saver.finish(&self.state).await;
    }

    async fn subscribe(&mut self) -> Result<Inbox, BusError> {
        let opening = tokio::time::timeout(SUBSCRIBE_TIMEOUT, Inbox::open(&self.bus));
        let stop = self.stop.clone();
        let inbox = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(BusError::Closed),
            opened = opening => match opened {
                Ok(opened) => opened?,
                Err(_) => return Err(BusError::Away("subscribing takes too long".to_owned())),
            },
        };
        self.numbers.on_the_bus = true;
        self.apply(Event::RoutesMissed);
        self.apply(Event::EndpointsMissed);
        self.discover();
        Ok(inbox)
    }

    /// Until the bus is closed or the token is cancelled.
    async fn serve(&mut self, mut inbox: Inbox) {
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        loop {
            let wake = self.wake();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = beats.tick() => self.beat(),
                Some(answer) = self.answers.1.recv() => self.answered(answer),
                heard = inbox.next() => if !self.heard(heard) { return },
                () = tokio::time::sleep_until(wake) => {}
            }
            for _ in 1..BATCH_MAX {
                let Some(heard) = inbox.next().now_or_never() else { break };
                if !self.heard(heard) {
                    return;
                }
            }
            while let Ok(answer) = self.answers.1.try_recv() {
                self.answered(answer);
            }
            self.apply(Event::Tick);
            self.commit();
            self.note();
        }
    }

    /// When the loop has to look without being told to.
    fn wake(&self) -> Instant {
        let now = Instant::now();
        let unix = self.bus.clock().unix_ms();
        let of_state =
            self.state.wake_ms().map(|at| now + Duration::from_millis(at.saturating_sub(unix)));
        let all = [of_state, self.questions.deadline(), self.saver.due()];
        // A deadline that has passed is looked at soon, not at once again and again.
        let soonest = now + Duration::from_millis(1);
        all.into_iter().flatten().min().unwrap_or(now + BEAT).max(soonest)
    }

    fn apply(&mut self, event: Event<'_>) {
        let effects = self.state.apply(event, self.bus.clock().unix_ms());
        self.touched.add(effects.touched);
        effects.asks.into_iter().for_each(|ask| self.ask(ask));
    }

    fn commit(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        if !touched.is_empty() {
            self.saver.mark();
            self.applied.commit(&self.state.join, touched, &self.hub);
        }
        self.questions.look(&self.state, &self.applied);
        self.saver.save(&self.state, &self.answers.0);
        let nothing = self.state.jobs.is_walked() && self.state.jobs.count() == 0;
        if nothing || (self.discovered && self.state.is_complete()) {
            self.shared.set_ready();
        }
    }

    // === what is heard ===

    /// False when the bus is closed.
    fn heard(&mut self, heard: Heard) -> bool {
        match heard {
            Heard::Closed => return false,
            Heard::Missed(topic) => {
                self.numbers.messages_lost += 1;
                match topic {
                    Topic::Changed | Topic::RoutesBeat => self.apply(Event::RoutesMissed),
                    Topic::Announced | Topic::AnnounceBeat => self.apply(Event::EndpointsMissed),
                    // Questions are asked again, and what is lost is repeated.
                    Topic::Lost
                    | Topic::Drain
                    | Topic::Await
                    | Topic::Explain
                    | Topic::Proof
                    | Topic::Report => {}
                }
            }
            Heard::Message(topic, delivery) => self.message(topic, *delivery),
        }
        true
    }

    fn message(&mut self, topic: Topic, delivery: Delivery) {
        match topic {
            Topic::Changed => self.tell(read(&delivery).map(Event::Changed)),
            Topic::RoutesBeat => self.tell(decode(&delivery).map(Event::RoutesBeat)),
            Topic::Announced => self.tell(decode(&delivery).map(Event::Announced)),
            Topic::AnnounceBeat => self.tell(decode(&delivery).map(Event::AnnounceBeat)),
            Topic::Lost => self.tell(decode(&delivery).map(Event::Lost)),
            Topic::Drain => match decode::<wire::announce::Drain>(&delivery) {
                Some(drain) => {
                    self.apply(Event::Drain(&drain));
                    self.questions.drain(delivery, drain);
                }
                None => self.tell(None),
            },
            Topic::Await => match decode::<wire::routing::Await>(&delivery) {
                Some(question) => {
                    self.apply(Event::Expected(question.revision));
                    if let Some((im, epoch, seq)) = question.announced {
                        self.apply(Event::Exists(im, epoch, seq));
                    }
                    self.questions.wait(delivery, question);
                }
                None => self.tell(None),
            },
            Topic::Explain => match decode::<Explain>(&delivery) {
                Some(question) => reply(delivery, self.explain(&question)),
                None => self.tell(None),
            },
            Topic::Proof => match decode::<Proof>(&delivery) {
                Some(question) => {
                    let router = self.identity.router;
                    reply(delivery, proof::prove(router, &question, &self.state.join, &self.hub));
                }
                None => self.tell(None),
            },
            // Whoever starts would else hear of this router with its next beat only.
            Topic::Report => reply(delivery, self.router_beat(self.served(), false)),
        }
    }

    fn tell(&mut self, event: Option<Event<'_>>) {
        match event {
            Some(event) => self.apply(event),
            None => self.numbers.messages_unread += 1,
        }
    }

    fn explain(&self, question: &Explain) -> Explained {
        let router = self.identity.router;
        match router::admin::tell(&self.hub.table(), &question.url, question.from) {
            Ok(told) => Explained { router, text: told.text, json: told.json },
            Err(bad) => {
                let text = format!("{}; try: {}", bad.what, bad.example);
                let json = serde_json::json!({ "outcome": "bad_url", "text": text });
                Explained { router, text, json }
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Page { ask, page } => self.apply(Event::Page { ask, page }),
            Answer::Endpoints { ask, all } => self.apply(Event::Endpoints { ask, all }),
            Answer::Exists(im, epoch) => self.apply(Event::Exists(im, epoch, 0)),
            Answer::Discovered => self.discovered = true,
            Answer::Saved { took, ok } => {
                self.numbers.saves_failed += u64::from(!ok);
                self.saver.saved(took, ok);
            }
        }
    }

    // === what is asked ===

    fn ask(&self, ask: Ask) {
        let (bus, tell) = (self.bus.clone(), self.answers.0.clone());
        tokio::spawn(async move {
            let answer = match ask {
                Ask::Page(ask) => {
                    let question = RoutesPageRequest { after: ask.after };
                    let asked = bus.request(subject::ROUTES_PAGE, &question, ASK_TIMEOUT);
                    let text: Result<Box<serde_json::value::RawValue>, _> = asked.await;
                    let page = told("page", text).and_then(|text| readable(text.get()));
                    Answer::Page { ask: ask.ask, page }
                }
                Ask::Endpoints(ask) => {
                    let subject = subject::im_endpoints_all(ask.im);
                    let asked = bus.request(&subject, &EMPTY, ASK_TIMEOUT).await;
                    Answer::Endpoints { ask, all: told("endpoints", asked) }
                }
            };
            // Without the loop there is nobody to tell.
            drop(tell.send(answer).await);
        });
    }

    /// Ask who is there, so that a router that starts knows whom to ask for endpoints before the first beat.
    fn discover(&self) {
        /// The part of a beat that counts here.
        #[derive(Deserialize)]
        struct Beat {
            im: Record,
        }
        #[derive(Deserialize)]
        struct Record {
            uuid: ImId,
            start_time_ms: u64,
        }
        let (bus, tell) = (self.bus.clone(), self.answers.0.clone());
        tokio::spawn(async move {
            let until = Until { count: ims::IMS_MAX, deadline: DISCOVERY };
            let asked = bus.request_many(subject::IM_REPORT, &EMPTY, until).await;
            if let Some(mut replies) = told("report", asked) {
                while let Some(reply) = replies.next().await {
                    let Some(Beat { im }) = decode(&reply) else { continue };
                    drop(tell.send(Answer::Exists(im.uuid, im.start_time_ms)).await);
                }
            }
            drop(tell.send(Answer::Discovered).await);
        });
    }

    // === what is told ===

    /// "I live, and serve this": what all cores serve now, or within a moment.
    fn beat(&mut self) {
        self.applied.retry(&self.state.join, &self.hub);
        let version = self.hub.version();
        let newest =
            Served { revision: self.state.jobs.head(), ims: self.state.ims.places().collect() };
        let (hub, bus, served) =
            (Arc::clone(&self.hub), self.bus.clone(), Arc::clone(&self.served));
        let stop = self.stop.clone();
        let mut beat = self.router_beat(Served::default(), false);
        tokio::spawn(async move {
            let live = hub.wait_live(version, BEAT / 2).await.is_ok();
            {
                let mut served = served.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if live {
                    *served = newest;
                }
                (beat.revision, beat.ims) = (served.revision, served.ims.clone());
            }
            if stop.is_cancelled() {
                // The farewell is the last word.
                return;
            }
            if let Err(mistake) = bus.publish(subject::ROUTER_BEAT, &beat).await {
                tracing::debug!(%mistake, "a beat was not sent");
            }
        });
    }

    async fn farewell(&self) {
        let beat = self.router_beat(self.served(), true);
        let sent = self.bus.publish(subject::ROUTER_BEAT, &beat);
        // Whoever does not hear it notices the silence.
        drop(tokio::time::timeout(FAREWELL, sent).await);
    }

    fn served(&self) -> Served {
        self.served.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn router_beat(&self, served: Served, leaving: bool) -> RouterBeat {
        let table = self.hub.table();
        let listeners = self.hub.listeners();
        RouterBeat {
            router: self.identity.router,
            hostname: self.identity.hostname.clone(),
            revision: served.revision,
            cores: u32::try_from(self.hub.cores().len()).unwrap_or(u32::MAX),
            table_version: table.version(),
            routes: table.routes_count() as u64,
            endpoints: self.state.join.endpoints(),
            listeners: listeners
                .into_iter()
                .take(LISTENERS_TOLD_MAX)
                .map(|(kind, addr)| format!("{kind} {addr}"))
                .collect(),
            leaving,
            ims: served.ims,
        }
    }

    /// Copy what is counted to where others read it.
    fn note(&mut self) {
        let State { jobs, ims, join } = &self.state;
        let (known, doubted) = ims.count();
        self.numbers = Numbers {
            jobs: jobs.counts,
            ims: ims.counts,
            oddities: join.oddities,
            revision: jobs.head(),
            revision_heard: jobs.heard(),
            verified_ms: jobs.verified_ms(),
            jobs_known: jobs.count() as u64,
            ims_known: (known as u64, doubted as u64),
            endpoints: join.endpoints(),
            refused: self.applied.refused().count() as u64,
            refusals: self.applied.refusals,
            commits: self.applied.commits,
            drains: self.questions.drains,
            awaits: self.questions.awaits,
            questions_refused: self.questions.refused,
            ..self.numbers
        };
        self.shared.set_numbers(self.numbers);
    }
}

/// The body of a question that says nothing.
#[derive(serde::Serialize)]
struct Empty {}

const EMPTY: Empty = Empty {};

/// TCP routes are listeners too, and may be many; a beat stays small.
const LISTENERS_TOLD_MAX: usize = 256;

fn decode<T: DeserializeOwned>(delivery: &Delivery) -> Option<T> {
    told("message", delivery.decode())
}

fn read<T: Lenient>(delivery: &Delivery) -> Option<T> {
    readable(delivery.envelope.body.get())
}

fn readable<T: Lenient>(text: &str) -> Option<T> {
    T::read(text).map_err(|mistake| tracing::warn!(%mistake, "a message was not understood")).ok()
}

fn told<T>(what: &'static str, outcome: Result<T, BusError>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(mistake @ BusError::Decode { .. }) => {
            tracing::warn!(what, %mistake, "not understood");
            None
        }
        Err(mistake) => {
            tracing::debug!(what, %mistake, "no answer");
            None
        }
    }
}

fn reply<T: serde::Serialize + Send + Sync + 'static>(delivery: Delivery, body: T) {
    tokio::spawn(async move {
        if let Err(mistake) = delivery.reply(&body).await {
            tracing::warn!(%mistake, "an answer could not be sent");
        }
    });
}
