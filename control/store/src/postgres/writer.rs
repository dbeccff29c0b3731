//! The writer of one process: a batch of transactions becomes one transaction of PostgreSQL.
//!
//! Deliberately absent: decisions. Those are in [`crate::batch`].

use super::{PostgresConf, from_sqlx, wake};
use crate::batch::{self, History, Plan};
use crate::queue::Apply;
use crate::rows::{self, signed};
use crate::{Record, StoreError, Write};
use async_trait::async_trait;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

// A later statement of the same transaction sees what was committed while this one waited.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
const LOCK: &str = "SELECT revision, changes, bytes, compacted FROM state FOR UPDATE";
const VERSIONS: &str = "SELECT key, version FROM records WHERE key = ANY($1::bytea[])";
// Keys put and keys removed are never the same, so the parts do not meet.
const WRITE: &str = "WITH put AS (
    INSERT INTO records (key, value, version, revision)
    SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[])
    ON CONFLICT (key) DO UPDATE SET
        value = excluded.value, version = excluded.version, revision = excluded.revision
), removed AS (
    DELETE FROM records WHERE key = ANY($5::bytea[])
), told AS (
    INSERT INTO changes (at, key, value, version, changes, bytes)
    SELECT * FROM unnest(
        $6::bigint[], $7::bytea[], $8::bytea[], $9::bigint[], $10::bigint[], $11::bigint[])
)
UPDATE state SET revision = $12, changes = $13, bytes = $14, compacted = $15
RETURNING pg_notify($16, $12::text)::text";
const OLDEST: &str = "SELECT at, changes, bytes FROM changes ORDER BY at LIMIT $1";
// An operator may have made commits faster than they are durable. What is stricter stays.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') = 'off'";

/// What the writing task owns.
pub(super) struct Writer {
    options: PgConnectOptions,
    connect_timeout: Duration,
    answer_timeout: Duration,
    channel: String,
    head: watch::Sender<u64>,
    history: History,
    connection: Option<PgConnection>,
}

/// A batch that failed.
struct Failed {
    error: StoreError,
    /// Whether it may have been committed all the same.
    unknown: bool,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self { error, unknown: false }
    }
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        from_sqlx(error).into()
    }
}

impl Writer {
    pub(super) fn new(
        options: PgConnectOptions,
        conf: &PostgresConf,
        head: watch::Sender<u64>,
        history: History,
    ) -> Self {
        let channel = wake::channel(&conf.schema);
        let PostgresConf { connect_timeout, answer_timeout, .. } = *conf;
        Self { options, connect_timeout, answer_timeout, channel, head, history, connection: None }
    }

    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            sqlx::query(DURABLE).execute(&mut connection).await?;
            Ok(connection)
        };
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(from_sqlx),
            Err(_) => Err(StoreError::Away("PostgreSQL does not answer".into())),
        }
    }

    async fn batch(
        &self,
        connection: &mut PgConnection,
        transactions: &[&[Write]],
    ) -> Result<Vec<Result<u64, StoreError>>, Failed> {
        let mut transaction = connection.begin_with(BEGIN).await?;
        let before = rows::heads(&sqlx::query(LOCK).fetch_one(&mut *transaction).await?)?;
        let keys: Vec<&[u8]> =
            batch::keys(transactions.iter().copied()).into_iter().map(str::as_bytes).collect();
        let found = sqlx::query(VERSIONS).bind(keys).fetch_all(&mut *transaction).await?;
        let versions = found
            .iter()
            .map(|row| Ok((rows::key(row)?, rows::number(row, "version")?)))
            .collect::<Result<BTreeMap<_, _>, StoreError>>()?;
        let mut plan = batch::plan(before, versions, transactions.iter().copied());
        if plan.lines.is_empty() {
            transaction.rollback().await?;
            return Ok(plan.answers);
        }
        cut(&mut transaction, &mut plan, self.history).await?;
        write(&mut transaction, &plan, &self.channel).await?;
        let sent = transaction.commit().await;
        sent.map_err(|error| Failed { error: from_sqlx(error), unknown: true })?;
        wake::raise(&self.head, plan.heads.revision);
        Ok(plan.answers)
    }
}

#[async_trait]
impl Apply for Writer {
    async fn apply(
        &mut self,
        transactions: &[&[Write]],
    ) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
        loop {
            let kept = self.connection.take();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let done = tokio::time::timeout(
                self.answer_timeout,
                self.batch(&mut connection, transactions),
            );
            match done.await {
                Ok(Ok(answers)) => {
                    self.connection = Some(connection);
                    return Ok(answers);
                }
                // An old connection that broke before anything could be committed: the server was
                // restarted since, so once more with a new one.
                Ok(Err(Failed { error: StoreError::Away(_), unknown: false })) if !fresh => {}
                Ok(Err(failed)) => return Err(failed.error),
                Err(_) => return Err(StoreError::Away("PostgreSQL does not answer".into())),
            }
        }
    }

    async fn end(self) {
        if let Some(connection) = self.connection
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "closing a connection failed");
        }
    }
}

/// Removes the history beyond its bounds, when it is time to.
async fn cut(
    connection: &mut PgConnection,
    plan: &mut Plan,
    history: History,
) -> Result<(), sqlx::Error> {
    let Some(rows) = plan.cut_rows else { return Ok(()) };
    let oldest = sqlx::query_as(OLDEST).bind(signed(rows)).fetch_all(&mut *connection).await?;
    if let Some(kept) = plan.cut(oldest.into_iter().map(rows::place), history) {
        sqlx::query("DELETE FROM changes WHERE at < $1")
            .bind(signed(kept))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Everything in one statement: each further one would be a journey to the server while all others wait.
async fn write(
    connection: &mut PgConnection,
    plan: &Plan,
    channel: &str,
) -> Result<(), sqlx::Error> {
    fn each<T, U>(of: &[T], column: impl Fn(&T) -> U) -> Vec<U> {
        of.iter().map(column).collect()
    }
    let (puts, lines, heads) = (&plan.puts, &plan.lines, &plan.heads);
    let blob = |record: &Record| record.value.to_vec();
    sqlx::query(WRITE)
        .bind(each(puts, |r| r.key.as_bytes().to_vec()))
        .bind(each(puts, blob))
        .bind(each(puts, |r| signed(r.version)))
        .bind(each(puts, |r| signed(r.revision)))
        .bind(each(&plan.deletes, |key| key.as_bytes().to_vec()))
        .bind(each(lines, |l| signed(l.at)))
        .bind(each(lines, |l| l.key.as_bytes().to_vec()))
        .bind(each(lines, |l| l.value.as_ref().map(|value| value.to_vec())))
        .bind(each(lines, |l| signed(l.version)))
        .bind(each(lines, |l| signed(l.changes)))
        .bind(each(lines, |l| signed(l.bytes)))
        .bind(signed(heads.revision))
        .bind(signed(heads.changes))
        .bind(signed(heads.bytes))
        .bind(signed(heads.compacted))
        .bind(channel)
        .execute(&mut *connection)
        .await?;
    Ok(())
}
