//! Records with compare-and-set, one revision for the whole store, and watches from a revision.
//!
//! The model of etcd on SQL: a record has a key, a value and a version that counts its writes; every committed
//! transaction raises the store's revision by one. A watch yields every change after a revision, in order, once; when
//! the history that far back is gone it says so and the watcher lists anew.
//!
//! ```text
//!  commit ─▶ queue ─▶ writer: batch::plan ─▶ records + changes in one database transaction ─▶ head moves
//!  watch  ─▶ follow: waits for the head, reads changes from its place on
//! ```
//!
//! Three worlds: [`sqlite`] for one process, [`postgres`] for many, [`memory`] for simulations.
//!
//! Deliberately absent: queries over values, and the audit table.

mod batch;
mod bounds;
mod follow;
pub mod measure;
pub mod memory;
pub mod postgres;
mod queue;
mod rows;
pub mod sqlite;

pub use batch::{HISTORY_BYTES_MAX, HISTORY_CHANGES_MAX};

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 768;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Writes in one transaction.
pub const WRITES_MAX: usize = 64;
/// Records in one page of a listing.
pub const LIST_LIMIT_MAX: u32 = 1_000;

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// UTF-8, at most [`KEY_BYTES_MAX`].
    pub key: String,
    /// At most [`VALUE_BYTES_MAX`].
    pub value: Bytes,
    /// Counts the writes to this key since it was created: 1, 2, 3 …
    pub version: u64,
    /// Revision of the store at its last write.
    pub revision: u64,
}

/// What must be true of a key before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there.
    Any,
    /// No such key.
    Absent,
    /// Exactly this version.
    Version(u64),
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces.
    Put {
        /// Which.
        key: String,
        /// What.
        value: Bytes,
        /// If so.
        expect: Expect,
    },
    /// Removes. Removing what is not there is a conflict, except with [`Expect::Any`].
    Delete {
        /// Which.
        key: String,
        /// If so.
        expect: Expect,
    },
    /// Writes nothing, but the transaction fails if it is not so.
    Check {
        /// Which.
        key: String,
        /// If so.
        expect: Expect,
    },
}

impl Write {
    /// Which key.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }
}

/// A page of a listing, in the order of the keys' bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The records.
    pub records: Vec<Record>,
    /// Revision at which the page was read.
    pub revision: u64,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// A change that a watch yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of the transaction.
    pub revision: u64,
    /// Which.
    pub key: String,
    /// The record after it; none = removed.
    pub record: Option<Record>,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The expectation of one write did not hold; nothing was written.
    #[error("{key} is at version {found}, not as expected ({expected:?})")]
    Conflict {
        /// Which.
        key: String,
        /// What the caller expected.
        expected: Expect,
        /// What is there; 0 = no such key.
        found: u64,
    },
    /// The history that a watch asked for is gone: list anew.
    #[error("changes since revision {asked} are gone, the oldest kept is {oldest}")]
    Compacted {
        /// Asked for.
        asked: u64,
        /// Still there.
        oldest: u64,
    },
    /// A key, value or transaction beyond its bound, or an empty or ill-formed key.
    #[error("{0}")]
    Invalid(String),
    /// The database does not answer, or the connection broke: unknown whether it was done, unless nothing was sent.
    #[error("the store is away: {0}")]
    Away(String),
    /// The database is of a newer or strange schema.
    #[error("the store cannot be used: {0}")]
    Unusable(String),
}

impl StoreError {
    /// The same once more: a batch that fails tells each of its transactions.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Conflict { key, expected, found } => {
                Self::Conflict { key: key.clone(), expected: *expected, found: *found }
            }
            Self::Compacted { asked, oldest } => Self::Compacted { asked: *asked, oldest: *oldest },
            Self::Invalid(why) => Self::Invalid(why.clone()),
            Self::Away(why) => Self::Away(why.clone()),
            Self::Unusable(why) => Self::Unusable(why.clone()),
        }
    }
}

/// One world.
#[async_trait]
pub trait World: Send + Sync + 'static {
    /// A record.
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError>;

    /// Records whose keys begin with `prefix` and come after `after`, at most `limit` and [`LIST_LIMIT_MAX`]; fewer
    /// when they are large.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Listing, StoreError>;

    /// All of the writes or none; the revision at which they are. Acknowledged means durable. A transaction names each
    /// key once. One that changes nothing (checks alone) raises no revision and answers the current one.
    async fn commit(&self, writes: &[Write]) -> Result<u64, StoreError>;

    /// Every change of keys with `prefix` after revision `after`, in order. `Compacted` when the history does not reach
    /// back so far, or when the store has not got so far: then it was put back to an older state.
    async fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, StoreError>;

    /// The revision of the last transaction.
    async fn revision(&self) -> Result<u64, StoreError>;
}

/// Changes as they come. Dropping it ends it.
#[async_trait]
pub trait Watch: Send {
    /// The next change. Waits out a database that is away. `Compacted` when the watcher was too slow; then it is over.
    /// Cancel-safe.
    async fn next(&mut self) -> Result<Change, StoreError>;
}

/// A store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<dyn World>);

impl Store {
    /// Over any world.
    pub fn new(world: Arc<dyn World>) -> Self {
        Self(world)
    }

    /// All records whose keys begin with `prefix`, page by page, and a revision to watch from: changes that happened
    /// between two pages are in both, so that applying them by key and revision ends in the truth.
    pub async fn all(&self, prefix: &str) -> Result<(Vec<Record>, u64), StoreError> {
        let mut pages = self.pages(prefix);
        let (mut records, mut revision) = (Vec::new(), None);
        while let Some(page) = pages.next().await? {
            records.extend(page.records);
            revision.get_or_insert(page.revision);
        }
        Ok((records, revision.unwrap_or_default()))
    }

    /// The same page by page, for those who keep less than they read.
    pub fn pages<'a>(&'a self, prefix: &'a str) -> Pages<'a> {
        Pages { store: self, prefix, after: None, more: true }
    }
}

/// All records under a prefix, page by page.
pub struct Pages<'a> {
    store: &'a Store,
    prefix: &'a str,
    after: Option<String>,
    more: bool,
}

impl Pages<'_> {
    /// The next page; none after the last one. After an error the same page is asked for again.
    pub async fn next(&mut self) -> Result<Option<Listing>, StoreError> {
        if !self.more {
            return Ok(None);
        }
        let page = self.store.list(self.prefix, self.after.as_deref(), LIST_LIMIT_MAX).await?;
        self.after = page.records.last().map(|record| record.key.clone());
        self.more = page.more && self.after.is_some();
        Ok(Some(page))
    }
}

impl std::ops::Deref for Store {
    type Target = dyn World;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// The version that a list of migrations leads to.
fn newest(migrations: &[&str]) -> i64 {
    i64::try_from(migrations.len()).unwrap_or(i64::MAX)
}

/// Those that a database at version `found` still needs.
fn migrations_after<'a>(found: i64, all: &'a [&'a str]) -> Result<&'a [&'a str], StoreError> {
    usize::try_from(found).ok().and_then(|found| all.get(found..)).ok_or_else(|| {
        StoreError::Unusable(format!(
            "its schema is at version {found} and this program knows only up to {}: start a newer \
             program",
            newest(all)
        ))
    })
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
