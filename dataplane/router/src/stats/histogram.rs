//! Latency histogram: log-linear, eight buckets an octave from 1 µs to 67 s, one writer.
//!
//! A value is put into its bucket with a shift and an add; a quantile read back is never below the true
//! one and at most 12.5 % above it. Cells are 32 bits, so that a route costs 0.9 KiB for each core that serves it;
//! a cell that overflows carries into a second array made at that moment.
//! Deliberately absent: floating point when recording, and decay. A reader who wants "the last
//! seconds" subtracts two snapshots ([`Snapshot::since`]).

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use super::{Counter, Reset};

/// Width of the finest bucket. Eight of them make the octave from 1 µs to 2 µs.
const UNIT_NANOS: u64 = 125;
/// log2 of the buckets in an octave.
const SUB_BITS: u32 = 3;
const SUB: usize = 1 << SUB_BITS;
/// Octaves from 1 µs up: 2^26 µs = 67.1 s.
const OCTAVES: usize = 26;
/// Below 1 µs, the octaves, and one bucket for all that is longer.
pub const BUCKETS: usize = SUB + OCTAVES * SUB + 1;
const LAST: usize = BUCKETS - 1;

/// See the module head.
#[derive(Debug)]
pub struct Histogram {
    cells: [AtomicU32; BUCKETS],
    carries: OnceLock<Box<[AtomicU32; BUCKETS]>>,
    sum_nanos: Counter,
    count: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            cells: [const { AtomicU32::new(0) }; BUCKETS],
            carries: OnceLock::new(),
            sum_nanos: Counter::default(),
            count: Counter::default(),
        }
    }
}

impl Histogram {
    /// Count one duration. Only the owning core calls this.
    #[inline]
    pub fn record(&self, nanos: u64) {
        let index = bucket(nanos);
        let cell = &self.cells[index];
        let next = cell.load(Relaxed).wrapping_add(1);
        if next == 0 {
            self.carry(index);
        }
        cell.store(next, Relaxed);
        self.sum_nanos.add(nanos);
        self.count.add(1);
    }

    /// Once in 2^32 records of one bucket. A reader between the two stores sees one glitch.
    #[cold]
    fn carry(&self, index: usize) {
        let carries = self.carries.get_or_init(|| Box::new([const { AtomicU32::new(0) }; BUCKETS]));
        carries[index].store(carries[index].load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Durations recorded so far. One load: cheap enough to skip what has not changed.
    pub fn count(&self) -> u64 {
        self.count.read()
    }

    /// Add what is recorded here to `into`: merges cores, instances, routes.
    pub fn add_to(&self, into: &mut Snapshot) {
        let carries = self.carries.get();
        for (index, (cell, total)) in self.cells.iter().zip(into.cells.iter_mut()).enumerate() {
            let high = carries.map_or(0, |carries| u64::from(carries[index].load(Relaxed)));
            *total += (high << 32) | u64::from(cell.load(Relaxed));
        }
        into.sum_nanos = into.sum_nanos.wrapping_add(self.sum_nanos.read());
    }

    /// A copy of this histogram alone.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.add_to(&mut snapshot);
        snapshot
    }
}

impl Reset for Histogram {
    fn reset(&self) {
        for cell in &self.cells {
            cell.store(0, Relaxed);
        }
        for carry in self.carries.get().into_iter().flat_map(|carries| carries.iter()) {
            carry.store(0, Relaxed);
        }
        self.sum_nanos.set(0);
        self.count.set(0);
    }
}

/// Bucket of a duration.
#[inline]
fn bucket(nanos: u64) -> usize {
    let units = nanos / UNIT_NANOS;
    if units < SUB as u64 {
        return units as usize;
    }
    let octave = units.ilog2() - SUB_BITS;
    let sub = (units >> octave) as usize & (SUB - 1);
    (SUB + octave as usize * SUB + sub).min(LAST)
}

/// First duration, in nanoseconds, that no longer belongs to bucket `index`.
fn upper_nanos(index: usize) -> u64 {
    debug_assert!(index < LAST, "the last bucket has no upper end");
    let units = if index < SUB {
        index as u64 + 1
    } else {
        let (octave, sub) = ((index - SUB) / SUB, (index - SUB) % SUB);
        ((SUB + sub) as u64 + 1) << octave
    };
    units * UNIT_NANOS
}

/// Plain copy of one or more histograms, for readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    cells: Box<[u64; BUCKETS]>,
    /// Sum of all durations.
    pub sum_nanos: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { cells: Box::new([0; BUCKETS]), sum_nanos: 0 }
    }
}

impl Snapshot {
    /// Durations in this snapshot.
    pub fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// Merge another snapshot into this one.
    pub fn add(&mut self, other: &Self) {
        for (total, cell) in self.cells.iter_mut().zip(other.cells.iter()) {
            *total += cell;
        }
        self.sum_nanos = self.sum_nanos.wrapping_add(other.sum_nanos);
    }

    /// What was recorded after `earlier`, a former snapshot of the same histograms. If a histogram was reset
    /// in between, its cells count from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = Self::default();
        for (index, total) in difference.cells.iter_mut().enumerate() {
            *total = self.cells[index].saturating_sub(earlier.cells[index]);
        }
        difference.sum_nanos = self.sum_nanos.saturating_sub(earlier.sum_nanos);
        difference
    }

    /// Duration, in nanoseconds, that the share `q` (0 to 1) of all records did not exceed: upper end of the bucket it
    /// falls into. `None` without records. Beyond the last octave: its end, 67.1 s.
    pub fn quantile_nanos(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank wrong by one in 2^53 records is no error"
        )]
        // A hair less, because 7 % of 100 is 7.000000000000001 in binary and must be rank 7.
        let rank = ((count as f64 * q.clamp(0.0, 1.0) - 1e-6).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        for (index, cell) in self.cells.iter().enumerate() {
            seen += cell;
            if seen >= rank {
                return Some(upper_nanos(index.min(LAST - 1)));
            }
        }
        None
    }

    /// Records below `nanos`, exact when `nanos` is the end of an octave (a power of two of microseconds):
    /// what a Prometheus bucket `le` wants.
    pub fn count_below(&self, nanos: u64) -> u64 {
        self.cells[..LAST]
            .iter()
            .enumerate()
            .take_while(|(index, _)| upper_nanos(*index) <= nanos)
            .map(|(_, cell)| cell)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goal: the buckets cover the line without gap or overlap.
    #[test]
    fn every_bucket_begins_where_the_one_before_ends() {
        for index in 0..LAST {
            let end = upper_nanos(index);
            assert_eq!(bucket(end - 1), index, "last nanosecond of bucket {index}");
            assert_eq!(bucket(end), index + 1, "first nanosecond after bucket {index}");
        }
        assert_eq!(upper_nanos(LAST - 1), (1 << OCTAVES) * 1_000);
        assert_eq!(bucket(u64::MAX), LAST);
    }

    #[test]
    fn a_cell_that_overflows_loses_nothing() {
        let histogram = Histogram::default();
        histogram.cells[bucket(5_000)].store(u32::MAX, Relaxed);
        histogram.record(5_000);
        histogram.record(5_000);
        assert_eq!(histogram.snapshot().count(), (1 << 32) + 1);
        histogram.reset();
        assert_eq!(histogram.snapshot(), Snapshot::default());
    }

    #[test]
    fn a_difference_holds_only_what_came_later() {
        let histogram = Histogram::default();
        histogram.record(1_000_000);
        let earlier = histogram.snapshot();
        histogram.record(8_000_000);
        let recent = histogram.snapshot().since(&earlier);
        assert_eq!((recent.count(), recent.sum_nanos), (1, 8_000_000));
        assert!(recent.quantile_nanos(0.01).is_some_and(|nanos| nanos >= 8_000_000));
        assert_eq!(Snapshot::default().quantile_nanos(0.5), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Goal: a quantile is never below the true one and at most one bucket (12.5 %, or 125 ns) above.
        #[test]
        fn quantiles_are_close_from_above(
            mut nanos in proptest::collection::vec(0u64..60_000_000_000, 1..200),
            thousandths in 0u32..=1_000,
        ) {
            let histogram = Histogram::default();
            nanos.iter().for_each(|n| histogram.record(*n));
            nanos.sort_unstable();
            // Asked in thousandths, so that the rank is exact.
            let rank = (nanos.len() * thousandths as usize).div_ceil(1_000).max(1);
            let truth = nanos[rank - 1];
            let got = histogram.snapshot().quantile_nanos(f64::from(thousandths) / 1e3).expect("there are records");
            prop_assert!(got > truth && got <= truth + truth / 8 + UNIT_NANOS, "{got} for {truth}");
        }

        /// Goal: the Prometheus buckets agree with a naive count at every power of two.
        #[test]
        fn counts_below_an_octave_are_exact(
            nanos in proptest::collection::vec(0u64..100_000_000_000, 0..200),
            octave in 0u32..26,
        ) {
            let histogram = Histogram::default();
            nanos.iter().for_each(|n| histogram.record(*n));
            let end = (1u64 << octave) * 1_000;
            let naive = nanos.iter().filter(|n| **n < end).count() as u64;
            prop_assert_eq!(histogram.snapshot().count_below(end), naive);
        }
    }
}
