//! One suite for all drivers: what the manager may rely on.
//!
//! Deliberately absent: what only one of them has.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use bus::Clock;
use common::{LONG, Looks, Place, gone};
use runtime::driver::memory::MemoryDriver;
use runtime::driver::{Driver, DriverError, Found, Position, Signal};
use runtime::spec::{Command, Spec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;
use wire::InstanceId;

/// How each driver says the same.
struct Words {
    exits: &'static str,
    runs: &'static str,
    stubborn: &'static str,
    impossible: Command,
}

async fn spec(driver: &dyn Driver, command: Command) -> Spec {
    let instance = InstanceId(Uuid::new_v4());
    let root = driver.prepare(instance).await.unwrap();
    let directory = root.map_or_else(|| "/".to_owned(), |root| root.display().to_string());
    let mut environment = BTreeMap::new();
    environment.insert("CNTM_INSTANCE_UUID".to_owned(), instance.to_string());
    environment.insert("PATH".to_owned(), runtime::environment::PATH.to_owned());
    Spec { instance, command, environment, directory }
}

async fn begun(driver: &dyn Driver, text: &str) -> InstanceId {
    let spec = spec(driver, Command::Shell(text.to_owned())).await;
    driver.start(&spec).await.unwrap();
    spec.instance
}

async fn first_line(driver: &dyn Driver, instance: InstanceId) -> (String, Position) {
    let looks = Looks::begin("a line");
    loop {
        let batch = driver.logs(instance, Position::default()).await;
        if let Some(record) = batch.records.first() {
            assert_eq!(record.seq, 1);
            return (String::from_utf8(record.text.clone()).unwrap(), batch.position);
        }
        looks.again("nothing").await;
    }
}

async fn suite(driver: &dyn Driver, words: Words) {
    let exits = begun(driver, words.exits).await;
    assert_eq!(driver.wait(exits).await.code, Some(3));
    assert!(
        matches!(driver.adopt(exits).await.unwrap(), Found::Ended(exit) if exit.code == Some(3))
    );
    driver.signal(exits, Signal::Kill).await.unwrap();
    assert_eq!(driver.wait(exits).await.code, Some(3), "an end does not change");

    let runs = begun(driver, words.runs).await;
    assert_eq!(driver.adopt(runs).await.unwrap(), Found::Alive);
    let (line, position) = first_line(driver, runs).await;
    assert_eq!(line, "up");
    assert!(driver.logs(runs, position).await.records.is_empty(), "read twice");
    assert_eq!(driver.stats(&[runs, InstanceId(Uuid::nil())]).await.len(), 2);
    driver.signal(runs, Signal::Term).await.unwrap();
    assert_eq!(driver.wait(runs).await.code, Some(143));

    let stubborn = begun(driver, words.stubborn).await;
    first_line(driver, stubborn).await;
    driver.signal(stubborn, Signal::Term).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), driver.wait(stubborn)).await;
    assert!(early.is_err(), "TERM is not KILL");
    driver.signal(stubborn, Signal::Kill).await.unwrap();
    assert_eq!(driver.wait(stubborn).await.code, Some(137));

    let impossible = spec(driver, words.impossible).await;
    assert!(driver.start(&impossible).await.is_err());
    let nobody = InstanceId(Uuid::new_v4());
    assert_eq!(driver.adopt(nobody).await.unwrap(), Found::Never);
    assert!(driver.signal(nobody, Signal::Term).await.is_err());

    let living = begun(driver, words.runs).await;
    let mut listed = driver.list().await;
    assert!(listed.contains(&living));
    listed.push(nobody);
    for instance in listed {
        driver.destroy(instance).await.unwrap();
        driver.destroy(instance).await.unwrap();
    }
    assert!(driver.list().await.is_empty());
    assert_eq!(driver.adopt(living).await.unwrap(), Found::Never);
}

/// Goal: the suite on memory, on virtual time.
#[tokio::test(start_paused = true)]
async fn memory() {
    let words = Words {
        exits: "exit 3 20",
        runs: "say up",
        stubborn: "stubborn say up",
        impossible: Command::Shell("fail".to_owned()),
    };
    suite(&MemoryDriver::new(Clock::system()), words).await;
}

/// Goal: the suite on processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes() {
    let place = Place::new();
    let words = Words {
        exits: "exit 3",
        runs: "echo up; exec sleep 1000",
        stubborn: "trap '' TERM; echo up; while :; do sleep 0.05; done",
        impossible: Command::Raw(vec!["/no/such/program".to_owned()]),
    };
    suite(&place.driver(), words).await;
    gone("a process", || !place.processes().is_empty()).await;
}

/// Goal: a stop command runs in the instance's directory, is bounded, and its status counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_commands() {
    let place = Place::new();
    let driver: Arc<dyn Driver> = Arc::new(place.driver());
    let spec = spec(driver.as_ref(), Command::Shell("exec sleep 1000".to_owned())).await;
    driver.start(&spec).await.unwrap();
    let run = |text: &str, limit: Duration| {
        let (driver, spec) = (Arc::clone(&driver), spec.clone());
        let command = Command::Shell(text.to_owned());
        async move { driver.run(&Spec { command, ..spec }, limit).await }
    };
    run("touch here", LONG).await.unwrap();
    assert!(std::path::Path::new(&spec.directory).join("here").exists());
    let failed = run("exit 1", LONG).await;
    assert!(matches!(failed, Err(DriverError::StopCommand(Some(1)))), "{failed:?}");
    let late = run("sleep 1000 & sleep 1000", Duration::from_millis(300)).await;
    assert!(matches!(late, Err(DriverError::StopCommand(None))), "{late:?}");
    gone("a stop command", || runtime::proc::marked(spec.instance).len() > 1).await;
    driver.destroy(spec.instance).await.unwrap();
    gone("a process", || !place.processes().is_empty()).await;
}
