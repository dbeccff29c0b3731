//! Services that run in one process: started one after another, ended in an order of their own.
//!
//! Deliberately absent: restarting a service; a service goes on by itself until it is told to end.

use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Time for one service to end; the instance manager has its own, longer bound.
const END_TIMEOUT: Duration = Duration::from_secs(10);

type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One running service.
pub(crate) struct Service {
    name: &'static str,
    stop: CancellationToken,
    ended: Ended,
    timeout: Duration,
}

impl Service {
    pub(crate) fn new(
        name: &'static str,
        stop: CancellationToken,
        ended: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { name, stop, ended: Box::pin(ended), timeout: END_TIMEOUT }
    }

    pub(crate) const fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Services in the order of their start.
#[derive(Default)]
pub(crate) struct Joined(Vec<Service>);

impl Joined {
    pub(crate) fn add(&mut self, service: Service) {
        self.0.push(service);
    }

    /// Ends them, last started first, each within its time.
    pub(crate) async fn end(self) {
        for service in self.0.into_iter().rev() {
            let begun = tokio::time::Instant::now();
            service.stop.cancel();
            if tokio::time::timeout(service.timeout, service.ended).await.is_err() {
                tracing::warn!(service = service.name, "did not end in time and is left behind");
            }
            tracing::debug!(service = service.name, took = ?begun.elapsed(), "ended");
        }
    }
}

/// The signals that end a process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal is gone; none under `nohup`.
    hangup: Option<Signal>,
}

/// Which of them came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// SIGTERM: a unit is stopped or restarted. SIGHUP: the terminal was closed.
    Terminate,
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
}

impl Signals {
    /// Before anything is started, so that no signal ends the process the hard way.
    pub(crate) fn new() -> Result<Self, Failure> {
        let failed = |why| Failure::new("cannot listen to signals", why);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            hangup: match ignores_hangup() {
                true => None,
                false => Some(signal(SignalKind::hangup()).map_err(failed)?),
            },
        })
    }

    pub(crate) async fn asked(&mut self) -> Asked {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Asked::Terminate,
            () = hangup => Asked::Terminate,
            _ = self.interrupt.recv() => Asked::Interrupt,
        }
    }

    /// Ends what is joined; a second signal ends the process at once.
    pub(crate) async fn end(&mut self, joined: Joined) -> Result<(), Failure> {
        tokio::select! {
            () = joined.end() => Ok(()),
            _ = self.asked() => {
                Err(Failure::new("ended at once by a second signal", "")
                    .hint("instances may still run; the next start finds them again"))
            }
        }
    }
}

/// `nohup` starts a process so.
fn ignores_hangup() -> bool {
    const HANGUP: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & HANGUP != 0)
}

/// A line, or several, for whoever started this process. That reader may have gone, which is no reason to end.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// What a process tells tools about itself, as a file that appears when it is ready. It serves without that file as well.
pub(crate) fn tell(dir: &Path, name: &str, about: &Value) {
    let file = dir.join(format!("{name}.json"));
    let beside = dir.join(format!("{name}.json.new"));
    let text = format!("{about:#}\n");
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &file));
    if let Err(why) = written {
        tracing::warn!(file = %file.display(), %why, "tools are not told where this process listens");
    }
}
