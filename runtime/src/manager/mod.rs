//! The instance manager's loop: one task that holds all state, fed with notes, around pure parts.
//!
//! Work (packages, processes, waits, drains) runs in tasks of its own and comes back as notes; so the loop never waits.
//! Deliberately absent: decisions about a life (`life`), about offers (`taint`).

mod act;
mod answer;
mod instance;
mod note;
mod resume;
mod tell;

use crate::announcements::Announcements;
use crate::cache::Cache;
use crate::drain::SharedRouters;
use crate::driver::Driver;
use crate::keep::Keep;
use crate::life::Event;
use crate::logs::{Keeper, Logs};
use crate::ports::Ports;
use crate::routers::Routers;
use crate::settings::{AtStop, Settings, StartError, StopMode};
use crate::spec::Load;
use crate::taint::Host;
use bus::{Bus, Sender};
use instance::Instance;
use note::{NOTES_MAX, Note, listen, subjects};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tell::Out;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::announce::ANNOUNCE_BEAT_MS;
use wire::health::{Ended, INSTANCES_PER_IM_MAX};
use wire::{ImId, InstanceId};

/// Offers that wait for their moment; of more rounds at once this host stays out.
const OFFERS_WAITING_MAX: usize = 1_024;
/// A bus that does not answer at the start is not waited for longer.
const SUBSCRIBE_WAIT: Duration = Duration::from_secs(2);
/// A change that a switch does not carry is told within this time.
const SOON: Duration = Duration::from_millis(250);
/// Last messages have so long to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// An instance manager that runs.
pub struct Running {
    id: ImId,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ImId {
        self.id
    }

    /// Returns when it has ended.
    pub async fn ended(self) {
        if let Err(why) = self.task.await
            && why.is_panic()
        {
            tracing::error!(%why, "the instance manager fell");
        }
    }
}

/// Starts an instance manager. Instances that an earlier process left on the same state directory are found again
/// before it speaks its first word. When this returns it listens, or the bus has not answered within two seconds and
/// is tried on.
pub async fn start(
    settings: Settings,
    bus: Bus,
    driver: Arc<dyn Driver>,
    stop: CancellationToken,
    mode: impl AtStop,
) -> Result<Running, StartError> {
    let mut rng = settings.seed.map_or_else(rand::make_rng, StdRng::seed_from_u64);
    let fresh = ImId(uuid::Builder::from_random_bytes(rng.random()).into_uuid());
    let (keep, id) = match &settings.state_dir {
        Some(directory) => {
            let (keep, id) = Keep::open(directory, settings.id.unwrap_or(fresh))?;
            (Some(Arc::new(keep)), id)
        }
        None => (None, settings.id.unwrap_or(fresh)),
    };
    let bus = bus.speaking_as(Sender::new("im", id));
    let cache = match &settings.state_dir {
        Some(directory) => {
            Some(Cache::open(&directory.join("cache"), settings.cache_bytes_max, bus.clone())?)
        }
        None => None,
    };
    let (keeper, logs) = Keeper::new(id, bus.clone(), Arc::clone(&driver), keep.clone());
    let tasks = Tasks::default();
    tasks.spawn(keeper.run());
    let (notes, heard) = mpsc::channel(NOTES_MAX);
    let (out, letters) = mpsc::channel(tell::LETTERS_MAX);
    let outbox = tokio::spawn(tell::send_all(bus.clone(), letters));
    let parts = Parts { id, bus, driver, keep, cache, logs, notes, out, tasks: tasks.clone() };
    let mut manager = Manager::new(settings, parts, rng);
    manager.resume().await;
    let (tried, mut all_tried) = mpsc::channel(1);
    for subject in subjects(id) {
        let (bus, notes) = (manager.bus.clone(), manager.notes.clone());
        tasks.spawn(listen(bus, subject, notes, tasks.stop.clone(), tried.clone()));
    }
    drop(tried);
    tokio::time::timeout(SUBSCRIBE_WAIT, all_tried.recv()).await.ok();
    manager.sample_usage();
    let task = tokio::spawn(async move {
        let _ends_all = tasks.stop.clone().drop_guard();
        manager.run(heard, stop, mode).await;
        drop(manager);
        tokio::time::timeout(FAREWELL, outbox).await.ok();
        tasks.end().await;
    });
    Ok(Running { id, task })
}

/// Tasks that end with the manager.
#[derive(Clone, Default)]
struct Tasks {
    stop: CancellationToken,
    all: TaskTracker,
}

impl Tasks {
    fn spawn(
        &self,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let stop = self.stop.clone();
        self.all.spawn(async move { stop.run_until_cancelled(work).await.unwrap_or_default() })
    }

    /// All end now. When this returns, nothing of them is left that a successor could stumble over.
    async fn end(&self) {
        self.stop.cancel();
        self.all.close();
        tokio::time::timeout(FAREWELL, self.all.wait()).await.ok();
    }
}

struct Parts {
    id: ImId,
    bus: Bus,
    driver: Arc<dyn Driver>,
    keep: Option<Arc<Keep>>,
    cache: Option<Cache>,
    logs: Logs,
    notes: mpsc::Sender<Note>,
    out: mpsc::Sender<Out>,
    tasks: Tasks,
}

struct Manager {
    id: ImId,
    settings: Settings,
    bus: Bus,
    driver: Arc<dyn Driver>,
    keep: Option<Arc<Keep>>,
    cache: Option<Cache>,
    logs: Logs,
    notes: mpsc::Sender<Note>,
    out: mpsc::Sender<Out>,
    /// Cancelled when the manager ends: all its tasks end then.
    tasks: Tasks,
    /// Start of this process, and number of the last beat or switch.
    epoch: u64,
    seq: u64,
    host: Host,
    ports: Ports,
    announcements: Announcements,
    routers: SharedRouters,
    instances: BTreeMap<InstanceId, Instance>,
    ended: VecDeque<Ended>,
    rng: StdRng,
    offers: Arc<Semaphore>,
    leaving: bool,
    /// Something is to be told soon that no switch carries.
    untold: bool,
}

impl Manager {
    fn new(settings: Settings, parts: Parts, mut rng: StdRng) -> Self {
        let Parts { id, bus, driver, keep, cache, logs, notes, out, tasks } = parts;
        let now_ms = bus.clock().unix_ms();
        let epoch = keep.as_ref().map_or(now_ms, |keep| keep.begin_life(now_ms));
        let tags: BTreeSet<_> =
            settings.tags.iter().chain(&settings.system_tags).cloned().collect();
        let host = Host {
            tags,
            total: settings.resources_total,
            used: Load::default(),
            copies: BTreeMap::new(),
            ports: BTreeSet::new(),
            room: INSTANCES_PER_IM_MAX,
        };
        Self {
            ports: Ports::new(settings.ports.clone(), rng.random()),
            announcements: Announcements::new(id, epoch),
            routers: Arc::new(Mutex::new(Routers::new(now_ms))),
            instances: BTreeMap::new(),
            ended: keep.as_ref().map_or_else(VecDeque::new, |keep| keep.ended()),
            offers: Arc::new(Semaphore::new(OFFERS_WAITING_MAX)),
            leaving: false,
            untold: false,
            seq: 0,
            id,
            settings,
            bus,
            driver,
            keep,
            cache,
            logs,
            notes,
            out,
            tasks,
            epoch,
            host,
            rng,
        }
    }

    async fn run(
        &mut self,
        mut heard: mpsc::Receiver<Note>,
        stop: CancellationToken,
        mode: impl AtStop,
    ) {
        let mut beat = every(self.settings.beat);
        let mut announce = every(Duration::from_millis(ANNOUNCE_BEAT_MS));
        let mut soon = every(SOON);
        loop {
            tokio::select! {
                // The periods first: a flood of questions must not keep the beats back.
                biased;
                () = stop.cancelled(), if !self.leaving => {
                    if mode.mode() == StopMode::LeaveInstances {
                        return;
                    }
                    self.leave();
                }
                _ = beat.tick() => self.beat(false),
                _ = announce.tick() => self.announce_beat(),
                _ = soon.tick(), if self.untold => self.beat(false),
                note = heard.recv() => match note {
                    Some(note) => self.hear(note),
                    None => return,
                },
            }
            if self.leaving && self.instances.is_empty() {
                self.beat(true);
                self.announce_beat();
                return;
            }
        }
    }

    fn leave(&mut self) {
        self.leaving = true;
        let all: Vec<_> = self.instances.keys().copied().collect();
        tracing::info!(instances = all.len(), "stopping");
        for id in all {
            self.step(id, Event::Stop("its instance manager stops".to_owned()));
        }
    }

    fn now_ms(&self) -> u64 {
        self.bus.clock().unix_ms()
    }

    fn spawn(
        &self,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        self.tasks.spawn(work)
    }

    /// Up to `max` microseconds, by chance.
    fn jitter_us(&mut self, max: u64) -> u64 {
        self.rng.random_range(0..=max)
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
