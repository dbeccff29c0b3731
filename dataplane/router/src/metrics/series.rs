//! Routes and instances by name: the busiest up to a maximum, the rest added up as `other`.
//!
//! Deliberately absent: knowledge of the table. The caller brings names and numbers.

use super::page::{Page, escaped, labels_of, merge};
use crate::stats::{CLASSES, InstanceStats, RouteStats, Row, Snapshot};

/// Upper bounds of a series' buckets: every second octave from 128 µs to 34 s.
const OCTAVES: [u32; 10] = [7, 9, 11, 13, 15, 17, 19, 21, 23, 25];

/// What the two kinds of series have in common.
trait Stats: Sized + 'static {
    const ROWS: &'static [Row<Self>];
    fn answers(&self) -> [u64; 6];
    fn add_latency(&self, into: &mut Snapshot);
}

impl Stats for RouteStats {
    const ROWS: &'static [Row<Self>] = Self::ROWS;
    fn answers(&self) -> [u64; 6] {
        self.answers.read()
    }
    fn add_latency(&self, into: &mut Snapshot) {
        self.latency.add_to(into);
    }
}

impl Stats for InstanceStats {
    const ROWS: &'static [Row<Self>] = Self::ROWS;
    fn answers(&self) -> [u64; 6] {
        self.answers.read()
    }
    fn add_latency(&self, into: &mut Snapshot) {
        self.latency.add_to(into);
    }
}

/// Routes by endpoint; each with its numbers on the cores that served it.
pub fn routes(page: &mut Page, series_max: usize, list: Vec<(String, Vec<&RouteStats>)>) {
    let list =
        list.into_iter().map(|(name, cores)| (format!("route=\"{}\"", escaped(&name)), cores));
    write(page, "router_route", series_max, list.collect(), "route=\"other\"");
}

/// Instances by job and address.
pub fn instances(
    page: &mut Page,
    series_max: usize,
    list: Vec<(String, String, Vec<&InstanceStats>)>,
) {
    let list = list.into_iter().map(|(job, addr, cores)| {
        (format!("job=\"{}\",instance=\"{}\"", escaped(&job), escaped(&addr)), cores)
    });
    let other = "job=\"other\",instance=\"other\"";
    write(page, "router_instance", series_max, list.collect(), other);
}

fn write<T: Stats>(
    page: &mut Page,
    prefix: &str,
    series_max: usize,
    mut list: Vec<(String, Vec<&T>)>,
    other: &str,
) {
    let busy = |cores: &[&T]| cores.iter().map(|core| (T::ROWS[0].read)(core)).sum::<u64>();
    if list.len() > series_max {
        list.sort_by_cached_key(|(_, cores)| std::cmp::Reverse(busy(cores)));
        let rest: Vec<&T> = list.drain(series_max..).flat_map(|(_, cores)| cores).collect();
        list.push((other.to_owned(), rest));
    }
    let mut last = "";
    for row in T::ROWS {
        let family = row.family();
        if family != last {
            page.family(family, row.kind.text(), row.help);
            last = family;
        }
        let fixed = labels_of(row.name);
        let comma = if fixed.is_empty() { "" } else { "," };
        for (labels, cores) in &list {
            let total =
                cores.iter().fold(0, |total, core| merge(row.kind, total, (row.read)(core)));
            page.sample(family, &format!("{labels}{comma}{fixed}"), total);
        }
    }
    let name = format!("{prefix}_answers_total");
    page.family(&name, "counter", "Answers by status class; none: the exchange ended without one.");
    for (labels, cores) in &list {
        let answers: Vec<[u64; 6]> = cores.iter().map(|core| core.answers()).collect();
        for (class, class_name) in CLASSES.iter().enumerate() {
            let total: u64 = answers.iter().map(|counts| counts[class]).sum();
            if total > 0 {
                page.sample(&name, &format!("{labels},class=\"{class_name}\""), total);
            }
        }
    }
    let name = format!("{prefix}_duration_seconds");
    page.family(&name, "histogram", "Durations of exchanges.");
    for (labels, cores) in &list {
        let mut durations = Snapshot::default();
        cores.iter().for_each(|core| core.add_latency(&mut durations));
        page.histogram(&name, labels, OCTAVES.into_iter(), &durations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a million routes cannot make a page of a million lines, and no request is left out of the sums.
    #[test]
    fn beyond_the_maximum_the_rest_is_summed() {
        let stats: Vec<RouteStats> = (0..10).map(|_| RouteStats::default()).collect();
        for (n, route) in stats.iter().enumerate() {
            route.requests.add(n as u64);
            route.answers.count(200);
            route.latency.record(1_000_000);
        }
        let mut page = Page::default();
        let list = stats.iter().enumerate().map(|(n, route)| (format!("http://r{n}"), vec![route]));
        routes(&mut page, 2, list.collect());
        let text = page.into_text();
        for line in [
            "router_route_requests_total{route=\"http://r9\"} 9",
            "router_route_requests_total{route=\"http://r8\"} 8",
            "router_route_requests_total{route=\"other\"} 28",
            "router_route_bytes_total{route=\"other\",direction=\"in\"} 0",
            "router_route_answers_total{route=\"other\",class=\"2xx\"} 8",
            "router_route_duration_seconds_count{route=\"other\"} 8",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} not in\n{text}");
        }
        assert!(!text.contains("http://r7"));
    }

    #[test]
    fn an_instance_has_job_and_address() {
        let stats = InstanceStats::default();
        stats.requests.add(4);
        let mut page = Page::default();
        instances(
            &mut page,
            5,
            vec![("job::/a".into(), "127.0.0.1:9001".into(), vec![&stats, &stats])],
        );
        let want = "router_instance_requests_total{job=\"job::/a\",instance=\"127.0.0.1:9001\"} 8";
        assert!(page.into_text().contains(want));
    }
}
