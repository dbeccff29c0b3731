//! Tasks over HTTP: polled, followed, and carried on by another server.

use super::fixture::{Cluster, job};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use wire::health::{InstanceOn, InstanceSeen, JobView};
use wire::{ImId, InstanceId, InstanceState, JobId};

/// Longer than anything here may take: the lease of a server that died, and a slow machine.
const LONG: Duration = Duration::from_secs(30);

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

/// A task as it is told while it is followed.
struct Followed(reqwest::Response, String);

impl Followed {
    async fn open(cluster: &Cluster, path: &str) -> Self {
        let request = cluster.request(Method::GET, &format!("{path}?follow=true"));
        Self(request.send().await.unwrap(), String::new())
    }

    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(LONG, self.read()).await.expect("an event comes, or the end")
    }

    async fn read(&mut self) -> Option<Value> {
        loop {
            while let Some((line, rest)) = self.1.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.1 = rest;
                // An empty line is a sign of life.
                if !line.is_empty() {
                    return Some(serde_json::from_str(&line).unwrap());
                }
            }
            let chunk = self.0.chunk().await.unwrap()?;
            self.1.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// All that are left, to the end.
    async fn rest(mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        assert_eq!(self.1, "", "half a line");
        all
    }
}

/// Goal: the same events by polling and by following, `eos` last; only newer ones if asked for.
#[tokio::test]
async fn polled_and_followed_events_are_the_same() {
    let cluster = Cluster::new().await;
    let (id, path) = start(&cluster, 2).await;
    let follow = Followed::open(&cluster, &path).await;
    show(&cluster, id, 2);
    let followed = follow.rest().await;
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
    let first = Followed::open(&cluster, &path).await.next().await.expect("it is not over");
    assert_eq!(told(&[first]), ["event: 0 of 1 instances running"]);
    cluster.stop.cancel();
    cluster.api.take().unwrap().ended().await;
    let (url, stop, running) = cluster.another(9).await;
    show(&cluster, id, 1);
    let events = Followed::open(&cluster, &format!("{url}{path}")).await.rest().await;
    let task = cluster.get(&format!("{url}{path}")).await.json();
    assert_eq!((&task["state"], &task["events"]), (&json!("complete"), &json!(events)));
    assert_eq!(
        told(&events),
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
