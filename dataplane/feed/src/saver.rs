//! When the last good table goes to disk: when it changed, at most once a second, and less often when it is large.
//!
//! Deliberately absent: the format (`disk`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::disk::{self, Saved, Saving};
use crate::service::Answer;
use crate::state::State;

/// Shortest time between two writes.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// A write may take this part of the time.
const SHARE: u32 = 10;

/// See the module head.
pub(crate) struct Saver {
    path: Option<Arc<PathBuf>>,
    dirty: bool,
    busy: bool,
    next: Instant,
}

impl Saver {
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self { path: path.map(Arc::new), dirty: false, busy: false, next: Instant::now() }
    }

    /// What the file has. A file that cannot be believed is told and left alone until the next write.
    pub(crate) fn load(&self) -> Option<Saved> {
        let path = self.path.as_ref()?;
        match disk::load(path) {
            Ok(saved) => saved,
            Err(mistake) => {
                tracing::error!(%mistake, "the last good table was not taken; the router begins with nothing");
                None
            }
        }
    }

    /// Something changed.
    pub(crate) fn mark(&mut self) {
        self.dirty = true;
    }

    /// When the next write is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        (self.dirty && !self.busy && self.path.is_some()).then_some(self.next)
    }

    /// Write if it is due, aside.
    pub(crate) fn save(&mut self, state: &State, tell: &mpsc::Sender<Answer>) {
        let Some(path) = self.path.clone() else { return };
        if self.due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        (self.dirty, self.busy) = (false, true);
        let begun = Instant::now();
        let saving = snapshot(state);
        let tell = tell.clone();
        tokio::spawn(async move {
            let written = tokio::task::spawn_blocking(move || disk::save(&path, &saving)).await;
            let ok = matches!(&written, Ok(Ok(())));
            if let Ok(Err(mistake)) = written {
                tracing::error!(%mistake, "the last good table could not be written");
            }
            drop(tell.send(Answer::Saved { took: begun.elapsed(), ok }).await);
        });
    }

    /// A write is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// A write is over.
    pub(crate) fn saved(&mut self, took: Duration, ok: bool) {
        self.busy = false;
        self.dirty |= !ok;
        self.next = Instant::now() + (took * SHARE).max(PAUSE_MIN);
    }

    /// The last write, at the end.
    pub(crate) async fn finish(&self, state: &State) {
        let Some(path) = self.path.clone() else { return };
        let saving = snapshot(state);
        let written = tokio::task::spawn_blocking(move || disk::save(&path, &saving)).await;
        if let Ok(Err(mistake)) = written {
            tracing::error!(%mistake, "the last good table could not be written");
        }
    }
}

fn snapshot(state: &State) -> Saving {
    Saving {
        head: state.jobs.head(),
        verified_ms: state.jobs.verified_ms(),
        jobs: state.jobs.saved(),
        gone: state.jobs.saved_gone(),
        ims: state.ims.saved(),
    }
}
