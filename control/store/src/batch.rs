//! The one place that decides what a transaction does: versions, conflicts, revisions, history.
//!
//! Several waiting transactions are decided together, in their order, and written in one transaction of the database:
//! one flush of the disk for all of them. Each still succeeds or conflicts alone.
//!
//! Pure: no database, no clock. Deliberately absent: savepoints. Nothing is written before everything is decided.

use crate::{Change, Expect, Record, StoreError, WRITES_MAX, Write};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Changes kept for watches, at least until there are more.
pub const HISTORY_CHANGES_MAX: u64 = 100_000;
/// Bytes of keys and values kept for watches, at least until there are more.
pub const HISTORY_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// History is cut each time so many changes were added.
const CUT_EVERY: u64 = 256;
/// Oldest changes looked at in one cut; more than are added between two, so that history shrinks.
const CUT_ROWS_MIN: u64 = 4 * CUT_EVERY;
/// A change's place in the history is its revision times this and its place in the transaction.
const PLACES: u64 = 256;

/// Beyond every revision that a store can reach, and its places still fit a database's numbers.
pub(crate) const REVISION_MAX: u64 = u64::MAX / 2 / PLACES - 2;

const _: () = assert!(WRITES_MAX as u64 <= PLACES);

/// The bounds of history, smaller in tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct History {
    pub(crate) changes_max: u64,
    pub(crate) bytes_max: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { changes_max: HISTORY_CHANGES_MAX, bytes_max: HISTORY_BYTES_MAX }
    }
}

/// The store in four numbers, kept in one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Of the last transaction.
    pub(crate) revision: u64,
    /// Changes ever.
    pub(crate) changes: u64,
    /// Bytes of all changes ever.
    pub(crate) bytes: u64,
    /// Changes up to this revision are gone.
    pub(crate) compacted: u64,
}

/// A line of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) at: u64,
    pub(crate) key: String,
    /// None = removed.
    pub(crate) value: Option<Bytes>,
    pub(crate) version: u64,
    /// [`Heads::changes`] with this line.
    pub(crate) changes: u64,
    /// [`Heads::bytes`] with this line.
    pub(crate) bytes: u64,
}

/// Place of the first change of a revision.
pub(crate) const fn first_of(revision: u64) -> u64 {
    revision * PLACES
}

/// Revision of a change at a place.
pub(crate) const fn revision_of(at: u64) -> u64 {
    at / PLACES
}

impl Line {
    pub(crate) fn change(self) -> Change {
        let revision = revision_of(self.at);
        let record = self.value.map(|value| Record {
            key: self.key.clone(),
            value,
            version: self.version,
            revision,
        });
        Change { revision, key: self.key, record }
    }
}

/// What to write, and what to answer.
pub(crate) struct Plan {
    pub(crate) answers: Vec<Result<u64, StoreError>>,
    pub(crate) puts: Vec<Record>,
    pub(crate) deletes: Vec<String>,
    pub(crate) lines: Vec<Line>,
    pub(crate) heads: Heads,
    /// So many of the oldest lines are to be shown to [`Plan::cut`] now.
    pub(crate) cut_rows: Option<u64>,
}

impl Plan {
    /// Shortens the history if it is time to, given its oldest lines as (place, changes, bytes): everything before the
    /// place that comes back is to be removed.
    pub(crate) fn cut(
        &mut self,
        oldest: impl IntoIterator<Item = (u64, u64, u64)>,
        history: History,
    ) -> Option<u64> {
        let upto = cut(oldest, self.heads, history)?;
        self.heads.compacted = upto;
        Some(first_of(upto + 1))
    }
}

/// All keys that must be looked up before [`plan`].
pub(crate) fn keys<'a>(transactions: impl IntoIterator<Item = &'a [Write]>) -> BTreeSet<&'a str> {
    transactions.into_iter().flatten().map(Write::key).collect()
}

/// Decides `transactions` in their order, over the versions that the keys have now (absent = no such key).
pub(crate) fn plan<'a>(
    before: Heads,
    mut versions: BTreeMap<String, u64>,
    transactions: impl IntoIterator<Item = &'a [Write]>,
) -> Plan {
    let mut heads = before;
    let mut answers = Vec::new();
    let mut lines = Vec::new();
    let mut last: BTreeMap<&str, Option<Record>> = BTreeMap::new();
    for writes in transactions {
        if let Some(conflict) = writes.iter().find_map(|write| refused(write, &versions)) {
            answers.push(Err(conflict));
            continue;
        }
        let first = lines.len();
        for write in writes {
            let found = versions.get(write.key()).copied();
            let (value, version) = match write {
                Write::Put { value, .. } => (Some(value.clone()), found.unwrap_or(0) + 1),
                Write::Delete { .. } if found.is_some() => (None, 0),
                Write::Delete { .. } | Write::Check { .. } => continue,
            };
            // The revision rises with the first change: a transaction that changes nothing has none of its own.
            if lines.len() == first {
                heads.revision += 1;
            }
            heads.changes += 1;
            heads.bytes += (write.key().len() + value.as_ref().map_or(0, Bytes::len)) as u64;
            let at = first_of(heads.revision) + (lines.len() - first) as u64;
            let key = write.key().to_owned();
            match value {
                Some(_) => versions.insert(key.clone(), version),
                None => versions.remove(&key),
            };
            let line = Line { at, key, value, version, changes: heads.changes, bytes: heads.bytes };
            last.insert(write.key(), line.clone().change().record);
            lines.push(line);
        }
        answers.push(Ok(heads.revision));
    }
    let mut puts = Vec::new();
    let mut deletes = Vec::new();
    for (key, record) in last {
        match record {
            Some(record) => puts.push(record),
            None => deletes.push(key.to_owned()),
        }
    }
    let cut_rows = (before.changes / CUT_EVERY != heads.changes / CUT_EVERY)
        .then(|| CUT_ROWS_MIN.max(4 * lines.len() as u64));
    Plan { answers, puts, deletes, lines, heads, cut_rows }
}

/// The conflict of one write, if it has one.
fn refused(write: &Write, versions: &BTreeMap<String, u64>) -> Option<StoreError> {
    let found = versions.get(write.key()).copied();
    let (key, expect) = match write {
        Write::Put { key, expect, .. }
        | Write::Delete { key, expect }
        | Write::Check { key, expect } => (key, *expect),
    };
    let holds = match expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Version(version) => found == Some(version),
    };
    (!holds).then(|| StoreError::Conflict {
        key: key.clone(),
        expected: expect,
        found: found.unwrap_or(0),
    })
}

/// The revision up to which history must go, given its oldest lines as (place, changes, bytes).
///
/// Cuts whole revisions only: half a transaction in a watch would be a lie.
fn cut(
    oldest: impl IntoIterator<Item = (u64, u64, u64)>,
    heads: Heads,
    history: History,
) -> Option<u64> {
    let mut upto = None;
    for (at, changes, bytes) in oldest {
        // Of the last revision seen, more lines may follow: it is cut only when one of a later revision is seen.
        upto = Some(revision_of(at) - 1);
        if heads.changes - changes < history.changes_max && heads.bytes - bytes < history.bytes_max
        {
            break;
        }
    }
    upto.filter(|upto| *upto > heads.compacted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, expect: Expect) -> Write {
        Write::Put { key: key.into(), value: Bytes::from_static(b"12345"), expect }
    }

    fn delete(key: &str, expect: Expect) -> Write {
        Write::Delete { key: key.into(), expect }
    }

    /// Goal: transactions in one batch see each other, fail alone, and leave one state and the whole history.
    #[test]
    fn a_batch_is_its_transactions_one_by_one() {
        let heads = Heads { revision: 10, changes: 20, bytes: 100, compacted: 0 };
        let found = BTreeMap::from([("a".to_owned(), 3)]);
        let script: Vec<Vec<Write>> = vec![
            vec![put("a", Expect::Version(3)), put("b", Expect::Absent)],
            vec![put("b", Expect::Absent), put("c", Expect::Any)],
            vec![delete("b", Expect::Version(1))],
            vec![delete("b", Expect::Any)],
            vec![put("b", Expect::Absent)],
            vec![delete("a", Expect::Version(4))],
            vec![delete("c", Expect::Version(1))],
        ];
        let plan = plan(heads, found, script.iter().map(Vec::as_slice));
        let answers: Vec<String> = plan
            .answers
            .iter()
            .map(|answer| answer.as_ref().map_or_else(ToString::to_string, ToString::to_string))
            .collect();
        assert_eq!(
            answers,
            [
                "11",
                "b is at version 1, not as expected (Absent)",
                "12",
                "12",
                "13",
                "14",
                "c is at version 0, not as expected (Version(1))"
            ]
        );
        let lines: Vec<_> = plan
            .lines
            .iter()
            .map(|l| (l.at - l.at % 256, l.at % 256, &*l.key, l.version))
            .collect();
        let revision = |r: u64| r * 256;
        assert_eq!(
            lines,
            [
                (revision(11), 0, "a", 4),
                (revision(11), 1, "b", 1),
                (revision(12), 0, "b", 0),
                (revision(13), 0, "b", 1),
                (revision(14), 0, "a", 0)
            ]
        );
        assert_eq!(plan.deletes, ["a"]);
        let puts: Vec<_> = plan.puts.iter().map(|r| (&*r.key, r.version, r.revision)).collect();
        assert_eq!(puts, [("b", 1, 13)]);
        assert_eq!((plan.heads.revision, plan.heads.changes, plan.heads.bytes), (14, 25, 120));
    }

    /// Goal: history is cut at whole revisions, by count and by bytes, and never backwards.
    #[test]
    fn history_is_cut_at_whole_revisions() {
        // Three lines of revision 1, two of 2, one of 3; each of 10 bytes.
        let places = [256, 257, 258, 512, 513, 768];
        let oldest = || (1u64..).zip(places).map(|(i, at)| (at, i, i * 10));
        let heads = Heads { revision: 3, changes: 6, bytes: 60, compacted: 0 };
        let by = |changes_max, bytes_max| cut(oldest(), heads, History { changes_max, bytes_max });
        assert_eq!(by(6, 1_000), None);
        assert_eq!(by(4, 1_000), None, "two of three lines too many: revision 1 stays whole");
        assert_eq!(by(3, 1_000), Some(1));
        assert_eq!(by(2, 1_000), Some(1));
        assert_eq!(by(1, 1_000), Some(2));
        assert_eq!(by(100, 10), Some(2));
        let heads = Heads { compacted: 2, ..heads };
        assert_eq!(cut(oldest(), heads, History { changes_max: 1, bytes_max: 9 }), None);
    }
}
