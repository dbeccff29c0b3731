//! Starts a process pinned, at its priority and in a control group of its own, and surely ends it again.
//!
//! A process ends with its guard; should this program die without running a guard (a signal, a panic), the kernel
//! tells the children (`setpriv --pdeathsig`). Ctrl-C reaches them anyway, as they are in the same terminal group.
//! Deliberately absent: ending anything by name.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::meter::Meter;

/// Where groups for counting CPU can be made, best first: v1, unified beside v1, unified alone.
const GROUP_ROOTS: [(&str, bool); 3] = [
    ("/sys/fs/cgroup/cpuacct", true),
    ("/sys/fs/cgroup/unified", false),
    ("/sys/fs/cgroup", false),
];
const GROUP_PREFIX: &str = "edge-bench-";
/// A proxy has this long to end when asked, before it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
/// A proxy has this long to listen. 100,000 routes have to be read, too.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(2);

/// Where and how a process runs.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Its real-time priority (FIFO); `None` for the ordinary scheduler.
    pub priority: Option<u8>,
}

impl Place {
    /// The words in front of a command.
    pub fn prefix(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(priority) = self.priority {
            words.extend(["chrt".to_owned(), "-f".to_owned(), priority.to_string()]);
        }
        words.extend(["taskset".to_owned(), "-c".to_owned(), self.cpu.to_string()]);
        words
    }
}

/// Whether processes may have a real-time priority here.
pub fn can_prioritize() -> bool {
    let quiet = |mut command: Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let mut command = Command::new("chrt");
    command.args(["-f", "10", "true"]);
    quiet(command).is_ok_and(|status| status.success())
}

/// A running process; it ends when this is dropped.
pub struct Running {
    child: Child,
    meter: Meter,
    group: Option<PathBuf>,
}

impl Running {
    /// Starts `command` at `place`; its output goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &[String], place: Place, log: &Path) -> Result<Self, String> {
        let group = make_group();
        let mut launch = Command::new("sh");
        let enter = "[ -z \"$0\" ] || echo $$ > \"$0/cgroup.procs\" || exit 1; exec \"$@\"";
        launch.arg("-c").arg(enter);
        launch.arg(group.as_ref().map(|(path, _)| path.as_os_str()).unwrap_or_default());
        launch.args(["setpriv", "--pdeathsig", "TERM"]).args(place.prefix()).args(command);
        let output = fs::File::create(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let errors = output.try_clone().map_err(|e| e.to_string())?;
        launch.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = launch.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let (meter, group) = match group {
            Some((path, true)) => (Meter::CpuAcct(path.clone()), Some(path)),
            Some((path, false)) => (Meter::Unified(path.clone()), Some(path)),
            None => (Meter::Tree(child.id()), None),
        };
        Ok(Self { child, meter, group })
    }

    /// Reads the CPU and memory of the process and its children.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Waits until it accepts connections at `address`.
    ///
    /// # Errors
    /// When it ends or takes too long.
    pub fn wait_for(&mut self, address: SocketAddr, log: &Path) -> Result<(), String> {
        let start = Instant::now();
        while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
            if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
                return Err(format!("ended before it listened ({status}): {}", tail(log)));
            }
            if start.elapsed() > LISTENS_WITHIN {
                return Err(format!("does not listen at {address}: {}", tail(log)));
            }
            sleep(POLL);
        }
        Ok(())
    }

    fn end(&mut self) {
        signal(self.child.id(), Signal::TERM);
        let start = Instant::now();
        while !self.has_ended() && start.elapsed() < ENDS_WITHIN {
            sleep(POLL);
        }
        for pid in self.meter.processes().unwrap_or_default() {
            signal(pid, Signal::KILL);
        }
        // A zombie would keep its pid and its group.
        self.child.kill().ok();
        self.child.wait().ok();
        if let Some(group) = &self.group {
            let start = Instant::now();
            while fs::remove_dir(group).is_err() && start.elapsed() < ENDS_WITHIN {
                sleep(POLL);
            }
        }
    }

    /// Also the workers: they may outlive the process that started them.
    fn has_ended(&mut self) -> bool {
        let child_ended = !matches!(self.child.try_wait(), Ok(None));
        child_ended
            && (self.group.is_none() || self.meter.processes().is_ok_and(|all| all.is_empty()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Two free ports of the loopback address, as free as can be known without keeping them.
///
/// # Errors
/// When none can be bound.
pub fn free_addresses() -> Result<(SocketAddr, SocketAddr), String> {
    let bind = || TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string());
    let (a, b) = (bind()?, bind()?);
    let address = |listener: &TcpListener| listener.local_addr().map_err(|e| e.to_string());
    Ok((address(&a)?, address(&b)?))
}

/// A directory for this run's files; directories and groups of interrupted runs, whose maker is gone, are removed.
///
/// # Errors
/// When it cannot be made.
pub fn make_directory() -> Result<PathBuf, String> {
    const PREFIX: &str = "side-by-side-";
    let root = std::env::temp_dir();
    for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(PREFIX).is_some_and(|maker| !Path::new("/proc").join(maker).exists()) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    remove_stale_groups();
    let directory = root.join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    Ok(directory)
}

fn remove_stale_groups() {
    for (root, _) in GROUP_ROOTS {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(maker) =
                name.strip_prefix(GROUP_PREFIX).and_then(|rest| rest.split('-').next())
            else {
                continue;
            };
            if !Path::new("/proc").join(maker).exists() {
                // Fails while a process is inside, and is then tried at the next start.
                fs::remove_dir(entry.path()).ok();
            }
        }
    }
}

/// A new group, and whether it is of the v1 kind.
fn make_group() -> Option<(PathBuf, bool)> {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("{GROUP_PREFIX}{}-{number}", std::process::id());
    GROUP_ROOTS.iter().find_map(|(root, is_v1)| {
        let path = Path::new(root).join(&name);
        fs::create_dir(&path).ok()?;
        let file = if *is_v1 { "cpuacct.usage" } else { "cpu.stat" };
        if path.join(file).exists() && path.join("cgroup.procs").exists() {
            return Some((path, *is_v1));
        }
        fs::remove_dir(&path).ok();
        None
    })
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself.
        kill_process(pid, signal).ok();
    }
}

fn tail(log: &Path) -> String {
    const SHOWN_LINES_MAX: usize = 6;
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES_MAX)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_counted_and_ends_with_its_guard() {
        let log = std::env::temp_dir().join(format!("bench-process-{}", std::process::id()));
        let place = Place { cpu: 0, priority: None };
        // The child of the shell ignores the polite signal; it must end all the same where there is a group.
        let script = "trap '' TERM; echo up; while :; do sleep 0.01; done";
        let command = ["sh", "-c", script].map(str::to_owned);
        let running = Running::start(&command, place, &log).unwrap();
        while fs::read_to_string(&log).unwrap() != "up\n" {
            sleep(POLL);
        }
        let pids = running.meter().processes().unwrap();
        assert!(!pids.is_empty() && running.meter().cpu_ns().unwrap() > 0);
        let child = running.child.id();
        drop(running);
        assert!(!Path::new("/proc").join(child.to_string()).exists(), "still there");
        fs::remove_file(&log).unwrap();
    }
}
