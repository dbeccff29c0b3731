//! The store in PostgreSQL, for many processes at once.
//!
//! Every batch of transactions first locks the one row of `state`, and holds it until it is durable and visible: so
//! revisions become visible in their order, and a watch that has read one never misses a lower one. Commits notify;
//! whoever missed a notification looks once a second.
//!
//! A server that is away is [`StoreError::Away`] to callers, and waited out by watches.
//!
//! Deliberately absent: reading from replicas, which would show revisions late.

mod schema;
mod wake;
mod writer;

use crate::batch::History;
use crate::bounds::{self, Span};
use crate::follow::{Follow, Log, PAGE_LINES_MAX, Page};
use crate::queue::{self, Queue};
use crate::rows::{self, signed};
use crate::{Listing, Record, Store, StoreError, Watch, World, Write};
use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Bytes of a schema's name, as PostgreSQL allows them.
const SCHEMA_BYTES_MAX: usize = 63;
/// A connection that lay still for so long is tried before it is used.
const STILL: Duration = Duration::from_secs(1);
/// The server ends a transaction whose process was stopped or cut off: it holds everybody's lock.
const TRANSACTION_IDLE_MS: &str = "5000";

const GET: &str = "SELECT key, value, version, revision FROM records WHERE key = $1";
// One statement is one snapshot: the revision belongs to the records.
const LIST: &str = "SELECT s.revision AS now, r.key, r.value, r.version, r.revision \
    FROM state s LEFT JOIN (SELECT key, value, version, revision FROM records \
    WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3) r ON true ORDER BY r.key";
const PAGE: &str = "SELECT s.revision AS now, s.compacted, c.at, c.key, c.value, c.version \
    FROM state s LEFT JOIN (SELECT at, key, value, version FROM changes \
    WHERE at >= $1 AND key >= $2 AND key < $3 ORDER BY at LIMIT $4) c ON true ORDER BY c.at";

/// How to use the server.
#[derive(Clone, Debug)]
pub struct PostgresConf {
    /// Connections that read; two more write and listen.
    pub readers_max: u32,
    /// How long a caller waits for a connection before the store is away.
    pub connect_timeout: Duration,
    /// How long a caller waits for an answer before the store is away. The server ends a statement after it, and with
    /// it the wait for another process's batch.
    pub answer_timeout: Duration,
    /// The schema that holds the tables; made if it is not there.
    pub schema: String,
}

impl Default for PostgresConf {
    fn default() -> Self {
        Self {
            readers_max: 8,
            connect_timeout: Duration::from_secs(3),
            answer_timeout: Duration::from_secs(10),
            schema: "apcera_store".into(),
        }
    }
}

/// Connects, and makes or migrates the tables.
pub async fn connect(url: &str, conf: PostgresConf) -> Result<Store, StoreError> {
    connect_with(url, conf, History::default()).await
}

pub(crate) async fn connect_with(
    url: &str,
    conf: PostgresConf,
    history: History,
) -> Result<Store, StoreError> {
    check(&conf)?;
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| StoreError::Unusable(format!("the URL of PostgreSQL: {error}")))?
        .application_name("apcera-store")
        .options([
            ("search_path", conf.schema.as_str()),
            ("statement_timeout", &conf.answer_timeout.as_millis().to_string()),
            ("idle_in_transaction_session_timeout", TRANSACTION_IDLE_MS),
        ]);
    let pooled = pool(conf.readers_max, &conf).connect_lazy_with(options.clone());
    let readers = Readers { pool: pooled, wait: conf.connect_timeout + conf.answer_timeout };
    let heads = readers.answer(schema::migrate(&readers.pool, &conf.schema)).await?;
    let (head, _) = watch::channel(heads.revision);
    let ear = pool(1, &conf).connect_lazy_with(options.clone());
    let wakers = wake::start(ear, readers.clone(), wake::channel(&conf.schema), head.clone());
    let apply = writer::Writer::new(options, &conf, head.clone(), history);
    let queue = queue::start(apply);
    Ok(Store::new(Arc::new(Postgres(Arc::new(Shared { queue, readers, head, wakers })))))
}

/// What would only fail later, or mean something else in SQL.
fn check(conf: &PostgresConf) -> Result<(), StoreError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let name = conf.schema.as_bytes();
    if name.is_empty() || name.len() > SCHEMA_BYTES_MAX || !name.iter().all(|b| plain(*b)) {
        return Err(StoreError::Unusable(format!(
            "the schema's name {:?} is not 1 to {SCHEMA_BYTES_MAX} of a-z, 0-9 and _",
            conf.schema
        )));
    }
    if conf.readers_max == 0 {
        return Err(StoreError::Unusable("readers_max is 0, so nothing could be read".into()));
    }
    Ok(())
}

fn pool(size: u32, conf: &PostgresConf) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(conf.connect_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                // False closes it and takes another one.
                Ok(meta.idle_for < STILL || connection.ping().await.is_ok())
            })
        })
}

struct Postgres(Arc<Shared>);

struct Shared {
    queue: Queue,
    readers: Readers,
    head: watch::Sender<u64>,
    wakers: [AbortHandle; 2],
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wakers.iter().for_each(AbortHandle::abort);
    }
}

/// The connections that read, and the patience with them.
#[derive(Clone)]
struct Readers {
    pool: PgPool,
    wait: Duration,
}

impl Readers {
    /// What the server answers, if it does: it may stand still with its connections open.
    async fn answer<T>(
        &self,
        reading: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::time::timeout(self.wait, reading)
            .await
            .unwrap_or_else(|_| Err(StoreError::Away("PostgreSQL does not answer".into())))
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT revision FROM state").fetch_one(&self.pool);
        self.answer(async { rows::number(&row.await.map_err(from_sqlx)?, "revision") }).await
    }
}

#[async_trait]
impl World for Postgres {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        bounds::key(key)?;
        let row = sqlx::query(GET).bind(key.as_bytes()).fetch_optional(&self.0.readers.pool);
        let row = self.0.readers.answer(async { row.await.map_err(from_sqlx) }).await?;
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
            .fetch(&self.0.readers.pool);
        self.0.readers.answer(rows::listing(rows.map_err(from_sqlx), limit)).await
    }

    async fn commit(&self, writes: &[Write]) -> Result<u64, StoreError> {
        self.0.queue.commit(writes).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(Follow::start(self.0.clone(), prefix, after).await?))
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        self.0.readers.revision().await
    }
}

#[async_trait]
impl Log for Shared {
    async fn page(&self, span: &Span, from: u64) -> Result<Page, StoreError> {
        let rows = sqlx::query(PAGE)
            .bind(signed(from))
            .bind(&span.from)
            .bind(&span.to)
            .bind(i64::from(PAGE_LINES_MAX))
            .fetch(&self.readers.pool);
        self.readers.answer(rows::page(rows.map_err(from_sqlx))).await
    }

    fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }
}

/// What a failure of PostgreSQL means to a caller: a server may come back, a wrong password or schema will not mend
/// itself.
fn from_sqlx(error: sqlx::Error) -> StoreError {
    /// Classes of SQLSTATE: wrong login, no such database, no such schema, wrong schema or rights.
    const HOPELESS: [&str; 4] = ["28", "3D", "3F", "42"];
    let said = error.to_string();
    let code = error.as_database_error().and_then(|error| Some(error.code()?.into_owned()));
    match (code, error) {
        (Some(code), _) if HOPELESS.iter().any(|class| code.starts_with(class)) => {
            StoreError::Unusable(said)
        }
        (_, sqlx::Error::Configuration(_) | sqlx::Error::ColumnDecode { .. }) => {
            StoreError::Unusable(said)
        }
        _ => StoreError::Away(said),
    }
}
