//! Where the side of the router that changes things meets the cores that serve: commits, acknowledgement, drain.
//!
//! ```text
//!  file, admin ──▶ Hub::commit ──▶ Editor ──▶ deltas into each core's queue ──▶ table published ──▶ cores woken
//!        ◀── wait_live ◀── signal ◀── each core stores the version that it reads
//! ```
//!
//! The cores touch only atomics, their own queue and an `ArcSwap`: never the editor's lock.
//! A retired table is freed here, after every core has moved on; a core never drops the last handle.
//! Deliberately absent: sockets of traffic, parsing of files, HTTP.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_queue::ArrayQueue;
use route::{Change, CommitError, Delta, Desired, Editor, Freed, Table};

use crate::settings::Settings;
use crate::signal::Signal;
use crate::stats::CoreStats;
use crate::tls::TlsStore;

/// Deltas that may wait for one core. A core that is behind by more rebuilds its view from the whole table.
pub const DELTAS_WAITING_MAX: usize = 1024;

/// Instances that may wait for their drain before the oldest reports are dropped (their slots are then never reused).
pub const DRAINING_MAX: usize = 100_000;

/// What the cores are asked to do with their lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Accept and serve.
    Serving = 0,
    /// Accept nothing new, finish what runs, close what idles.
    Draining = 1,
    /// End at once.
    Stopping = 2,
    /// Nobody is let in yet: there may be no table.
    Starting = 3,
}

/// What one core shares with the rest of the process.
pub struct CoreShared {
    /// Counters, gauges and histograms that this core alone writes.
    pub stats: CoreStats,
    /// Deltas not yet seen by this core, oldest first.
    pub deltas: ArrayQueue<Arc<Delta>>,
    /// Version of the table that this core reads.
    pub serving: AtomicU64,
    /// The core has left its loop.
    pub ended: AtomicBool,
    wake: Mutex<Option<Box<dyn Fn() + Send>>>,
}

/// What a commit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The version that holds the change.
    pub version: u64,
    /// Time to build and publish it.
    pub took: Duration,
}

/// All cores serve a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// How many cores acknowledged; all of them.
    pub cores: usize,
    /// From the call to the acknowledgement of the slowest core.
    pub elapsed: Duration,
}

/// Not all cores serve a version yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{live} of {of} cores serve version {version} after {waited:?}")]
pub struct Behind {
    /// The version waited for.
    pub version: u64,
    /// Cores that serve it.
    pub live: usize,
    /// Cores in all.
    pub of: usize,
    /// How long the caller waited.
    pub waited: Duration,
}

/// A removed instance that still has exchanges in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draining {
    /// The job that it belonged to.
    pub job: Arc<str>,
    /// Its address.
    pub addr: SocketAddr,
    /// Exchanges and connections in flight over all cores.
    pub in_flight: u64,
}

/// Why a commit was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The change itself is wrong.
    #[error(transparent)]
    Change(#[from] CommitError),
    /// The table moved on since the caller read it.
    #[error("the table is at version {newest}, but the change was made for version {expected}")]
    Stale {
        /// What the caller expected.
        expected: u64,
        /// What is there.
        newest: u64,
    },
    /// A TCP route asks for an address that cannot be listened on.
    #[error("cannot listen on tcp://{addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

/// A slot whose tenant left the table, and that exchanges may still refer to.
struct DrainEntry {
    slot: Freed,
    /// Of an instance: where it is, and the name of its job.
    instance: Option<(SocketAddr, Arc<str>)>,
    removed_in: u64,
}

struct Workbench {
    editor: Editor,
    draining: VecDeque<DrainEntry>,
}

/// The meeting place. One for each router; shared by `Arc`.
pub struct Hub {
    table: ArcSwap<Table>,
    version: AtomicU64,
    workbench: Mutex<Workbench>,
    cores: Box<[Arc<CoreShared>]>,
    phase: AtomicU8,
    waiters: AtomicU32,
    progress: Signal,
    changed: tokio::sync::Notify,
    tls: ArcSwapOption<TlsStore>,
    settings: ArcSwap<Settings>,
    settings_version: AtomicU64,
    listeners: Mutex<Vec<(&'static str, SocketAddr)>>,
    started: Instant,
}

impl Hub {
    /// A hub for `cores` cores with an empty table. `Err` at the descriptor limit.
    pub fn new(cores: usize, settings: Settings) -> io::Result<Arc<Self>> {
        let editor = Editor::new();
        let table = Arc::new(editor.table().clone());
        let shared = || {
            Arc::new(CoreShared {
                stats: CoreStats::default(),
                deltas: ArrayQueue::new(DELTAS_WAITING_MAX),
                serving: AtomicU64::new(0),
                ended: AtomicBool::new(false),
                wake: Mutex::new(None),
            })
        };
        Ok(Arc::new(Self {
            version: AtomicU64::new(table.version()),
            table: ArcSwap::new(table),
            workbench: Mutex::new(Workbench { editor, draining: VecDeque::new() }),
            cores: (0..cores).map(|_| shared()).collect(),
            phase: AtomicU8::new(Phase::Serving as u8),
            waiters: AtomicU32::new(0),
            progress: Signal::new()?,
            changed: tokio::sync::Notify::new(),
            tls: ArcSwapOption::empty(),
            settings: ArcSwap::from_pointee(settings),
            settings_version: AtomicU64::new(0),
            listeners: Mutex::new(Vec::new()),
            started: Instant::now(),
        }))
    }

    // === what the side thread calls ===

    /// Apply all changes or none, and publish the new table to the cores.
    pub fn commit(&self, changes: &[Change]) -> Result<Receipt, Refused> {
        self.commit_if(None, changes)
    }

    /// As [`Self::commit`], refused when the newest version is not `expected`.
    pub fn commit_if(&self, expected: Option<u64>, changes: &[Change]) -> Result<Receipt, Refused> {
        let begun = Instant::now();
        let mut bench = self.bench();
        let newest = bench.editor.table().version();
        if let Some(expected) = expected
            && expected != newest
        {
            return Err(Refused::Stale { expected, newest });
        }
        if changes.is_empty() {
            return Ok(Receipt { version: newest, took: begun.elapsed() });
        }
        for addr in tcp_addresses(changes, bench.editor.table()) {
            try_bind(addr).map_err(|error| Refused::Listen { addr, error })?;
        }
        let commit = bench.editor.apply(changes)?;
        let version = commit.table.version();
        bench.note_freed(&commit.delta);
        for core in &self.cores {
            // A full queue leaves a gap in the versions; the core sees it and rebuilds its view.
            drop(core.deltas.push(Arc::clone(&commit.delta)));
        }
        self.table.store(Arc::new(commit.table));
        self.version.store(version, Ordering::Release);
        self.wake_all();
        self.sweep(&mut bench);
        Ok(Receipt { version, took: begun.elapsed() })
    }

    /// Move from one wanted state to another: what others changed besides stays.
    pub fn replace(&self, old: &Desired, new: &Desired) -> Result<Receipt, Refused> {
        self.commit(&route::diff(old, new))
    }

    /// The newest table.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Wait until every core reads `version` or a newer one.
    pub async fn wait_live(&self, version: u64, timeout: Duration) -> Result<Live, Behind> {
        let begun = Instant::now();
        let done =
            self.wait_until(timeout, || self.cores_serving(version) == self.cores.len()).await;
        let (live, of) = (self.cores_serving(version), self.cores.len());
        if done {
            return Ok(Live { cores: of, elapsed: begun.elapsed() });
        }
        Err(Behind { version, live, of, waited: begun.elapsed() })
    }

    /// Removed instances that are still in use, oldest first.
    pub fn draining(&self) -> Vec<Draining> {
        let mut bench = self.bench();
        self.sweep(&mut bench);
        bench.draining.iter().filter_map(|entry| self.drain_report(entry)).collect()
    }

    /// Wait until nothing is in flight at the removed instance `addr` of `job`; with no address, at the whole job.
    /// `Err` carries what is still in flight. An instance that is not draining is idle by definition.
    pub async fn wait_drained(
        &self,
        job: &str,
        addr: Option<SocketAddr>,
        timeout: Duration,
    ) -> Result<Duration, Vec<Draining>> {
        let begun = Instant::now();
        let left = || -> Vec<Draining> {
            let mut all = self.draining();
            all.retain(|one| &*one.job == job && addr.is_none_or(|addr| one.addr == addr));
            all
        };
        if self.wait_until(timeout, || left().is_empty()).await {
            return Ok(begun.elapsed());
        }
        Err(left())
    }

    /// Wait until every core serves without what was removed at `addrs`, and nothing is in flight there, whatever the
    /// job was called. `Err` carries what is left. The caller knows that the addresses are out of the table.
    pub async fn wait_idle(
        &self,
        addrs: &[SocketAddr],
        timeout: Duration,
    ) -> Result<Duration, Vec<Draining>> {
        let begun = Instant::now();
        let left = || -> Vec<Draining> {
            let mut all = self.draining();
            all.retain(|one| addrs.contains(&one.addr));
            all
        };
        if self.wait_until(timeout, || left().is_empty()).await {
            return Ok(begun.elapsed());
        }
        Err(left())
    }

    /// How many cores serve `version` or a newer one.
    pub fn cores_serving(&self, version: u64) -> usize {
        self.cores.iter().filter(|core| core.serving.load(Ordering::SeqCst) >= version).count()
    }

    /// Install certificates: new connections use them, running ones keep theirs.
    pub fn set_tls(&self, store: Option<Arc<TlsStore>>) {
        self.tls.store(store);
    }

    /// Install limits and time-outs. Listen addresses and the number of cores stay as they were at the start.
    pub fn set_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        self.settings_version.fetch_add(1, Ordering::Release);
        self.wake_all();
    }

    /// Ask the cores to drain or to stop.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.wake_all();
    }

    /// Wait until every core has left its loop.
    pub async fn wait_ended(&self, timeout: Duration) -> bool {
        self.wait_until(timeout, || {
            self.cores.iter().all(|core| core.ended.load(Ordering::Acquire))
        })
        .await
    }

    /// The task that turns the cores' signal into wake-ups of `wait_*`. Runs until the runtime ends.
    pub async fn watch_progress(self: Arc<Self>) -> io::Result<()> {
        let watch = self.progress.watch()?;
        loop {
            watch.raised().await?;
            self.changed.notify_waiters();
        }
    }

    /// Since when the hub exists.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Where the router listens: kind (`http`, `https`, `tcp`) and address.
    pub fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        let mut list = self.lock_listeners().clone();
        let table = self.table();
        let tcp = table.routes().filter_map(|route| route.endpoint.tcp());
        list.extend(tcp.map(|addr| ("tcp", addr)));
        list
    }

    /// Tell where the fixed listeners are, for status pages.
    pub fn note_listener(&self, kind: &'static str, addr: SocketAddr) {
        self.lock_listeners().push((kind, addr));
    }

    // === what both sides read ===

    /// What the cores are asked to do.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            3 => Phase::Starting,
            _ => Phase::Stopping,
        }
    }

    /// What the cores share.
    pub fn cores(&self) -> &[Arc<CoreShared>] {
        &self.cores
    }

    /// Newest published version.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The certificates in force.
    pub fn tls(&self) -> Option<Arc<TlsStore>> {
        self.tls.load_full()
    }

    /// Limits and time-outs in force.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Rises with each `set_settings`.
    pub fn settings_version(&self) -> u64 {
        self.settings_version.load(Ordering::Acquire)
    }

    // === what a core calls ===

    /// A core is up and says how to wake it.
    pub fn attach(&self, core: usize, wake: Box<dyn Fn() + Send>) {
        *self.cores[core].wake.lock().unwrap_or_else(PoisonError::into_inner) = Some(wake);
    }

    /// A core moved on (new version, an instance idle, its end): wake those who wait, if anybody does.
    pub fn note_progress(&self) {
        if self.waiters.load(Ordering::SeqCst) > 0 {
            self.progress.raise();
        }
    }

    // === within ===

    async fn wait_until(&self, timeout: Duration, done: impl Fn() -> bool) -> bool {
        let deadline = tokio::time::Instant::now() + timeout;
        let _waiting = Waiting::new(&self.waiters);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done() {
                return true;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return done();
            }
        }
    }

    fn oldest_served(&self) -> u64 {
        let served = self.cores.iter().map(|core| core.serving.load(Ordering::SeqCst));
        served.min().unwrap_or(u64::MAX)
    }

    fn wake_all(&self) {
        for core in &self.cores {
            if let Some(wake) = &*core.wake.lock().unwrap_or_else(PoisonError::into_inner) {
                wake();
            }
        }
    }

    /// Let the editor reuse the slots that nobody refers to any more, and drop the tables that nobody reads.
    fn sweep(&self, bench: &mut Workbench) {
        let oldest = self.oldest_served();
        let mut freed = Vec::new();
        bench.draining.retain(|entry| {
            let idle = entry.removed_in <= oldest && self.in_flight(entry.slot) == 0;
            if idle {
                freed.push(entry.slot);
            }
            !idle
        });
        bench.editor.release(freed);
    }

    fn in_flight(&self, slot: Freed) -> u64 {
        let of_core = |core: &Arc<CoreShared>| match slot {
            Freed::Instance(slot) => core.stats.instance_in_flight(slot),
            Freed::Route(slot) => core.stats.route_in_flight(slot),
            // What runs at a job runs at one of its instances.
            Freed::Job(_) => 0,
        };
        self.cores.iter().map(of_core).sum()
    }

    fn drain_report(&self, entry: &DrainEntry) -> Option<Draining> {
        let (addr, job) = entry.instance.clone()?;
        Some(Draining { job, addr, in_flight: self.in_flight(entry.slot) })
    }

    fn bench(&self) -> MutexGuard<'_, Workbench> {
        self.workbench.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_listeners(&self) -> MutexGuard<'_, Vec<(&'static str, SocketAddr)>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workbench {
    /// Remember what a commit removed until nobody refers to it. Beyond the bound the oldest entries are
    /// forgotten: their slots are then never reused, which costs numbers, not correctness.
    fn note_freed(&mut self, delta: &Delta) {
        let instances = delta
            .instances_removed
            .iter()
            .map(|(slot, addr, job)| (Freed::Instance(*slot), Some((*addr, Arc::clone(job)))));
        let routes = delta.routes_removed.iter().map(|&slot| (Freed::Route(slot), None));
        let jobs = delta.jobs_removed.iter().map(|&slot| (Freed::Job(slot), None));
        for (slot, instance) in instances.chain(routes).chain(jobs) {
            if self.draining.len() == DRAINING_MAX {
                self.draining.pop_front();
            }
            self.draining.push_back(DrainEntry { slot, instance, removed_in: delta.version });
        }
    }
}

/// Counts one waiter for as long as it lives, so that cores know whether a signal is worth a system call.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Addresses of TCP routes that a change would open and that are not open yet.
fn tcp_addresses(changes: &[Change], table: &Table) -> Vec<SocketAddr> {
    let wanted = changes.iter().filter_map(|change| match change {
        Change::PutTarget { endpoint: route::Endpoint::Tcp(addr), .. } => Some(*addr),
        _ => None,
    });
    wanted.filter(|addr| table.tcp_route(*addr).is_none()).collect()
}

/// Whether a listener could be opened: bound with the same option as the cores use, and closed again.
fn try_bind(addr: SocketAddr) -> io::Result<()> {
    crate::bind::reserve(addr).map(drop)
}
