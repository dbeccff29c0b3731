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
/// Keys remembered, with two snapshots each: at most 7 MiB.
pub const KEYS_MAX: usize = 2_000;

/// What has been counted of a key so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests begun.
    pub requests: u64,
    /// Durations recorded.
    pub durations: u64,
}

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
    /// Requests at the two ticks.
    requests: [u64; 2],
    counts: Counts,
    idle_ticks: u32,
    seen: bool,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self { keys: HashMap::new(), evicted: false }
    }
}

impl<K: Hash + Eq> Recent<K> {
    /// Take the next snapshots. `now` gives each key with its counts so far; `take` is called only for keys
    /// whose counts have moved since the last tick. Keys that `now` no longer names are forgotten.
    pub fn tick(
        &mut self,
        now: impl Iterator<Item = (K, Counts)>,
        mut take: impl FnMut(&K) -> Snapshot,
    ) {
        for (key, counts) in now {
            if let Some(pair) = self.keys.get_mut(&key) {
                pair.seen = true;
                pair.requests = [pair.requests[1], counts.requests];
                if counts != pair.counts {
                    pair.older = std::mem::replace(&mut pair.newer, take(&key));
                    (pair.counts, pair.idle_ticks) = (counts, 0);
                } else {
                    pair.idle_ticks += 1;
                    if pair.idle_ticks == 1 {
                        pair.older = pair.newer.clone();
                    }
                }
            } else if counts != Counts::default() && self.keys.len() < KEYS_MAX {
                let newer = take(&key);
                // A key never seen before began after the last tick; one that was evicted may be old.
                let older = if self.evicted { newer.clone() } else { Snapshot::default() };
                let before = if self.evicted { counts.requests } else { 0 };
                let requests = [before, counts.requests];
                self.keys.insert(
                    key,
                    Pair { older, newer, requests, counts, idle_ticks: 0, seen: true },
                );
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

    /// Requests in the same time. `None`: the key is not watched.
    pub fn requests_since(&self, key: &K, now: u64) -> Option<u64> {
        match self.keys.get(key) {
            Some(pair) => Some(now.saturating_sub(pair.requests[0])),
            None => (!self.evicted).then_some(now),
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

    const ONE: Counts = Counts { requests: 1, durations: 1 };

    /// Goal: a slow minute does not hide behind a fast day, and an old spike leaves the window.
    #[test]
    fn only_the_last_two_ticks_count() {
        let histogram = Histogram::default();
        let mut recent = Recent::default();
        let tick = |recent: &mut Recent<u32>| {
            let counts = Counts { requests: 2 * histogram.count(), durations: histogram.count() };
            recent.tick([(7, counts)].into_iter(), |_| histogram.snapshot());
        };
        let count = |recent: &Recent<u32>| {
            let requests = recent.requests_since(&7, 2 * histogram.count());
            let count = recent.since(&7, &histogram.snapshot()).map(|window| window.count());
            assert_eq!(
                requests,
                count.map(|count| 2 * count),
                "requests and durations move together"
            );
            count
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
        let full = || (0..KEYS_MAX + 5).map(|key| (key, ONE));
        recent.tick(full(), |_| Snapshot::default());
        assert_eq!(recent.len(), KEYS_MAX);
        assert!(recent.since(&(KEYS_MAX + 1), &Snapshot::default()).is_none());
        (0..IDLE_TICKS_MAX).for_each(|_| recent.tick(full(), |_| Snapshot::default()));
        assert!(recent.is_empty());
    }

    #[test]
    fn a_key_that_is_gone_is_forgotten() {
        let mut recent = Recent::default();
        recent.tick([(1, ONE), (2, ONE)].into_iter(), |_| Snapshot::default());
        recent.tick([(2, ONE)].into_iter(), |_| Snapshot::default());
        assert_eq!(recent.len(), 1);
    }
}
