//! Rows of either database as what they mean here.
//!
//! Deliberately absent: SQL. Both databases answer with the same columns.

use crate::batch::Line;
use crate::follow::{PAGE_BYTES_MAX, PAGE_LINES_MAX, Page};
use crate::{Listing, Record, StoreError};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use sqlx::Row;
use std::pin::pin;

/// The two types of column there are.
pub(crate) trait Columns {
    fn integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error>;
    fn blob(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error>;
}

impl Columns for sqlx::sqlite::SqliteRow {
    fn integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(column)
    }

    fn blob(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        self.try_get(column)
    }
}

impl Columns for sqlx::postgres::PgRow {
    fn integer(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(column)
    }

    fn blob(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        self.try_get(column)
    }
}

fn strange(error: &sqlx::Error) -> StoreError {
    StoreError::Unusable(format!("its schema is not the store's: {error}"))
}

/// A number, or none where the row has none.
fn maybe(row: &impl Columns, column: &str) -> Result<Option<u64>, StoreError> {
    let found = row.integer(column).map_err(|error| strange(&error))?;
    found
        .map(|number| {
            u64::try_from(number)
                .map_err(|_| StoreError::Unusable(format!("{column} is {number} in the database")))
        })
        .transpose()
}

/// A number.
pub(crate) fn number(row: &impl Columns, column: &str) -> Result<u64, StoreError> {
    maybe(row, column)?
        .ok_or_else(|| StoreError::Unusable(format!("{column} is missing in the database")))
}

/// Numbers of the store stay far below the largest a database holds.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A line's place and counts. Written by [`signed`], so never negative.
pub(crate) fn place((at, changes, bytes): (i64, i64, i64)) -> (u64, u64, u64) {
    let unsigned = |number| u64::try_from(number).unwrap_or(0);
    (unsigned(at), unsigned(changes), unsigned(bytes))
}

/// A key.
pub(crate) fn key(row: &impl Columns) -> Result<String, StoreError> {
    let bytes = row.blob("key").map_err(|error| strange(&error))?.unwrap_or_default();
    String::from_utf8(bytes)
        .map_err(|_| StoreError::Unusable("a key in the database is not UTF-8".into()))
}

fn value(row: &impl Columns) -> Result<Option<Bytes>, StoreError> {
    Ok(row.blob("value").map_err(|error| strange(&error))?.map(Bytes::from))
}

/// A record.
pub(crate) fn record(row: &impl Columns) -> Result<Record, StoreError> {
    Ok(Record {
        key: key(row)?,
        value: value(row)?.unwrap_or_default(),
        version: number(row, "version")?,
        revision: number(row, "revision")?,
    })
}

/// The store's four numbers.
pub(crate) fn heads(row: &impl Columns) -> Result<crate::batch::Heads, StoreError> {
    Ok(crate::batch::Heads {
        revision: number(row, "revision")?,
        changes: number(row, "changes")?,
        bytes: number(row, "bytes")?,
        compacted: number(row, "compacted")?,
    })
}

/// A listing of at most `limit` out of rows that may be one more.
pub(crate) async fn listing<R: Columns>(
    rows: impl Stream<Item = Result<R, StoreError>>,
    limit: usize,
) -> Result<Listing, StoreError> {
    let mut rows = pin!(rows);
    let mut listing = Listing { records: Vec::new(), revision: 0, more: false };
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        listing.revision = number(&row, "now")?;
        // No record joins the revision: the listing is empty.
        if maybe(&row, "version")?.is_none() {
            break;
        }
        if listing.records.len() == limit || bytes >= PAGE_BYTES_MAX {
            listing.more = true;
            break;
        }
        let record = record(&row)?;
        bytes += record.value.len();
        listing.records.push(record);
    }
    Ok(listing)
}

/// A page of history.
pub(crate) async fn page<R: Columns>(
    rows: impl Stream<Item = Result<R, StoreError>>,
) -> Result<Page, StoreError> {
    let mut rows = pin!(rows);
    let mut page = Page { lines: Vec::new(), cut_short: false, revision: 0, compacted: 0 };
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        page.revision = number(&row, "now")?;
        page.compacted = number(&row, "compacted")?;
        let Some(at) = maybe(&row, "at")? else { break };
        let value = value(&row)?;
        bytes += value.as_ref().map_or(0, Bytes::len);
        let (key, version) = (key(&row)?, number(&row, "version")?);
        page.lines.push(Line { at, key, value, version, changes: 0, bytes: 0 });
        if page.lines.len() == PAGE_LINES_MAX as usize || bytes >= PAGE_BYTES_MAX {
            page.cut_short = true;
            break;
        }
    }
    Ok(page)
}
