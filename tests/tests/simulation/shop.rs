//! The store as the simulated services see it: one in memory, through doors that a fault can shut.
//!
//! A door also makes the order in which watchers wake a matter of who waited first: the store's own signal wakes them
//! in an order that is drawn anew in each process, and that would be the end of replay. Deliberately absent: the store.

use async_trait::async_trait;
use futures_util::FutureExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use store::{Change, Listing, Record, Store, StoreError, Watch, World, Write};
use tokio::sync::Notify;

/// Of so many commits while the store is flaky one is done and not acknowledged, and one not done.
const FLAKY_PERIOD: u64 = 4;

/// What all doors share.
#[derive(Clone)]
pub(crate) struct Shop {
    inner: Store,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    moved: Notify,
    away: AtomicBool,
    flaky: AtomicBool,
    commits: AtomicU64,
}

impl Shop {
    pub(crate) fn new() -> Self {
        Self { inner: store::memory::store(), state: Arc::default() }
    }

    /// A way in for one service.
    pub(crate) fn door(&self) -> (Store, Key) {
        let key = Key(Arc::default());
        (self.store(Some(key.clone())), key)
    }

    /// The users' way in: never shut, because a user who is refused tries again.
    pub(crate) fn users(&self) -> Store {
        self.store(None)
    }

    fn store(&self, key: Option<Key>) -> Store {
        Store::new(Arc::new(Door {
            inner: self.inner.clone(),
            state: Arc::clone(&self.state),
            key,
        }))
    }

    /// Nobody gets in, or all do again.
    pub(crate) fn set_away(&self, away: bool) {
        self.state.away.store(away, Ordering::Relaxed);
        self.state.moved.notify_waiters();
    }

    /// Some commits fail, some only seem to.
    pub(crate) fn set_flaky(&self, flaky: bool) {
        self.state.flaky.store(flaky, Ordering::Relaxed);
    }
}

/// Shuts one door for good: its service is dead.
#[derive(Clone)]
pub(crate) struct Key(Arc<AtomicBool>);

impl Key {
    pub(crate) fn shut(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Door {
    inner: Store,
    state: Arc<State>,
    key: Option<Key>,
}

impl Door {
    fn is_open(&self) -> bool {
        let Some(key) = &self.key else { return true };
        !key.0.load(Ordering::Relaxed) && !self.state.away.load(Ordering::Relaxed)
    }

    fn pass(&self) -> Result<(), StoreError> {
        if self.is_open() { Ok(()) } else { Err(StoreError::Away("simulated".to_owned())) }
    }

    /// What the weather does to this commit: not done, or done and not acknowledged.
    fn fate(&self) -> (bool, bool) {
        if self.key.is_none() || !self.state.flaky.load(Ordering::Relaxed) {
            return (false, false);
        }
        let number = self.state.commits.fetch_add(1, Ordering::Relaxed) % FLAKY_PERIOD;
        (number == 1, number == 3)
    }
}

#[async_trait]
impl World for Door {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        self.pass()?;
        self.inner.get(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Listing, StoreError> {
        self.pass()?;
        self.inner.list(prefix, after, limit).await
    }

    async fn commit(&self, writes: &[Write]) -> Result<u64, StoreError> {
        self.pass()?;
        let (undone, unsaid) = self.fate();
        if undone {
            return Err(StoreError::Away("simulated, not done".to_owned()));
        }
        let revision = self.inner.commit(writes).await?;
        self.state.moved.notify_waiters();
        if unsaid {
            return Err(StoreError::Away("simulated, done".to_owned()));
        }
        Ok(revision)
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Box<dyn Watch>, StoreError> {
        self.pass()?;
        let inner = self.inner.watch(prefix, after).await?;
        Ok(Box::new(Following { inner, door: self.clone() }))
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        self.pass()?;
        self.inner.revision().await
    }
}

struct Following {
    inner: Box<dyn Watch>,
    door: Door,
}

#[async_trait]
impl Watch for Following {
    async fn next(&mut self) -> Result<Change, StoreError> {
        let Self { inner, door } = self;
        loop {
            let moved = door.state.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            // Asked without waiting, and without a budget that could make it look as if there were nothing.
            if door.is_open()
                && let Some(change) = tokio::task::coop::unconstrained(inner.next()).now_or_never()
            {
                return change;
            }
            moved.await;
        }
    }
}
