//! A PostgreSQL of one's own for a test: started, killed without mercy, started again, gone with the test.
//!
//! fsync stays on: what it acknowledges must outlive the kill. It refuses root, so it runs as `nobody` when the tests run
//! as root.
//!
//! Deliberately absent: a shared server. Each test owns its own, so that it may kill it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::port::HeldPort;
use crate::wait::until;

/// A server with its own directory and port.
#[derive(Debug)]
pub struct Postgres {
    dir: PathBuf,
    /// Where its programs are.
    programs: PathBuf,
    port: HeldPort,
    server: Option<Child>,
}

impl Postgres {
    /// Makes a database cluster and starts its server. None, loudly, where PostgreSQL is not installed; an error under
    /// `CI`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(name: &str) -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(std::env::var_os("CI").is_none(), "PostgreSQL is not installed");
            eprintln!("\n*** SKIPPED: no PostgreSQL, so what needs one is NOT TESTED here\n");
            return None;
        };
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pg-{name}-{}-{count}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        fs::create_dir_all(&dir).expect("a directory for PostgreSQL");
        // The server's user is not ours, if we are root.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("its permissions");
        let mut postgres = Self { dir, programs, port: HeldPort::new(), server: None };
        let made = postgres
            .command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(postgres.dir.join("db"))
            .stdin(Stdio::null())
            .output()
            .expect("initdb");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        postgres.again();
        Some(postgres)
    }

    /// To connect to it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.port.addr())
    }

    /// Starts it again on the same port, and waits until it takes connections.
    ///
    /// # Panics
    /// When it runs, or does not come up.
    pub fn again(&mut self) {
        assert!(self.server.is_none(), "it runs");
        // It does not share its port, so nobody can hold it meanwhile; between two lives nobody else is likely to take it.
        self.port = HeldPort::released(self.port.addr());
        until("PostgreSQL takes connections", || {
            let running = self.server.as_mut().map(|server| server.try_wait().expect("our child"));
            // The first time; and once more when it refused, because the last one's memory was still in use.
            if !matches!(running, Some(None)) {
                self.server = Some(self.spawn());
            }
            self.server.as_ref().is_some_and(|server| self.ready(server.id()))
        });
    }

    fn spawn(&self) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .expect("the log file");
        self.command("postgres")
            .arg("-D")
            .arg(self.dir.join("db"))
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "fsync=on", "-p", &self.port.addr().port().to_string()])
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
    ///
    /// # Panics
    /// When they do not die.
    pub fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        // Stopped first, so that it makes no new ones and keeps those it has.
        signal("-STOP", &[server.id()]);
        let orphans = children(server.id());
        let mut all = orphans.clone();
        all.push(server.id());
        signal("-KILL", &all);
        server.wait().expect("its end");
        until("the children of PostgreSQL die", || !orphans.iter().any(|pid| lives(*pid)));
    }

    /// Stops all of its processes where they are: connections stay open and nothing answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        self.all("-STOP");
    }

    /// Lets them go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        self.all("-CONT");
    }

    fn all(&self, what: &str) {
        let server = self.server.as_ref().expect("it runs").id();
        let mut pids = children(server);
        pids.push(server);
        signal(what, &pids);
    }

    /// A program of the server, as a user that is not root, because it refuses root.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let root = fs::read_to_string("/proc/self/status")
            .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")));
        let mut command = Command::new(if root { "setpriv".as_ref() } else { program.as_path() });
        if root {
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(&program);
        }
        command.current_dir(&self.dir);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PostgreSQL said:\n{}", self.log());
        }
        self.kill();
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Where the server's programs are: on the path, or where Debian keeps each version, the newest first.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut debian: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    debian.sort();
    std::env::split_paths(&path)
        .chain(debian.into_iter().rev())
        .find(|dir| ["initdb", "postgres"].iter().all(|program| dir.join(program).is_file()))
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
