//! A prefix of the store as it is and as it changes, in a channel, whatever happens to the store meanwhile.
//!
//! Deliberately absent: a copy of the records; whoever follows keeps what it needs.

use std::time::Duration;
use store::{Change, Record, Store, StoreError};
use tokio::sync::mpsc;

/// Things told that wait to be heard; then the watch waits, which the store bounds by itself.
const TOLD_MAX: usize = 1_024;
/// First wait after the store failed; doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait between attempts.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What a follower is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// Everything as of this revision; single records may be newer.
    All(Vec<Record>, u64),
    /// One change after that.
    Change(Change),
}

/// Follows `prefix` until the receiver is dropped. `tasks` owns the work.
pub(crate) fn follow(
    tasks: &mut tokio::task::JoinSet<()>,
    store: &Store,
    prefix: &'static str,
) -> mpsc::Receiver<Told> {
    let (tell, told) = mpsc::channel(TOLD_MAX);
    let store = store.clone();
    tasks.spawn(async move {
        let mut wait = WAIT_MIN;
        while !tell.is_closed() {
            match run(&store, prefix, &tell, &mut wait).await {
                Ok(()) => return,
                Err(StoreError::Compacted { .. }) => {
                    tracing::info!(
                        prefix,
                        "changes came faster than they were heard, listing anew"
                    );
                }
                Err(mistake) => tracing::warn!(prefix, %mistake, "the store is followed anew"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    });
    told
}

/// Lists, then watches; returns when nobody listens any more.
async fn run(
    store: &Store,
    prefix: &str,
    tell: &mpsc::Sender<Told>,
    wait: &mut Duration,
) -> Result<(), StoreError> {
    let (records, revision) = store.all(prefix).await?;
    if tell.send(Told::All(records, revision)).await.is_err() {
        return Ok(());
    }
    let mut watch = store.watch(prefix, revision).await?;
    loop {
        tokio::select! {
            biased;
            change = watch.next() => {
                // A list alone is no recovery: a watch that breaks at once must not be asked for without end.
                let change = change?;
                *wait = WAIT_MIN;
                if tell.send(Told::Change(change)).await.is_err() {
                    return Ok(());
                }
            }
            () = tell.closed() => return Ok(()),
        }
    }
}
