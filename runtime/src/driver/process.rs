//! Instances as plain processes of the host, each behind a shim.
//!
//! Directory of one instance: `root/` its files, `shim/` what the shim reads and writes. The shim's lock says whether it
//! lives, a pidfd says when it ends. Deliberately absent: isolation and limits.

use super::{Batch, Driver, DriverError, Found, Position, Signal, Stats, tail};
use crate::life::Exit;
use crate::proc;
use crate::shim::{self, ARGUMENT, EXIT, Ended, LOCK, OK, SPEC, STARTED, Started, Task};
use crate::spec::Spec;
use async_trait::async_trait;
use rustix::fs::{FlockOperation, flock, inotify};
use rustix::process::{Pid, PidfdFlags, kill_process_group, pidfd_open};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;
use wire::InstanceId;

/// For a shim to say that it runs.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// For a shim that holds its lock and has not yet said whom it runs.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a shim to bury its instance after KILL, before it is killed itself.
const BURY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at something that is about to happen.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of a shim's first word.
const WORD_BYTES_MAX: u64 = 4 * 1024;
/// Files that are counted for the disk use of one instance; more are not.
const DISK_ENTRIES_MAX: usize = 20_000;
/// Bytes of notifications that are read at once.
const NOTIFY_BYTES: usize = 16 * 1024;

/// A shim that is watched.
#[derive(Clone)]
struct Watched {
    started: Started,
    exit: watch::Receiver<Option<Exit>>,
}

/// The driver.
pub struct ProcessDriver {
    base: PathBuf,
    program: PathBuf,
    watched: Mutex<HashMap<InstanceId, Watched>>,
    notify: Option<AsyncFd<rustix::fd::OwnedFd>>,
    writers: Mutex<BTreeMap<i32, InstanceId>>,
}

impl ProcessDriver {
    /// Instances below `base`; the shim is this very program, whose `main` calls [`shim::maybe_run`]. Call within a Tokio
    /// runtime.
    pub fn new(base: &Path) -> io::Result<Self> {
        // By this name the program is found even after its file was replaced by a newer one.
        Self::with_shim(base, Path::new("/proc/self/exe"))
    }

    /// The same with another program as the shim.
    pub fn with_shim(base: &Path, program: &Path) -> io::Result<Self> {
        shim::private_dir(base)?;
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        // Without it lines are found by looking from time to time.
        let notify = inotify::init(flags).ok().and_then(async_fd);
        Ok(Self {
            base: fs::canonicalize(base)?,
            program: program.to_owned(),
            watched: Mutex::default(),
            notify,
            writers: Mutex::default(),
        })
    }

    fn place(&self, instance: InstanceId) -> PathBuf {
        self.base.join(instance.to_string())
    }

    fn shim_place(&self, instance: InstanceId) -> PathBuf {
        self.place(instance).join("shim")
    }

    fn known(&self, instance: InstanceId) -> Option<Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).get(&instance).cloned()
    }

    fn forget(&self, instance: InstanceId) {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&instance);
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        writers.retain(|_, writer| *writer != instance);
    }

    fn listen_to(&self, instance: InstanceId) {
        let Some(notify) = &self.notify else { return };
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        if let Ok(number) = inotify::add_watch(notify.get_ref(), self.shim_place(instance), flags) {
            let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            writers.insert(number, instance);
        }
    }

    /// Watches a shim until it ends, in a task of its own.
    fn watch(&self, instance: InstanceId, started: Started, child: Option<tokio::process::Child>) {
        let (tell, exit) = watch::channel(None);
        let place = self.shim_place(instance);
        self.listen_to(instance);
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.insert(instance, Watched { started, exit });
        drop(watched);
        tokio::spawn(async move {
            until_gone(started, child).await;
            let exit = blocking(move || read_end(&place, instance, started)).await;
            tell.send_replace(exit);
        });
    }

    async fn spawn_shim(&self, place: &Path) -> Result<tokio::process::Child, DriverError> {
        let mut child = Command::new(&self.program)
            .arg0("apcera")
            .arg(ARGUMENT)
            .arg(place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(false)
            .spawn()
            .map_err(|why| files(&self.program, why))?;
        let stdout = child.stdout.take().map(|out| out.take(WORD_BYTES_MAX));
        let Some(stdout) = stdout else { return Err(DriverError::Start("no pipe".to_owned())) };
        let mut word = String::new();
        let mut reader = BufReader::new(stdout);
        let read = tokio::time::timeout(START_TIMEOUT, reader.read_line(&mut word)).await;
        match (read, word.trim()) {
            (Ok(Ok(_)), OK) => Ok(child),
            (Ok(Ok(_)), "") => Err(DriverError::Start("the shim ended without a word".to_owned())),
            (Ok(Ok(_)), why) => Err(DriverError::Start(why.to_owned())),
            (Ok(Err(why)), _) => Err(DriverError::Start(why.to_string())),
            (Err(_), _) => Err(DriverError::Start("the shim did not answer".to_owned())),
        }
    }

    /// Waits for a shim that lives and has not yet written whom it runs.
    async fn about_to_start(&self, place: &Path) -> Option<Started> {
        let until = tokio::time::Instant::now() + ADOPT_TIMEOUT;
        loop {
            let started = shim::read_json::<Started>(&place.join(STARTED)).ok();
            if started.is_some() || tokio::time::Instant::now() >= until {
                return started;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

#[async_trait]
impl Driver for ProcessDriver {
    async fn prepare(&self, instance: InstanceId) -> Result<Option<PathBuf>, DriverError> {
        let place = self.place(instance);
        blocking(move || {
            let root = place.join("root");
            remove(&place)?;
            for folder in [&root, &place.join("shim")] {
                fs::create_dir_all(folder).map_err(|why| files(folder, why))?;
            }
            Ok(Some(root))
        })
        .await
    }

    async fn start(&self, spec: &Spec) -> Result<(), DriverError> {
        let place = self.shim_place(spec.instance);
        let task = task_of(spec);
        let path = place.join(SPEC);
        fs::create_dir_all(&task.directory).map_err(|why| files(&task.directory, why))?;
        shim::write_json(&path, &task, false).map_err(|why| files(&path, why))?;
        let child = self.spawn_shim(&place).await?;
        let path = place.join(STARTED);
        let started = shim::read_json(&path).map_err(|why| files(&path, why))?;
        self.watch(spec.instance, started, Some(child));
        Ok(())
    }

    async fn adopt(&self, instance: InstanceId) -> Result<Found, DriverError> {
        if let Some(watched) = self.known(instance) {
            return Ok(watched.exit.borrow().map_or(Found::Alive, Found::Ended));
        }
        let place = self.shim_place(instance);
        if !place.is_dir() {
            return Ok(Found::Never);
        }
        if lives(&place)
            && let Some(started) = self.about_to_start(&place).await
        {
            self.watch(instance, started, None);
            return Ok(Found::Alive);
        }
        self.listen_to(instance);
        let (read, started) = (place.clone(), place.join(STARTED));
        if let Ok(started) = shim::read_json::<Started>(&started) {
            let exit = blocking(move || read_end(&read, instance, started)).await;
            return Ok(exit.map_or(Found::Never, Found::Ended));
        }
        // A shim that is only now being loaded finds this and gives up.
        let end = Ended { code: None, at_ms: unix_ms() };
        let path = place.join(EXIT);
        shim::write_json(&path, &end, false).map_err(|why| files(&path, why))?;
        Ok(Found::Never)
    }

    async fn signal(&self, instance: InstanceId, signal: Signal) -> Result<(), DriverError> {
        let watched = self.known(instance).ok_or(DriverError::Unknown(instance))?;
        let started = watched.started;
        let signal = match signal {
            Signal::Term => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        // While the first process is there, even as a corpse, its group is no other's.
        let ours = proc::Stat::of(started.pid).is_some_and(|stat| stat.start == started.start);
        if let Some(group) = Pid::from_raw(started.pid).filter(|_| ours) {
            kill_process_group(group, signal).ok();
        }
        Ok(())
    }

    async fn run(&self, spec: &Spec, limit: Duration) -> Result<(), DriverError> {
        let task = task_of(spec);
        let Some((program, args)) = task.argv.split_first() else { return Ok(()) };
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .envs(&task.environment)
            .current_dir(&task.directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|why| files(Path::new(program), why))?;
        match tokio::time::timeout(limit, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(status) => {
                Err(DriverError::StopCommand(status.ok().and_then(|status| status.code())))
            }
            Err(_) => {
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
                if let Some(group) = pid.and_then(Pid::from_raw) {
                    kill_process_group(group, rustix::process::Signal::KILL).ok();
                }
                child.wait().await.ok();
                Err(DriverError::StopCommand(None))
            }
        }
    }

    async fn wait(&self, instance: InstanceId) -> Exit {
        let lost = || Exit { code: None, at_ms: unix_ms() };
        let Some(mut watched) = self.known(instance) else { return lost() };
        match watched.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }

    async fn stats(&self, instances: &[InstanceId]) -> Vec<Option<Stats>> {
        let all: Vec<_> = instances
            .iter()
            .map(|instance| {
                let session = self.known(*instance)?.started.shim_pid;
                Some((session, self.place(*instance).join("root")))
            })
            .collect();
        blocking(move || sample(&all)).await
    }

    async fn destroy(&self, instance: InstanceId) -> Result<(), DriverError> {
        let place = self.place(instance);
        let started = match self.known(instance) {
            Some(watched) => Some(watched.started),
            None => shim::read_json::<Started>(&place.join("shim").join(STARTED)).ok(),
        };
        let until = tokio::time::Instant::now() + BURY_TIMEOUT;
        loop {
            let last = tokio::time::Instant::now() >= until;
            let quiet = blocking(move || bury(instance, started, last)).await;
            if quiet || last {
                break;
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        self.forget(instance);
        blocking(move || remove(&place)).await
    }

    async fn list(&self) -> Vec<InstanceId> {
        let Ok(entries) = fs::read_dir(&self.base) else { return Vec::new() };
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    }

    async fn logs(&self, instance: InstanceId, from: Position) -> Batch {
        let place = self.shim_place(instance);
        blocking(move || tail::read(&place, from)).await
    }

    async fn written(&self) -> Vec<InstanceId> {
        let Some(notify) = &self.notify else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = notify.readable().await else {
                return std::future::pending().await;
            };
            let numbers = notifications(notify.get_ref());
            ready.clear_ready();
            let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            let mut found = Vec::new();
            for (number, gone) in numbers {
                let writer =
                    if gone { writers.remove(&number) } else { writers.get(&number).copied() };
                found.extend(writer.filter(|writer| !found.contains(writer)));
            }
            if !found.is_empty() {
                return found;
            }
        }
    }
}

fn notifications(notify: &rustix::fd::OwnedFd) -> Vec<(i32, bool)> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); NOTIFY_BYTES];
    let mut reader = inotify::Reader::new(notify, &mut buffer);
    let mut numbers = Vec::new();
    while let Ok(event) = reader.next() {
        numbers.push((event.wd(), event.events().contains(inotify::ReadFlags::IGNORED)));
    }
    numbers
}

fn async_fd(fd: rustix::fd::OwnedFd) -> Option<AsyncFd<rustix::fd::OwnedFd>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; a descriptor that is owned is what it asks for"
    )]
    AsyncFd::new(fd).ok()
}

fn files(path: &Path, why: io::Error) -> DriverError {
    DriverError::Files { path: path.display().to_string(), why }
}

fn task_of(spec: &Spec) -> Task {
    Task {
        argv: spec.command.argv(),
        environment: spec.environment.clone(),
        directory: PathBuf::from(OsString::from(&spec.directory)),
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a shim holds the lock of this directory.
fn lives(place: &Path) -> bool {
    let Ok(file) = File::open(place.join(LOCK)) else { return false };
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}

/// Until the shim is no more. A number that was used again is another process: then ours is gone.
async fn until_gone(started: Started, child: Option<tokio::process::Child>) {
    if let Some(mut child) = child {
        child.wait().await.ok();
        return;
    }
    let pid = Pid::from_raw(started.shim_pid);
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
    // Looked at after the descriptor is had: it is the process that it names.
    if !proc::is_alive(started.shim_pid, started.shim_start) {
        return;
    }
    if let Some(pidfd) = pidfd.and_then(async_fd) {
        pidfd.readable().await.map(drop).ok();
        return;
    }
    while proc::is_alive(started.shim_pid, started.shim_start) {
        tokio::time::sleep(LOOK_PAUSE * 20).await;
    }
}

/// The end that the shim kept. When it kept none it was killed: then what it left running is killed too, because
/// nobody holds its pipes any more.
fn read_end(place: &Path, instance: InstanceId, started: Started) -> Option<Exit> {
    if let Ok(end) = shim::read_json::<Ended>(&place.join(EXIT)) {
        return Some(Exit { code: end.code, at_ms: end.at_ms });
    }
    for _ in 0..10 {
        if bury(instance, Some(started), true) {
            break;
        }
    }
    Some(Exit { code: None, at_ms: unix_ms() })
}

/// Kills everything of an instance but its shim, which ends by itself then; with `shim_too`, that as well. True when
/// nothing is left.
fn bury(instance: InstanceId, started: Option<Started>, shim_too: bool) -> bool {
    let mut quiet = true;
    let kill = rustix::process::Signal::KILL;
    for stat in proc::marked(instance) {
        quiet = false;
        proc::signal(stat.pid, stat.start, kill);
    }
    if let Some(started) = started
        && proc::is_alive(started.shim_pid, started.shim_start)
    {
        quiet = false;
        if shim_too {
            proc::signal(started.shim_pid, started.shim_start, kill);
        }
    }
    quiet
}

fn remove(place: &Path) -> Result<(), DriverError> {
    match fs::remove_dir_all(place) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(files(place, why)),
        _ => Ok(()),
    }
}

/// One look at all processes for all instances: by session, which the shim leads.
fn sample(all: &[Option<(i32, PathBuf)>]) -> Vec<Option<Stats>> {
    let mut used: HashMap<i32, Stats> =
        all.iter().flatten().map(|(s, _)| (*s, Stats::default())).collect();
    for stat in proc::all() {
        let session = if used.contains_key(&stat.parent) { stat.parent } else { stat.session };
        if stat.pid == session {
            continue;
        }
        if let Some(stats) = used.get_mut(&session) {
            stats.cpu_ns = stats.cpu_ns.saturating_add(stat.cpu_ns);
            stats.memory = stats.memory.saturating_add(proc::resident_bytes(stat.pid));
        }
    }
    all.iter()
        .map(|one| {
            let (session, root) = one.as_ref()?;
            let stats = used.get(session)?;
            Some(Stats { disk: disk_bytes(root), ..*stats })
        })
        .collect()
}

fn disk_bytes(root: &Path) -> u64 {
    let (mut bytes, mut left, mut folders) = (0_u64, DISK_ENTRIES_MAX, vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let Ok(about) = entry.metadata() else { continue };
            left = left.saturating_sub(1);
            if left == 0 {
                return bytes;
            }
            if about.is_dir() {
                folders.push(entry.path());
            } else {
                bytes = bytes.saturating_add(about.len());
            }
        }
    }
    bytes
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Only when the runtime is being shut down, and then nobody waits for this.
        Err(_) => std::future::pending().await,
    }
}
