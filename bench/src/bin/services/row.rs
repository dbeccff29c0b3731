//! One line of the report: a rate and percentiles.
//!
//! Deliberately absent: comparisons between machines.

use std::time::{Duration, Instant};

use bench::histogram::Histogram;

/// Prints rows as they are measured.
pub(crate) struct Report {
    quick: bool,
    only: String,
    headed: bool,
}

/// What was measured.
pub(crate) struct Row {
    count: u64,
    began: Instant,
    times: Histogram,
}

impl Report {
    pub(crate) fn new(quick: bool, only: &str) -> Self {
        Self { quick, only: only.to_owned(), headed: false }
    }

    /// Whether a row was asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        name.contains(&self.only)
    }

    /// The size of something: much, or little for a quick run.
    pub(crate) fn size(&self, much: usize, little: usize) -> usize {
        if self.quick { little } else { much }
    }

    /// How long a row is measured.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 3_000 })
    }

    /// Prints a row.
    pub(crate) fn print(&mut self, name: &str, row: &Row) {
        if !self.headed {
            println!("| work | per second | p50 µs | p99 µs | p999 µs | slowest µs |");
            println!("| --- | --- | --- | --- | --- | --- |");
            self.headed = true;
        }
        let took = row.began.elapsed().as_secs_f64();
        let count = u32::try_from(row.count).unwrap_or(u32::MAX);
        let us = |per_mille| row.times.quantile_ns(per_mille) / 1_000;
        println!(
            "| {name} | {:.0} | {} | {} | {} | {} |",
            f64::from(count) / took,
            us(500),
            us(990),
            us(999),
            row.times.max_ns() / 1_000
        );
    }
}

impl Row {
    /// A row that begins now.
    pub(crate) fn begin() -> Self {
        Self { count: 0, began: Instant::now(), times: Histogram::default() }
    }

    /// One thing was done, begun at `since`.
    pub(crate) fn done(&mut self, since: Instant) {
        self.count(1);
        self.time(since.elapsed());
    }

    /// So many were done.
    pub(crate) fn count(&mut self, more: u64) {
        self.count += more;
    }

    /// One thing took so long.
    pub(crate) fn time(&mut self, took: Duration) {
        self.times.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How long it has been going on.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }
}
