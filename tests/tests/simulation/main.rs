//! The whole control plane, simulated: one thread, virtual time, one seed for one life.
//!
//! ```text
//!  script: users, crashes, kills, cuts, storms ─▶ cluster: the real services on sim bus and memory store
//!                                                   │ what is said, done and served
//!                                                   ▼
//!                                                 judge
//! ```
//!
//! `SEED=17 cargo test -p tests --test simulation` replays one life and prints its story; `SIM_SECONDS=600` goes on with
//! fresh seeds for so long, from `SIM_FROM` on. The routers' cores are simulated (`edge.rs`); their hub and feed are real.
//! Deliberately absent: the API server (users write through the same pure transactions), packages, and real time, but for
//! the stop watch of `SIM_SECONDS`.

mod cluster;
mod edge;
mod host;
mod judge;
mod ledger;
mod script;
mod shop;
mod tap;

use cluster::{Cluster, Variant};
use script::Script;
use std::time::{Duration, Instant};

/// Lives that every run of the tests sees.
const SEEDS: u64 = 14;
/// The one of them that is lived twice, and judged there.
const SEED_TWICE: u64 = 3;
/// Things that happen before the first and before the second calm.
const STEPS: [u32; 2] = [40, 20];
/// Lives of a broken cluster until the judge must have noticed.
const CANARY_LIVES: u64 = 6;

/// What became of one life.
struct Life {
    violations: Vec<String>,
    story: Vec<String>,
    /// Over all that was said on the bus and told in the story.
    transcript: (u64, u64),
    settled: Duration,
    starts: u64,
    requests: u64,
}

/// Lives on while `goes_on` says so of what the judge has found, asked at each calm.
fn live(seed: u64, variant: Variant, goes_on: impl Fn(&[String]) -> bool) -> Life {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut cluster = Cluster::new(seed, variant).await;
        let mut script = Script::new();
        let mut settled = Duration::ZERO;
        for steps in STEPS {
            script.play(&mut cluster, steps).await;
            script.calm(&mut cluster).await;
            settled = settled.max(judge::settle(&cluster).await);
            if !goes_on(&cluster.ledger.lock().violations) {
                break;
            }
        }
        let spoken = cluster.sim.transcript();
        let mut ledger = cluster.ledger.lock();
        Life {
            violations: std::mem::take(&mut ledger.violations),
            story: std::mem::take(&mut ledger.story),
            transcript: (spoken, ledger.hash),
            settled,
            starts: ledger.starts,
            requests: ledger.requests,
        }
    })
}

/// A life goes on to its end, whatever is found.
fn whole(_: &[String]) -> bool {
    true
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn judge_one(seed: u64) -> Life {
    let life = live(seed, Variant::Sound, whole);
    if !life.violations.is_empty() {
        let story = life.story.join("\n");
        let what = life.violations.join("\n  ");
        panic!(
            "{story}\n\nseed {seed}:\n  {what}\nreplay: SEED={seed} cargo test -p tests --test simulation any_life"
        );
    }
    life
}

/// Goal: whatever happens, when the weather calms all is as wanted; no instance is begun twice or ended while a router
/// uses it; what rolls serves without a gap.
#[test]
fn any_life_ends_as_wanted() {
    if let Some(seed) = number("SEED") {
        let life = judge_one(seed);
        println!("{}\ntranscript {:x?}", life.story.join("\n"), life.transcript);
        return;
    }
    let (mut starts, mut requests, mut slowest) = (0, 0, Duration::ZERO);
    let began = Instant::now();
    let limit = number("SIM_SECONDS").map(Duration::from_secs);
    let from = number("SIM_FROM").unwrap_or(0);
    let mut lives = 0;
    for seed in (from..).filter(|seed| *seed != SEED_TWICE) {
        if limit.map_or(seed >= from + SEEDS, |limit| began.elapsed() >= limit) {
            break;
        }
        let life = judge_one(seed);
        lives += 1;
        (starts, requests) = (starts + life.starts, requests + life.requests);
        slowest = slowest.max(life.settled);
    }
    println!(
        "{lives} lives, {starts} instances, {requests} requests, slowest to settle {slowest:?}"
    );
    assert!(
        starts > lives * 5 && requests > lives * 100,
        "a life in which nothing happens proves nothing"
    );
}

/// Goal: one seed is one life, to the last word on the bus.
#[test]
fn one_seed_is_one_life() {
    let (once, again) = (judge_one(SEED_TWICE), judge_one(SEED_TWICE));
    let differ = once.story.iter().zip(&again.story).find(|(one, other)| one != other);
    assert_eq!(differ, None, "seed {SEED_TWICE}");
    assert_eq!(once.transcript, again.transcript, "seed {SEED_TWICE}");
}

/// Goal: the alarm works: a cluster that is broken on purpose is found out.
#[test]
fn broken_clusters_are_found_out() {
    for (variant, word) in [
        (Variant::NoAnnouncements, "tables are wrong"),
        (Variant::LyingCores, "was told to stop although"),
        (Variant::SilentHealth, "not settled"),
    ] {
        let noticed = |found: &[String]| found.iter().any(|violation| violation.contains(word));
        let found = (0..CANARY_LIVES)
            .any(|seed| noticed(&live(seed, variant, |found| !noticed(found)).violations));
        assert!(found, "{variant:?} was not noticed");
    }
}
