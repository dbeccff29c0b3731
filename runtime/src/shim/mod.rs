//! The process between the instance manager and an instance: holds its pipes, waits for it, keeps its end.
//!
//! The program that hosts the instance manager starts itself again as `<program> im-shim <directory>`. The shim is
//! single-threaded, leads a session of its own and lives as long as its instance, whatever becomes of the instance
//! manager. It takes orphans of the instance as its children, so that none outlives it. Files in its directory:
//! `spec.json` (in), `lock` (held while it lives), `started.json`, `log.<n>`, `exit.json` (out). It is never sent a
//! message: whoever wants the instance to end signals the instance's process group.
//!
//! What an instance writes beyond a rate is dropped here, before it costs anybody anything (`rate`).
//!
//! Deliberately absent: namespaces, control groups, users. They come with the container driver.

mod files;
mod log;
mod rate;
mod watch;

pub use files::{Ended, Started, Task, private_dir, read_json, write_json};
pub use log::{SEGMENT_BYTES_MAX, segment_name, segments};
pub use rate::{LIMITS, Limits, Rate};

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::{self, Resource};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The argument that makes a program a shim.
pub const ARGUMENT: &str = "im-shim";
/// What it is asked to run.
pub const SPEC: &str = "spec.json";
/// Who runs.
pub const STARTED: &str = "started.json";
/// How it ended.
pub const EXIT: &str = "exit.json";
/// Held while the shim lives.
pub const LOCK: &str = "lock";
/// What the shim says when the instance runs; anything else is why it does not.
pub const OK: &str = "ok";

/// Call this first thing in `main` of every program that hosts an instance manager: when the program was started as a
/// shim, it is one, and this does not return.
pub fn maybe_run() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == ARGUMENT) {
        let code = args.next().map_or(2, |directory: OsString| run(Path::new(&directory)));
        std::process::exit(code);
    }
}

/// One instance from start to end. Status 0: it ran and `exit.json` says how it ended.
fn run(directory: &Path) -> i32 {
    // Fails only for a leader of a group, and then there is a session already.
    process::setsid().ok();
    // Old kernels and foreign sandboxes refuse; then orphans are found by their mark alone.
    process::set_child_subreaper(Some(process::getpid())).ok();
    drop(std::env::set_current_dir("/"));
    process::umask(Mode::from_raw_mode(0o022));
    no_core_files();
    let Some(_lock) = lock(directory) else { return say("another shim runs this instance", 3) };
    if directory.join(EXIT).exists() {
        return say("this instance has ended already", 4);
    }
    let task: Task = match read_json(&directory.join(SPEC)) {
        Ok(task) => task,
        Err(why) => return say(&format!("{SPEC}: {why}"), 5),
    };
    match spawn(&task) {
        Ok(child) => live(directory, child),
        Err(why) => {
            let program = task.argv.first().map_or("", String::as_str);
            say(&format!("\"{program}\" cannot be started: {why}"), 6)
        }
    }
}

fn live(directory: &Path, mut child: Child) -> i32 {
    let started = Started::new(child.id());
    if let Err(why) = write_json(&directory.join(STARTED), &started, false) {
        drop(child.kill());
        drop(child.wait());
        return say(&format!("{STARTED}: {why}"), 7);
    }
    say(OK, 0);
    let ended = watch::until_ended(directory, child);
    match write_json(&directory.join(EXIT), &ended, true) {
        Ok(()) => 0,
        Err(_) => 8,
    }
}

/// Lock of the directory; none when another has it. The descriptor closes on exec: the instance does not inherit it.
fn lock(directory: &Path) -> Option<File> {
    let file = File::create(directory.join(LOCK)).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

/// A crash must not fill the disk of the host.
fn no_core_files() {
    let mut limit = process::getrlimit(Resource::Core);
    limit.current = Some(0);
    process::setrlimit(Resource::Core, limit).ok();
}

fn spawn(task: &Task) -> std::io::Result<Child> {
    let missing = || std::io::Error::other("the command is empty");
    let (program, args) = task.argv.split_first().ok_or_else(missing)?;
    Command::new(program)
        .args(args)
        .env_clear()
        .envs(&task.environment)
        .current_dir(&task.directory)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// One line to whoever started this; it may be gone, and then nobody needs to know.
fn say(line: &str, code: i32) -> i32 {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{}", line.replace('\n', " ")));
    drop(out.flush());
    code
}
