//! The life of a shim: pipes into files, until the process has ended and all that it left behind.
//!
//! Deliberately absent: deciding when it should end.

use super::files::{Ended, now_ms};
use super::log::LogFiles;
use super::rate::{LIMITS, Rate};
use crate::proc;
use crate::record::{Lines, Record, Sink};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, pidfd_open,
    wait,
};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};
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

/// An output that writes more than is kept is read again after this: 32 MiB a second are swallowed, of a flood faster
/// than that each 64 KiB wait so long, and no processor is spent on the rest.
const FLOOD_PAUSE: Duration = Duration::from_millis(2);
/// What is kept of a flood goes to the files this often: each time costs the instance manager a look.
const FLOOD_FLUSH: Duration = Duration::from_millis(50);
/// While something was dropped that is not yet told.
const NOTICE_TICK_S: i64 = 1;

/// The way of lines to the files.
struct Log {
    files: LogFiles,
    rate: Rate,
    begun: Instant,
    flushed: Instant,
    notices: u64,
}

impl Log {
    fn new(directory: &Path) -> Self {
        let (files, begun) = (LogFiles::new(directory), Instant::now());
        Self { files, rate: Rate::new(LIMITS, 0), begun, flushed: begun, notices: 0 }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn notice(&mut self, last: bool) {
        if let Some(text) = self.rate.notice(self.elapsed_ms(), last) {
            self.notices += 1;
            let (stream, text) = (LogStream::SystemError, text.into_bytes());
            self.files.push(&Record { stream, seq: self.notices, at_ms: now_ms(), text });
        }
    }

    fn flush(&mut self) {
        self.flushed = Instant::now();
        self.files.flush();
    }
}

/// The way of one output into it.
struct Gate<'a> {
    log: &'a mut Log,
    error: bool,
}

impl Sink for Gate<'_> {
    fn admit(&mut self, bytes: usize) -> bool {
        self.log.rate.admit(bytes, self.error)
    }

    fn write(&mut self, record: Record) {
        self.log.files.push(&record);
    }

    fn dropped(&mut self, lines: u64) {
        self.log.rate.drop_lines(lines);
    }
}

/// One output of the process.
struct Pipe<R> {
    from: Option<R>,
    lines: Lines,
    /// It is standard error.
    error: bool,
    /// Not read before.
    held_until: Option<Instant>,
}

impl<R> Pipe<R> {
    fn new(from: Option<R>, stream: LogStream) -> Self {
        let error = stream == LogStream::Stderr;
        Self { from, lines: Lines::new(stream), error, held_until: None }
    }

    /// What was not ended by an end of line is a line too.
    fn finish(&mut self, log: &mut Log) {
        let mut gate = Gate { log, error: self.error };
        self.lines.finish(now_ms(), &mut gate);
    }

    /// Whether it is left alone still; `never` = not any more, whatever was.
    fn is_held(&mut self, never: bool) -> bool {
        if self.held_until.is_some_and(|until| never || Instant::now() >= until) {
            self.held_until = None;
        }
        self.held_until.is_some()
    }
}

impl<R: Read + AsFd> Pipe<R> {
    /// Reads what is there, which poll said is something; at the end, the pipe is dropped.
    fn drain(&mut self, buffer: &mut [u8], log: &mut Log) {
        let Some(from) = &mut self.from else { return };
        log.rate.refill(log.elapsed_ms());
        match from.read(buffer) {
            Ok(count) if count > 0 => {
                let before = log.rate.dropped();
                let mut gate = Gate { log: &mut *log, error: self.error };
                self.lines.feed(&buffer[..count], now_ms(), &mut gate);
                if log.rate.dropped() > before {
                    self.held_until = Some(Instant::now() + FLOOD_PAUSE);
                }
            }
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            _ => {
                self.finish(log);
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
    let mut log = Log::new(directory);
    let mut out = Pipe::new(child.stdout.take(), LogStream::Stdout);
    let mut err = Pipe::new(child.stderr.take(), LogStream::Stderr);
    let mut family = Family { main, ended: None };
    let mut buffer = vec![0; READ_BYTES];
    let mut dead_since: Option<Instant> = None;
    loop {
        let dead = family.ended.is_some();
        let held = (out.is_held(dead), err.is_held(dead));
        let flooded = held.0 || held.1;
        let pause = match (dead, flooded, &pidfd) {
            (true, ..) => Timespec { tv_sec: 0, tv_nsec: STRAGGLERS_PAUSE_NS },
            (false, true, _) => Timespec { tv_sec: 0, tv_nsec: FLOOD_PAUSE.subsec_nanos().into() },
            (false, false, _) if log.rate.owes_notice() => {
                Timespec { tv_sec: NOTICE_TICK_S, tv_nsec: 0 }
            }
            (false, false, Some(_)) => Timespec { tv_sec: TICK_S, tv_nsec: 0 },
            (false, false, None) => Timespec { tv_sec: 1, tv_nsec: 0 },
        };
        let watched = if dead { None } else { pidfd.as_ref() };
        let (out_ready, err_ready) = wait_for((&out, held.0), (&err, held.1), watched, &pause);
        // In this order: what was said before an error is read before it.
        if out_ready {
            out.drain(&mut buffer, &mut log);
        }
        if err_ready {
            err.drain(&mut buffer, &mut log);
        }
        log.notice(false);
        let flood = out.held_until.is_some() || err.held_until.is_some();
        if !flood || log.flushed.elapsed() >= FLOOD_FLUSH {
            log.flush();
        }
        family.reap();
        let Some(ended) = family.ended else { continue };
        let since = *dead_since.get_or_insert_with(Instant::now);
        let alone = !kill_stragglers(main);
        let silent = out.from.is_none() && err.from.is_none();
        if alone && silent || since.elapsed().as_secs() >= STRAGGLERS_S {
            finish(&mut out, &mut err, &mut log);
            return ended;
        }
    }
}

/// Waits until an output or the end can be seen; tells which outputs can be read.
fn wait_for<A: AsFd, B: AsFd>(
    (out, out_held): (&Pipe<A>, bool),
    (err, err_held): (&Pipe<B>, bool),
    end: Option<&OwnedFd>,
    pause: &Timespec,
) -> (bool, bool) {
    let mut polled = Vec::with_capacity(3);
    let out_at = out
        .from
        .as_ref()
        .filter(|_| !out_held)
        .map(|fd| push(&mut polled, PollFd::new(fd, PollFlags::IN)));
    let err_at = err
        .from
        .as_ref()
        .filter(|_| !err_held)
        .map(|fd| push(&mut polled, PollFd::new(fd, PollFlags::IN)));
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

fn finish<A: Read + AsFd, B: Read + AsFd>(out: &mut Pipe<A>, err: &mut Pipe<B>, log: &mut Log) {
    out.finish(log);
    err.finish(log);
    log.notice(true);
    log.flush();
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
