//! A real nats-server and a real PostgreSQL on free ports, killed and started again at will.
//!
//! PostgreSQL refuses root, so it runs as `postgres` or `nobody` when the tests run as root. Deliberately absent: any
//! setting that a real operator would not use; fsync is on.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::port::HeldPort;
use crate::process::{Process, run};
use crate::wait::until;

/// A nats-server that keeps its port over restarts.
#[derive(Debug)]
pub struct Nats {
    port: HeldPort,
    folder: PathBuf,
    process: Option<Process>,
}

impl Nats {
    /// Start it.
    ///
    /// # Panics
    /// When it is not installed: there is no cluster of several processes without it.
    pub fn start(folder: &Path) -> Self {
        // Its port cannot be held while it listens there, for it does not share; between two lives nobody else is
        // likely to take it.
        let mut nats = Self { port: HeldPort::new(), folder: folder.to_owned(), process: None };
        nats.again();
        nats
    }

    /// `nats://…`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.port.addr())
    }

    /// Kill it.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Start it again on the same port.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn again(&mut self) {
        let addr = self.port.addr();
        let mut command = Command::new(find("nats-server", &["/usr/sbin"]));
        command.args(["-a", "127.0.0.1", "-p", &addr.port().to_string()]);
        self.port = HeldPort::released(addr);
        self.process = Some(Process::start(&mut command, &self.folder.join("nats.txt")));
        until("nats-server listens", || TcpStream::connect(addr).is_ok());
    }
}

/// A PostgreSQL that keeps its port and data over restarts.
#[derive(Debug)]
pub struct Postgres {
    port: HeldPort,
    data: PathBuf,
    process: Option<Process>,
}

impl Postgres {
    /// Make a database cluster and start it.
    ///
    /// # Panics
    /// When it is not installed or does not come up.
    pub fn start(folder: &Path) -> Self {
        let data = folder.join("postgres");
        fs::create_dir_all(&data).expect("the folder is writable");
        // Every directory on the way must let the other user through.
        for above in data.ancestors().take(2) {
            drop(Command::new("chmod").arg("o+rx").arg(above).status());
        }
        if is_root() {
            let status =
                Command::new("chown").arg(user()).arg(&data).status().expect("chown is there");
            assert!(status.success());
        }
        let made = run(as_user(&tool("initdb"))
            .args(["-A", "trust", "-U", "apcera", "-E", "UTF8", "--no-sync", "-D"])
            .arg(&data));
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut postgres = Self { port: HeldPort::new(), data, process: None };
        postgres.again();
        postgres
    }

    /// `postgres://…`.
    pub fn url(&self) -> String {
        format!("postgres://apcera@{}/postgres", self.port.addr())
    }

    /// Kill the first process; its children end when they notice.
    pub fn kill(&mut self) {
        self.process = None;
        // A new one refuses to start while an old child lives on the same shared memory.
        drop(fs::remove_file(self.data.join("postmaster.pid")));
    }

    /// Start it again on the same data and port.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn again(&mut self) {
        let addr = self.port.addr();
        self.port = HeldPort::released(addr);
        let mut command = as_user(&tool("postgres"));
        command.arg("-D").arg(&self.data).args([
            "-h",
            "127.0.0.1",
            "-p",
            &addr.port().to_string(),
            "-k",
            "",
        ]);
        let output = self.data.with_extension("txt");
        // An old child may need a moment to end; the server then refuses, and is started again.
        until("PostgreSQL takes connections", || {
            let died = self.process.as_mut().is_none_or(|process| process.try_exit().is_some());
            if died {
                self.process = Some(Process::start(&mut command, &output));
            }
            let ready = Command::new(tool("pg_isready"))
                .args([
                    "-q",
                    "-h",
                    "127.0.0.1",
                    "-U",
                    "apcera",
                    "-d",
                    "postgres",
                    "-p",
                    &addr.port().to_string(),
                ])
                .status();
            ready.is_ok_and(|status| status.success())
        });
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // SIGINT: fast shutdown, so that no child outlives the test.
            if process.try_exit().is_none() {
                process.signal("INT");
                process.wait_exit();
            }
        }
    }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id is there");
    output.stdout.trim_ascii() == b"0"
}

fn user() -> &'static str {
    let known =
        Command::new("id").arg("postgres").output().is_ok_and(|output| output.status.success());
    if known { "postgres" } else { "nobody" }
}

fn as_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user(), "--clear-groups"]).arg(program).current_dir("/");
    command
}

fn tool(name: &str) -> PathBuf {
    let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    folders.sort();
    let folders: Vec<&str> = folders.iter().rev().filter_map(|folder| folder.to_str()).collect();
    find(name, &folders)
}

fn find(name: &str, more: &[&str]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = more
        .iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed; tests/run installs it"))
}
