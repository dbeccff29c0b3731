//! Percentiles of the last seconds: what a histogram since the start cannot tell after an hour.
//!
//! ```text
//!   time ──┬────────────┬────────────┬───▶ now
//!        older        newer                     recent = now − older: 5 to 10 seconds
//!   tick:  older := newer, newer := now
//! ```
//!
//! Pure: the caller brings keys, snapshots and the tick. Memory is bounded by [`KEYS_MAX`]; keys beyond it
//! have no recent numbers, which the answer shows. Deliberately absent: a clock.

use std::collections::HashMap;
use std::hash::Hash;

use super::Snapshot;

/// Time between two ticks, for whoever calls [`Recent::tick`].
pub const TICK_MS: u64 = 5_000;
/// Keys remembered, with two snapshots each: at most 35 MiB.
pub const KEYS_MAX: usize = 10_000;

/// Histograms by key, as they were one and two ticks ago.
#[derive(Debug)]
pub struct Recent<K> {
    keys: HashMap<K, Pair>,
    evicted: bool,
}

#[derive(Debug)]
struct Pair {
    older: Snapshot,
    newer: Snapshot,
    count: u64,
    idle_ticks: u32,
    seen: bool,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self { keys: HashMap::new(), evicted: false }
    }
}

impl<K: Hash + Eq> Recent<K> {
    /// Take the next snapshots. `now` gives each key with its count so far; `take` is called only for keys
    /// whose count has moved since the last tick. Keys that `now` no longer names are forgotten.
    pub fn tick(
        &mut self,
        now: impl Iterator<Item = (K, u64)>,
        mut take: impl FnMut(&K) -> Snapshot,
    ) {
        for (key, count) in now {
            if let Some(pair) = self.keys.get_mut(&key) {
                pair.seen = true;
                if count != pair.count {
                    pair.older = std::mem::replace(&mut pair.newer, take(&key));
                    (pair.count, pair.idle_ticks) = (count, 0);
                } else {
                    pair.idle_ticks += 1;
                    if pair.idle_ticks == 1 {
                        pair.older = pair.newer.clone();
                    }
                }
            } else if count > 0 && self.keys.len() < KEYS_MAX {
                let newer = take(&key);
                // A key never seen before began after the last tick; one that was evicted may be old.
                let older = if self.evicted { newer.clone() } else { Snapshot::default() };
                self.keys.insert(key, Pair { older, newer, count, idle_ticks: 0, seen: true });
            }
        }
        self.keys.retain(|_, pair| std::mem::take(&mut pair.seen));
        if self.keys.len() == KEYS_MAX {
            self.evicted = true;
            self.keys.retain(|_, pair| pair.idle_ticks < IDLE_TICKS_MAX);
        }
    }

    /// What was recorded in the last 5 to 10 seconds. `None`: the key is not watched.
    pub fn since(&self, key: &K, now: &Snapshot) -> Option<Snapshot> {
        match self.keys.get(key) {
            Some(pair) => Some(now.since(&pair.older)),
            None => (!self.evicted).then(|| now.clone()),
        }
    }

    /// Keys watched now.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// No key is watched.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// When memory is short, a key that stood still for so many ticks (one minute) makes room.
const IDLE_TICKS_MAX: u32 = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Histogram;

    /// Goal: a slow minute does not hide behind a fast day, and an old spike leaves the window.
    #[test]
    fn only_the_last_two_ticks_count() {
        let histogram = Histogram::default();
        let mut recent = Recent::default();
        let tick = |recent: &mut Recent<u32>| {
            recent.tick([(7, histogram.count())].into_iter(), |_| histogram.snapshot());
        };
        let count = |recent: &Recent<u32>| {
            recent.since(&7, &histogram.snapshot()).map(|window| window.count())
        };
        (0..1_000).for_each(|_| histogram.record(10_000));
        assert_eq!(count(&recent), Some(1_000), "before the first tick all is recent");
        tick(&mut recent);
        assert_eq!(count(&recent), Some(1_000), "a new key began after the last tick");
        tick(&mut recent);
        histogram.record(9_000_000);
        assert_eq!(count(&recent), Some(1));
        tick(&mut recent);
        assert_eq!(count(&recent), Some(1));
        tick(&mut recent);
        assert_eq!(count(&recent), Some(0));
    }

    #[test]
    fn memory_is_bounded_and_idle_keys_make_room() {
        let mut recent = Recent::default();
        let full = || (0..KEYS_MAX + 5).map(|key| (key, 1));
        recent.tick(full(), |_| Snapshot::default());
        assert_eq!(recent.len(), KEYS_MAX);
        assert!(recent.since(&(KEYS_MAX + 1), &Snapshot::default()).is_none());
        (0..IDLE_TICKS_MAX).for_each(|_| recent.tick(full(), |_| Snapshot::default()));
        assert!(recent.is_empty());
    }

    #[test]
    fn a_key_that_is_gone_is_forgotten() {
        let mut recent = Recent::default();
        recent.tick([(1, 1), (2, 1)].into_iter(), |_| Snapshot::default());
        recent.tick([(2, 1)].into_iter(), |_| Snapshot::default());
        assert_eq!(recent.len(), 1);
    }
}
