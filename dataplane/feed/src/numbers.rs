//! What the feed counts about itself, and the lines of the metrics page that say so.
//!
//! Deliberately absent: labels made at run time.

use std::fmt::Write;

use crate::{ims, jobs, join};

/// A copy of everything that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of jobs.
    pub jobs: jobs::Counts,
    /// Of instance managers.
    pub ims: ims::Counts,
    /// What should not be.
    pub oddities: join::Oddities,
    /// Every write of a job up to here is known.
    pub revision: u64,
    /// The furthest revision that anybody spoke of.
    pub revision_heard: u64,
    /// When digests last agreed, milliseconds since 1970.
    pub verified_ms: Option<u64>,
    /// Jobs with routes.
    pub jobs_known: u64,
    /// Instance managers known, and those in doubt.
    pub ims_known: (u64, u64),
    /// Endpoints known.
    pub endpoints: u64,
    /// Keys that the table does not take just now.
    pub refused: u64,
    /// Each time that a key was refused.
    pub refusals: u64,
    /// Commits made.
    pub commits: u64,
    /// Drains asked for.
    pub drains: u64,
    /// Of these, answered with "idle".
    pub drains_idle: u64,
    /// Waits for a revision asked for.
    pub awaits: u64,
    /// Questions not taken because too many wait.
    pub questions_refused: u64,
    /// Messages not understood.
    pub messages_unread: u64,
    /// Times that messages were lost on the way.
    pub messages_lost: u64,
    /// Writes of the file that failed.
    pub saves_failed: u64,
    /// The subscriptions are in force.
    pub on_the_bus: bool,
}

impl Numbers {
    /// Lines in the exposition format.
    pub fn text(&self, now_ms: u64, unknown_routes: u64) -> String {
        let age_ms = self.verified_ms.map(|at| now_ms.saturating_sub(at));
        let mut text = String::new();
        if let Some(age_ms) = age_ms {
            let help = "Since the table was last found equal to the store's.";
            family(&mut text, "feed_table_age_seconds", "gauge", help);
            line(
                &mut text,
                "feed_table_age_seconds",
                format_args!("{}.{:03}", age_ms / 1_000, age_ms % 1_000),
            );
        }
        for (name, help, value) in self.gauges() {
            family(&mut text, name, "gauge", help);
            line(&mut text, name, format_args!("{value}"));
        }
        let mut last = "";
        for (name, help, value) in self.counters(unknown_routes) {
            let of = name.split('{').next().unwrap_or(name);
            if of != last {
                family(&mut text, of, "counter", help);
                last = of;
            }
            line(&mut text, name, format_args!("{value}"));
        }
        text
    }

    fn gauges(&self) -> [(&'static str, &'static str, u64); 8] {
        [
            (
                "feed_on_the_bus",
                "1: subscribed. 0: the last good table is served.",
                u64::from(self.on_the_bus),
            ),
            ("feed_revision", "Every write of a job up to here is known.", self.revision),
            (
                "feed_revision_heard",
                "The furthest revision that anybody spoke of.",
                self.revision_heard,
            ),
            ("feed_jobs", "Jobs with routes.", self.jobs_known),
            ("feed_instance_managers", "Instance managers known.", self.ims_known.0),
            (
                "feed_instance_managers_in_doubt",
                "Of these, being asked for the whole.",
                self.ims_known.1,
            ),
            ("feed_endpoints", "Endpoints known, with or without a route.", self.endpoints),
            (
                "feed_refused",
                "Routes and jobs that the table does not take just now.",
                self.refused,
            ),
        ]
    }

    fn counters(&self, unknown_routes: u64) -> [(&'static str, &'static str, u64); 26] {
        let (jobs, ims, odd) = (&self.jobs, &self.ims, &self.oddities);
        let gaps = "Gaps between revisions or announcements.";
        let digests = "Digests that differed.";
        let resyncs = "Times that the whole was taken over.";
        let stale = "Messages from before what is known.";
        let bound = "Left out because of a bound.";
        let unread = "What was met and could not be taken as it is.";
        let messages = "Messages of the bus that did no good.";
        [
            ("feed_gaps_total{of=\"jobs\"}", gaps, jobs.gaps),
            ("feed_gaps_total{of=\"endpoints\"}", gaps, ims.gaps),
            ("feed_digest_mismatches_total{of=\"jobs\"}", digests, jobs.mismatches),
            ("feed_digest_mismatches_total{of=\"endpoints\"}", digests, ims.mismatches),
            ("feed_resyncs_total{of=\"jobs\"}", resyncs, jobs.resyncs),
            ("feed_resyncs_total{of=\"endpoints\"}", resyncs, ims.resyncs),
            ("feed_stale_total{of=\"jobs\"}", stale, jobs.stale),
            ("feed_stale_total{of=\"endpoints\"}", stale, ims.stale),
            ("feed_beyond_bound_total{of=\"jobs\"}", bound, jobs.beyond_bound),
            ("feed_beyond_bound_total{of=\"endpoints\"}", bound, ims.beyond_bound),
            ("feed_beyond_bound_total{of=\"table\"}", bound, odd.beyond_bound),
            ("feed_beyond_bound_total{of=\"questions\"}", bound, self.questions_refused),
            ("feed_odd_total{what=\"acl\"}", unread, odd.acl_unreadable),
            ("feed_odd_total{what=\"endpoint\"}", unread, odd.endpoint_unreadable),
            ("feed_odd_total{what=\"weight\"}", unread, odd.weight_unreadable),
            ("feed_odd_total{what=\"https_only_conflict\"}", unread, odd.https_only_conflict),
            ("feed_odd_total{what=\"route_kind\"}", unread, unknown_routes),
            ("feed_odd_total{what=\"page\"}", unread, jobs.pages_wrong),
            ("feed_messages_total{what=\"lost\"}", messages, self.messages_lost),
            ("feed_messages_total{what=\"unread\"}", messages, self.messages_unread),
            ("feed_instance_managers_lost_total", "Instance managers given up.", ims.lost),
            ("feed_commits_total", "Changes of the table.", self.commits),
            ("feed_refusals_total", "Times that the table refused a route or job.", self.refusals),
            ("feed_drains_total{answer=\"idle\"}", "Drains asked for.", self.drains_idle),
            (
                "feed_drains_total{answer=\"other\"}",
                "Drains asked for.",
                self.drains.saturating_sub(self.drains_idle),
            ),
            (
                "feed_saves_failed_total",
                "Writes of the last good table that failed.",
                self.saves_failed,
            ),
        ]
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    line_of(text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
}

fn line(text: &mut String, name: &str, value: std::fmt::Arguments<'_>) {
    line_of(text, format_args!("{name} {value}"));
}

fn line_of(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a String takes everything");
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the page obeys the format: each family once, its rows together, every line a name and a number.
    #[test]
    fn the_lines_are_well_formed() {
        let numbers = Numbers { verified_ms: Some(1_000), ..Numbers::default() };
        let text = numbers.text(3_500, 7);
        assert!(text.contains("feed_table_age_seconds 2.500\n"));
        assert!(text.contains("feed_odd_total{what=\"route_kind\"} 7\n"));
        let mut families = std::collections::HashSet::new();
        for line in text.lines() {
            match line.strip_prefix("# HELP ") {
                Some(rest) => {
                    assert!(families.insert(rest.split(' ').next().unwrap().to_owned()), "{line}")
                }
                None => assert!(
                    line.starts_with("# TYPE ")
                        || line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(),
                    "{line}"
                ),
            }
        }
    }
}
