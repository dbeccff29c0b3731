//! The numbers themselves: of a core, of a route, of an instance. Each list below is the only one.
//!
//! The struct, the scrape page and `docs/metrics.md` all come from the same rows. Deliberately absent: any
//! number for which a metric name would have to be made at run time, except route, job and instance labels.

use std::sync::OnceLock;

use route::{InstanceSlot, RouteSlot};

use super::{Counter, Gauge, Histogram, Picks, Reset, SlotMap};

/// How a row behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; readers take rates.
    Counter,
    /// Rises and falls; readers add the cores.
    Gauge,
    /// As a gauge, but over the cores the highest (`max`) is meant, not the sum.
    Peak,
}

impl Kind {
    /// As Prometheus calls it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge | Self::Peak => "gauge",
        }
    }
}

/// One line of the scrape page.
pub struct Row<T> {
    /// Metric name, with fixed labels in braces if the family has several rows. Rows of a family stand together.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// See [`Kind`].
    pub kind: Kind,
    /// Where the number is.
    pub read: fn(&T) -> u64,
}

impl<T> Row<T> {
    /// The name without labels: what `# HELP` and `# TYPE` speak of.
    pub fn family(&self) -> &'static str {
        self.name.split('{').next().unwrap_or(self.name)
    }
}

/// Struct, documentation and rows from one list.
macro_rules! counted {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $field:ident: $cell:ident, $metric:literal, $help:literal; )*
        }
        { $( $(#[$more_meta:meta])* $more:ident: $more_type:ty, )* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $name {
            $( #[doc = $help] pub $field: counted!(@type $cell), )*
            $( $(#[$more_meta])* pub $more: $more_type, )*
        }

        impl $name {
            /// Every plain number, in the order of the scrape page.
            pub const ROWS: &'static [Row<Self>] = &[
                $( Row { name: $metric, help: $help, kind: Kind::$cell, read: |s| s.$field.read() }, )*
            ];
        }
    };
    (@type Counter) => { Counter };
    (@type Gauge) => { Gauge };
    (@type Peak) => { Gauge };
}

/// Most reason codes that are counted apart.
pub const FAILURES_MAX: usize = 64;

/// Names of the status classes, in the order of [`Statuses`].
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Class of a status: 1 to 5; 0 for what is no status (the client left before an answer).
#[inline]
pub const fn status_class(status: u16) -> usize {
    match status {
        100..=599 => (status / 100) as usize,
        _ => 0,
    }
}

/// Answers by status class.
#[derive(Debug, Default)]
pub struct Statuses([Counter; 6]);

impl Statuses {
    /// Count one answer; status 0 means that there was none.
    #[inline]
    pub fn count(&self, status: u16) {
        self.0[status_class(status)].add(1);
    }

    /// Counts so far, in the order of [`CLASSES`].
    pub fn read(&self) -> [u64; 6] {
        std::array::from_fn(|class| self.0[class].read())
    }
}

impl Reset for Statuses {
    fn reset(&self) {
        self.0.iter().for_each(|counter| counter.set(0));
    }
}

counted! {
    /// What one core counts. Aligned so that two cores never share a cache line.
    #[repr(align(128))]
    pub struct CoreStats {
        connections_http: Counter, "router_connections_total{kind=\"http\"}", "Client connections accepted.";
        connections_https: Counter, "router_connections_total{kind=\"https\"}", "Client connections accepted.";
        connections_tcp: Counter, "router_connections_total{kind=\"tcp\"}", "Client connections accepted.";
        open_http: Gauge, "router_connections_open{kind=\"http\"}", "Client connections open now.";
        open_https: Gauge, "router_connections_open{kind=\"https\"}", "Client connections open now.";
        open_tcp: Gauge, "router_connections_open{kind=\"tcp\"}", "Client connections open now.";
        open_tunnels: Gauge, "router_tunnels_open", "Upgraded (WebSocket) connections open now.";
        connections_refused: Counter, "router_connections_refused_total", "Connections closed at once because the core holds connections_max.";
        accept_failed: Counter, "router_accept_failed_total", "accept() calls that failed, mostly at the descriptor limit.";
        tls_full: Counter, "router_tls_handshakes_total{kind=\"full\"}", "TLS handshakes finished.";
        tls_resumed: Counter, "router_tls_handshakes_total{kind=\"resumed\"}", "TLS handshakes finished.";
        tls_failed: Counter, "router_tls_handshakes_failed_total", "TLS handshakes that failed or timed out.";
        requests: Counter, "router_requests_total", "Request heads parsed.";
        in_flight: Gauge, "router_requests_in_flight", "Exchanges running now.";
        client_bytes_in: Counter, "router_client_bytes_total{direction=\"in\"}", "Bytes to and from clients, above TLS.";
        client_bytes_out: Counter, "router_client_bytes_total{direction=\"out\"}", "Bytes to and from clients, above TLS.";
        upstream_connects: Counter, "router_upstream_connects_total", "Connections to instances that came up.";
        upstream_connects_failed: Counter, "router_upstream_connects_failed_total", "Connections to instances that were refused or timed out.";
        upstream_reused: Counter, "router_upstream_reused_total", "Exchanges that ran on a kept connection.";
        upstream_retries: Counter, "router_upstream_retries_total", "Exchanges tried again, on another instance or after a dead kept connection.";
        upstream_ejected: Counter, "router_upstream_ejections_total", "Instances set aside for a while after failures.";
        upstream_open: Gauge, "router_upstream_connections_open", "Connections to instances open now.";
        upstream_idle: Gauge, "router_upstream_connections_idle", "Of these, kept for the next exchange.";
        spliced_bytes: Counter, "router_spliced_bytes_total", "Body and TCP bytes moved inside the kernel.";
        engine_enters: Counter, "router_engine_enters_total", "System calls that submit or wait.";
        engine_starved: Counter, "router_engine_starved_total", "Receives that found no free page and were tried again.";
        pages: Gauge, "router_pages{state=\"existing\"}", "Buffer pages.";
        pages_held: Gauge, "router_pages{state=\"held\"}", "Buffer pages.";
        turn_longest_us: Peak, "router_turn_longest_microseconds", "Longest turn of a core's loop since the start.";
        table_version: Peak, "router_table_version", "Version of the route table that is served.";
        access_log_dropped: Counter, "router_access_log_dropped_total", "Access log records dropped because the ring was full.";
        bugs: Counter, "router_bug_total", "Exchanges aborted because the router met a state that must not be. Report these.";
    }
    {
        /// Answers to clients by status class, whoever made them.
        answers: Statuses,
        /// Answers that the router gave itself and exchanges that it cut, by reason code.
        failures: FailureCounts,
        /// From the parsed head to the last byte given to the kernel.
        latency: Histogram,
        /// Numbers of each route that this core served.
        routes: SlotMap<RouteStats>,
        /// Numbers of each instance that this core used.
        instances: SlotMap<InstanceStats>,
    }
}

/// One counter for each reason code. The codes are the program's own `&'static str`, so their number is bounded;
/// each takes the next free place when it is first counted.
#[derive(Debug)]
pub struct FailureCounts(Box<[FailureCount; FAILURES_MAX]>);

impl Default for FailureCounts {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| FailureCount::default())))
    }
}

#[derive(Debug, Default)]
struct FailureCount {
    code: OnceLock<&'static str>,
    counter: Counter,
}

impl FailureCounts {
    /// Count one. Only the owning core calls this. With [`FAILURES_MAX`] codes in use, further ones are counted
    /// under the last.
    pub fn count(&self, code: &'static str) {
        let place = self.0.iter().find(|place| *place.code.get_or_init(|| code) == code);
        place.unwrap_or(&self.0[FAILURES_MAX - 1]).counter.add(1);
    }

    /// Codes counted so far, in the order in which they first came.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map_while(|place| Some((*place.code.get()?, place.counter.read())))
    }
}

counted! {
    /// What one core counts of one route.
    pub struct RouteStats {
        requests: Counter, "router_route_requests_total", "Exchanges begun, or TCP connections.";
        in_flight: Gauge, "router_route_in_flight", "Exchanges running now.";
        denied: Counter, "router_route_denied_total", "Clients that no job on the route admits.";
        bytes_in: Counter, "router_route_bytes_total{direction=\"in\"}", "Bytes from and to clients.";
        bytes_out: Counter, "router_route_bytes_total{direction=\"out\"}", "Bytes from and to clients.";
    }
    {
        /// Answers by status class.
        answers: Statuses,
        /// From the parsed head to the last byte given to the kernel.
        latency: Histogram,
        /// To which job they went, since the weights last changed.
        picks: Picks,
    }
}

counted! {
    /// What one core counts of one instance.
    pub struct InstanceStats {
        requests: Counter, "router_instance_requests_total", "Exchanges sent there, or TCP connections.";
        in_flight: Gauge, "router_instance_in_flight", "Exchanges running there now.";
        connects_failed: Counter, "router_instance_connects_failed_total", "Connections that were refused or timed out.";
        failures: Counter, "router_instance_failures_total", "Exchanges that ended there in reset, silence or malformed answers.";
        retries: Counter, "router_instance_retries_total", "Exchanges that went elsewhere after failing there.";
        ejected: Gauge, "router_instance_ejected", "Cores that have set the instance aside just now.";
        upstream_idle: Gauge, "router_instance_idle_connections", "Connections kept for the next exchange.";
        bytes_in: Counter, "router_instance_bytes_total{direction=\"in\"}", "Bytes sent to and received from the instance.";
        bytes_out: Counter, "router_instance_bytes_total{direction=\"out\"}", "Bytes sent to and received from the instance.";
    }
    {
        /// Answers by status class.
        answers: Statuses,
        /// As the route's: from the parsed head to the last byte given to the kernel.
        latency: Histogram,
    }
}

impl CoreStats {
    /// Numbers of a route, for the owning core.
    #[inline]
    pub fn route(&self, slot: RouteSlot) -> &RouteStats {
        self.routes.own(slot.0.index, slot.0.generation)
    }

    /// Numbers of an instance, for the owning core.
    #[inline]
    pub fn instance(&self, slot: InstanceSlot) -> &InstanceStats {
        self.instances.own(slot.0.index, slot.0.generation)
    }

    /// Exchanges that this core runs on a route just now. Any thread.
    pub fn route_in_flight(&self, slot: RouteSlot) -> u64 {
        let stats = self.routes.read(slot.0.index, slot.0.generation);
        stats.map_or(0, |stats| stats.in_flight.read())
    }

    /// Exchanges that this core runs at an instance just now. Any thread.
    pub fn instance_in_flight(&self, slot: InstanceSlot) -> u64 {
        let stats = self.instances.read(slot.0.index, slot.0.generation);
        stats.map_or(0, |stats| stats.in_flight.read())
    }
}

impl Reset for RouteStats {
    fn reset(&self) {
        let Self { requests, in_flight, denied, bytes_in, bytes_out, answers, latency, picks } =
            self;
        for counter in [requests, denied, bytes_in, bytes_out] {
            counter.set(0);
        }
        in_flight.set(0);
        answers.reset();
        latency.reset();
        picks.reset();
    }
}

impl Reset for InstanceStats {
    fn reset(&self) {
        let Self {
            requests,
            in_flight,
            connects_failed,
            failures,
            retries,
            ejected,
            upstream_idle,
            bytes_in,
            bytes_out,
            answers,
            latency,
        } = self;
        for counter in [requests, connects_failed, failures, retries, bytes_in, bytes_out] {
            counter.set(0);
        }
        for gauge in [in_flight, ejected, upstream_idle] {
            gauge.set(0);
        }
        answers.reset();
        latency.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn check<T>(rows: &[Row<T>]) {
        let mut families: Vec<&str> = Vec::new();
        let mut names = HashSet::new();
        for row in rows {
            assert!(names.insert(row.name), "{} stands twice", row.name);
            assert!(row.help.ends_with('.'), "{}: help is a sentence", row.name);
            let family = row.family();
            assert_eq!(
                family.ends_with("_total"),
                row.kind == Kind::Counter,
                "{family}: exactly the counters end in _total"
            );
            if families.last() != Some(&family) {
                assert!(!families.contains(&family), "{family}: rows of a family stand together");
                families.push(family);
            }
        }
    }

    /// Goal: the names obey the rules of the exposition format, which no compiler checks.
    #[test]
    fn rows_are_well_formed() {
        check(CoreStats::ROWS);
        check(RouteStats::ROWS);
        check(InstanceStats::ROWS);
    }

    /// Goal: a reset forgets no row, so that a reused slot never shows its former owner's numbers.
    #[test]
    fn reset_zeroes_every_row() {
        let route = RouteStats::default();
        route.requests.add(1);
        route.in_flight.inc();
        route.denied.add(1);
        route.bytes_in.add(1);
        route.bytes_out.add(1);
        route.answers.count(204);
        route.latency.record(5);
        assert!(RouteStats::ROWS.iter().all(|row| (row.read)(&route) == 1));
        route.reset();
        assert!(RouteStats::ROWS.iter().all(|row| (row.read)(&route) == 0));
        assert_eq!((route.answers.read(), route.latency.count()), ([0; 6], 0));
    }

    #[test]
    fn statuses_go_to_their_class() {
        let statuses = Statuses::default();
        for status in [0, 99, 101, 200, 299, 404, 503, 599, 600] {
            statuses.count(status);
        }
        assert_eq!(statuses.read(), [3, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn failures_are_counted_by_code() {
        let failures = FailureCounts::default();
        for code in ["no_route", "acl_denied", "no_route"] {
            failures.count(code);
        }
        let counts: Vec<_> = failures.read().collect();
        assert_eq!(counts, [("no_route", 2), ("acl_denied", 1)]);
    }

    #[test]
    fn cores_do_not_share_a_cache_line() {
        assert_eq!(align_of::<CoreStats>(), 128);
    }

    /// Goal: what a route costs a core stays what docs/limits.md promises.
    #[test]
    fn a_route_costs_about_a_kibibyte() {
        assert!(size_of::<RouteStats>() <= 1024, "{}", size_of::<RouteStats>());
        assert!(size_of::<InstanceStats>() <= 1088, "{}", size_of::<InstanceStats>());
    }
}
