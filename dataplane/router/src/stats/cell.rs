//! The two kinds of number: a count that only grows, and a level that rises and falls.
//!
//! Deliberately absent: atomic read-modify-write. Each cell has exactly one writer, the owning core; a
//! second writer would lose counts (never corrupt them), so sums over cores are made by readers.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// A count with one writer: a plain load and store suffice.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Count `n` more. Only the owning core calls this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Take over a count that somebody else keeps (the engine's own counters, for instance).
    #[inline]
    pub fn set(&self, total: u64) {
        self.0.store(total, Relaxed);
    }

    /// The count so far. Any thread.
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A level with one writer: connections open, requests in flight.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One up. Only the owning core calls this.
    #[inline]
    pub fn inc(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }

    /// One down. Going below zero is a bug of the caller; the level stays at zero.
    #[inline]
    pub fn dec(&self) {
        let level = self.0.load(Relaxed);
        debug_assert!(level > 0, "a gauge was lowered more often than raised");
        self.0.store(level.saturating_sub(1), Relaxed);
    }

    /// Set the level.
    #[inline]
    pub fn set(&self, level: u64) {
        self.0.store(level, Relaxed);
    }

    /// Raise the level to `level` if it is higher: for maxima.
    #[inline]
    pub fn raise(&self, level: u64) {
        if level > self.0.load(Relaxed) {
            self.0.store(level, Relaxed);
        }
    }

    /// The level now. Any thread.
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_adds_and_a_gauge_returns_to_zero() {
        let counter = Counter::default();
        counter.add(3);
        counter.add(4);
        assert_eq!(counter.read(), 7);
        counter.set(100);
        assert_eq!(counter.read(), 100);

        let gauge = Gauge::default();
        gauge.inc();
        gauge.inc();
        gauge.dec();
        assert_eq!(gauge.read(), 1);
        gauge.raise(5);
        gauge.raise(2);
        assert_eq!(gauge.read(), 5);
    }
}
