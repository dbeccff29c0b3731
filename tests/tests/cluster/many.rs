//! Three instance managers, two routers, two of each manager and API, as processes over nats-server and PostgreSQL.
//!
//! Deliberately absent: faults (`faults.rs`).

use std::collections::BTreeSet;

use tests::cluster::{Fleet, Plan, sample_app};
use tests::{Client, until};

pub(crate) const PLAN: Plan = Plan { routers: 2, apis: 2, jms: 2, hms: 2, pms: 1, ims: 3 };

/// Goal: a job made at one API answers on both routers from several hosts; weights, tags and instances agree everywhere.
#[test]
fn many_processes_are_one_cluster() {
    let fleet = Fleet::start(PLAN);
    let app = sample_app(fleet.folder(), "app", "");
    let (one, two) = (fleet.apc("api-0").standing_in(&app), fleet.apc("api-1").standing_in(&app));
    one.run("app create web --routes web.test --instances 6 --batch").ok();
    for router in fleet.routers() {
        until("six instances answer at each router", || {
            let answers: BTreeSet<String> =
                (0..24).map(|_| Client::connect(router).get("web.test", "/").text()).collect();
            answers.len() == 6
        });
    }
    let instances = two.run("app instances web --json").ok().json();
    let hosts: BTreeSet<&str> =
        instances.as_array().unwrap().iter().filter_map(|one| one["host"].as_str()).collect();
    assert_eq!(hosts.len(), 3, "spread over all hosts: {instances}");
    let added = two.run("route add http://more.test --app web --batch").ok();
    assert!(added.err.contains("live on 2/2 routers, 4/4 cores, "), "{}", added.err);
    for router in fleet.routers() {
        assert_eq!(Client::connect(router).get("more.test", "/").status, 200);
    }
    let deaf = sample_app(fleet.folder(), "deaf", "--deaf");
    one.standing_in(&deaf)
        .run("app create tagged --hard-tags t2 --disable-routes --instances 2 --batch")
        .ok();
    let instances = one.run("app instances tagged --json").ok().json();
    assert!(instances.as_array().unwrap().iter().all(|one| one["host"] == "im-2"), "{instances}");
    let ims = one.run("cluster im list").ok().out;
    assert!(["im-0", "im-1", "im-2"].iter().all(|name| ims.contains(name)), "{ims}");
}
