//! Tasks over HTTP: polled, followed, and carried on by another server.

use super::fixture::{Cluster, job};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use wire::health::{InstanceOn, InstanceSeen, JobView};
use wire::{ImId, InstanceId, InstanceState, JobId};

fn running(job: JobId, n: u128) -> InstanceOn {
    let seen = InstanceSeen {
        id: InstanceId(uuid::Uuid::from_u128(n)),
        job,
        job_version: 1,
        state: InstanceState::Running,
        created_ms: 1,
        since_ms: 2,
        addresses: Default::default(),
        legs: None,
        usage: None,
    };
    InstanceOn { im: ImId(uuid::Uuid::nil()), host: "host1".to_owned(), seen }
}

async fn start(cluster: &Cluster, instances: u32) -> (JobId, String) {
    let mut sent = job("web", &[]);
    (sent["state"], sent["num_instances"]) = ("started".into(), instances.into());
    let reply = cluster.post("/v1/jobs", &sent).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text);
    (
        reply.json()["uuid"].as_str().unwrap().parse().unwrap(),
        reply.header("apcera-task").to_owned(),
    )
}

fn show(cluster: &Cluster, job: JobId, count: u128) {
    let instances = (1..=count).map(|n| running(job, n)).collect();
    cluster.known.0.lock().unwrap().0.insert(job, JobView { instances, ..JobView::default() });
}

fn told(events: &[Value]) -> Vec<String> {
    let told = |event: &Value| {
        format!(
            "{}: {}",
            event["task_event_type"].as_str().unwrap(),
            event["subtask"]["name"].as_str().unwrap()
        )
    };
    events.iter().map(told).collect()
}

/// Goal: the same events by polling and by following, `eos` last; only newer ones if asked for.
#[tokio::test]
async fn polled_and_followed_events_are_the_same() {
    let cluster = Cluster::new().await;
    let (id, path) = start(&cluster, 2).await;
    let follow = cluster.request(Method::GET, &format!("{path}?follow=true")).send().await.unwrap();
    show(&cluster, id, 2);
    let text = tokio::time::timeout(Duration::from_secs(10), follow.text()).await.unwrap().unwrap();
    let followed: Vec<Value> = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let polled = cluster.get(&path).await.json();
    assert_eq!(polled["events"], json!(followed));
    assert_eq!((&polled["state"], &polled["errored"]), (&json!("complete"), &json!("unerrored")));
    assert_eq!(told(&followed).last().unwrap(), "eos: execution was successful");
    let time = followed[0]["time"].as_u64().unwrap();
    let newer = cluster.get(&format!("{path}?time={time}")).await.json();
    assert_eq!(newer["events"].as_array().unwrap().len(), followed.len() - 1);
    let missing = cluster.get("/v1/tasks/3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a1").await;
    assert_eq!(
        missing.error(),
        "404 not_found: there is no task 3c640b1e-52f1-4f6e-9b0e-6a4c1ad5f0a1"
    );
}

/// Goal: the server that took the request dies in the middle; another one goes on with its task.
#[tokio::test]
async fn another_server_goes_on_with_a_task() {
    let mut cluster = Cluster::new().await;
    let (id, path) = start(&cluster, 1).await;
    let first_event = async {
        while cluster.get(&path).await.json()["events"] == json!([]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), first_event).await.unwrap();
    cluster.stop.cancel();
    cluster.api.take().unwrap().ended().await;
    let (url, stop, running) = cluster.another(9).await;
    show(&cluster, id, 1);
    let done = async {
        loop {
            let task = cluster.get(&format!("{url}{path}")).await.json();
            if task["state"] != "running" {
                return task;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let task = tokio::time::timeout(Duration::from_secs(15), done).await.unwrap();
    assert_eq!(
        told(task["events"].as_array().unwrap()),
        [
            "event: 0 of 1 instances running",
            "event: 1 of 1 instances running",
            "eos: execution was successful"
        ]
    );
    assert!(cluster.store.list("open-tasks/", None, 10).await.unwrap().records.is_empty());
    stop.cancel();
    running.ended().await;
}
