//! All that the feed knows, as one value: events in; touched keys and questions out.
//!
//! ```text
//!  Event ─▶ Jobs (by revision) ─┐
//!        ─▶ Ims (by epoch, seq) ┴▶ Join ─▶ Effects { touched, asks }
//! ```
//!
//! Pure: no bus, no clock, no task. The caller asks what it is told to ask, reports each answer or failure as an event, and
//! wakes it at [`State::wake_ms`]. Deliberately absent: the table (`applied`).

use wire::announce::{AnnounceBeat, Announcement, Drain, EndpointsAll};
use wire::health::Lost;
use wire::routing::{RoutesBeat, RoutesChanged, RoutesPage};
use wire::{ImId, RouterId};

use crate::ims::{self, Ims};
use crate::jobs::{self, Jobs};
use crate::join::{Join, Touched};

/// What can happen.
#[derive(Debug)]
pub enum Event<'a> {
    /// One write of one job.
    Changed(RoutesChanged),
    /// Where the store stands.
    RoutesBeat(RoutesBeat),
    /// The answer to [`Ask::Page`], or none came.
    Page {
        /// Of the question.
        ask: u64,
        /// What was answered.
        page: Option<RoutesPage>,
    },
    /// Somebody waits for this revision.
    Expected(u64),
    /// Endpoints came or went.
    Announced(Announcement),
    /// Where an instance manager stands.
    AnnounceBeat(AnnounceBeat),
    /// The answer to [`Ask::Endpoints`], or none came.
    Endpoints {
        /// The question.
        ask: ims::Ask,
        /// What was answered.
        all: Option<EndpointsAll>,
    },
    /// A question that names what was withdrawn.
    Drain(&'a Drain),
    /// An instance manager exists, in the process that began then, and has made this announcement.
    Exists(ImId, u64, u64),
    /// An instance manager was given up.
    Lost(Lost),
    /// Messages about jobs were lost.
    RoutesMissed,
    /// Messages about endpoints were lost.
    EndpointsMissed,
    /// Time has passed.
    Tick,
}

/// A question that the state wants asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// For a page of jobs.
    Page(jobs::Ask),
    /// For all endpoints of one instance manager.
    Endpoints(ims::Ask),
}

/// What follows from an event.
#[derive(Debug, Default)]
pub struct Effects {
    /// Keys of the table that may have changed.
    pub touched: Touched,
    /// Questions.
    pub asks: Vec<Ask>,
}

/// See the module head.
#[derive(Debug, Default)]
pub struct State {
    /// By revision.
    pub jobs: Jobs,
    /// By epoch and number.
    pub ims: Ims,
    /// Both together.
    pub join: Join,
}

impl State {
    /// Nothing known; the whole is asked for at the first tick.
    pub fn new(now_ms: u64) -> Self {
        let mut state = Self::default();
        state.jobs.begin(now_ms);
        state
    }

    /// Something happened.
    pub fn apply(&mut self, event: Event<'_>, now_ms: u64) -> Effects {
        let Self { jobs, ims, join } = self;
        match event {
            Event::Changed(change) => jobs.changed(change, join, now_ms),
            Event::RoutesBeat(beat) => jobs.beat(&beat, now_ms),
            Event::Page { ask, page } => jobs.answered(ask, page, join, now_ms),
            Event::Expected(revision) => jobs.expect(revision, now_ms),
            Event::Announced(told) => ims.announced(told, join, now_ms),
            Event::AnnounceBeat(beat) => ims.beat(&beat, now_ms),
            Event::Endpoints { ask, all } => ims.answered(ask, all, join, now_ms),
            Event::Drain(drain) => {
                let place = (drain.epoch, drain.seq);
                let instances = drain.endpoints.iter().map(|endpoint| endpoint.instance);
                ims.withdrawn(drain.im, place, instances, join, now_ms);
            }
            Event::Exists(im, epoch, seq) => ims.exists(im, (epoch, seq), now_ms),
            Event::Lost(lost) => ims.lost(&lost, join, now_ms),
            Event::RoutesMissed => jobs.begin(now_ms),
            Event::EndpointsMissed => ims.doubt_all(now_ms),
            Event::Tick => {}
        }
        let mut effects = Effects { touched: join.take_touched(), asks: Vec::new() };
        effects.asks.extend(jobs.due(now_ms).map(Ask::Page));
        let mut asks = Vec::new();
        ims.due(now_ms, &mut asks);
        effects.asks.extend(asks.into_iter().map(Ask::Endpoints));
        effects
    }

    /// When the next [`Event::Tick`] is due; none while nothing is in doubt.
    pub fn wake_ms(&self) -> Option<u64> {
        self.jobs.wake_ms().into_iter().chain(self.ims.wake_ms()).min()
    }

    /// The whole was there once since the start, and nothing is in doubt now.
    pub fn is_complete(&self) -> bool {
        self.jobs.is_walked() && self.jobs.is_settled() && self.ims.is_settled()
    }
}

/// Who this router is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// New at every start.
    pub router: RouterId,
    /// Host name.
    pub hostname: String,
}
