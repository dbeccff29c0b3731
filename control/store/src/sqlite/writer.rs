//! The one writer of a file: a batch of transactions becomes one transaction of SQLite, flushed once.
//!
//! Deliberately absent: decisions. Those are in [`crate::batch`].

use super::{from_sqlx, heads};
use crate::batch::{self, Heads, History, Plan};
use crate::queue::Apply;
use crate::rows::{self, signed};
use crate::{StoreError, Write};
use async_trait::async_trait;
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use std::collections::BTreeMap;
use std::fs::File;
use tokio::sync::watch;

// A list of keys in one parameter, whatever bytes they have.
const VERSIONS: &str = "SELECT r.key, r.version FROM json_each(?1) k \
    CROSS JOIN records r ON r.key = unhex(k.value)";
const PUT: [&str; 2] = [
    "INSERT INTO records (key, value, version, revision) VALUES ",
    " ON CONFLICT (key) DO UPDATE SET \
     value = excluded.value, version = excluded.version, revision = excluded.revision",
];
const LINE: &str = "INSERT INTO changes (at, key, value, version, changes, bytes) VALUES ";
const STATE: &str = "UPDATE state SET revision = ?1, changes = ?2, bytes = ?3, compacted = ?4";
const OLDEST: &str = "SELECT at, changes, bytes FROM changes ORDER BY at LIMIT ?1";

/// Rows in one statement. Each statement is a journey to SQLite's thread, which costs more than its rows; the bound
/// keeps the number of different statements small enough to stay prepared.
const ROWS_MAX: usize = 16;

/// What the writing task owns.
pub(super) struct Writer {
    pub(super) pool: SqlitePool,
    pub(super) readers: SqlitePool,
    pub(super) head: watch::Sender<u64>,
    pub(super) history: History,
    /// Let go after the last connection.
    pub(super) lock: Option<File>,
}

#[async_trait]
impl Apply for Writer {
    async fn apply(
        &mut self,
        transactions: &[&[Write]],
    ) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(from_sqlx)?;
        // Dropped on an error below, which rolls it back.
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(from_sqlx)?;
        let before = heads(&mut transaction).await?;
        let versions = versions(&mut transaction, transactions).await?;
        let mut plan = batch::plan(before, versions, transactions.iter().copied());
        if plan.lines.is_empty() {
            transaction.rollback().await.map_err(from_sqlx)?;
            return Ok(plan.answers);
        }
        write(&mut transaction, &mut plan, self.history).await.map_err(from_sqlx)?;
        transaction.commit().await.map_err(from_sqlx)?;
        self.head.send_replace(plan.heads.revision);
        Ok(plan.answers)
    }

    async fn end(self) {
        self.pool.close().await;
        self.readers.close().await;
        drop(self.lock);
    }
}

/// The versions of all keys that the batch names.
async fn versions(
    connection: &mut SqliteConnection,
    transactions: &[&[Write]],
) -> Result<BTreeMap<String, u64>, StoreError> {
    let hex = |key: &str| key.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let keys: Vec<String> =
        batch::keys(transactions.iter().copied()).into_iter().map(hex).collect();
    let keys = format!("[\"{}\"]", keys.join("\",\""));
    let rows = sqlx::query(VERSIONS).bind(keys).fetch_all(connection).await.map_err(from_sqlx)?;
    rows.iter().map(|row| Ok((rows::key(row)?, rows::number(row, "version")?))).collect()
}

async fn write(
    connection: &mut SqliteConnection,
    plan: &mut Plan,
    history: History,
) -> Result<(), sqlx::Error> {
    for records in plan.puts.chunks(ROWS_MAX) {
        let sql = format!("{}{}{}", PUT[0], places(records.len(), 4), PUT[1]);
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for record in records {
            query = query
                .bind(record.key.as_bytes())
                .bind(&record.value[..])
                .bind(signed(record.version))
                .bind(signed(record.revision));
        }
        query.execute(&mut *connection).await?;
    }
    for key in &plan.deletes {
        sqlx::query("DELETE FROM records WHERE key = ?1")
            .bind(key.as_bytes())
            .execute(&mut *connection)
            .await?;
    }
    for lines in plan.lines.chunks(ROWS_MAX) {
        let mut query = sqlx::query(AssertSqlSafe(format!("{LINE}{}", places(lines.len(), 6))));
        for line in lines {
            query = query
                .bind(signed(line.at))
                .bind(line.key.as_bytes())
                .bind(line.value.as_deref())
                .bind(signed(line.version))
                .bind(signed(line.changes))
                .bind(signed(line.bytes));
        }
        query.execute(&mut *connection).await?;
    }
    cut(connection, plan, history).await?;
    let Heads { revision, changes, bytes, compacted } = plan.heads;
    let state = sqlx::query(STATE).bind(signed(revision)).bind(signed(changes));
    state.bind(signed(bytes)).bind(signed(compacted)).execute(connection).await?;
    Ok(())
}

/// `(?,?),(?,?)` for so many rows of so many columns.
fn places(rows: usize, columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    vec![row; rows].join(",")
}

/// Removes the history beyond its bounds, when it is time to.
async fn cut(
    connection: &mut SqliteConnection,
    plan: &mut Plan,
    history: History,
) -> Result<(), sqlx::Error> {
    let Some(rows) = plan.cut_rows else { return Ok(()) };
    let oldest = sqlx::query_as(OLDEST).bind(signed(rows)).fetch_all(&mut *connection).await?;
    if let Some(kept) = plan.cut(oldest.into_iter().map(rows::place), history) {
        sqlx::query("DELETE FROM changes WHERE at < ?1")
            .bind(signed(kept))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
