//! The tables of the SQLite world and how a file becomes the newest form of them.
//!
//! Deliberately absent: the way back. A newer file is refused by an older program.

use crate::StoreError;
use crate::batch::Heads;
use sqlx::{Connection, Row, SqlitePool};

/// Each takes the schema one version further; they only ever grow in number.
const MIGRATIONS: [&str; 1] = ["
CREATE TABLE records (
    key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL,
    version INTEGER NOT NULL, revision INTEGER NOT NULL
) STRICT;
CREATE TABLE changes (
    at INTEGER NOT NULL PRIMARY KEY, key BLOB NOT NULL, value BLOB, version INTEGER NOT NULL,
    changes INTEGER NOT NULL, bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE state (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL,
    changes INTEGER NOT NULL, bytes INTEGER NOT NULL, compacted INTEGER NOT NULL
) STRICT;
INSERT INTO state VALUES (1, 0, 0, 0, 0);
"];

/// Brings the schema up to date in one transaction and reads where the store stands.
pub(super) async fn migrate(pool: &SqlitePool) -> Result<Heads, StoreError> {
    let mut connection = pool.acquire().await.map_err(super::from_sqlx)?;
    let mut transaction =
        connection.begin_with("BEGIN IMMEDIATE").await.map_err(super::from_sqlx)?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS store_schema (version INTEGER NOT NULL) STRICT")
        .execute(&mut *transaction)
        .await
        .map_err(super::from_sqlx)?;
    let found: i64 = sqlx::query("SELECT coalesce(max(version), 0) AS version FROM store_schema")
        .fetch_one(&mut *transaction)
        .await
        .and_then(|row| row.try_get("version"))
        .map_err(super::from_sqlx)?;
    for migration in crate::migrations_after(found, &MIGRATIONS)? {
        sqlx::raw_sql(*migration).execute(&mut *transaction).await.map_err(super::from_sqlx)?;
    }
    if found != crate::newest(&MIGRATIONS) {
        sqlx::query("INSERT INTO store_schema VALUES (?1)")
            .bind(crate::newest(&MIGRATIONS))
            .execute(&mut *transaction)
            .await
            .map_err(super::from_sqlx)?;
    }
    let heads = super::heads(&mut transaction).await?;
    transaction.commit().await.map_err(super::from_sqlx)?;
    Ok(heads)
}
