//! Counts of one run, the window they are taken in, and the outcome made of them.

use std::time::Duration;

use crate::histogram::Histogram;
use crate::meter::{self, Meter};
use crate::outcome::Outcome;

/// An exchange unanswered for this long when the run ends has failed.
pub(super) const ANSWER_NS_MAX: u64 = 1_000_000_000;

/// Nobody waits longer than this for a window to open.
const READY_NS_MAX: u64 = 30_000_000_000;
const NEVER_NS: u64 = u64::MAX / 2;

/// Where the run stands, and what was counted.
pub(super) struct Tally {
    /// The warm-up begins when so many exchanges are complete: a proxy that has only just started is not measured.
    ready_at: u64,
    warmup_ns: u64,
    window_ns: u64,
    opens_ns: u64,
    closes_ns: u64,
    opened: Option<Reading>,
    completed: u64,
    failed: u64,
    first_fault: Option<String>,
    latency: Histogram,
    late_max_ns: u64,
}

struct Reading {
    at_ns: u64,
    completed: u64,
    proxy_ns: u64,
    own_ns: u64,
}

impl Tally {
    pub(super) fn new(warmup: Duration, window: Duration, ready_at: u64) -> Self {
        Self {
            ready_at,
            warmup_ns: nanos(warmup),
            window_ns: nanos(window),
            opens_ns: NEVER_NS,
            closes_ns: NEVER_NS,
            opened: None,
            completed: 0,
            failed: 0,
            first_fault: None,
            latency: Histogram::default(),
            late_max_ns: 0,
        }
    }

    /// Begins the warm-up. Gives the time at which the window opens.
    pub(super) fn begin(&mut self, now_ns: u64) -> u64 {
        self.opens_ns = now_ns + self.warmup_ns;
        self.closes_ns = self.opens_ns + self.window_ns;
        self.opens_ns
    }

    /// Counts an exchange that was right.
    pub(super) fn complete(&mut self) {
        self.completed += 1;
    }

    pub(super) fn completed(&self) -> u64 {
        self.completed
    }

    /// Counts a latency, if the exchange was meant to begin inside the window.
    pub(super) fn latency(&mut self, intended_ns: u64, now_ns: u64) {
        if intended_ns >= self.opens_ns {
            self.latency.record(now_ns.saturating_sub(intended_ns));
        }
    }

    /// Notes that an exchange begins later than intended, for which the proxy is not to blame.
    pub(super) fn late(&mut self, intended_ns: u64, now_ns: u64) {
        if intended_ns >= self.opens_ns {
            self.late_max_ns = self.late_max_ns.max(now_ns.saturating_sub(intended_ns));
        }
    }

    /// Greatest latency so far; then counts afresh.
    pub(super) fn take_max_ns(&mut self) -> u64 {
        let max = self.latency.max_ns();
        self.latency.clear();
        max
    }

    pub(super) fn fail(&mut self, fault: String) {
        self.failed += 1;
        self.first_fault.get_or_insert(fault);
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    pub(super) fn first_fault(&self) -> &str {
        self.first_fault.as_deref().unwrap_or("none")
    }

    /// Begins the warm-up and opens the window when their time has come. `true` when the window is over.
    pub(super) fn at(&mut self, now_ns: u64, meter: Option<&Meter>) -> Result<bool, String> {
        if self.opens_ns == NEVER_NS {
            if self.completed >= self.ready_at {
                self.begin(now_ns);
            } else if now_ns > READY_NS_MAX {
                return Err(format!("only {} exchanges: {}", self.completed, self.first_fault()));
            }
        }
        if self.opened.is_none() && now_ns >= self.opens_ns {
            self.opened = Some(self.read(now_ns, meter)?);
        }
        Ok(now_ns >= self.closes_ns)
    }

    fn read(&self, at_ns: u64, meter: Option<&Meter>) -> Result<Reading, String> {
        let proxy_ns =
            meter.map_or(Ok(0), Meter::cpu_ns).map_err(|e| format!("CPU of the proxy: {e}"))?;
        let own_ns = meter::own_cpu_ns().map_err(|e| format!("own CPU: {e}"))?;
        Ok(Reading { at_ns, completed: self.completed, proxy_ns, own_ns })
    }

    /// The outcome of a window that ends now.
    pub(super) fn outcome(&self, now_ns: u64, meter: Option<&Meter>) -> Result<Outcome, String> {
        let end = self.read(now_ns, meter)?;
        let Some(start) = &self.opened else { return Err("the window never opened".to_owned()) };
        let micros = |per_mille| self.latency.quantile_ns(per_mille) as f64 / 1e3;
        Ok(Outcome {
            completed: end.completed - start.completed,
            failed: self.failed,
            first_fault: self.first_fault.clone(),
            seconds: (end.at_ns - start.at_ns) as f64 / 1e9,
            proxy_cpu_us: end.proxy_ns.saturating_sub(start.proxy_ns) as f64 / 1e3,
            own_cpu_us: end.own_ns.saturating_sub(start.own_ns) as f64 / 1e3,
            p50_us: micros(500),
            p99_us: micros(990),
            p999_us: micros(999),
            max_us: self.latency.max_ns() as f64 / 1e3,
            own_late_max_us: self.late_max_ns as f64 / 1e3,
            pss_kib: meter.map_or(0, |meter| meter.pss_kib().unwrap_or(0)),
            idle_bytes: None,
            max_before_us: None,
            fed: None,
        })
    }
}

/// A time as a count.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER_NS)
}
