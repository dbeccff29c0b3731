//! The small parts: choice, surrender, agenda, leases, ledger, reasons.

use super::{im, instance, job};
use crate::jm::agenda::Agenda;
use crate::jm::choose::{choose, dearest, surrender};
use crate::jm::leases::{Lease, Peers, Read, SHARDS, SKEW_MS, STALE_MS, Step, Watched, plan};
use crate::jm::routes::Ledger;
use crate::jm::why::{nobody_offers, tags};
use crate::jobs;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use store::{Change, Record};
use uuid::Uuid;
use wire::JobId;
use wire::digest::Digest;
use wire::health::{ImRecord, ImView};
use wire::job::{Resources, RolloutMode, Route, RouteKind};
use wire::placement::{Offer, Surrender};

const ROUND: Uuid = Uuid::from_u128(7);

fn offer(n: u128, scores: &[f64]) -> Offer {
    Offer { im: im(n), request: ROUND, scores: scores.to_vec() }
}

/// Goal: each copy goes where it costs least then; another round's offer and a second answer do not count; a score that
/// is no number comes last.
#[test]
fn the_cheapest_marginal_scores_win() {
    let mut stray = offer(9, &[0.0]);
    stray.request = Uuid::nil();
    let offers = [
        offer(1, &[10.0, 30.0, 50.0]),
        offer(2, &[20.0, 25.0]),
        offer(3, &[f64::NAN]),
        stray,
        offer(1, &[0.0]),
    ];
    let order =
        |count| choose(&offers, count, ROUND).iter().map(|im| im.0.as_u128()).collect::<Vec<_>>();
    assert_eq!(order(4), [1, 2, 2, 1]);
    assert_eq!(order(64), [1, 2, 2, 1, 1, 3]);
    assert!(choose(&[], 3, ROUND).is_empty());
    assert_eq!(
        (dearest(&offers[..2], 4, ROUND), dearest(&offers[..2], 6, ROUND)),
        (Some(30.0), None)
    );
}

/// Goal: equal offers are taken in another order in another round.
#[test]
fn ties_are_spread() {
    let first = |n| {
        let request = Uuid::from_u128(n);
        let offers: Vec<_> = (1..=10).map(|n| Offer { request, ..offer(n, &[5.0]) }).collect();
        choose(&offers, 1, request)[0]
    };
    let places: std::collections::BTreeSet<_> = (0..100).map(first).collect();
    assert!(places.len() >= 8, "{places:?}");
}

proptest! {
    /// Goal: as many copies as fit, never more of one instance manager than it offered, and no cheaper set exists.
    #[test]
    fn choices_are_cheapest(lists in proptest::collection::vec(proptest::collection::vec(0u16..100, 0..5), 0..8), count in 0u32..20) {
        let offers: Vec<_> = (1..).zip(&lists).map(|(n, scores)| {
            let mut sum = 0.0;
            let rising: Vec<_> = scores.iter().map(|s| { sum += f64::from(*s); sum }).collect();
            offer(n, &rising)
        }).collect();
        let chosen = choose(&offers, count, ROUND);
        let mut all: Vec<f64> = offers.iter().flat_map(|o| o.scores.clone()).collect();
        prop_assert_eq!(chosen.len(), all.len().min(count as usize));
        all.sort_by(f64::total_cmp);
        let mut taken = BTreeMap::new();
        let mut cost = Vec::new();
        for im in &chosen {
            let copies = taken.entry(*im).or_insert(0usize);
            cost.push(offers.iter().find(|o| o.im == *im).unwrap().scores[*copies]);
            *copies += 1;
        }
        prop_assert_eq!(&cost[..], &all[..chosen.len()]);
    }
}

/// Goal: old versions go first, then who does not serve, then who goes most gladly; never so many that too few of those that answered stay.
#[test]
fn surrender_keeps_what_is_wanted() {
    let answer = |n, copies: &[(u128, f64)]| Surrender {
        im: im(n),
        request: ROUND,
        copies: copies.iter().map(|(n, score)| (instance(*n), *score)).collect(),
    };
    let answers = [answer(1, &[(1, 5.0), (2, 9.0)]), answer(2, &[(3, 7.0), (4, 1.0)])];
    let known = |id| Some(if id == instance(4) { (3, true) } else { (8, id != instance(1)) });
    let go = |count, keep| -> Vec<u128> {
        surrender(&answers, (count, keep), ROUND, known)
            .iter()
            .map(|(_, id)| id.0.as_u128())
            .collect()
    };
    assert_eq!(go(3, 1), [4, 1, 2]);
    assert_eq!(go(1, 3), [4]);
    assert_eq!(go(3, 3), [4]);
    assert_eq!(go(3, 4), [0; 0]);
}

/// Goal: the earliest wish wins, a job in hand is not taken twice, a wish that came meanwhile is not lost.
#[test]
fn the_agenda_takes_a_job_once() {
    let (a, b) = (JobId(Uuid::from_u128(1)), JobId(Uuid::from_u128(2)));
    let mut agenda = Agenda::default();
    agenda.mark(a, 50);
    agenda.mark(a, 20);
    agenda.mark(a, 90);
    agenda.mark(b, 30);
    assert_eq!(agenda.next_ms(), Some(20));
    assert_eq!(agenda.take(19, 9), []);
    assert_eq!(agenda.take(40, 1), [a]);
    agenda.mark(a, 35);
    assert_eq!(agenda.take(40, 9), [b]);
    assert_eq!(agenda.taken(), 2);
    agenda.give_back(a, Some(1_000));
    agenda.give_back(b, None);
    assert_eq!((agenda.next_ms(), agenda.take(40, 9), agenda.taken()), (Some(35), vec![a], 1));
}

fn lease(owner: &str, until_ms: u64) -> Read {
    (3, Some(Lease { owner: owner.to_owned(), until_ms }))
}

/// Goal: free and expired shards are taken up to the share, own ones renewed, those beyond the share given back, those
/// of others left alone until the clocks cannot disagree.
#[test]
fn leases_are_shared_out() {
    let none = BTreeSet::new();
    let all = plan("a", &BTreeMap::new(), &none, 1, 0);
    assert_eq!(all, (0..SHARDS).map(|shard| Step::Take(shard, 0)).collect::<Vec<_>>());
    let mut read: BTreeMap<usize, Read> =
        (0..SHARDS).map(|shard| (shard, lease("a", 5_000))).collect();
    let steps = plan("a", &read, &none, 2, 100);
    assert_eq!(steps[3..5], [Step::Renew(3, 3), Step::Release(4, 3)]);
    assert_eq!(plan("b", &read, &none, 2, 4_999 + SKEW_MS), []);
    assert_eq!(plan("b", &read, &none, 2, 5_000 + SKEW_MS).len(), 4);
    assert_eq!(plan("b", &read, &none, 1, 5_000 + SKEW_MS).len(), SHARDS);
    read.insert(2, (9, None));
    read.insert(1, lease("b", 9_000));
    assert_eq!(plan("b", &read, &none, 2, 100), [Step::Renew(1, 3), Step::Take(2, 9)]);
}

/// Goal: a lease from a clock far ahead is over when nobody renewed it for long, and not before; one that is renewed never.
#[test]
fn a_lease_from_the_future_binds_nobody_for_ever() {
    let far = 1_800_000;
    let mut read: BTreeMap<usize, Read> =
        (0..SHARDS).map(|shard| (shard, lease("ahead", far))).collect();
    let mut watched = Watched::default();
    assert_eq!(watched.look(&read, 50), BTreeSet::new());
    read.insert(2, (4, Some(Lease { owner: "ahead".into(), until_ms: far + 1 })));
    assert_eq!(watched.look(&read, 49 + STALE_MS), BTreeSet::new());
    let stale = watched.look(&read, 50 + STALE_MS);
    assert_eq!(stale.len(), SHARDS - 1, "one was renewed meanwhile");
    assert!(!stale.contains(&2));
    assert_eq!(plan("b", &read, &stale, 4, 100), [Step::Take(0, 3), Step::Take(1, 3)]);
}

/// Goal: who is silent does not count, I always do.
#[test]
fn peers_are_counted_by_their_beats() {
    let mut peers = Peers::default();
    assert_eq!(peers.count("a", 0), 1);
    for (id, at) in [("a", 0), ("b", 0), ("c", 2_000)] {
        peers.heard(id, at);
    }
    assert_eq!((peers.count("a", 3_000), peers.count("a", 4_000)), (3, 2));
}

fn record(n: u128, endpoint: Option<&str>, revision: u64) -> Record {
    let mut job = job(n, 1, RolloutMode::StopAll);
    job.ports[0].routes.extend(endpoint.map(|endpoint| Route {
        kind: RouteKind::Http,
        endpoint: endpoint.to_owned(),
        weight: 0.0,
        https_only: false,
        extra: BTreeMap::new(),
    }));
    let value = serde_json::to_vec(&job).unwrap().into();
    Record { key: jobs::job_key(job.uuid), value, version: 1, revision }
}

/// Goal: changes form a chain, the digest is that of the whole whatever the way there, pages are the whole in order.
#[test]
fn the_ledger_follows_the_records() {
    let mut ledger = Ledger::listed(&[record(1, Some("a.example.com"), 4)], 6);
    let mut apply = |revision, n, record: Option<Record>| {
        let key = jobs::job_key(JobId(Uuid::from_u128(n)));
        ledger
            .apply(&Change { revision, key, record })
            .map(|c| (c.previous, c.revision, c.routes.is_some()))
    };
    assert_eq!(apply(7, 2, Some(record(2, Some("b.example.com"), 7))), Some((6, 7, true)));
    assert_eq!(apply(9, 3, Some(record(3, None, 9))), Some((7, 9, false)));
    assert_eq!(apply(12, 1, None), Some((9, 12, false)));
    assert_eq!(apply(11, 1, None), None);
    let other = Ledger::listed(&[record(3, None, 9), record(2, Some("b.example.com"), 7)], 12);
    assert_eq!(ledger.beat(), other.beat());
    let page = ledger.page(None);
    assert_eq!((page.revision, page.jobs.len(), page.next), (12, 1, None));
    assert_eq!(ledger.beat().digest, Digest::of([page.jobs[0].digest_bytes().as_slice()]));
}

/// Goal: many jobs come in pages that fit a message, each once.
#[test]
fn pages_fit_a_message() {
    let long = "a".repeat(60);
    let host = |n: u128| format!("{long}.{long}.{long}.h{n}.example.com");
    let records: Vec<_> =
        (1..=1_200u16).map(|n| record(n.into(), Some(&host(n.into())), n.into())).collect();
    let ledger = Ledger::listed(&records, 2_000);
    let (mut after, mut seen) = (None, 0u128);
    loop {
        let page = ledger.page(after);
        assert!(serde_json::to_vec(&page).unwrap().len() < crate::jm::routes::PAGE_BYTES_MAX);
        for routes in &page.jobs {
            seen += 1;
            assert_eq!(routes.job.0.as_u128(), seen);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, 1_200);
}

/// Goal: the user learns what is missing.
#[test]
fn the_reason_names_what_is_missing() {
    let im_view = |n: u128, tags: &[&str], memory| ImView {
        record: ImRecord {
            uuid: im(n),
            hostname: "h".into(),
            datacenter: "d".into(),
            tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            system_tags: vec!["host-1".into()],
            num_instances: 0,
            start_time_ms: 0,
            resources_total: Resources {
                memory,
                disk: 1 << 40,
                cpu: 8_000,
                network: 1 << 40,
                netmax: 0,
            },
            resources_provisioned: Resources { memory: 0, disk: 0, cpu: 0, network: 0, netmax: 0 },
            address: String::new(),
        },
        lost: n == 9,
        beat_age_ms: 0,
    };
    let ims = [
        im_view(1, &["ssd"], 1 << 20),
        im_view(2, &["gpu"], 1 << 40),
        im_view(9, &["far"], 1 << 40),
    ];
    let reason = |tags: &[(&str, bool)], ims: &[ImView]| {
        let mut job = job(1, 1, RolloutMode::StopAll);
        job.hard_scheduling_tags = tags.iter().map(|(t, yes)| ((*t).to_owned(), *yes)).collect();
        nobody_offers(&job, ims)
    };
    assert_eq!(reason(&[], &[]), "there is no instance manager");
    assert_eq!(reason(&[("far", true)], &ims), "no instance manager has the tag \"far\"");
    assert_eq!(reason(&[("host-1", false)], &ims), "every instance manager has the tag \"host-1\"");
    assert_eq!(
        reason(&[("ssd", true), ("gpu", true)], &ims),
        "no instance manager has all of the tags gpu, ssd"
    );
    assert_eq!(
        reason(&[("ssd", true)], &ims),
        "no instance manager has 268435456 of memory left, the most is 1048576"
    );
    assert_eq!(reason(&[], &ims), "no instance manager that could run it made an offer");
    let wished = [("a", true), ("b", false), ("!c", true), ("!d", false)];
    let wished = wished.into_iter().map(|(t, yes)| (t.to_owned(), yes)).collect();
    assert_eq!(tags(&wished), ["!c", "d", "a", "!b"]);
}
