//! A watch over any world: reads the history from where it stands, waits for the head to move, reads again.
//!
//! The signal says "look", never what: a lost or doubled one costs at most a read. So the changes are gap-free and in
//! order, because the history is.
//!
//! Deliberately absent: buffers of changes in the writer. A slow watcher costs nothing but its own place.

use crate::batch::{Line, REVISION_MAX, first_of, revision_of};
use crate::bounds::Span;
use crate::{Change, StoreError, Watch};
use async_trait::async_trait;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Changes read at once.
pub(crate) const PAGE_LINES_MAX: u32 = 128;
/// Bytes after which a page takes no further change or record.
pub(crate) const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Waits between attempts to reach a database that is away.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A piece of history.
pub(crate) struct Page {
    pub(crate) lines: Vec<Line>,
    /// Whether there may be more lines right after the last.
    pub(crate) cut_short: bool,
    /// Revision of the store as it was read.
    pub(crate) revision: u64,
    /// Changes up to this revision are gone.
    pub(crate) compacted: u64,
}

/// A world's history.
#[async_trait]
pub(crate) trait Log: Send + Sync + 'static {
    /// Lines of the span from place `from` on, at most [`PAGE_LINES_MAX`], of one snapshot.
    async fn page(&self, span: &Span, from: u64) -> Result<Page, StoreError>;

    /// Moves when the revision does.
    fn head(&self) -> watch::Receiver<u64>;
}

/// A watch.
pub(crate) struct Follow<L> {
    log: Arc<L>,
    span: Span,
    /// Place of the next line to read.
    from: u64,
    head: watch::Receiver<u64>,
    ready: VecDeque<Change>,
    /// Whether there may be lines that no signal will tell of.
    more: bool,
    /// Set when the history is gone; then it is over.
    gone: Option<(u64, u64)>,
}

impl<L: Log> Follow<L> {
    /// Begins after revision `after`; fails at once when that is gone.
    pub(crate) async fn start(log: Arc<L>, prefix: &str, after: u64) -> Result<Self, StoreError> {
        crate::bounds::prefix(prefix)?;
        // Callers pass on what their callers say; a revision that cannot be is ahead of the store like any other.
        let after = after.min(REVISION_MAX);
        let head = log.head();
        let mut follow = Self {
            log,
            span: Span::of_prefix(prefix),
            from: first_of(after + 1),
            head,
            ready: VecDeque::new(),
            more: true,
            gone: None,
        };
        follow.read().await?;
        Ok(follow)
    }

    /// Reads on. Changes itself only after the last wait, so that it can be dropped at any time.
    async fn read(&mut self) -> Result<(), StoreError> {
        let page = self.log.page(&self.span, self.from).await?;
        let after = revision_of(self.from) - 1;
        // Ahead of the store: a database was put back to an older state, and its revisions mean something else now.
        if page.compacted > after || page.revision < after {
            let (asked, oldest) = (after, page.compacted + 1);
            self.gone = Some((asked, oldest));
            return Err(StoreError::Compacted { asked, oldest });
        }
        self.from = match page.lines.last() {
            Some(last) if page.cut_short => last.at + 1,
            _ => self.from.max(first_of(page.revision + 1)),
        };
        self.more = page.cut_short;
        self.ready.extend(page.lines.into_iter().map(Line::change));
        Ok(())
    }
}

#[async_trait]
impl<L: Log> Watch for Follow<L> {
    async fn next(&mut self) -> Result<Change, StoreError> {
        let mut pause = RETRY_MIN;
        loop {
            if let Some((asked, oldest)) = self.gone {
                return Err(StoreError::Compacted { asked, oldest });
            }
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            if !self.more {
                // The log holds the sender, so this only ends when the head moved.
                if self.head.changed().await.is_err() {
                    return Err(StoreError::Away("the store was closed".into()));
                }
                // Stays set until a read succeeds, even if this future is dropped.
                self.more = first_of(*self.head.borrow() + 1) != self.from;
                continue;
            }
            match self.read().await {
                Ok(()) => {}
                Err(StoreError::Away(why)) => {
                    tracing::debug!(why, "a watch waits for the store");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
