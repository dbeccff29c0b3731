//! A PostgreSQL of one's own for a test: started, killed without mercy, started again, gone with the test.
//!
//! Other crates' tests include this file by its path; it needs nothing but the standard library and the server's
//! programs on the path. fsync stays on: what it acknowledges must outlive the kill.
//!
//! Deliberately absent: a shared server. Each test owns its own, so that it may kill it.

#![allow(unreachable_pub, dead_code, reason = "each includer uses its part")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// For a start, with recovery after a kill.
const START_WAIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Attempts to start while the last one's memory is still in use.
const STARTS_MAX: u32 = 20;

/// A server with its own directory and port.
pub struct Postgres {
    dir: PathBuf,
    port: u16,
    server: Option<Child>,
}

/// Whether the programs are there. If not: a failure under `CI`, else a loud word, and the test is to return.
pub fn available() -> bool {
    let there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
    };
    let all = there("initdb") && there("postgres");
    assert!(all || std::env::var_os("CI").is_none(), "initdb and postgres are not on the path");
    if !all {
        eprintln!("SKIPPED: initdb and postgres are not on the path, so nothing was tested here");
    }
    all
}

impl Postgres {
    /// Makes a database cluster and starts its server.
    pub fn start(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pg-{name}-{}-{count}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir).expect("a directory for PostgreSQL");
        // The server's user is not ours, if we are root.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("its permissions");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let made = command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(dir.join("db"))
            .current_dir(&dir)
            .stdin(Stdio::null())
            .output()
            .expect("initdb");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut postgres = Self { dir, port, server: None };
        postgres.restart();
        postgres
    }

    /// To connect to it.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts it again on the same port, and waits until it takes connections.
    pub fn restart(&mut self) {
        assert!(self.server.is_none(), "it runs");
        let give_up = Instant::now() + START_WAIT;
        for _ in 0..STARTS_MAX {
            let mut server = self.spawn();
            loop {
                if self.ready(server.id()) {
                    self.server = Some(server);
                    return;
                }
                if server.try_wait().expect("its status").is_some() {
                    break;
                }
                assert!(Instant::now() < give_up, "not ready in time: {}", self.log());
                std::thread::sleep(LOOK_EVERY);
            }
        }
        panic!("PostgreSQL does not start: {}", self.log());
    }

    fn spawn(&self) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .expect("the log file");
        command("postgres")
            .arg("-D")
            .arg(self.dir.join("db"))
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "fsync=on", "-p", &self.port.to_string()])
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres")
    }

    /// The server writes its state into the file of its process id, which a killed one leaves behind.
    fn ready(&self, pid: u32) -> bool {
        let state = fs::read_to_string(self.dir.join("db/postmaster.pid")).unwrap_or_default();
        let mut lines = state.lines();
        lines.next() == Some(&pid.to_string()) && lines.nth(6).is_some_and(|l| l.trim() == "ready")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// kill -9 for the server and all of its children at once.
    pub fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        // Stopped first, so that it makes no new ones and keeps those it has.
        signal("-STOP", &[server.id()]);
        let orphans = children(server.id());
        let mut all = orphans.clone();
        all.push(server.id());
        signal("-KILL", &all);
        server.wait().expect("its end");
        let give_up = Instant::now() + START_WAIT;
        while orphans.iter().any(|pid| lives(*pid)) {
            assert!(Instant::now() < give_up, "children of PostgreSQL do not die");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Stops all of its processes where they are: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.all("-STOP");
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.all("-CONT");
    }

    fn all(&self, what: &str) {
        let server = self.server.as_ref().expect("it runs").id();
        let mut pids = children(server);
        pids.push(server);
        signal(what, &pids);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// A program of the server, as a user that is not root, because it refuses root.
fn command(program: &str) -> Command {
    let root = fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")));
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", program]);
    command
}

/// The fields of a process's state after its name, which may contain anything.
fn state(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    after.split_whitespace().map(str::to_owned).collect()
}

/// Whether it is there, and more than a name that nobody waited for.
fn lives(pid: u32) -> bool {
    state(pid).first().is_some_and(|state| state != "Z" && state != "X")
}

/// Processes whose parent this is, alive or not yet waited for.
fn children(parent: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| state(*pid).get(1) == Some(&parent.to_string()))
        .collect()
}

fn signal(what: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    // One that has ended meanwhile is what was wanted.
    Command::new("kill")
        .arg(what)
        .args(pids.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status()
        .expect("kill");
}
