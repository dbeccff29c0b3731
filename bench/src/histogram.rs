//! Latencies in logarithmic buckets with 1.6 % resolution, from 1 ns to minutes, in fixed memory.
//!
//! Deliberately absent: sums and averages; a mean of latencies answers no question asked here.

/// Buckets per octave. A quantile is read with an error of at most one part in this.
const STEPS: u64 = 1 << STEPS_LOG2;
const STEPS_LOG2: u32 = 6;
/// Octaves up to 2^42 ns, more than an hour.
const OCTAVES: usize = 38;

/// Counts of latencies.
pub struct Histogram {
    cells: Vec<u64>,
    count: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { cells: vec![0; OCTAVES << STEPS_LOG2], count: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, ns: u64) {
        let last = self.cells.len() - 1;
        self.cells[cell_of(ns).min(last)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.cells.fill(0);
        self.count = 0;
        self.max_ns = 0;
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The greatest latency, ns, exact.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The latency that `per_mille` of 1,000 do not exceed, ns (upper border of its bucket); 0 when empty.
    pub fn quantile_ns(&self, per_mille: u64) -> u64 {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (cell, count) in self.cells.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_border_ns(cell).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

fn cell_of(ns: u64) -> usize {
    let octave = u64::from((ns | 1).ilog2().saturating_sub(STEPS_LOG2));
    // Below 2 * STEPS the cells are 1 ns wide; above, each octave has STEPS cells.
    usize::try_from(octave * STEPS + (ns >> octave)).unwrap_or(usize::MAX)
}

fn upper_border_ns(cell: usize) -> u64 {
    let cell = cell as u64;
    let octave = (cell / STEPS).saturating_sub(1);
    ((cell - octave * STEPS + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_in_its_bucket_and_borders_are_tight() {
        for ns in (0..200).chain([1_000, 4_095, 4_096, 56_789, 1_000_000, 3_199_000_000]) {
            let upper = upper_border_ns(cell_of(ns));
            assert!(upper >= ns, "{ns} above its border {upper}");
            assert!(upper - ns <= ns / STEPS, "{ns} has the border {upper}");
        }
    }

    #[test]
    fn quantiles_of_a_known_row() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ns(500), 0);
        (1..=1000).for_each(|ms| histogram.record(ms * 1_000_000));
        let near =
            |got: u64, want_ms: u64| got.abs_diff(want_ms * 1_000_000) <= want_ms * 1_000_000 / 60;
        assert!(near(histogram.quantile_ns(500), 500));
        assert!(near(histogram.quantile_ns(990), 990));
        assert_eq!(histogram.quantile_ns(1000), 1_000_000_000);
        assert_eq!(histogram.count(), 1000);
    }
}
