//! A prefix of the store as it is and as it changes, whatever happens to the store meanwhile.
//!
//! Deliberately absent: a copy of the records; whoever follows keeps what it needs.

use std::time::Duration;
use store::{Change, LIST_LIMIT_MAX, Record, Store, StoreError};

/// First wait after the store failed; doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait between attempts.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// What a follower is told.
pub(super) enum Told {
    /// Everything, as of this revision (single records may be newer).
    All(Vec<Record>, u64),
    /// One change after that.
    Change(Change),
}

/// Tells `told` of everything under `prefix`, for ever.
pub(super) async fn follow(store: &Store, prefix: &str, mut told: impl FnMut(Told) + Send) {
    let mut wait = WAIT_MIN;
    loop {
        let mistake = match list(store, prefix).await {
            Ok((records, revision)) => {
                told(Told::All(records, revision));
                wait = WAIT_MIN;
                watch(store, prefix, revision, &mut told).await
            }
            Err(mistake) => mistake,
        };
        if !matches!(mistake, StoreError::Compacted { .. }) {
            tracing::warn!(prefix, %mistake, "the store is followed anew");
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// All records under `prefix`; the revision is that of the first page, so that a watch from there misses nothing.
pub(super) async fn list(store: &Store, prefix: &str) -> Result<(Vec<Record>, u64), StoreError> {
    let mut page = store.list(prefix, None, LIST_LIMIT_MAX).await?;
    let revision = page.revision;
    let mut records = std::mem::take(&mut page.records);
    while page.more {
        let after = records.last().map(|record| record.key.clone());
        page = store.list(prefix, after.as_deref(), LIST_LIMIT_MAX).await?;
        records.append(&mut page.records);
    }
    Ok((records, revision))
}

async fn watch(
    store: &Store,
    prefix: &str,
    after: u64,
    told: &mut (impl FnMut(Told) + Send),
) -> StoreError {
    let mut watch = match store.watch(prefix, after).await {
        Ok(watch) => watch,
        Err(mistake) => return mistake,
    };
    loop {
        match watch.next().await {
            Ok(change) => told(Told::Change(change)),
            Err(mistake) => return mistake,
        }
    }
}
