//! The tables of the PostgreSQL world and how a schema becomes the newest form of them.
//!
//! Deliberately absent: the way back. A newer schema is refused by an older program.

use super::from_sqlx;
use crate::batch::Heads;
use crate::{StoreError, rows};
use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Connection, Row};

/// Each takes the schema one version further; they only ever grow in number. Keys are bytes, so that their order is
/// that of their bytes whatever the database's locale.
const MIGRATIONS: [&str; 1] = ["
CREATE TABLE records (
    key bytea PRIMARY KEY, value bytea NOT NULL, version bigint NOT NULL, revision bigint NOT NULL
);
CREATE TABLE changes (
    at bigint PRIMARY KEY, key bytea NOT NULL, value bytea, version bigint NOT NULL,
    changes bigint NOT NULL, bytes bigint NOT NULL
);
CREATE TABLE state (
    one integer PRIMARY KEY CHECK (one = 1), revision bigint NOT NULL,
    changes bigint NOT NULL, bytes bigint NOT NULL, compacted bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO state VALUES (1, 0, 0, 0, 0);
"];
/// Any number that nothing else locks: \"apcstore\" in bytes.
const MIGRATION_LOCK: i64 = 0x6170_6373_746F_7265;

/// Brings the schema up to date in one transaction, one process after the other, and reads where the store stands.
pub(super) async fn migrate(pool: &PgPool, schema: &str) -> Result<Heads, StoreError> {
    let mut connection = pool.acquire().await.map_err(from_sqlx)?;
    let fsync: String = sqlx::query("SELECT current_setting('fsync') AS fsync")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get("fsync"))
        .map_err(from_sqlx)?;
    if fsync == "off" {
        tracing::warn!(
            "PostgreSQL runs with fsync=off: a power loss can lose what was acknowledged"
        );
    }
    let mut transaction = connection.begin().await.map_err(from_sqlx)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *transaction)
        .await
        .map_err(from_sqlx)?;
    // Asked first, because IF NOT EXISTS needs the right to create even when nothing is created.
    let there = sqlx::query("SELECT 1 FROM pg_namespace WHERE nspname = $1")
        .bind(schema)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(from_sqlx)?;
    if there.is_none() {
        // The name was checked to be plain.
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA \"{schema}\"")))
            .execute(&mut *transaction)
            .await
            .map_err(from_sqlx)?;
    }
    let heads = tables(&mut transaction).await?;
    transaction.commit().await.map_err(from_sqlx)?;
    Ok(heads)
}

async fn tables(connection: &mut sqlx::PgConnection) -> Result<Heads, StoreError> {
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS store_schema (version bigint NOT NULL)")
        .execute(&mut *connection)
        .await
        .map_err(from_sqlx)?;
    let found: i64 = sqlx::query("SELECT coalesce(max(version), 0) AS version FROM store_schema")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get("version"))
        .map_err(from_sqlx)?;
    for migration in crate::migrations_after(found, &MIGRATIONS)? {
        sqlx::raw_sql(*migration).execute(&mut *connection).await.map_err(from_sqlx)?;
    }
    if found != crate::newest(&MIGRATIONS) {
        sqlx::query("INSERT INTO store_schema VALUES ($1)")
            .bind(crate::newest(&MIGRATIONS))
            .execute(&mut *connection)
            .await
            .map_err(from_sqlx)?;
    }
    let row = sqlx::query("SELECT revision, changes, bytes, compacted FROM state")
        .fetch_one(&mut *connection)
        .await
        .map_err(from_sqlx)?;
    rows::heads(&row)
}
