//! The store in this process's memory: nothing is kept, no thread is used, no time passes.
//!
//! For simulations under Tokio's virtual time, where a database's thread would look like idleness and make the clock
//! jump. It decides through the same [`crate::batch`] as the databases and passes the same suite.
//!
//! Deliberately absent: durability, and faults. A test that needs a store that is away puts its own world in front.

use crate::batch::{self, Heads, History, Line};
use crate::bounds::{self, Span};
use crate::follow::{Follow, Log, PAGE_BYTES_MAX, PAGE_LINES_MAX, Page};
use crate::{Listing, Record, Store, StoreError, Watch, World, Write};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A new, empty one.
pub fn store() -> Store {
    with(History::default())
}

pub(crate) fn with(history: History) -> Store {
    let (head, _) = watch::channel(0);
    Store::new(Arc::new(Memory(Arc::new(Shared { held: Mutex::default(), head, history }))))
}

struct Memory(Arc<Shared>);

struct Shared {
    held: Mutex<Held>,
    head: watch::Sender<u64>,
    history: History,
}

#[derive(Default)]
struct Held {
    heads: Heads,
    records: BTreeMap<String, Record>,
    lines: BTreeMap<u64, Line>,
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl World for Memory {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        bounds::key(key)?;
        Ok(self.0.held().records.get(key).cloned())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Listing, StoreError> {
        bounds::prefix(prefix)?;
        let limit = bounds::limit(limit)? as usize;
        let held = self.0.held();
        let from = after.filter(|after| *after >= prefix).map_or(Included(prefix), Excluded);
        let found = held.records.range::<str, _>((from, Unbounded)).map(|(_, record)| record);
        let (mut records, mut bytes, mut more) = (Vec::new(), 0, false);
        for record in found.take_while(|record| record.key.starts_with(prefix)) {
            if records.len() == limit || bytes >= PAGE_BYTES_MAX {
                more = true;
                break;
            }
            bytes += record.value.len();
            records.push(record.clone());
        }
        Ok(Listing { records, revision: held.heads.revision, more })
    }

    async fn commit(&self, writes: &[Write]) -> Result<u64, StoreError> {
        bounds::writes(writes)?;
        let mut held = self.0.held();
        let versions = batch::keys([writes])
            .into_iter()
            .filter_map(|key| held.records.get(key).map(|r| (key.to_owned(), r.version)))
            .collect();
        let mut plan = batch::plan(held.heads, versions, [writes]);
        for record in plan.puts.drain(..) {
            held.records.insert(record.key.clone(), record);
        }
        for key in plan.deletes.drain(..) {
            held.records.remove(&key);
        }
        held.lines.extend(plan.lines.drain(..).map(|line| (line.at, line)));
        if let Some(rows) = plan.cut_rows {
            let oldest = held.lines.values().map(|line| (line.at, line.changes, line.bytes));
            let rows = usize::try_from(rows).unwrap_or(usize::MAX);
            if let Some(kept) = plan.cut(oldest.take(rows), self.0.history) {
                held.lines = held.lines.split_off(&kept);
            }
        }
        held.heads = plan.heads;
        self.0.head.send_replace(held.heads.revision);
        plan.answers.remove(0)
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(Follow::start(self.0.clone(), prefix, after).await?))
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.0.held().heads.revision)
    }
}

#[async_trait]
impl Log for Shared {
    async fn page(&self, span: &Span, from: u64) -> Result<Page, StoreError> {
        let held = self.held();
        let lines: Vec<Line> = held
            .lines
            .range(from..)
            .map(|(_, line)| line)
            .filter(|line| span.contains(&line.key))
            .take(PAGE_LINES_MAX as usize)
            .cloned()
            .collect();
        let Heads { revision, compacted, .. } = held.heads;
        Ok(Page { cut_short: lines.len() == PAGE_LINES_MAX as usize, lines, revision, compacted })
    }

    fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }
}
