//! Faults on purpose, under a load whose every answer is checked.
//!
//! Deliberately absent: faults of the network between machines; the simulation has those.

use tests::Client;
use tests::cluster::{Fleet, Load, Plan, sample_app};
use tests::until;

use crate::many::PLAN;

/// A fleet with one application of some instances, answering on both routers, and the load on it.
fn under_load(plan: Plan, instances: usize) -> (Fleet, Load) {
    let fleet = Fleet::start(plan);
    let app = sample_app(fleet.folder(), "app", "");
    let apc = fleet.apc("api-0").standing_in(&app);
    apc.run(&format!("app create web --routes web.test --instances {instances} --batch")).ok();
    for router in fleet.routers() {
        until("each router serves", || Client::connect(router).get("web.test", "/").status == 200);
    }
    let load = Load::start(&fleet.routers(), "web.test", "/", 4);
    load.goes_on(50);
    (fleet, load)
}

/// Goal: a rolling restart of ten instances loses no request, slow ones included.
#[test]
fn a_rolling_restart_of_ten_loses_nothing() {
    let (fleet, load) = under_load(PLAN, 10);
    let slow = Load::start(&fleet.routers(), "web.test", "/slow?ms=300", 2);
    let apc = fleet.apc("api-1");
    let instances = || {
        let list = apc.run("app instances web --json").ok().json();
        let list = list.as_array().cloned().unwrap_or_default();
        let running = list.iter().filter(|one| one["state"] == "RUNNING");
        running
            .filter_map(|one| one["uuid"].as_str().map(str::to_owned))
            .collect::<std::collections::BTreeSet<_>>()
    };
    until("ten run", || instances().len() == 10);
    let before = instances();
    apc.run("app update web --rollout rolling --batch").ok();
    apc.run("app restart web --batch").ok();
    let after = instances();
    assert!(after.len() >= 10 && before.is_disjoint(&after), "{before:?} {after:?}");
    slow.end().is_clean();
    let verdict = load.end();
    verdict.is_clean();
    assert_eq!(verdict.moved, 0);
}

/// Goal: also one lone instance is replaced without a gap: its successor is known to every router before it goes.
#[test]
fn a_rolling_restart_of_one_loses_nothing() {
    let (fleet, load) = under_load(Plan { ims: 1, ..PLAN }, 1);
    let apc = fleet.apc("api-0");
    apc.run("app update web --rollout rolling --batch").ok();
    for _ in 0..3 {
        apc.run("app restart web --batch").ok();
        load.goes_on(50);
    }
    let verdict = load.end();
    verdict.is_clean();
    assert!(verdict.by_instance.len() >= 4, "{verdict:?}");
}

/// Goal: kill -9 of each role in turn, and its return, loses no request; the control plane works afterwards.
#[test]
fn killing_each_role_loses_nothing() {
    let (mut fleet, load) = under_load(PLAN, 4);
    for name in ["hm-0", "jm-0", "api-0", "pm-0", "im-0", "router-0"] {
        println!("{} ms: {name} is killed", load.age().as_millis());
        fleet.kill(name);
        load.goes_on(100);
        println!("{} ms: {name} is started again", load.age().as_millis());
        fleet.again(name);
        load.goes_on(100);
    }
    converged(&fleet, "after.test");
    load.end().is_clean();
}

/// Goal: the bus dies and comes back: traffic does not notice, and what was asked meanwhile happens.
#[test]
fn killing_the_bus_loses_nothing() {
    let (mut fleet, load) = under_load(PLAN, 4);
    fleet.nats.kill();
    load.goes_on(200);
    fleet.nats.again();
    converged(&fleet, "after.test");
    load.end().is_clean();
}

/// Goal: the database dies and comes back: traffic does not notice, and nothing acknowledged is lost.
#[test]
fn killing_the_database_loses_nothing() {
    let (mut fleet, load) = under_load(PLAN, 4);
    fleet.postgres.kill();
    load.goes_on(200);
    fleet.postgres.again();
    converged(&fleet, "after.test");
    load.end().is_clean();
}

/// A route made now is soon live on every router, and both have the same table.
fn converged(fleet: &Fleet, host: &str) {
    let apc = fleet.apc("api-1");
    until("a route can be added", || {
        let ran = apc.run(&format!("route add http://{host} --app web --batch"));
        ran.code == 0 || ran.err.contains("already")
    });
    let within = std::time::Duration::from_secs(2);
    let began = std::time::Instant::now();
    for router in fleet.routers() {
        until("every router serves it", || Client::connect(router).get(host, "/").status == 200);
    }
    assert!(began.elapsed() < within, "{:?} after the faults ended", began.elapsed());
}
