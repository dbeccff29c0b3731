//! The rows of the comparison: what the load does, what the proxy is set up for, what is read from the outcome.
//!
//! One table, read by the runner, the printer and the command line. Deliberately absent: HTTP/2, until the router
//! speaks it.

use crate::feed::Fed;
use crate::outcome::Outcome;
use crate::peers::Protocol;

/// One kind of load.
pub struct Row {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name in the table.
    pub title: &'static str,
    /// What the proxy speaks.
    pub protocol: Protocol,
    /// Hosts in the proxy's table.
    pub hosts: usize,
    /// Client connections.
    pub connections: usize,
    /// The generator's own words.
    pub load: &'static [&'static str],
    /// How long the window is, against that of an ordinary row.
    pub window_scale: f64,
    /// What is read.
    pub readings: &'static [Reading],
    /// Changes of the proxy's table while the load runs; only proxies with an API for it take part.
    pub changes_per_second: u32,
    /// Bodies of a MiB.
    pub bulk: bool,
    /// Whether a relay that opens an origin connection for each client connection does the same work.
    pub blind: bool,
}

/// One number of an outcome; less is better, but for `changes/s`.
pub struct Reading {
    /// What it is, with its unit.
    pub unit: &'static str,
    /// Takes it.
    pub of: fn(&Outcome) -> f64,
}

const CPU: &[Reading] = &[Reading { unit: "µs CPU", of: Outcome::cpu_us_each }];
const LATENCY: &[Reading] = &[
    Reading { unit: "p50 µs", of: |o| o.p50_us },
    Reading { unit: "p99 µs", of: |o| o.p99_us },
    Reading { unit: "p99.9 µs", of: |o| o.p999_us },
    Reading { unit: "µs CPU", of: Outcome::cpu_us_each },
];
const IDLE: &[Reading] = &[
    Reading { unit: "KiB each", of: |o| o.idle_bytes.unwrap_or(0.0) / 1024.0 },
    Reading { unit: "MiB in all", of: |o| o.pss_kib as f64 / 1024.0 },
];
const LEAVE: &[Reading] = &[
    Reading { unit: "worst ms after", of: |o| o.max_us / 1e3 },
    Reading { unit: "worst ms before", of: |o| o.max_before_us.unwrap_or(0.0) / 1e3 },
    Reading { unit: "of it generator's own, ms", of: |o| o.own_late_max_us / 1e3 },
];
const TABLE: &[Reading] = &[
    Reading { unit: "µs CPU", of: Outcome::cpu_us_each },
    Reading { unit: "MiB in all", of: |o| o.pss_kib as f64 / 1024.0 },
];

fn fed(outcome: &Outcome, of: fn(&Fed) -> f64) -> f64 {
    outcome.fed.as_ref().map_or(0.0, of)
}

const CHANGES: &[Reading] = &[
    Reading { unit: "change p50 µs", of: |o| fed(o, |f| f.p50_us) },
    Reading { unit: "change p99 µs", of: |o| fed(o, |f| f.p99_us) },
    Reading { unit: "confirmed too early", of: |o| fed(o, |f| f.too_early as f64) },
    Reading { unit: "changes/s", of: |o| fed(o, |f| f.per_second) },
    Reading { unit: "requests failed", of: |o| o.failed as f64 },
    Reading { unit: "request p50 µs", of: |o| o.p50_us },
    Reading { unit: "request p99 µs", of: |o| o.p99_us },
];

const PLAIN: Row = Row {
    name: "",
    title: "",
    protocol: Protocol::Http,
    hosts: 1,
    connections: 64,
    load: &["http"],
    window_scale: 1.0,
    readings: CPU,
    changes_per_second: 0,
    bulk: false,
    blind: true,
};

/// Every row, in the order of the table.
pub const ROWS: [Row; 20] = [
    Row { name: "h1_128", title: "HTTP/1.1 keep-alive, 128 B", ..PLAIN },
    Row {
        name: "h1_1k",
        title: "HTTP/1.1 keep-alive, 1 KiB",
        load: &["http", "--down", "1024"],
        ..PLAIN
    },
    Row {
        name: "h1_1000c",
        title: "HTTP/1.1 keep-alive, 128 B, 1,000 connections",
        connections: 1_000,
        ..PLAIN
    },
    Row {
        name: "h1_close",
        title: "new connection per request",
        load: &["http", "--close"],
        blind: false,
        ..PLAIN
    },
    Row {
        name: "tls_128",
        title: "TLS 1.3 keep-alive, 128 B",
        protocol: Protocol::Https,
        load: &["http", "--tls"],
        ..PLAIN
    },
    Row {
        name: "tls_full",
        title: "TLS full handshake + GET",
        protocol: Protocol::Https,
        connections: 16,
        load: &["http", "--tls", "--close"],
        ..PLAIN
    },
    Row {
        name: "tls_resumed",
        title: "TLS resumed handshake + GET",
        protocol: Protocol::Https,
        connections: 16,
        load: &["http", "--tls", "--resume", "--close"],
        ..PLAIN
    },
    Row {
        name: "down_1m",
        title: "download, 1 MiB",
        connections: 16,
        load: &["http", "--down", "1048576"],
        bulk: true,
        ..PLAIN
    },
    Row {
        name: "up_1m",
        title: "upload, 1 MiB",
        connections: 16,
        load: &["http", "--up", "1048576"],
        bulk: true,
        ..PLAIN
    },
    Row {
        name: "tcp_128",
        title: "TCP ping-pong, 128 B",
        protocol: Protocol::Tcp,
        load: &["tcp"],
        ..PLAIN
    },
    Row {
        name: "tcp_1m",
        title: "TCP, 1 MiB",
        protocol: Protocol::Tcp,
        connections: 16,
        load: &["tcp", "--down", "1048576"],
        bulk: true,
        ..PLAIN
    },
    Row {
        name: "rate_5k",
        title: "latency at 5,000 requests/s",
        load: &["http", "--rate", "5000"],
        readings: LATENCY,
        ..PLAIN
    },
    Row {
        name: "idle",
        title: "idle connections",
        load: &["idle"],
        readings: IDLE,
        blind: false,
        ..PLAIN
    },
    Row {
        name: "idle_tls",
        title: "idle TLS connections",
        protocol: Protocol::Https,
        load: &["idle", "--tls"],
        readings: IDLE,
        ..PLAIN
    },
    Row {
        name: "leave",
        title: "idle clients leave at once, 1,000 requests/s go on",
        connections: 16,
        load: &["leave", "--rate", "1000"],
        window_scale: 2.0,
        readings: LEAVE,
        blind: false,
        ..PLAIN
    },
    Row {
        name: "hosts_1",
        title: "1 host in the table",
        load: &["http", "--hosts", "1"],
        readings: TABLE,
        blind: false,
        ..PLAIN
    },
    Row {
        name: "hosts_10k",
        title: "10,000 hosts in the table, all asked for",
        hosts: 10_000,
        load: &["http", "--hosts", "10000"],
        readings: TABLE,
        blind: false,
        ..PLAIN
    },
    Row {
        name: "hosts_100k",
        title: "100,000 hosts in the table, 20,000 asked for",
        hosts: 100_000,
        load: &["http", "--hosts", "100000"],
        readings: TABLE,
        blind: false,
        ..PLAIN
    },
    Row {
        name: "steady",
        title: "100,000 hosts, 2,000 requests/s, no changes",
        hosts: 100_000,
        load: &["http", "--hosts", "100000", "--rate", "2000"],
        window_scale: 2.0,
        readings: LATENCY,
        blind: false,
        ..PLAIN
    },
    Row {
        name: "changes",
        title: "100,000 hosts, 2,000 requests/s, 1,000 changes/s",
        hosts: 100_000,
        load: &["http", "--hosts", "100000", "--rate", "2000"],
        window_scale: 2.0,
        readings: CHANGES,
        blind: false,
        changes_per_second: 1_000,
        ..PLAIN
    },
];

/// Rows of a quick run: one of each kind of machinery.
pub const QUICK: [&str; 8] =
    ["h1_128", "h1_close", "tls_resumed", "down_1m", "tcp_1m", "rate_5k", "idle", "leave"];

/// The rows of these names, or all.
///
/// # Errors
/// When a name is unknown.
pub fn choose(names: &[String]) -> Result<Vec<&'static Row>, String> {
    static ALL: [Row; ROWS.len()] = ROWS;
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let find = |name: &String| {
        let known = || ALL.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        ALL.iter()
            .find(|row| row.name == name)
            .ok_or_else(|| format!("no row {name}; there are {}", known()))
    };
    names.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_the_quick_ones_exist() {
        let quick = QUICK.map(str::to_owned);
        assert_eq!(choose(&quick).unwrap().len(), QUICK.len());
        let mut names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
        assert!(choose(&["nothing".to_owned()]).err().unwrap().contains("h1_128"));
    }
}
