//! What the kernel tells about processes in `/proc`.
//!
//! A process is named by its number *and* the time of its start: numbers are used again. Deliberately absent: control
//! groups; plain processes are accounted by their session.

use crate::environment::MARK;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use wire::InstanceId;

/// Ticks per second in `/proc/<pid>/stat`: a constant of the kernel's interface.
const TICKS_PER_SECOND: u64 = 100;
/// Bytes of an environment that are searched for the mark; the mark stands in it by name order, so far in front.
const ENVIRON_BYTES_MAX: usize = 1024 * 1024;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its number.
    pub pid: i32,
    /// Dead, not yet waited for.
    pub zombie: bool,
    /// Number of its parent.
    pub parent: i32,
    /// Its group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Processor time of itself and its ended children, in nanoseconds.
    pub cpu_ns: u64,
    /// Ticks from boot to its start.
    pub start: u64,
}

impl Stat {
    /// Reads the text of `/proc/<pid>/stat`. The name in brackets may hold anything, so it is cut out first.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (pid, rest) = text.split_once(' ')?;
        let (_, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Field 3 of the manual page (the state) is the first here.
        let signed = |number: usize| fields.get(number - 3)?.parse::<i32>().ok();
        let counted = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = (14..=17).map(counted).sum::<Option<u64>>()?;
        Some(Self {
            pid: pid.parse().ok()?,
            zombie: matches!(*fields.first()?, "Z" | "X"),
            parent: signed(4)?,
            group: signed(5)?,
            session: signed(6)?,
            cpu_ns: ticks.saturating_mul(1_000_000_000 / TICKS_PER_SECOND),
            start: counted(22)?,
        })
    }

    /// A process by its number, if there is one.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

/// Whether the process that began then is still there, and not a corpse.
#[must_use]
pub fn is_alive(pid: i32, start: u64) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.start == start && !stat.zombie)
}

/// All processes, in one pass; those that end meanwhile are left out.
#[must_use]
pub fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(Stat::of)
        .collect()
}

/// Bytes of memory that a process has in use.
#[must_use]
pub fn resident_bytes(pid: i32) -> u64 {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status")) else { return 0 };
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0).saturating_mul(1024)
}

/// Processes that belong to an instance, by the mark in their environment; corpses are not counted.
#[must_use]
pub fn marked(instance: InstanceId) -> Vec<Stat> {
    let mark = format!("{MARK}={instance}");
    all().into_iter().filter(|stat| !stat.zombie && carries(stat.pid, mark.as_bytes())).collect()
}

fn carries(pid: i32, mark: &[u8]) -> bool {
    let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let searched = &environ[..environ.len().min(ENVIRON_BYTES_MAX)];
    searched.split(|byte| *byte == 0).any(|entry| entry == mark)
}

/// Sends a signal to exactly this process; false when it is gone.
pub fn signal(pid: i32, start: u64, signal: Signal) -> bool {
    let Some(number) = Pid::from_raw(pid) else { return false };
    is_alive(pid, start) && kill_process(number, signal).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a name with brackets and blanks in it does not shift the fields.
    #[test]
    fn names_are_cut_out() {
        let text =
            "42 (a) R 1 (b) S 7 40 39 0 -1 4194304 100 0 0 0 3 4 5 6 20 0 1 0 9876 1000 50 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.pid, stat.parent, stat.group, stat.session), (42, 7, 40, 39));
        assert_eq!((stat.start, stat.cpu_ns, stat.zombie), (9_876, 180_000_000, false));
        assert!(Stat::parse("").is_none() && Stat::parse("1 (x) S 1").is_none());
    }

    /// Goal: this very process is found, and another start time is another process.
    #[test]
    fn this_process_is_there() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let stat = Stat::of(pid).unwrap();
        assert!(is_alive(pid, stat.start) && !is_alive(pid, stat.start + 1));
        assert!(all().iter().any(|other| other.pid == pid));
        assert!(resident_bytes(pid) > 0);
        assert!(
            !signal(pid, stat.start + 1, Signal::KILL),
            "a number that was used again is spared"
        );
    }
}
