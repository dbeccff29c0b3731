//! The store in one file, for one process.
//!
//! One connection writes, in batches, each flushed to the disk before it is acknowledged (`synchronous=FULL`); a few
//! others read beside it (WAL). The file `<path>.lock` is locked as long as the store is open: a second process would
//! not hear of this one's commits, so it is refused.
//!
//! Deliberately absent: a way to share the file between processes. That is what PostgreSQL is for.

mod schema;
mod writer;

use crate::batch::{Heads, History};
use crate::bounds::{self, Span};
use crate::follow::{Follow, Log, PAGE_LINES_MAX, Page};
use crate::queue::{self, Queue};
use crate::rows::{self, signed};
use crate::{Listing, Record, Store, StoreError, Watch, World, Write};
use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::SqliteConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Connections that read.
const READERS: u32 = 4;
/// How long a store that is just being closed, or killed, is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Bytes the log file may keep on the disk after a checkpoint.
const LOG_BYTES_KEPT: u32 = 64 * 1024 * 1024;

const GET: &str = "SELECT key, value, version, revision FROM records WHERE key = ?1";
// One statement is one snapshot: the revision belongs to the records.
const LIST: &str = "SELECT s.revision AS now, r.key, r.value, r.version, r.revision \
    FROM state s LEFT JOIN (SELECT key, value, version, revision FROM records \
    WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3) r ON 1 ORDER BY r.key";
const PAGE: &str = "SELECT s.revision AS now, s.compacted, c.at, c.key, c.value, c.version \
    FROM state s LEFT JOIN (SELECT at, key, value, version FROM changes \
    WHERE at >= ?1 AND key >= ?2 AND key < ?3 ORDER BY at LIMIT ?4) c ON 1 ORDER BY c.at";

/// Opens the file, and creates it if it is not there.
pub async fn open(path: &Path) -> Result<Store, StoreError> {
    open_with(path, History::default()).await
}

pub(crate) async fn open_with(path: &Path, history: History) -> Result<Store, StoreError> {
    let lock = lock(path).await?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", LOG_BYTES_KEPT.to_string());
    let failed = |error| at(path, from_sqlx(error));
    let writer = pool(1, options.clone()).await.map_err(failed)?;
    let head = schema::migrate(&writer).await.map_err(|error| at(path, error))?;
    let reading = options.create_if_missing(false).pragma("query_only", "on");
    let readers = pool(READERS, reading).await.map_err(failed)?;
    Ok(assemble(writer, readers, head, history, Some(lock)))
}

/// A new, empty one that is gone when it is dropped. It is a real SQLite with its thread: under Tokio's virtual time
/// take [`crate::memory`].
pub async fn in_memory() -> Result<Store, StoreError> {
    in_memory_with(History::default()).await
}

pub(crate) async fn in_memory_with(history: History) -> Result<Store, StoreError> {
    let options = SqliteConnectOptions::new().in_memory(true);
    // All through one connection: another one would open another database.
    let pool = pool(1, options).await.map_err(from_sqlx)?;
    let head = schema::migrate(&pool).await?;
    Ok(assemble(pool.clone(), pool, head, history, None))
}

async fn pool(size: u32, options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(size)
        .min_connections(size)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options)
        .await
}

fn assemble(
    writer: SqlitePool,
    readers: SqlitePool,
    heads: Heads,
    history: History,
    lock: Option<File>,
) -> Store {
    let (head, _) = watch::channel(heads.revision);
    let apply = writer::Writer {
        pool: writer,
        readers: readers.clone(),
        head: head.clone(),
        history,
        lock,
    };
    let queue = queue::start(apply);
    Store::new(Arc::new(Sqlite(Arc::new(Shared { queue, readers, head }))))
}

/// Takes the lock of the file, which ends with this process at the latest.
async fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let broken = |error: std::io::Error| {
        StoreError::Unusable(format!("the lock file {}: {error}", name.display()))
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(broken)?;
    let give_up = tokio::time::Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(broken(error)),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < give_up => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only decoration: who cannot be read stays unnamed.
                let known = file.read_to_string(&mut holder).is_ok_and(|bytes| bytes > 0);
                let holder = if known { holder.trim() } else { "unknown" };
                return Err(StoreError::Unusable(format!(
                    "{} is open in another process (pid {holder}): one file serves one process, \
                     several need PostgreSQL",
                    path.display()
                )));
            }
        }
    }
    file.set_len(0).map_err(broken)?;
    file.write_all(std::process::id().to_string().as_bytes()).map_err(broken)?;
    Ok(file)
}

struct Sqlite(Arc<Shared>);

struct Shared {
    queue: Queue,
    readers: SqlitePool,
    head: watch::Sender<u64>,
}

#[async_trait]
impl World for Sqlite {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        bounds::key(key)?;
        let row = sqlx::query(GET)
            .bind(key.as_bytes())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(from_sqlx)?;
        row.as_ref().map(rows::record).transpose()
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Listing, StoreError> {
        let (span, limit) = bounds::page(prefix, after, limit)?;
        let rows = sqlx::query(LIST)
            .bind(&span.from)
            .bind(&span.to)
            .bind(i64::try_from(limit + 1).unwrap_or(i64::MAX))
            .fetch(&self.0.readers);
        rows::listing(rows.map_err(from_sqlx), limit).await
    }

    async fn commit(&self, writes: &[Write]) -> Result<u64, StoreError> {
        self.0.queue.commit(writes).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(Follow::start(self.0.clone(), prefix, after).await?))
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT revision FROM state")
            .fetch_one(&self.0.readers)
            .await
            .map_err(from_sqlx)?;
        rows::number(&row, "revision")
    }
}

#[async_trait]
impl Log for Shared {
    async fn page(&self, span: &Span, from: u64) -> Result<Page, StoreError> {
        let rows = sqlx::query(PAGE)
            .bind(signed(from))
            .bind(&span.from)
            .bind(&span.to)
            .bind(PAGE_LINES_MAX)
            .fetch(&self.readers);
        rows::page(rows.map_err(from_sqlx)).await
    }

    fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }
}

/// The four numbers of the store.
async fn heads(connection: &mut SqliteConnection) -> Result<Heads, StoreError> {
    let row = sqlx::query("SELECT revision, changes, bytes, compacted FROM state")
        .fetch_one(connection)
        .await
        .map_err(from_sqlx)?;
    rows::heads(&row)
}

/// What a failure of SQLite means to a caller: the disk may recover, a foreign file will not.
fn from_sqlx(error: sqlx::Error) -> StoreError {
    /// The primary result codes that no waiting mends: READONLY, CORRUPT, CANTOPEN, NOTADB.
    const HOPELESS: [i32; 4] = [8, 11, 14, 26];
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<i32>().ok());
    let said = error.to_string();
    match (code, error) {
        (Some(code), _) if HOPELESS.contains(&(code & 0xFF)) => StoreError::Unusable(said),
        (_, sqlx::Error::ColumnNotFound(_) | sqlx::Error::ColumnDecode { .. }) => {
            StoreError::Unusable(said)
        }
        _ => StoreError::Away(said),
    }
}

/// Names the file.
fn at(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Unusable(why) => StoreError::Unusable(format!("{}: {why}", path.display())),
        StoreError::Away(why) => StoreError::Away(format!("{}: {why}", path.display())),
        other => other,
    }
}
