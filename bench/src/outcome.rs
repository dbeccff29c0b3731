//! What one run of the load generator found: one JSON line on its standard output.
//!
//! Deliberately absent: medians and ratios. They are made over many runs, in `table.rs`.

use serde::{Deserialize, Serialize};

/// One measured window.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Exchanges (or connections, or round trips) completed inside the window.
    pub completed: u64,
    /// Exchanges that ended wrongly, over the whole run.
    pub failed: u64,
    /// What the first failure was.
    pub first_fault: Option<String>,
    /// Length of the window, seconds.
    pub seconds: f64,
    /// CPU that all threads and processes of the proxy used inside the window, µs.
    pub proxy_cpu_us: f64,
    /// CPU that the generator used inside the window, µs.
    pub own_cpu_us: f64,
    /// Latencies from the intended send time, µs; 0 in closed loops.
    pub p50_us: f64,
    /// See `p50_us`.
    pub p99_us: f64,
    /// See `p50_us`.
    pub p999_us: f64,
    /// The greatest latency, µs.
    pub max_us: f64,
    /// How much later than intended the generator itself sent, at worst, µs: part of every latency above.
    pub own_late_max_us: f64,
    /// Proportional memory of the proxy at the end, KiB.
    pub pss_kib: u64,
    /// Memory that each idle connection added, bytes (only `idle`).
    pub idle_bytes: Option<f64>,
    /// Greatest latency before the clients left, µs (only `leave`).
    pub max_before_us: Option<f64>,
    /// How changes of the table went meanwhile (only `changes`).
    pub fed: Option<crate::feed::Fed>,
}

impl Outcome {
    /// CPU of the proxy per completed exchange, µs.
    pub fn cpu_us_each(&self) -> f64 {
        self.proxy_cpu_us / (self.completed.max(1) as f64)
    }

    /// Completed exchanges per second.
    pub fn rate(&self) -> f64 {
        self.completed as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Share of the window in which the proxy was on a CPU, 0 to 1.
    pub fn proxy_busy(&self) -> f64 {
        self.proxy_cpu_us / 1e6 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Share of the window in which the generator was on its CPU, 0 to 1.
    pub fn own_busy(&self) -> f64 {
        self.own_cpu_us / 1e6 / self.seconds.max(f64::MIN_POSITIVE)
    }
}
