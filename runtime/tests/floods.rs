//! Instances that write more than anybody keeps.
//!
//! Deliberately absent: the arithmetic of the rate; its tests stand beside it.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use common::Place;
use runtime::driver::{Driver, Position};
use runtime::record::Record;
use runtime::shim::LIMITS;
use runtime::spec::{Command, Spec};
use std::collections::BTreeMap;
use uuid::Uuid;
use wire::InstanceId;
use wire::logs::LogStream;

/// Lines that are written at once, ten times the burst.
const WRITTEN: u64 = 10 * LIMITS.lines_per_s * LIMITS.burst_s;

/// Goal: a flood ends as if nobody had throttled it; of its lines what may be kept at once is kept at least, numbered without gaps, and
/// the rest is told to the last line; an error that comes during the flood is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_cut_and_told() {
    let place = Place::new();
    let driver = place.driver();
    let instance = InstanceId(Uuid::new_v4());
    let root = driver.prepare(instance).await.unwrap().unwrap();
    let command = format!("seq 1 {}; echo wrong >&2; seq 1 {}", WRITTEN / 2, WRITTEN / 2);
    let environment = BTreeMap::from([("PATH".to_owned(), runtime::environment::PATH.to_owned())]);
    let directory = root.display().to_string();
    let command = Command::Shell(command);
    driver.start(&Spec { instance, command, environment, directory }).await.unwrap();
    let exit = tokio::time::timeout(common::LONG, driver.wait(instance)).await.unwrap();
    assert_eq!(exit.code, Some(0));

    let (mut all, mut position) = (Vec::<Record>::new(), Position::default());
    loop {
        let batch = driver.logs(instance, position).await;
        (position, _) = (batch.position, all.extend(batch.records));
        if !batch.more {
            break;
        }
    }
    let of = |stream| all.iter().filter(move |record| record.stream == stream);
    let kept = of(LogStream::Stdout).count() as u64;
    assert!((1..=kept).eq(of(LogStream::Stdout).map(|record| record.seq)), "numbers have gaps");
    assert!(kept >= LIMITS.lines_per_s * LIMITS.burst_s * 9 / 10, "{kept} lines kept");
    let text = |record: &Record| String::from_utf8(record.text.clone()).unwrap();
    assert_eq!(of(LogStream::Stderr).map(text).collect::<Vec<_>>(), ["wrong"]);
    let told: Vec<_> = of(LogStream::SystemError).map(text).collect();
    let count = |line: &String| {
        let words = line.strip_suffix(" lines dropped").unwrap();
        words.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert!(
        told[0].starts_with("app instance exceeded log rate limit (10000 lines/sec"),
        "{told:?}"
    );
    assert_eq!(kept + told.iter().map(count).sum::<u64>(), WRITTEN, "{told:?}");
    driver.destroy(instance).await.unwrap();
}
