//! Events and watches: what comes, and going on after a break.

use super::fixture::{Cluster, SECRET, job};
use crate::api::seats::STREAMS_PER_PRINCIPAL_MAX;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use wire::health::{InstanceSeen, Switch};
use wire::{ImId, InstanceId, InstanceState, JobId, subject};

/// Longer than anything here may take.
const LONG: Duration = Duration::from_secs(10);

/// Server-sent events of one answer.
struct Events {
    bytes: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    rest: String,
}

impl Events {
    async fn open(cluster: &Cluster, path: &str, last: Option<&str>) -> Self {
        let mut request = cluster.request(Method::GET, path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { bytes: response.bytes_stream().boxed(), rest: String::new() }
    }

    /// The next event: id, name, data. Signs of life are passed over.
    async fn next(&mut self) -> (String, String, Value) {
        loop {
            while let Some((event, rest)) = self.rest.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.rest = rest;
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name));
                    line.unwrap_or("").trim().to_owned()
                };
                if event != ":" {
                    let data = serde_json::from_str(&field("data:")).unwrap();
                    return (field("id:"), field("event:"), data);
                }
            }
            let chunk = tokio::time::timeout(LONG, self.bytes.next()).await;
            let chunk = chunk.expect("an event comes").expect("the stream goes on").unwrap();
            self.rest.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

/// Goal: first the records, then each change once; a client that comes back with the last id goes on after it.
#[tokio::test]
async fn a_watch_lists_then_follows_and_resumes() {
    let cluster = Cluster::new().await;
    let one = cluster.job("one", &[]).await;
    let mut watch = Events::open(&cluster, "/v1/watch?prefix=jobs", None).await;
    let (id, name, data) = watch.next().await;
    assert_eq!((id.as_str(), name.as_str(), &data["record"]["name"]), ("", "put", &json!("one")));
    let (synced, name, _) = watch.next().await;
    assert_eq!((synced.as_str(), name.as_str()), ("1", "synced"));
    cluster.job("two", &[]).await;
    let (second, name, data) = watch.next().await;
    assert_eq!((name.as_str(), &data["record"]["version_id"]), ("put", &json!(1)));
    cluster.delete(&format!("/v1/jobs/{}", one["uuid"].as_str().unwrap())).await;
    assert_eq!(watch.next().await.1, "delete");
    drop(watch);
    let mut again = Events::open(&cluster, "/v1/watch?prefix=jobs", Some(&second)).await;
    let (_, name, data) = again.next().await;
    assert_eq!(
        (name.as_str(), &data["key"]),
        ("delete", &json!(format!("jobs/{}", one["uuid"].as_str().unwrap())))
    );
    let refused = cluster.get("/v1/watch?prefix=leases").await;
    assert_eq!(refused.error(), "400 invalid: \"leases\" cannot be watched");
    let slip = cluster.request(Method::GET, "/v1/watch?prefix=jobs").header("Last-Event-ID", "x");
    assert!(cluster.send(slip).await.error().starts_with("400 invalid"));
}

/// Goal: who listens before a job is there hears its birth, its changes, its instances and its end by name, and nothing
/// of others; the store's part comes again after a break.
#[tokio::test]
async fn events_tell_a_life() {
    let cluster = Cluster::new().await;
    let path = "/v1/events?fqn=job::/sandbox/admin::web";
    let mut events = Events::open(&cluster, path, None).await;
    cluster.job("other", &[]).await;
    let made = cluster.job("web", &[]).await;
    let (born, _, data) = events.next().await;
    assert_eq!(
        (&data["resource"], &data["payload"]["action"]),
        (&json!("job::/sandbox/admin::web"), &json!("job_create"))
    );
    let id: JobId = made["uuid"].as_str().unwrap().parse().unwrap();
    let instance = InstanceSeen {
        id: InstanceId(uuid::Uuid::from_u128(1)),
        job: id,
        job_version: 1,
        state: InstanceState::Running,
        created_ms: 1,
        since_ms: 2,
        addresses: Default::default(),
        legs: None,
        usage: None,
    };
    let im = ImId(uuid::Uuid::nil());
    let switch = Switch {
        im,
        start_time_ms: 1,
        seq: 1,
        instance,
        from: Some(InstanceState::Starting),
        ended: None,
    };
    cluster.bus.publish(subject::IM_SWITCH, &switch).await.unwrap();
    let (none, _, data) = events.next().await;
    assert_eq!(
        (none.as_str(), &data["payload"]["from"], &data["payload"]["state"]),
        ("", &json!("STARTING"), &json!("RUNNING"))
    );
    let path_of = format!("/v1/jobs/{id}");
    let mut change = made.clone();
    change["num_instances"] = 2.into();
    cluster.put(&path_of, &change).await;
    let (_, _, data) = events.next().await;
    assert_eq!(
        (&data["payload"]["action"], &data["payload"]["num_instances"]),
        (&json!("job_update"), &json!(2))
    );
    cluster.delete(&path_of).await;
    assert_eq!(events.next().await.2["payload"]["action"], "job_delete");
    drop(events);
    let mut again = Events::open(&cluster, path, Some(&born)).await;
    let replayed = [again.next().await, again.next().await];
    assert_eq!(
        replayed.map(|event| event.2["payload"]["action"].clone()),
        [json!("job_update"), json!("job_delete")]
    );
    assert!(cluster.get("/v1/events?fqn=nonsense").await.error().starts_with("400 invalid"));
    drop(job("unused", &[]));
}

/// A stream on a connection of its own, so that the server's farewell can be waited for.
struct Held(BufStream<TcpStream>);

impl Held {
    async fn open(cluster: &Cluster) -> Self {
        let mut socket = BufStream::new(TcpStream::connect(cluster.addr()).await.unwrap());
        let head =
            format!("GET /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {SECRET}\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.flush().await.unwrap();
        let mut status = String::new();
        tokio::time::timeout(LONG, socket.read_line(&mut status)).await.unwrap().unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK\r\n");
        Self(socket)
    }

    /// The client goes, and the server notices it.
    async fn close(mut self) {
        self.0.shutdown().await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(LONG, self.0.read_to_end(&mut rest)).await.unwrap().unwrap();
    }
}

/// Goal: one principal cannot hold more streams than it may, and gets its seats back.
#[tokio::test]
async fn streams_are_bounded() {
    let cluster = Cluster::new().await;
    let mut held = Vec::new();
    for _ in 0..STREAMS_PER_PRINCIPAL_MAX {
        held.push(Held::open(&cluster).await);
    }
    let refused = cluster.get("/v1/events").await;
    assert_eq!(refused.error(), "503 unavailable: you have 64 streams open, 64 are possible");
    for held in held {
        held.close().await;
    }
    let mut again = Vec::new();
    for _ in 0..STREAMS_PER_PRINCIPAL_MAX {
        again.push(Held::open(&cluster).await);
    }
}
