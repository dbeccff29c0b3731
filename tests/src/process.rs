//! A child process that is ended by its id, and what /proc tells about it.
//!
//! Deliberately absent: ending anything by name.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::wait::{DEADLINE, until_some};

/// A child that does not outlive this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Start with both outputs in one file.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command, output: &Path) -> Self {
        let file = fs::File::create(output).expect("the directory of the test is writable");
        let copy = file.try_clone().expect("a descriptor is free");
        command.stdin(Stdio::null()).stdout(file).stderr(copy);
        let child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        Self { child, ended: None }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Send a signal by name, such as `HUP`.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.id());
        let status = Command::new("sh").args(["-c", &script]).status().expect("sh is there");
        assert!(status.success(), "{script} failed");
    }

    /// How it ended, if it did.
    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("our own child");
        }
        self.ended
    }

    /// Wait for its end.
    ///
    /// # Panics
    /// When it lives on past the deadline.
    pub fn wait_exit(&mut self) -> ExitStatus {
        until_some("the process ends", || self.try_exit())
    }

    /// Anonymous memory in use, in bytes: heap, stacks and private pages, without mapped files.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn anonymous_bytes(&self) -> u64 {
        self.status_kib("RssAnon:") * 1024
    }

    fn status_kib(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.id());
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {key} in {path}"))
    }

    /// Open descriptors.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.id());
        fs::read_dir(&path).unwrap_or_else(|e| panic!("{path}: {e}")).count()
    }

    /// CPU time used so far by all its threads, in clock ticks (a hundredth of a second).
    ///
    /// # Panics
    /// When the process is gone.
    pub fn cpu_ticks(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.id());
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let after_name = text.rsplit(')').next().expect("rsplit gives at least one part");
        let words: Vec<&str> = after_name.split_whitespace().collect();
        let tick = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
        tick(11) + tick(12)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.try_exit().is_some() {
            return;
        }
        self.child.kill().expect("our own child can be killed");
        self.ended = Some(self.child.wait().expect("our own child"));
    }
}

/// Run a command to its end and give its output; it is killed at the deadline.
///
/// # Panics
/// When it cannot be started or does not end.
pub fn run(command: &mut Command) -> std::process::Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    finish(child, &format!("{command:?}"))
}

/// As [`run`], with bytes on its standard input, which ends after them.
///
/// # Panics
/// When it cannot be started or does not end.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> std::process::Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let mut to = child.stdin.take().expect("it was piped");
    let bytes = input.to_vec();
    // A program may end without reading all of it; that is its own affair.
    let writer = std::thread::spawn(move || crate::server::ignore(to.write_all(&bytes)));
    let output = finish(child, &format!("{command:?}"));
    crate::server::ignore(writer.join());
    output
}

/// Wait for a child with piped outputs and give them; it is killed at three deadlines.
///
/// # Panics
/// When it does not end.
pub fn finish(child: Child, what: &str) -> std::process::Output {
    let id = child.id();
    let (tell, ended) = std::sync::mpsc::channel();
    // Nobody listens any more when it was too late.
    std::thread::spawn(move || crate::server::ignore(tell.send(child.wait_with_output())));
    let Ok(output) = ended.recv_timeout(DEADLINE * 3) else {
        let script = format!("kill -KILL {id}");
        crate::server::ignore(Command::new("sh").args(["-c", &script]).status());
        panic!("{what} did not end");
    };
    output.expect("our own child")
}
