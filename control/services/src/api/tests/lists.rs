//! Lists, filters, pages, endpoints, instance managers.

use super::fixture::{Cluster, answer, job};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use wire::health::{Beat, ImRecord, ImView, InstanceOn, InstanceSeen, JobView};
use wire::placement::{Done, Stop};
use wire::{ImId, InstanceId, InstanceState, JobId, subject};

fn names(list: &Value) -> String {
    let names = list.as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap());
    names.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let cluster = Cluster::new().await;
    for (fqn, tag) in [
        ("/sandbox/admin::b", "app"),
        ("/sandbox/admin::a", "x"),
        ("/sandbox/adminx::c", "app"),
        ("/dev::d", "app"),
    ] {
        let body = json!({ "fqn": format!("job::{fqn}"), "tags": { tag: "1" } });
        assert_eq!(cluster.post("/v1/jobs", &body).await.status, StatusCode::CREATED);
    }
    // Names of packages stand beside those of jobs and are not in the way.
    cluster.post("/v1/packages", &json!({ "fqn": "package::/dev::p" })).await;
    let list = async |query: &str| names(&cluster.get(&format!("/v1/jobs{query}")).await.json());
    assert_eq!(list("").await, "d a b c");
    assert_eq!(list("?namespace=/sandbox/admin").await, "a b");
    assert_eq!(list("?namespace=/sandbox/admin&tag=app").await, "b");
    assert_eq!(list("?tag=app:1").await, "d b c");
    assert_eq!(list("?tag=app:2").await, "");
    assert_eq!(list("?fqn=job::/dev::d").await, "d");
    assert_eq!(list("?fqn=job::/dev::nobody").await, "");
    assert_eq!(list("?fqn=job::/sandbox&matchPartialFQN=true").await, "a b c");
    assert_eq!(list("?name=c").await, "c");
    let first = cluster.get("/v1/jobs?count=3").await;
    assert_eq!((names(&first.json()).as_str(), first.header("prev")), ("d a b", ""));
    let next = cluster.get(first.header("next")).await;
    assert_eq!((names(&next.json()).as_str(), next.header("next")), ("c", ""));
    assert_eq!(names(&cluster.get(next.header("prev")).await.json()), "d a b");
    let tagged = cluster.get("/v1/jobs?count=2&tag=app&page=2").await;
    assert_eq!((names(&tagged.json()).as_str(), tagged.header("next")), ("c", ""));
    let ids = first.json()[1]["uuid"].as_str().unwrap().to_owned();
    assert_eq!(list(&format!("?ids={ids}")).await, "a");
    assert!(cluster.get("/v1/jobs?ids=x").await.error().starts_with("400 invalid"));
    assert!(cluster.get("/v1/jobs?fqn=x").await.error().starts_with("400 invalid"));
}

#[tokio::test]
async fn endpoints_name_their_jobs() {
    let cluster = Cluster::new().await;
    let one = cluster.job("one", &["app.example.com/shop", "other.example.com"]).await;
    let two = cluster.job("two", &["app.example.com/shop"]).await;
    let all = cluster.get("/v1/jobs/routes").await.json();
    assert_eq!(all.as_object().unwrap().len(), 2);
    for path in
        ["app.example.com%2Fshop", "app.example.com/shop", "http:%2F%2FApp.example.com%2Fshop%2F"]
    {
        let users = cluster.get(&format!("/v1/jobs/routes/{path}")).await.json();
        let users = users["app.example.com/shop"].as_array().unwrap().clone();
        assert!(users.contains(&one["uuid"]) && users.contains(&two["uuid"]), "{path}");
    }
    let missing = cluster.get("/v1/jobs/routes/nobody.example.com").await;
    assert_eq!(missing.error(), "404 not_found: no job uses route nobody.example.com");
    assert!(cluster.get("/v1/jobs/routes/a%20b").await.error().starts_with("400 invalid"));
    // The last that leaves takes the endpoint with it.
    for job in [&one, &two] {
        cluster.delete(&format!("/v1/jobs/{}", job["uuid"].as_str().unwrap())).await;
    }
    assert_eq!(cluster.get("/v1/jobs/routes").await.text, "{}");
}

fn seen(job: JobId, n: u128, state: InstanceState) -> InstanceSeen {
    let addresses = BTreeMap::from([(0, "127.0.0.1:5000".parse().unwrap())]);
    InstanceSeen {
        id: InstanceId(uuid::Uuid::from_u128(n)),
        job,
        job_version: 1,
        state,
        created_ms: 1_000,
        since_ms: 2_000,
        addresses,
        legs: None,
        usage: None,
    }
}

fn im(n: u128) -> ImRecord {
    ImRecord {
        uuid: ImId(uuid::Uuid::from_u128(n)),
        hostname: format!("host{n}"),
        datacenter: "here".to_owned(),
        tags: vec!["ssd".to_owned()],
        system_tags: vec![format!("host-{n}")],
        num_instances: 1,
        start_time_ms: 1,
        resources_total: wire::job::Resources::default(),
        resources_provisioned: wire::job::Resources::default(),
        address: String::new(),
    }
}

#[tokio::test]
async fn instances_are_listed_counted_and_stopped() {
    let cluster = Cluster::new().await;
    let made = cluster.job("web", &["app.example.com"]).await;
    let id: JobId = made["uuid"].as_str().unwrap().parse().unwrap();
    let path = format!("/v1/jobs/{id}");
    let running = seen(id, 5, InstanceState::Running);
    let on = InstanceOn { im: im(1).uuid, host: "host1".to_owned(), seen: running };
    let view = JobView { instances: vec![on], ..JobView::default() };
    cluster.known.0.lock().unwrap().0.insert(id, view);
    let list = cluster.get(&format!("{path}/instances?ended=true")).await.json();
    assert_eq!((&list[0]["host"], &list[0]["state"]), (&json!("host1"), &json!("RUNNING")));
    assert_eq!(list[0]["announced_routes"], json!(["app.example.com"]));
    assert_eq!(list[0]["addresses"], json!(["0=127.0.0.1:5000"]));
    let health = cluster.get(&format!("/v1/jobs/health?ids={id}")).await.json();
    assert_eq!(health[id.to_string()]["score"], 1.0);
    assert_eq!(cluster.get(&path).await.json()["health"]["instance_state_count"]["RUNNING"], 1);
    assert!(cluster.get("/v1/jobs/health").await.error().starts_with("400 invalid"));

    let instance = InstanceId(uuid::Uuid::from_u128(5));
    let stopping = subject::im_stop(im(1).uuid);
    answer(&cluster.bus, &stopping, None, &cluster.stop, move |stop: Stop| {
        let known = stop.instance == instance && stop.reason == "asked for by admin";
        Some(if known { Done::Accepted } else { Done::Refused("no".to_owned()) })
    })
    .await;
    let stopped = cluster.delete(&format!("{path}/instances/{instance}")).await;
    assert_eq!(stopped.status, StatusCode::ACCEPTED, "{}", stopped.text);
    let other = cluster.delete(&format!("{path}/instances/{id}")).await;
    assert!(other.error().starts_with("404 not_found: job::/sandbox/admin::web has no instance"));
    let nobody = cluster.get(&format!("/v1/jobs/{instance}/instances")).await;
    assert!(nobody.error().starts_with("404 not_found: there is no job"));
}

#[tokio::test]
async fn instance_managers_are_shown() {
    let cluster = Cluster::new().await;
    let job = JobId(uuid::Uuid::from_u128(77));
    let views = [(1, false), (2, true)];
    cluster.known.0.lock().unwrap().1 =
        views.map(|(n, lost)| ImView { record: im(n), lost, beat_age_ms: 5 }).to_vec();
    let beat = Beat {
        im: im(1),
        seq: 1,
        instances: vec![seen(job, 5, InstanceState::Running)],
        ended: Vec::new(),
        leaving: false,
    };
    answer(&cluster.bus, subject::IM_REPORT, None, &cluster.stop, move |_: Value| {
        Some(beat.clone())
    })
    .await;
    let list = cluster.get("/v1/instance_managers").await.json();
    assert_eq!((&list[0]["record"]["hostname"], &list[1]["lost"]), (&json!("host1"), &json!(true)));
    let one = im(1).uuid;
    let path = format!("/v1/instance_managers/{one}");
    assert_eq!(cluster.get(&path).await.json()["record"]["uuid"], one.to_string());
    let instances = cluster.get(&format!("{path}/instances")).await.json();
    assert_eq!(instances[0]["state"], "RUNNING");
    let missing = cluster.get(&format!("/v1/instance_managers/{job}")).await;
    assert!(missing.error().starts_with("404 not_found: there is no instance manager"));
    let missing = cluster.get(&format!("/v1/instance_managers/{job}/instances")).await;
    assert!(missing.error().starts_with("404 not_found: there is no instance manager"));
    // Tags of those that live.
    let tags = cluster.get("/v1/tags").await.json();
    assert_eq!(tags, json!({ "host-1": [one], "ssd": [one] }));
}

/// Goal: without a health manager records still come, and what needs one says so.
#[tokio::test]
async fn without_a_health_manager_records_still_come() {
    let cluster = Cluster::new().await;
    let made = cluster.job("web", &[]).await;
    cluster.deaf();
    let path = format!("/v1/jobs/{}", made["uuid"].as_str().unwrap());
    assert_eq!(cluster.get("/v1/jobs").await.status, StatusCode::OK);
    let refused = cluster.get("/v1/instance_managers").await;
    assert!(refused.error().ends_with("no health manager answers"), "{}", refused.text);
    assert_eq!(refused.json()["retry"], true);
    assert!(
        cluster
            .get(&format!("{path}/instances"))
            .await
            .error()
            .ends_with("no health manager answers")
    );
    drop(job("unused", &[]));
}
