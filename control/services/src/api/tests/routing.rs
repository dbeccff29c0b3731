//! Automatic routes, and what routers say.

use super::fixture::{Cluster, SECRET, answer, job, settings};
use crate::api::TcpPorts;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use wire::routing::{
    Await, Awaited, Explain, Explained, LiveReport, Proof, Proved, ROUTING_BEAT_MS, RouterBeat,
};
use wire::{RouterId, subject};

fn router(n: u128) -> RouterId {
    RouterId(uuid::Uuid::from_u128(n))
}

fn beat(n: u128) -> RouterBeat {
    RouterBeat {
        router: router(n),
        hostname: format!("host{n}"),
        revision: 0,
        cores: 2,
        table_version: 0,
        routes: 0,
        endpoints: 0,
        listeners: vec!["http 127.0.0.1:8080".to_owned()],
        leaving: false,
        ims: Vec::new(),
    }
}

/// The server hears these, and then knows so many routers. It listens as soon as it has started, and all of a test is on
/// one thread: what is published is taken in before the next request is read.
async fn hear(cluster: &Cluster, beats: &[RouterBeat], count: usize) {
    for beat in beats {
        cluster.bus.publish(subject::ROUTER_BEAT, beat).await.unwrap();
    }
    let known = cluster.get("/v1/routers").await.json();
    assert_eq!(known.as_array().unwrap().len(), count, "{known}");
}

fn with_tcp(name: &str, endpoints: &[&str]) -> Value {
    let mut sent = job(name, &[]);
    sent["ports"][0]["routes"] =
        endpoints.iter().map(|e| json!({ "type": "tcp", "endpoint": e })).collect();
    sent
}

/// Goal: http gets the name without dots, six characters and the domain; tcp the lowest port that nobody has, also when
/// many ask at once and after one was given back; with two routers it is refused.
#[tokio::test]
async fn auto_chooses_endpoints() {
    let mut settings = settings();
    let host = "127.0.0.1".parse().unwrap();
    settings.tcp = Some(TcpPorts { host, ports: 19_990..=19_996 });
    let cluster = Cluster::with(settings).await;
    let made = cluster.job("My.App", &["auto"]).await;
    let name = made["ports"][0]["routes"][0]["endpoint"].as_str().unwrap();
    let random = name.strip_prefix("myapp-").and_then(|n| n.strip_suffix(".apcera.test")).unwrap();
    assert!(
        random.len() == 6 && random.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    );

    let asks = (0..6).map(|n| {
        let (cluster, sent) = (&cluster, with_tcp(&format!("t{n}"), &["auto"]));
        async move { cluster.post("/v1/jobs", &sent).await.json() }
    });
    let made = futures_util::future::join_all(asks).await;
    let endpoint = |job: &Value| {
        job["ports"][0]["routes"][0]["endpoint"]
            .as_str()
            .unwrap_or_else(|| panic!("{job}"))
            .to_owned()
    };
    let mut ports: Vec<_> = made.iter().map(endpoint).collect();
    ports.sort();
    assert_eq!(ports, (19_990..19_996).map(|p| format!("127.0.0.1:{p}")).collect::<Vec<_>>());
    let two = cluster.post("/v1/jobs", &with_tcp("two", &["tcp://auto", "auto"])).await;
    assert_eq!(two.error(), "409 conflict: all tcp ports from 19990 to 19996 are taken");
    cluster.delete(&format!("/v1/jobs/{}", made[0]["uuid"].as_str().unwrap())).await;
    let again = cluster.post("/v1/jobs", &with_tcp("again", &["tcp://AUTO"])).await.json();
    assert_eq!(endpoint(&again), endpoint(&made[0]));

    // A router that was restarted is one router.
    let mut anew = beat(1);
    anew.router = router(3);
    hear(&cluster, &[beat(1), anew.clone()], 2).await;
    let taken = cluster.post("/v1/jobs/check", &with_tcp("x", &["auto"])).await;
    assert_eq!(taken.status, StatusCode::OK, "{}", taken.text);
    hear(&cluster, &[beat(1), anew, beat(2)], 3).await;
    let refused = cluster.post("/v1/jobs", &with_tcp("y", &["auto"])).await;
    assert_eq!(refused.error(), "400 invalid: tcp auto is not possible with 2 routers");
}

#[tokio::test]
async fn without_a_range_tcp_auto_is_refused() {
    let cluster = Cluster::new().await;
    let refused = cluster.post("/v1/jobs", &with_tcp("x", &["auto"])).await;
    assert_eq!(refused.error(), "400 invalid: this cluster has no ports for tcp auto");
}

/// Goal: a change says on how many routers and cores it is live; who does not answer is counted and not waited for
/// longer than was asked; who said farewell is not counted.
#[tokio::test]
async fn a_change_tells_where_it_is_live() {
    let cluster = Cluster::new().await;
    hear(&cluster, &[beat(1), beat(2)], 2).await;
    answer(&cluster.bus, subject::ROUTER_AWAIT, None, &cluster.stop, |asked: Await| {
        assert!(asked.revision > 0);
        Some(Awaited { router: router(1), cores: 2, cores_total: 2, ms: 1 })
    })
    .await;
    let reply =
        cluster.post("/v1/jobs?wait=live&timeout_ms=200", &job("web", &["a.example.com"])).await;
    let report: LiveReport = serde_json::from_str(reply.header("apcera-live")).unwrap();
    assert_eq!(
        (report.routers_live, report.routers, report.cores_live, report.cores),
        (1, 2, 2, 4)
    );
    assert_eq!(report.revision.to_string(), reply.header("apcera-revision"));
    let mut farewell = beat(2);
    farewell.leaving = true;
    hear(&cluster, &[beat(1), farewell], 1).await;
    let path = format!("{}?wait=live", reply.header("location"));
    let gone = cluster.delete(&path).await;
    let report: LiveReport = serde_json::from_str(gone.header("apcera-live")).unwrap();
    assert_eq!((report.routers_live, report.routers), (1, 1));
    assert!(report.ms < 5_000, "nobody was waited for: {report:?}");
    let refused = cluster.post("/v1/jobs?wait=forever", &job("x", &[])).await;
    assert_eq!(refused.error(), "400 invalid: wait=forever is not understood");
}

/// Goal: a server that has just started knows all routers before their next beat, and waits no fixed time for them.
#[tokio::test]
async fn the_first_change_after_a_start_does_not_wait_for_a_beat() {
    let cluster = Cluster::new().await;
    for n in [1, 2] {
        answer(&cluster.bus, subject::ROUTER_REPORT, None, &cluster.stop, move |(): ()| {
            Some(beat(n))
        })
        .await;
        answer(&cluster.bus, subject::ROUTER_AWAIT, None, &cluster.stop, move |_: Await| {
            Some(Awaited { router: router(n), cores: 2, cores_total: 2, ms: 1 })
        })
        .await;
    }
    let (url, stop, running) = cluster.another(7).await;
    let path = format!("{url}/v1/jobs?wait=live");
    let reply =
        cluster.send(cluster.request(Method::POST, &path).json(&job("web", &["a.example.com"])));
    let reply = reply.await;
    let report: LiveReport = serde_json::from_str(reply.header("apcera-live")).unwrap();
    assert_eq!((report.routers_live, report.routers, report.cores_live), (2, 2, 4));
    assert!(report.ms < ROUTING_BEAT_MS, "{report:?}");
    stop.cancel();
    running.ended().await;
}

#[tokio::test]
async fn routers_explain_and_prove() {
    let cluster = Cluster::new().await;
    let explain = json!({ "url": "http://a.example.com/", "from": "127.0.0.1" });
    let proof = json!({ "kind": "http", "endpoint": "a.example.com" });
    for (path, question) in [("/v1/routes/explain", &explain), ("/v1/routes/proof", &proof)] {
        let refused = cluster.post(path, question).await;
        assert_eq!(refused.error(), "503 unavailable: no router answers");
        assert!(cluster.post(path, &json!({})).await.error().starts_with("400 invalid"));
    }
    answer(
        &cluster.bus,
        subject::ROUTER_EXPLAIN,
        Some(subject::ROUTER_GROUP),
        &cluster.stop,
        |asked: Explain| Some(Explained { router: router(1), text: asked.url, json: json!({}) }),
    )
    .await;
    answer(&cluster.bus, subject::ROUTER_PROOF, None, &cluster.stop, |_: Proof| {
        Some(Proved { router: router(1), cores: 2, jobs: Vec::new(), latency_us: None })
    })
    .await;
    assert_eq!(cluster.post("/v1/routes/explain", &explain).await.json()["text"], explain["url"]);
    assert_eq!(cluster.post("/v1/routes/proof", &proof).await.json()[0]["cores"], 2);
    assert!(!SECRET.is_empty());
}
