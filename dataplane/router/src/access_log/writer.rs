//! The thread that empties the rings into a file or to stdout.
//!
//! It looks many times a second while there is something to write, seldom while there is not. A disk
//! that is full or slow costs log lines, never requests: errors are counted and told once on stderr.
//! Deliberately absent: rotation. `reopen` opens the path again when another program has moved the file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use super::{LogReceiver, LogSender, Names, RING_RECORDS, ring, write_line};

/// Pause between two looks while records come.
const BUSY_WAIT: Duration = Duration::from_millis(20);
/// Pause between two looks while none come. A burst wakes the thread when a ring is half full.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// Records taken from one ring before the next has its turn.
const BATCH_RECORDS: usize = 256;
/// Bytes gathered before they are written.
const BATCH_BYTES: usize = 64 * 1024;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output, one `write` for each batch.
    Stdout,
    /// A file, appended to, made with mode 0640.
    File(PathBuf),
}

impl Target {
    fn open(&self) -> io::Result<Output> {
        use std::os::unix::fs::OpenOptionsExt;
        Ok(match self {
            Self::Stdout => Output::Stdout(io::stdout()),
            Self::File(path) => {
                Output::File(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?)
            }
        })
    }
}

enum Output {
    Stdout(io::Stdout),
    File(File),
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            Self::File(file) => file.write_all(bytes),
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    reopen: AtomicBool,
    stop: AtomicBool,
    lines: AtomicU64,
    lines_lost: AtomicU64,
}

/// Handle of the writer thread; shared by those who read its counts.
pub struct LogWriter {
    thread: Mutex<Option<JoinHandle<()>>>,
    wake: Thread,
    shared: Arc<Shared>,
}

impl LogWriter {
    /// Open the target and start the thread; gives one sender for each of `cores` cores. `sample` as in [`ring`].
    /// `Err`: the file cannot be opened or the thread not be made.
    pub fn start<N: Names + Send + 'static>(
        target: Target,
        cores: usize,
        sample: u32,
        names: N,
    ) -> io::Result<(Self, Vec<LogSender>)> {
        let output = target.open()?;
        let shared = Arc::new(Shared::default());
        let (hand_over, rings) = std::sync::mpsc::sync_channel(1);
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("access-log".into()).spawn(move || {
                // The rings need this thread's handle, so they are made after it.
                if let Ok(rings) = rings.recv() {
                    Loop { target, output, shared, names, complained: false }.run(rings);
                }
            })?
        };
        let wake: Thread = thread.thread().clone();
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..cores).map(|_| ring(RING_RECORDS, sample, wake.clone())).unzip();
        // Fails only if the thread is gone; then the senders find a full ring and count drops.
        drop(hand_over.send(receivers));
        Ok((Self { thread: Mutex::new(Some(thread)), wake, shared }, senders))
    }

    /// Open the path again before the next line: after a rotation.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake.unpark();
    }

    /// Lines written so far.
    pub fn lines(&self) -> u64 {
        self.shared.lines.load(Ordering::Relaxed)
    }

    /// Lines lost because the target could not be written.
    pub fn lines_lost(&self) -> u64 {
        self.shared.lines_lost.load(Ordering::Relaxed)
    }

    /// Write what is in the rings and end the thread. Call it after the cores have ended; a second call does nothing.
    pub fn finish(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake.unpark();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A writer that panicked has told so on stderr already.
        drop(thread.map(JoinHandle::join));
    }
}

struct Loop<N> {
    target: Target,
    output: Output,
    shared: Arc<Shared>,
    names: N,
    complained: bool,
}

impl<N: Names> Loop<N> {
    fn run(mut self, mut rings: Vec<LogReceiver>) {
        let mut batch = String::with_capacity(BATCH_BYTES);
        loop {
            // Asked before looking, so that what was pushed before the call to `finish` is still written.
            let stop = self.shared.stop.load(Ordering::Acquire);
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.open_again();
            }
            let found = self.turn(&mut rings, &mut batch);
            if found {
                continue_or_wait(BUSY_WAIT, stop);
                continue;
            }
            if stop || rings.iter().all(LogReceiver::is_finished) {
                return;
            }
            std::thread::park_timeout(IDLE_WAIT);
        }
    }

    /// Empty the rings once around, in batches. `true`: there was something.
    fn turn(&mut self, rings: &mut [LogReceiver], batch: &mut String) -> bool {
        let mut found = false;
        for ring in rings {
            loop {
                let mut lines = 0;
                while lines < BATCH_RECORDS && batch.len() < BATCH_BYTES {
                    let Some(record) = ring.pop() else { break };
                    write_line(batch, &record, &self.names);
                    lines += 1;
                }
                if lines == 0 {
                    break;
                }
                found = true;
                self.put(batch, lines as u64);
                batch.clear();
                if lines < BATCH_RECORDS {
                    break;
                }
            }
        }
        found
    }

    fn put(&mut self, batch: &str, lines: u64) {
        match self.output.write(batch.as_bytes()) {
            Ok(()) => {
                self.shared.lines.fetch_add(lines, Ordering::Relaxed);
                self.complained = false;
            }
            Err(error) => {
                self.shared.lines_lost.fetch_add(lines, Ordering::Relaxed);
                self.complain(&error);
            }
        }
    }

    fn open_again(&mut self) {
        match self.target.open() {
            Ok(output) => self.output = output,
            Err(error) => self.complain(&error),
        }
    }

    /// Once for each row of failures, so that a full disk does not fill stderr too.
    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            eprintln!("warning[access_log]: cannot write {:?}: {error}", self.target);
        }
    }
}

fn continue_or_wait(wait: Duration, stop: bool) {
    if !stop {
        std::thread::park_timeout(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::Record;
    use route::{JobSlot, RouteSlot};

    struct Nobody;
    impl Names for Nobody {
        fn route(&self, _: RouteSlot) -> Option<String> {
            None
        }
        fn job(&self, _: JobSlot) -> Option<String> {
            None
        }
    }

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("router-log-{}-{name}", std::process::id()))
    }

    fn wait_for(what: impl Fn() -> bool) {
        let begun = std::time::Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(10), "waited for too long");
            std::thread::yield_now();
        }
    }

    /// Goal: nothing that was pushed is lost when the router ends, from any core.
    #[test]
    fn finish_writes_what_is_in_the_rings() {
        let path = path("stop");
        let (writer, mut senders) =
            LogWriter::start(Target::File(path.clone()), 2, 1, Nobody).unwrap();
        for status in 0..3_000u16 {
            for sender in &mut senders {
                assert!(sender.push(Record { status, ..Record::default() }));
            }
        }
        writer.finish();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text.lines().count(), 6_000);
        assert!(text.lines().all(|line| line.starts_with('{') && line.ends_with('}')));
    }

    /// Goal: a rotated file gets no line after `reopen` has been followed, the new one all later lines.
    #[test]
    fn reopen_follows_a_rotation() {
        let (path, moved) = (path("rotate"), path("rotate.1"));
        let (writer, mut senders) =
            LogWriter::start(Target::File(path.clone()), 1, 1, Nobody).unwrap();
        assert!(senders[0].push(Record { status: 201, ..Record::default() }));
        wait_for(|| writer.lines() == 1);
        std::fs::rename(&path, &moved).unwrap();
        writer.reopen();
        wait_for(|| path.exists());
        assert!(senders[0].push(Record { status: 202, ..Record::default() }));
        writer.finish();
        let (old, new) = (std::fs::read_to_string(&moved), std::fs::read_to_string(&path));
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&moved).unwrap();
        assert!(old.unwrap().contains("201"));
        assert!(new.unwrap().contains("202"));
    }

    #[test]
    fn a_target_that_cannot_be_written_loses_lines_and_counts_them() {
        let (writer, mut senders) =
            LogWriter::start(Target::File("/dev/full".into()), 1, 1, Nobody).unwrap();
        assert!(senders[0].push(Record::default()));
        wait_for(|| writer.lines_lost() == 1);
        writer.finish();
        assert!(LogWriter::start(Target::File("/nowhere/x".into()), 1, 1, Nobody).is_err());
    }
}
