//! One life of the process: start in order, react to signals, drain, end.
//!
//! ```text
//!  limits ─▶ log ─▶ certificates ─▶ admin address ─▶ cores ─▶ table ─▶ admin API, watch ─▶ signals ─▶ drain
//! ```
//!
//! Whatever can fail for the operator's reasons fails before a core accepts. Deliberately absent: reading the file the
//! first time, which `main.rs` does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use route::Endpoint;
use router::access_log::{LogSender, LogWriter, TableNames};
use router::admin::{Admin, AdminListener};
use router::config::Config;
use router::hub::Hub;
use router::run::{EngineChoice, Running, StartError};
use router::settings::{AdminAddress, Settings};
use router::tls::TlsLoadError;
use router::watch::{Feed, ReloadError, Reloaded, Source, certificates};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why the router could not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot open the access log: {0}")]
    Log(std::io::Error),
    #[error(transparent)]
    Certificate(#[from] TlsLoadError),
    #[error("cannot listen on {0} for the admin API: {1}")]
    Admin(AdminAddress, std::io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serve until a signal ends it. `cores` overrides the configuration.
pub(crate) async fn serve(
    mut config: Config,
    file: Option<PathBuf>,
    choice: EngineChoice,
    cores: Option<u16>,
) -> Result<(), ServeError> {
    let begun = Instant::now();
    config.settings.cores = cores.or(config.settings.cores);
    // Before anything is started, so that no signal ends the process the hard way.
    let mut signals = Signals::new()?;
    fit_to_machine(&mut config.settings, file.is_some());
    let names = Arc::new(OnceLock::new());
    let (log, senders) = open_log(&config.settings, &names)?;
    let tls = certificates(None, &config.settings)?;
    for warning in tls.iter().flat_map(|store| store.warnings()) {
        eprintln!("warning[certificate]: {warning}");
    }
    let admin_listener = config.settings.admin.as_ref().map(bind_admin).transpose()?;
    let admin_address = admin_listener.as_ref().and_then(|listener| listener.address().ok());

    let settings = config.settings.clone();
    let running = router::run::start(settings, &config.desired, tls, choice, senders)?;
    let hub = Arc::clone(&running.hub);
    drop(names.set(Arc::clone(&hub)));

    let source = Source::new(file.clone());
    let feed =
        file.map(|file| Feed::new(&file, Arc::clone(&hub), Arc::clone(&source), &config, cores));
    let admin = Admin::new(Arc::clone(&hub), running.engine, source, log.clone());
    let serving_admin = admin_listener.map(|listener| tokio::spawn(admin.serve(listener)));
    let watching = feed.clone().map(|feed| tokio::spawn(feed.watch(|outcome| tell(&outcome))));
    greet(&running, &config, feed.is_none(), admin_address.as_ref(), begun);

    until_end(&mut signals, feed.as_ref(), log.as_ref()).await;
    if let Some(watching) = watching {
        watching.abort();
    }
    // The admin API answers while the cores drain.
    end(running, &mut signals).await;
    if let Some(admin) = serving_admin {
        admin.abort();
    }
    if let Some(log) = log {
        log.finish();
    }
    Ok(())
}

/// Descriptors as many as allowed, and connections no more than that; told if somebody wrote a limit down.
fn fit_to_machine(settings: &mut Settings, tell: bool) {
    let files = router::limits::raise_open_files();
    let ceiling = router::limits::connections_ceiling(settings.cores);
    let wanted = &mut settings.limits.connections_max;
    if *wanted > ceiling {
        if tell {
            eprintln!(
                "note: {ceiling} connections for each core, because the limit of open files is {files}"
            );
        }
        *wanted = ceiling;
    }
}

type Log = (Option<Arc<LogWriter>>, Vec<LogSender>);

fn open_log(settings: &Settings, hub: &Arc<OnceLock<Arc<Hub>>>) -> Result<Log, ServeError> {
    let Some(log) = &settings.access_log else { return Ok((None, Vec::new())) };
    let cores = settings
        .cores
        .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let names = TableNames::new(Arc::clone(hub));
    let (writer, senders) =
        LogWriter::start(log.target.clone(), cores, log.sample, names).map_err(ServeError::Log)?;
    Ok((Some(Arc::new(writer)), senders))
}

fn bind_admin(address: &AdminAddress) -> Result<AdminListener, ServeError> {
    AdminListener::bind(address).map_err(|error| ServeError::Admin(address.clone(), error))
}

/// The signals that mean something.
struct Signals {
    reload: Signal,
    reopen: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// SIGTERM or SIGINT.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// React to signals until one says that it is time to end.
async fn until_end(signals: &mut Signals, feed: Option<&Arc<Feed>>, log: Option<&Arc<LogWriter>>) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.reload.recv() => match feed {
                Some(feed) => tell(&feed.reload_aside().await),
                None => eprintln!("note: SIGHUP, but there is no file to read again"),
            },
            _ = signals.reopen.recv() => {
                if let Some(log) = log {
                    log.reopen();
                }
            }
        }
    }
}

async fn end(running: Running, signals: &mut Signals) {
    let timeout = running.hub.settings().timeouts.drain;
    let in_flight: u64 = running.hub.cores().iter().map(|core| core.stats.in_flight.read()).sum();
    eprintln!(
        "draining: {in_flight} in flight, at most {} s; a second signal ends at once",
        timeout.as_secs()
    );
    let begun = Instant::now();
    let hub = Arc::clone(&running.hub);
    tokio::select! {
        whole = running.drain(timeout) => {
            let ms = begun.elapsed().as_millis();
            eprintln!("{}", if whole { format!("drained in {ms} ms") } else { format!("cut off after {ms} ms") });
        }
        () = signals.end() => {
            hub.set_phase(router::hub::Phase::Stopping);
            eprintln!("ended at once");
        }
    }
}

/// What a reload did, for whoever reads stderr.
fn tell(outcome: &Result<Reloaded, ReloadError>) {
    match outcome {
        Ok(reloaded) => {
            for warning in &reloaded.warnings {
                eprintln!("warning: {warning}");
            }
            if !reloaded.restart_needed.is_empty() {
                eprintln!(
                    "warning[restart_needed]: {} changed, which needs a restart",
                    reloaded.restart_needed.join(", ")
                );
            }
            eprintln!("reloaded: table version {}", reloaded.version);
        }
        Err(error) => eprintln!("{error}note: the last good table is kept"),
    }
}

fn greet(
    running: &Running,
    config: &Config,
    demonstration: bool,
    admin: Option<&AdminAddress>,
    begun: Instant,
) {
    if let Some(why) = &running.fell_back {
        eprintln!("warning[epoll]: io_uring is not to be had here ({why}); epoll serves instead");
    }
    let listeners = running.hub.listeners();
    let routes = router::config::count(config.desired.routes.len(), "route");
    let jobs = router::config::count(config.desired.jobs.len(), "job");
    let cores = router::config::count(running.hub.cores().len(), "core");
    let ms = begun.elapsed().as_millis();
    eprintln!(
        "router {} on {} with {cores}: {routes}, {jobs}, ready in {ms} ms",
        env!("CARGO_PKG_VERSION"),
        running.engine,
    );
    for (kind, addr) in &listeners {
        eprintln!("  {kind:5} {addr}");
    }
    if let Some(admin) = admin {
        eprintln!("  admin {admin}");
    }
    if demonstration {
        let http = listeners.iter().find(|(kind, _)| *kind == "http").map(|(_, addr)| *addr);
        let tcp = config.desired.routes.keys().find_map(Endpoint::tcp);
        if let (Some(http), Some(admin)) = (http, admin) {
            show_demonstration(http, tcp, admin);
        }
    }
}

fn show_demonstration(http: SocketAddr, tcp: Option<SocketAddr>, admin: &AdminAddress) {
    eprint!(
        "\nThis is a demonstration; try\n\n{}",
        router::demo::try_these(http, tcp, &admin.to_string())
    );
    eprintln!("\nand start with --config FILE for your own table. Ctrl-C ends it.");
}
