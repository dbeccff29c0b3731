//! The life of a shim: pipes into files, until the process has ended and all that it left behind.
//!
//! Deliberately absent: deciding when it should end.

use super::files::{Ended, now_ms};
use super::log::LogFiles;
use crate::proc;
use crate::record::{Lines, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, pidfd_open,
    wait,
};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::Child;
use std::time::Instant;
use wire::logs::LogStream;

/// Bytes that are read from a pipe at once.
const READ_BYTES: usize = 64 * 1024;
/// Orphans that ended are buried this often.
const TICK_S: i64 = 5;
/// How long stragglers are killed and the rest of the pipes is read, before the end is written regardless.
const STRAGGLERS_S: u64 = 3;
/// Pause between two looks at stragglers.
const STRAGGLERS_PAUSE_NS: i64 = 5_000_000;
/// Children that are buried in one go.
const REAPED_MAX: usize = 1_000;

/// One output of the process.
struct Pipe<R> {
    from: Option<R>,
    lines: Lines,
}

impl<R: Read + AsFd> Pipe<R> {
    /// Reads what is there, which poll said is something; at the end, the pipe is dropped.
    fn drain(&mut self, buffer: &mut [u8], files: &mut LogFiles) {
        let Some(from) = &mut self.from else { return };
        let mut write = |record: Record| files.push(&record);
        match from.read(buffer) {
            Ok(count) if count > 0 => self.lines.feed(&buffer[..count], now_ms(), &mut write),
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            _ => {
                self.lines.finish(now_ms(), &mut write);
                self.from = None;
            }
        }
    }
}

/// Where the process stands, as far as children that ended tell.
struct Family {
    main: Pid,
    ended: Option<Ended>,
}

impl Family {
    /// Buries children that ended; among them the one that counts, some time.
    fn reap(&mut self) {
        for _ in 0..REAPED_MAX {
            let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) else { return };
            if pid == self.main {
                self.ended = Some(Ended { code: code_of(status), at_ms: now_ms() });
            }
        }
    }
}

fn code_of(status: WaitStatus) -> Option<i32> {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}

/// Returns when the process has ended, what it left behind is killed, and its last line is on disk.
pub(super) fn until_ended(directory: &Path, mut child: Child) -> Ended {
    let main = Pid::from_child(&child);
    let pidfd = pidfd_open(main, PidfdFlags::empty()).ok();
    let mut files = LogFiles::new(directory);
    let mut out = Pipe { from: child.stdout.take(), lines: Lines::new(LogStream::Stdout) };
    let mut err = Pipe { from: child.stderr.take(), lines: Lines::new(LogStream::Stderr) };
    let mut family = Family { main, ended: None };
    let mut buffer = vec![0; READ_BYTES];
    let mut dead_since: Option<Instant> = None;
    loop {
        let dead = family.ended.is_some();
        let pause = match (dead, &pidfd) {
            (true, _) => Timespec { tv_sec: 0, tv_nsec: STRAGGLERS_PAUSE_NS },
            (false, Some(_)) => Timespec { tv_sec: TICK_S, tv_nsec: 0 },
            (false, None) => Timespec { tv_sec: 1, tv_nsec: 0 },
        };
        let watched = if dead { None } else { pidfd.as_ref() };
        let (out_ready, err_ready) = wait_for(&out, &err, watched, &pause);
        if out_ready {
            out.drain(&mut buffer, &mut files);
        }
        if err_ready {
            err.drain(&mut buffer, &mut files);
        }
        files.flush();
        family.reap();
        let Some(ended) = family.ended else { continue };
        let since = *dead_since.get_or_insert_with(Instant::now);
        let alone = !kill_stragglers(main);
        let silent = out.from.is_none() && err.from.is_none();
        if alone && silent || since.elapsed().as_secs() >= STRAGGLERS_S {
            finish(&mut out, &mut err, &mut files);
            return ended;
        }
    }
}

/// Waits until an output or the end can be seen; tells which outputs can be read.
fn wait_for<A: AsFd, B: AsFd>(
    out: &Pipe<A>,
    err: &Pipe<B>,
    end: Option<&OwnedFd>,
    pause: &Timespec,
) -> (bool, bool) {
    let mut polled = Vec::with_capacity(3);
    let out_at = out.from.as_ref().map(|fd| push(&mut polled, PollFd::new(fd, PollFlags::IN)));
    let err_at = err.from.as_ref().map(|fd| push(&mut polled, PollFd::new(fd, PollFlags::IN)));
    if let Some(end) = end {
        push(&mut polled, PollFd::new(end, PollFlags::IN));
    }
    if poll(&mut polled, Some(pause)).is_err() {
        return (false, false);
    }
    let ready = |at: Option<usize>| at.is_some_and(|at| !polled[at].revents().is_empty());
    (ready(out_at), ready(err_at))
}

fn push<'a>(polled: &mut Vec<PollFd<'a>>, fd: PollFd<'a>) -> usize {
    polled.push(fd);
    polled.len() - 1
}

fn finish<A: Read + AsFd, B: Read + AsFd>(
    out: &mut Pipe<A>,
    err: &mut Pipe<B>,
    files: &mut LogFiles,
) {
    out.lines.finish(now_ms(), &mut |record| files.push(&record));
    err.lines.finish(now_ms(), &mut |record| files.push(&record));
    files.flush();
}

/// Kills what is left of the group, of the session, and orphans that fled from both and so became children of this
/// process. True while there was something to kill.
fn kill_stragglers(main: Pid) -> bool {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let mut found = false;
    for stat in proc::all() {
        let ours = stat.parent == me || stat.session == me || stat.group == main.as_raw_pid();
        if ours && stat.pid != me && !stat.zombie {
            found = true;
            if stat.group == main.as_raw_pid() {
                // All at once, or one that forks fast enough would never be caught. The group has a member, so its
                // number cannot have been given to somebody else.
                kill_process_group(main, Signal::KILL).ok();
            }
            if let Some(pid) = Pid::from_raw(stat.pid) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }
    found
}
