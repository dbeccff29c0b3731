//! The taint of a host for a job: what an offer costs, and who stays silent.
//!
//! score = 100 · the largest share in use of any resource after the placement, + 20 for each copy of the job that is
//! here, + 50 for each soft tag that is not met, − 25 for each soft attraction that is met, + 25 for each soft repulsion
//! that is violated. Source: apcera.md 30.2. Pure. Deliberately absent: the delay's jitter, and who wins.

use crate::spec::Load;
use std::collections::{BTreeMap, BTreeSet};
use wire::job::Resources;
use wire::placement::{BID_COUNT_MAX, Placement};
use wire::{Fqn, JobId};

const PER_COPY: f64 = 20.0;
const PER_SOFT_TAG: f64 = 50.0;
const PER_AFFINITY: f64 = 25.0;
const STILL_STARTING: f64 = 50.0;
/// A delay is never longer than the one for this score.
const SCORE_DELAY_MAX: f64 = 400.0;

/// A host as the formula sees it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Given and found.
    pub tags: BTreeSet<String>,
    /// What it may give away; 0 = not counted.
    pub total: Resources,
    /// What it has given away.
    pub used: Load,
    /// Live copies by job.
    pub copies: BTreeMap<JobId, (Fqn, u32)>,
    /// Port numbers that somebody here has.
    pub ports: BTreeSet<u16>,
    /// Instances for which there is room.
    pub room: usize,
}

impl Host {
    fn runs(&self, fqn: &Fqn) -> bool {
        self.copies.values().any(|(name, count)| name == fqn && *count > 0)
    }

    /// The largest share of a resource that is in use with `load` given away, 0..1; above 1 it does not fit.
    #[must_use]
    pub fn share(&self, load: &Load) -> f64 {
        let of = |used: u64, total: u64| {
            if total == 0 { 0.0 } else { used as f64 / total as f64 }
        };
        let total = &self.total;
        of(load.cpu, total.cpu)
            .max(of(load.memory, total.memory))
            .max(of(load.disk, total.disk))
            .max(of(load.network, total.network))
    }
}

/// The scores of the first copy, the second, and so on, as far as they fit; empty = silence.
#[must_use]
pub fn scores(host: &Host, ask: &Placement) -> Vec<f64> {
    let hard = ask.hard_tags.iter().all(|tag| has(&host.tags, tag));
    let near = ask.attract.iter().filter(|wish| wish.hard).all(|wish| host.runs(&wish.to));
    let away = ask.repel.iter().filter(|wish| wish.hard).all(|wish| !host.runs(&wish.to));
    let taken = ask.fixed_ports.iter().any(|port| host.ports.contains(port));
    if !hard || !near || !away || taken {
        return Vec::new();
    }
    let most = if ask.fixed_ports.is_empty() { ask.count.min(BID_COUNT_MAX) } else { 1 };
    let copies = host.copies.get(&ask.job).map_or(0, |(_, count)| *count);
    let fixed = soft(host, ask);
    let mut load = host.used;
    let mut scores = Vec::new();
    for copy in 0..most.min(ask.count) {
        load.add(&ask.resources);
        let share = host.share(&load);
        if share > 1.0 || scores.len() >= host.room {
            break;
        }
        scores.push(100.0 * share + PER_COPY * f64::from(copies + copy) + fixed);
    }
    scores
}

fn soft(host: &Host, ask: &Placement) -> f64 {
    let missing = ask.soft_tags.iter().filter(|tag| !has(&host.tags, tag)).count();
    let met = ask.attract.iter().filter(|wish| !wish.hard && host.runs(&wish.to)).count();
    let broken = ask.repel.iter().filter(|wish| !wish.hard && host.runs(&wish.to)).count();
    PER_SOFT_TAG * missing as f64 + PER_AFFINITY * (broken as f64 - met as f64)
}

/// `tag`, or `!tag` for its absence.
fn has(tags: &BTreeSet<String>, wish: &str) -> bool {
    wish.strip_prefix('!').map_or_else(|| tags.contains(wish), |not| !tags.contains(not))
}

/// How long an offer of this score waits, in microseconds, before jitter.
#[must_use]
pub fn delay_us(score: f64, window_ms: u64) -> u64 {
    let share = score.clamp(0.0, SCORE_DELAY_MAX) / 100.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped above; a window is milliseconds"
    )]
    let us = (share * window_ms.min(60_000) as f64 * 1_000.0) as u64;
    us
}

/// How gladly each copy of a job would go: the fuller the host and the more copies, the gladlier; one that does not
/// serve yet goes first, then the youngest. `copies` are (serves, created at).
#[must_use]
pub fn surrender(host: &Host, copies: &[(bool, u64)]) -> Vec<f64> {
    let base = 100.0 * host.share(&host.used);
    let mut order: Vec<usize> = (0..copies.len()).collect();
    order.sort_by_key(|&at| (copies[at].0, std::cmp::Reverse(copies[at].1), at));
    let mut scores = vec![0.0; copies.len()];
    for (rank, &at) in order.iter().enumerate() {
        let left = copies.len() - 1 - rank;
        let starting = if copies[at].0 { 0.0 } else { STILL_STARTING };
        scores[at] = base + PER_COPY * left as f64 + starting;
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;
    use wire::job::Affinity;

    fn host() -> Host {
        Host {
            tags: ["ssd".to_owned(), "host-1".to_owned()].into(),
            total: Resources { cpu: 1_000, memory: 1_000, disk: 1_000, network: 1_000, netmax: 0 },
            used: Load::default(),
            copies: BTreeMap::new(),
            ports: BTreeSet::new(),
            room: 100,
        }
    }

    fn ask(count: u32) -> Placement {
        Placement {
            request: Uuid::nil(),
            job: JobId(Uuid::from_u128(1)),
            fqn: "job::/a::b".parse().unwrap(),
            count,
            resources: Resources { cpu: 0, memory: 100, disk: 50, network: 1, netmax: 0 },
            fixed_ports: Vec::new(),
            hard_tags: Vec::new(),
            soft_tags: Vec::new(),
            attract: Vec::new(),
            repel: Vec::new(),
            window_ms: 200,
        }
    }

    /// Goal: each term of the formula has its weight, and the offer ends where the memory does.
    #[test]
    fn the_formula() {
        assert_eq!(scores(&host(), &ask(3)), [10.0, 40.0, 70.0]);
        assert_eq!(scores(&host(), &ask(50)).len(), 10);
        let mut here = host();
        here.used.memory = 500;
        here.copies.insert(JobId(Uuid::from_u128(1)), ("job::/a::b".parse().unwrap(), 2));
        here.copies.insert(JobId(Uuid::from_u128(2)), ("job::/a::c".parse().unwrap(), 1));
        let mut wish = ask(1);
        assert_eq!(scores(&here, &wish), [100.0]);
        wish.soft_tags = vec!["ssd".into(), "gpu".into(), "!host-1".into()];
        assert_eq!(scores(&here, &wish), [200.0]);
        wish.attract = vec![Affinity { to: "job::/a::c".parse().unwrap(), hard: false }];
        assert_eq!(scores(&here, &wish), [175.0]);
        wish.repel = vec![Affinity { to: "job::/a::c".parse().unwrap(), hard: false }];
        assert_eq!(scores(&here, &wish), [200.0]);
        assert_eq!(
            (delay_us(50.0, 200), delay_us(-3.0, 200), delay_us(1e9, 200)),
            (100_000, 0, 800_000)
        );
    }

    /// Goal: what must not be is not offered at any price.
    #[test]
    fn hard_rules_are_silence() {
        let mut here = host();
        here.ports.insert(80);
        here.copies.insert(JobId(Uuid::from_u128(2)), ("job::/a::c".parse().unwrap(), 1));
        let near = |hard| Affinity { to: "job::/a::c".parse().unwrap(), hard };
        let far = |hard| Affinity { to: "job::/a::d".parse().unwrap(), hard };
        type Change = fn(&mut Placement);
        let cases: [(&str, Change); 3] = [
            ("a missing tag", |ask| ask.hard_tags = vec!["gpu".into()]),
            ("an unwanted tag", |ask| ask.hard_tags = vec!["!ssd".into()]),
            ("a taken port", |ask| ask.fixed_ports = vec![80]),
        ];
        for (why, change) in cases {
            let mut ask = ask(1);
            change(&mut ask);
            assert!(scores(&here, &ask).is_empty(), "{why}");
        }
        let with =
            |attract: Vec<Affinity>, repel: Vec<Affinity>| Placement { attract, repel, ..ask(1) };
        assert!(scores(&here, &with(vec![far(true)], vec![])).is_empty());
        assert!(scores(&here, &with(vec![], vec![near(true)])).is_empty());
        assert_eq!(scores(&here, &with(vec![near(true)], vec![far(true)])).len(), 1);
        assert_eq!(scores(&here, &Placement { fixed_ports: vec![81], ..ask(5) }).len(), 1);
        assert!(scores(&Host { room: 0, ..here }, &ask(1)).is_empty());
    }

    /// Goal: given up first is what does not serve, then the youngest; the best score falls with each copy that goes.
    #[test]
    fn the_youngest_goes_first() {
        assert_eq!(surrender(&host(), &[(true, 10), (true, 20), (false, 5)]), [0.0, 20.0, 90.0]);
    }

    proptest! {
        /// Goal: offers never fall, never exceed what was asked or what fits.
        #[test]
        fn offers_are_sane(count in 0_u32..100, used in 0_u64..1_200, room in 0_usize..80, memory in 0_u64..300) {
            let mut here = Host { room, ..host() };
            here.used.memory = used;
            let ask = Placement { resources: Resources { memory, ..ask(1).resources }, ..ask(count) };
            let offered = scores(&here, &ask);
            prop_assert!(offered.len() <= (count.min(BID_COUNT_MAX) as usize).min(room));
            prop_assert!(offered.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(used + memory * offered.len() as u64 <= 1_000 || offered.is_empty());
        }
    }
}
