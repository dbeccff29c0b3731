//! Starting the cores: listeners reserved, one pinned thread and one engine each, all joined to one hub.
//!
//! Deliberately absent: the side thread (the caller brings a Tokio runtime), files, signals.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::epoll::EpollEngine;
use engine::uring::UringEngine;
use engine::{Engine, EngineOptions};
use route::Desired;

use crate::access_log::LogSender;
use crate::bind::{Reserved, reserve};
use crate::core::{Core, CoreConfig};
use crate::hub::{Hub, Phase, Refused};
use crate::settings::Settings;
use crate::tls::TlsStore;

/// Which engine to serve with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// `io_uring` where the kernel allows it, else epoll, and say so.
    #[default]
    Auto,
    /// `io_uring` or an error.
    IoUring,
    /// epoll.
    Epoll,
}

/// Why the cores could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {kind}://{addr}: {error}")]
    Listen {
        /// `http` or `https`.
        kind: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The forced engine is not to be had.
    #[error("io_uring was asked for, but this system does not give it: {0}")]
    NoIoUring(String),
    /// A core did not come up.
    #[error("core {core} did not start: {error}")]
    Core {
        /// Which.
        core: usize,
        /// Why.
        error: io::Error,
    },
    /// The first table is not to be had.
    #[error(transparent)]
    Table(#[from] Refused),
    /// Something of the process itself is missing: a thread, a descriptor.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A router that serves.
pub struct Running {
    /// The meeting place: commits, statistics, the end.
    pub hub: Arc<Hub>,
    /// `io_uring` or `epoll`.
    pub engine: &'static str,
    /// Why `io_uring` was not taken although it was not forbidden.
    pub fell_back: Option<String>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Accept nothing new, let what runs finish for at most `timeout`, then end. True when nothing had to be cut.
    pub async fn drain(self, timeout: Duration) -> bool {
        self.hub.set_phase(Phase::Draining);
        let done = self.hub.wait_ended(timeout).await;
        self.stop();
        done
    }

    /// End at once.
    pub fn stop(self) {
        self.hub.set_phase(Phase::Stopping);
        for thread in self.threads {
            // A core that panicked has told so already; the others still have to be waited for.
            drop(thread.join());
        }
    }
}

/// Start the cores with a table and certificates that they serve from their first connection on.
/// `logs` has one sender for each core, or is empty. Inside a Tokio runtime.
pub fn start(
    settings: Settings,
    table: &Desired,
    tls: Option<Arc<TlsStore>>,
    choice: EngineChoice,
    logs: Vec<LogSender>,
) -> Result<Running, StartError> {
    prepare(settings, table, tls, choice)?.serve(logs)
}

/// A router before its first connection: addresses are held, the table takes commits, nobody is let in.
#[must_use = "it serves nobody yet"]
pub struct Prepared {
    /// The meeting place, for whoever brings the first table.
    pub hub: Arc<Hub>,
    engine: &'static str,
    fell_back: Option<String>,
    http: Vec<Reserved>,
    https: Vec<Reserved>,
}

/// The first half of [`start`].
pub fn prepare(
    settings: Settings,
    table: &Desired,
    tls: Option<Arc<TlsStore>>,
    choice: EngineChoice,
) -> Result<Prepared, StartError> {
    let cores = settings.cores.map_or_else(processors, usize::from).max(1);
    let (engine, fell_back) = pick_engine(choice)?;
    let hub = Hub::new(cores, settings.clone())?;
    hub.set_tls(tls);
    hub.replace(&Desired::default(), table)?;
    let http = reserve_all("http", &settings.http)?;
    let https = reserve_all("https", &settings.https)?;
    for (kind, list) in [("http", &http), ("https", &https)] {
        list.iter().for_each(|one| hub.note_listener(kind, one.addr));
    }
    hub.set_phase(Phase::Starting);
    Ok(Prepared { hub, engine, fell_back, http, https })
}

impl Prepared {
    /// `io_uring` or `epoll`.
    pub const fn engine(&self) -> &'static str {
        self.engine
    }

    /// The second half of [`start`].
    pub fn serve(self, logs: Vec<LogSender>) -> Result<Running, StartError> {
        let Self { hub, engine, fell_back, http, https } = self;
        let cores = hub.cores().len();
        hub.set_phase(Phase::Serving);
        tokio::spawn(Arc::clone(&hub).watch_progress());
        let mut logs = logs.into_iter();
        let (started, ups) = std::sync::mpsc::sync_channel::<(usize, io::Result<()>)>(cores);
        let mut threads = Vec::new();
        for index in 0..cores {
            let plan = CorePlan {
                hub: Arc::clone(&hub),
                index,
                http: http.iter().map(|one| one.addr).collect(),
                https: https.iter().map(|one| one.addr).collect(),
                log: logs.next(),
                started: started.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("core-{index}"));
            threads.push(thread.spawn(move || plan.run(engine))?);
        }
        drop(started);
        let running = Running { hub, engine, fell_back, threads };
        for (core, outcome) in ups.iter().take(cores) {
            if let Err(error) = outcome {
                running.stop();
                return Err(StartError::Core { core, error });
            }
        }
        Ok(running)
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn pick_engine(choice: EngineChoice) -> Result<(&'static str, Option<String>), StartError> {
    if choice == EngineChoice::Epoll {
        return Ok(("epoll", None));
    }
    match (engine::probe::io_uring(), choice) {
        (Ok(()), _) => Ok(("io_uring", None)),
        (Err(why), EngineChoice::IoUring) => Err(StartError::NoIoUring(why.to_string())),
        (Err(why), _) => Ok(("epoll", Some(why.to_string()))),
    }
}

fn reserve_all(kind: &'static str, addrs: &[SocketAddr]) -> Result<Vec<Reserved>, StartError> {
    let one = |&addr: &SocketAddr| {
        reserve(addr).map_err(|error| StartError::Listen { kind, addr, error })
    };
    addrs.iter().map(one).collect()
}

/// What a core thread needs to come up.
struct CorePlan {
    hub: Arc<Hub>,
    index: usize,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    log: Option<LogSender>,
    started: std::sync::mpsc::SyncSender<(usize, io::Result<()>)>,
}

impl CorePlan {
    fn run(self, engine: &'static str) {
        pin(self.index);
        let pages = self.hub.settings().limits.pages_bytes_max;
        let options =
            EngineOptions { page_bytes_max: usize::try_from(pages).unwrap_or(usize::MAX) };
        if engine == "epoll" {
            self.serve(EpollEngine::new(&options));
        } else {
            self.serve(UringEngine::new(&options));
        }
    }

    fn serve<E: Engine>(self, engine: io::Result<E>) {
        let Self { hub, index, http, https, log, started } = self;
        let core = engine.and_then(|engine| {
            let seed = seed();
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let wall_us = u64::try_from(wall.as_micros()).unwrap_or(0);
            let wall_zero_us = wall_us.saturating_sub(engine.now().0 / 1_000);
            let hub = Arc::clone(&hub);
            Core::new(engine, CoreConfig { hub, index, http, https, seed, wall_zero_us, log })
        });
        let mut core = match core {
            Ok(core) => core,
            Err(error) => {
                drop(started.send((index, Err(error))));
                return;
            }
        };
        // The receiver lives until every core has reported.
        drop(started.send((index, Ok(()))));
        if let Err(error) = core.run() {
            // Without its engine a core can serve nobody; the process ends so that its supervisor starts it anew.
            eprintln!("error[engine_failed]: core {index} cannot go on: {error}");
            std::process::exit(1);
        }
    }
}

/// One processor for each core, in order, among those this process may use. Failing that, the kernel chooses.
fn pin(index: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let mine: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    if mine.is_empty() {
        return;
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(mine[index % mine.len()]);
    // Not being pinned costs cache misses, nothing else.
    let _pinned = rustix::thread::sched_setaffinity(None, &set);
}

/// A seed nobody can guess: request ids of two cores and of two starts must not meet.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
