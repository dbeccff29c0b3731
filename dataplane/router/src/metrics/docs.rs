//! `docs/metrics.md`, printed from the rows.
//!
//! Deliberately absent: prose. What stands in the table is what a scrape shows.

use std::fmt::Write;

use super::page::{Facts, Page};
use super::series;
use crate::stats::{CoreStats, InstanceStats, RouteStats};

/// The page for operators: every metric with kind and meaning.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         `GET /metrics` on the admin address, in the text form of Prometheus. Printed from the rows in the source; \
         `METRICS_DOC=write cargo test -p router metrics` writes it anew.\n\n\
         Durations are histograms in seconds. Routes and instances are named up to `metrics.series_max` (the busiest); \
         the rest is added up as `other`.\n\n\
         | metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    let core = CoreStats::default();
    let (route, instance) = (RouteStats::default(), InstanceStats::default());
    core.failures.count("no_route");
    route.answers.count(200);
    instance.answers.count(200);
    let mut page = Page::default();
    let facts = Facts { config_good: Some(true), access_log: Some((0, 0)), ..Facts::default() };
    page.facts(&facts);
    page.cores(&[&core]);
    page.totals(&[&core]);
    series::routes(&mut page, 1, vec![("r".into(), vec![&route])]);
    series::instances(&mut page, 1, vec![("j".into(), "i".into(), vec![&instance])]);
    let page = page.into_text();
    let lines: Vec<&str> = page.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let kind = lines[at + 1].rsplit(' ').next().unwrap_or_default();
        let labels = lines.get(at + 2).map_or_else(String::new, |sample| label_names(sample));
        writeln!(text, "| `{name}` | {kind} | {labels} | {help} |")
            .expect("a String takes everything");
    }
    text
}

/// Names of the labels of a sample, without `le`.
fn label_names(sample: &str) -> String {
    let Some((_, rest)) = sample.split_once('{') else { return String::new() };
    let Some((labels, _)) = rest.rsplit_once('}') else { return String::new() };
    let names = labels.split("\",").filter_map(|label| label.split('=').next());
    names.filter(|name| *name != "le").collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the document tells what the page shows, always.
    #[test]
    fn the_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let want = markdown();
        if std::env::var_os("METRICS_DOC").is_some() {
            std::fs::write(path, &want).unwrap();
        }
        let have = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(have, want, "run: METRICS_DOC=write cargo test -p router metrics");
    }
}
