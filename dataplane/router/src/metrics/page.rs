//! Writing the exposition format: one family after the other, each with its HELP and TYPE once.
//!
//! Deliberately absent: exemplars and native histograms, which the text form does not carry.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::stats::{CLASSES, CoreStats, Kind, Snapshot};

/// Upper bounds of the buckets of the whole router: one for each octave from 64 µs to 67 s.
pub(super) const WIDE_OCTAVES: std::ops::RangeInclusive<u32> = 6..=26;

/// A page that is being written.
#[derive(Default)]
pub struct Page {
    text: String,
}

/// What is known beside the counters.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Engine in use.
    pub engine: &'static str,
    /// Routes, jobs and instances in the newest table.
    pub table: [u64; 3],
    /// Estimate of the table's memory.
    pub table_bytes: u64,
    /// The last reload of the file was good; `None` without a file.
    pub config_good: Option<bool>,
    /// Access log lines written, and lost at the target.
    pub access_log: Option<(u64, u64)>,
    /// Removed instances that still have exchanges in flight.
    pub draining: u64,
}

impl Page {
    /// The whole page so far.
    pub fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a String takes everything");
        self.text.push('\n');
    }

    /// Begin a family.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    /// One sample; `labels` without braces, perhaps empty.
    pub(super) fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        match labels {
            "" => self.line(format_args!("{name} {value}")),
            _ => self.line(format_args!("{name}{{{labels}}} {value}")),
        }
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    /// The samples of one histogram, without HELP and TYPE.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        labels: &str,
        octaves: impl Iterator<Item = u32>,
        durations: &Snapshot,
    ) {
        let comma = if labels.is_empty() { "" } else { "," };
        for octave in octaves {
            let micros = 1u64 << octave;
            let count = durations.count_below(micros * 1_000);
            let le = Seconds(micros * 1_000);
            self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"{le}\"}} {count}"));
        }
        let count = durations.count();
        self.line(format_args!("{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}"));
        self.sample(&format!("{name}_sum"), labels, Seconds(durations.sum_nanos));
        self.sample(&format!("{name}_count"), labels, count);
    }

    /// What the process says of itself.
    pub fn facts(&mut self, facts: &Facts) {
        self.family("router_build_info", "gauge", "Always 1; version and engine are labels.");
        let labels =
            format!("version=\"{}\",engine=\"{}\"", env!("CARGO_PKG_VERSION"), facts.engine);
        self.sample("router_build_info", &labels, 1);
        self.single(
            "router_uptime_seconds",
            "gauge",
            "Time since the start.",
            facts.uptime_seconds,
        );
        self.family("router_table_entries", "gauge", "What the newest table holds.");
        for (kind, count) in ["route", "job", "instance"].into_iter().zip(facts.table) {
            self.sample("router_table_entries", &format!("kind=\"{kind}\""), count);
        }
        self.single(
            "router_table_bytes",
            "gauge",
            "Memory of the table, estimated.",
            facts.table_bytes,
        );
        self.single(
            "router_draining_instances",
            "gauge",
            "Removed instances with exchanges in flight.",
            facts.draining,
        );
        if let Some(good) = facts.config_good {
            let help = "1: the last reload of the file was good. 0: the last good table is kept.";
            self.single("router_config_good", "gauge", help, u8::from(good));
        }
        if let Some((lines, lost)) = facts.access_log {
            let help = "Access log lines written.";
            self.single("router_access_log_lines_total", "counter", help, lines);
            let help = "Access log lines that the file did not take.";
            self.single("router_access_log_lost_total", "counter", help, lost);
        }
        if let Some(bytes) = resident_bytes() {
            let help = "Memory of the process that is in RAM.";
            self.single("process_resident_memory_bytes", "gauge", help, bytes);
        }
    }

    /// The plain numbers of all cores, each with its core's label.
    pub fn cores(&mut self, cores: &[&CoreStats]) {
        let mut last = "";
        for row in CoreStats::ROWS {
            let family = row.family();
            if family != last {
                self.family(family, row.kind.text(), row.help);
                last = family;
            }
            let fixed = labels_of(row.name);
            let comma = if fixed.is_empty() { "" } else { "," };
            for (index, core) in cores.iter().enumerate() {
                let labels = format!("{fixed}{comma}core=\"{index}\"");
                self.sample(family, &labels, (row.read)(core));
            }
        }
    }

    /// Answers, failures and durations of the whole router.
    pub fn totals(&mut self, cores: &[&CoreStats]) {
        self.family(
            "router_answers_total",
            "counter",
            "Answers to clients by status class; none: the exchange ended without one.",
        );
        for (class, name) in CLASSES.iter().enumerate() {
            let total: u64 = cores.iter().map(|core| core.answers.read()[class]).sum();
            self.sample("router_answers_total", &format!("class=\"{name}\""), total);
        }
        self.family(
            "router_failures_total",
            "counter",
            "Answers made by the router itself and exchanges cut, by reason code.",
        );
        for (reason, total) in failures(cores) {
            self.sample("router_failures_total", &format!("reason=\"{reason}\""), total);
        }
        let name = "router_request_duration_seconds";
        self.family(
            name,
            "histogram",
            "From the parsed head to the last byte given to the kernel.",
        );
        self.histogram(name, "", WIDE_OCTAVES, &latency(cores));
    }
}

/// Durations of all cores together.
pub(crate) fn latency(cores: &[&CoreStats]) -> Snapshot {
    let mut total = Snapshot::default();
    cores.iter().for_each(|core| core.latency.add_to(&mut total));
    total
}

/// Failures of all cores together, by reason code.
pub(crate) fn failures(cores: &[&CoreStats]) -> BTreeMap<&'static str, u64> {
    let mut totals = BTreeMap::new();
    for (reason, count) in cores.iter().flat_map(|core| core.failures.read()) {
        *totals.entry(reason).or_default() += count;
    }
    totals
}

/// The fixed labels in a row's name.
pub(super) fn labels_of(name: &str) -> &str {
    name.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'))
}

/// How a row's numbers of several cores become one.
pub(super) const fn merge(kind: Kind, total: u64, one: u64) -> u64 {
    match kind {
        Kind::Counter | Kind::Gauge => total + one,
        Kind::Peak => {
            if one > total {
                one
            } else {
                total
            }
        }
    }
}

/// A label's value, escaped.
pub(super) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Nanoseconds, shown as seconds without rounding.
pub(super) struct Seconds(pub(super) u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, nanos) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        if nanos == 0 {
            return write!(f, "{whole}");
        }
        let fraction = format!("{nanos:09}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the page that scrapers parse does not change by accident.
    #[test]
    fn a_small_page() {
        let cores = [CoreStats::default(), CoreStats::default()];
        cores[0].requests.add(2);
        cores[1].requests.add(3);
        cores[0].answers.count(200);
        cores[0].failures.count("no_route");
        cores[0].latency.record(100_000);
        cores[1].latency.record(2_000_000_000);
        let cores: Vec<_> = cores.iter().collect();
        let mut page = Page::default();
        page.cores(&cores);
        page.totals(&cores);
        let text = page.into_text();
        for line in [
            "# TYPE router_requests_total counter",
            "router_requests_total{core=\"0\"} 2",
            "router_requests_total{core=\"1\"} 3",
            "router_connections_open{kind=\"https\",core=\"1\"} 0",
            "router_answers_total{class=\"2xx\"} 1",
            "router_failures_total{reason=\"no_route\"} 1",
            "router_request_duration_seconds_bucket{le=\"0.000064\"} 0",
            "router_request_duration_seconds_bucket{le=\"0.000128\"} 1",
            "router_request_duration_seconds_bucket{le=\"+Inf\"} 2",
            "router_request_duration_seconds_sum 2.0001",
            "router_request_duration_seconds_count 2",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} not in\n{text}");
        }
        well_formed(&text);
    }

    /// Goal: every family is described once and its samples stand together, as the format demands.
    fn well_formed(text: &str) {
        let mut families: Vec<&str> = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let family = rest.split(' ').next().unwrap_or_default();
                assert!(!families.contains(&family), "{family} is described twice");
                families.push(family);
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                let family = families.last().copied().unwrap_or_default();
                assert!(name.starts_with(family), "{name} stands under {family}");
            }
        }
    }

    #[test]
    fn values_are_escaped_and_seconds_exact() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        assert_eq!(Seconds(1_500_000_000).to_string(), "1.5");
        assert_eq!(Seconds(64_000).to_string(), "0.000064");
        assert_eq!(Seconds(67_108_864_000).to_string(), "67.108864");
        assert_eq!(Seconds(2_000_000_000).to_string(), "2");
    }
}
