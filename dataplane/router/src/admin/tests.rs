//! The API over real sockets and a real hub; its cores are only numbers, so that a test can say what they serve.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::hub::Phase;
use crate::settings::{AdminAddress, Settings};

/// A router of two cores that nobody runs.
struct World {
    hub: Arc<Hub>,
    address: AdminAddress,
}

impl World {
    async fn start() -> Self {
        Self::start_at(&AdminAddress::Tcp("127.0.0.1:0".parse().unwrap())).await
    }

    async fn start_at(address: &AdminAddress) -> Self {
        let hub = Hub::new(2, Settings::default()).unwrap();
        let listener = AdminListener::bind(address).unwrap();
        let address = listener.address().unwrap();
        let admin = Admin::new(Arc::clone(&hub), "sim", Source::new(None), None);
        tokio::spawn(admin.serve(listener));
        Self { hub, address }
    }

    /// The cores read the newest table.
    fn catch_up(&self) {
        for core in self.hub.cores() {
            core.serving.store(self.hub.version(), Ordering::SeqCst);
        }
    }

    async fn send(&self, request: &str) -> (u16, String) {
        let mut answer = Vec::new();
        match &self.address {
            AdminAddress::Tcp(addr) => {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                stream.read_to_end(&mut answer).await.unwrap();
            }
            AdminAddress::Unix(path) => {
                let mut stream = UnixStream::connect(path).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                stream.read_to_end(&mut answer).await.unwrap();
            }
        }
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"))
            .await
    }

    async fn read(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.get(path).await;
        (status, serde_json::from_str(&body).unwrap())
    }

    async fn change(&self, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let (status, answer) = self
            .send(&format!(
                "POST /v1/changes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            ))
            .await;
        (status, serde_json::from_str(&answer).unwrap())
    }

    /// Two jobs on a route, one of them closed to most.
    async fn fill(&self) {
        let (status, _) = self
            .change(&json!({"wait": "none", "changes": [
                {"op": "put_job", "name": "job::/a::blue", "instances": ["127.0.0.1:9001", "127.0.0.1:9002"]},
                {"op": "put_job", "name": "job::/a::green", "client_acl": "allow 10.0.0.0/8, deny 0.0.0.0/0", "instances": ["127.0.0.1:9003"]},
                {"op": "put_target", "endpoint": "http://app.example.com/shop", "job": "job::/a::blue", "weight": 75},
                {"op": "put_target", "endpoint": "http://app.example.com/shop", "job": "job::/a::green"},
            ]}))
            .await;
        assert_eq!(status, 200);
        self.catch_up();
    }
}

#[tokio::test]
async fn a_change_is_acknowledged_by_every_core_or_says_how_many() {
    let world = World::start().await;
    let put = json!({"op": "put_job", "name": "a"});
    let (status, answer) = world.change(&json!({"timeout_ms": 1, "changes": [put]})).await;
    assert_eq!(
        (status, &answer["live"]["cores"], &answer["live"]["of"]),
        (202, &json!(0), &json!(2))
    );
    assert_eq!(answer["version"], 1);

    world.catch_up();
    // Nothing to do: the version stays, and all cores serve it.
    let (status, answer) = world.change(&json!({"changes": []})).await;
    assert_eq!((status, &answer["live"]["cores"], &answer["version"]), (200, &json!(2), &json!(1)));
    let (status, answer) = world.change(&json!({"wait": "none", "changes": [put]})).await;
    assert_eq!((status, &answer["live"]), (200, &Value::Null));
}

#[tokio::test]
async fn a_wrong_change_changes_nothing_and_is_named() {
    let world = World::start().await;
    world.fill().await;
    let version = world.hub.version();
    let good = json!({"op": "put_job", "name": "b"});
    for (body, status, code, change) in [
        (
            json!({"changes": [good, {"op": "set_weight", "endpoint": "http://x", "job": "b", "weight": 1}]}),
            422,
            "change_refused",
            json!(1),
        ),
        (json!({"changes": [good, {"op": "put_targt"}]}), 400, "unknown_op", json!(1)),
        (
            json!({"changes": [{"op": "put_target", "endpoint": "http://app.example.com/shop", "job": "job::/a::blue", "https_only": true}]}),
            409,
            "https_only_conflict",
            json!(0),
        ),
        (json!({"if_version": version + 7, "changes": [good]}), 409, "stale_version", Value::Null),
        (json!({"chnges": []}), 400, "bad_json", Value::Null),
    ] {
        let (got, answer) = world.change(&body).await;
        assert_eq!(
            (got, answer["code"].as_str(), &answer["change"]),
            (status, Some(code), &change),
            "{body}: {answer}"
        );
    }
    assert_eq!(world.hub.version(), version);
    let (_, answer) =
        world.change(&json!({"wait": "none", "if_version": version, "changes": [good]})).await;
    assert_eq!(answer["version"], version + 1);
}

#[tokio::test]
async fn a_tcp_route_on_a_taken_port_is_refused() {
    let world = World::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tcp://{}", taken.local_addr().unwrap());
    let (status, answer) = world
        .change(&json!({"changes": [
            {"op": "put_job", "name": "a"}, {"op": "put_target", "endpoint": endpoint, "job": "a"},
        ]}))
        .await;
    assert_eq!((status, &answer["code"]), (409, &json!("address_not_free")), "{answer}");
    assert_eq!(world.hub.version(), 0);
}

#[tokio::test]
async fn the_table_is_read_as_json_and_as_a_file() {
    let world = World::start().await;
    world.fill().await;
    let (_, table) = world.read("/v1/table").await;
    assert_eq!(table["routes"][0]["endpoint"], "http://app.example.com/shop");
    assert_eq!(
        table["routes"][0]["targets"],
        json!([
            {"job": "job::/a::blue", "weight": "75%", "percent": 75.0},
            {"job": "job::/a::green", "weight": "auto", "percent": 25.0},
        ])
    );
    let (_, found) = world.read("/v1/table?q=green&limit=0").await;
    assert_eq!((found["jobs"].as_array().map(Vec::len), &found["more_jobs"]), (Some(0), &json!(1)));

    // What the API tells can be put into a file and gives the same table.
    let (_, text) = world.get("/v1/table?format=toml").await;
    let file = format!("[listen]\nhttp = [\"127.0.0.1:0\"]\n{text}");
    let config = crate::config::parse_str(&file).unwrap();
    let blank = Hub::new(1, Settings::default()).unwrap();
    blank.replace(&route::Desired::default(), &config.desired).unwrap();
    let again = World { hub: blank, address: world.address.clone() };
    let acl = |hub: &Hub| hub.table().job_by_name("job::/a::green").map(|job| job.acl.to_string());
    assert_eq!(acl(&again.hub), acl(&world.hub));
    assert_eq!(again.hub.table().routes_count(), 1);
}

#[tokio::test]
async fn explain_tells_the_rule_that_decided() {
    let world = World::start().await;
    world.fill().await;
    let (_, told) =
        world.read("/v1/explain?url=http://app.example.com/shop/x&from=192.0.2.1").await;
    assert_eq!(
        (told["outcome"].as_str(), &told["route"]),
        (Some("served"), &json!("http://app.example.com/shop"))
    );
    let percents: Vec<f64> = told["targets"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["percent"].as_f64())
        .collect();
    assert_eq!(percents, [100.0, 0.0], "the other job does not admit this client");
    let rules: Vec<&Value> =
        told["steps"].as_array().unwrap().iter().filter(|one| one["kind"] == "rule").collect();
    assert_eq!((rules.len(), &rules[1]["hit"]), (2, &json!(true)), "{told}");

    let (_, told) = world.read("/v1/explain?url=https://nobody.example.com").await;
    assert_eq!((told["outcome"].as_str(), &told["status"]), (Some("no_host"), &json!(404)));
    let (_, text) = world.get("/v1/explain?url=http://app.example.com/shop&format=text").await;
    assert!(text.contains("route http://app.example.com/shop\n"), "{text}");
    let (status, answer) = world.read("/v1/explain").await;
    assert_eq!((status, answer["code"].as_str()), (400, Some("bad_query")));
}

#[tokio::test]
async fn stats_add_the_cores_and_speak_of_the_last_seconds() {
    let world = World::start().await;
    world.fill().await;
    let table = world.hub.table();
    let endpoint = "http://app.example.com/shop".parse().unwrap();
    let slot = table.route_by_endpoint(&endpoint).unwrap().slot;
    let instance = table.job_by_name("job::/a::blue").unwrap().instances[0].slot;
    for (core, millis) in world.hub.cores().iter().zip([2, 40]) {
        let route = core.stats.route(slot);
        route.requests.add(1);
        route.answers.count(200);
        route.latency.record(millis * 1_000_000);
        let instance = core.stats.instance(instance);
        instance.requests.add(1);
        instance.in_flight.inc();
        instance.latency.record(millis * 1_000_000);
    }
    let (_, stats) = world.read("/v1/stats?by=route").await;
    let row = &stats["rows"][0];
    assert_eq!((&row["requests"], &row["answers"]), (&json!(2), &json!({"2xx": 2})));
    let p = |name: &str| row["recent"][name].as_u64().unwrap();
    assert!(
        (2_000..2_300).contains(&p("p50_us")) && (40_000..45_100).contains(&p("p99_us")),
        "{row}"
    );
    let (_, stats) = world.read("/v1/stats?by=job").await;
    assert_eq!(
        (&stats["rows"][0]["job"], &stats["rows"][0]["in_flight"]),
        (&json!("job::/a::blue"), &json!(2))
    );
    let (_, stats) = world.read("/v1/stats?by=instance&limit=1").await;
    assert_eq!(
        (&stats["rows"][0]["instance"], &stats["more"]),
        (&json!("127.0.0.1:9001"), &json!(2))
    );
    let (status, answer) = world.read("/v1/stats?by=colour").await;
    assert_eq!((status, answer["code"].as_str()), (400, Some("bad_query")));

    let (_, page) = world.get("/metrics").await;
    assert!(
        page.contains("router_route_requests_total{route=\"http://app.example.com/shop\"} 2\n")
    );
    assert!(page.contains(
        "router_instance_in_flight{job=\"job::/a::blue\",instance=\"127.0.0.1:9001\"} 2\n"
    ));
}

#[tokio::test]
async fn a_drain_is_answered_only_when_nothing_is_in_flight() {
    let world = World::start().await;
    world.fill().await;
    let slot = world.hub.table().job_by_name("job::/a::blue").unwrap().instances[0].slot;
    world.hub.cores()[1].stats.instance(slot).in_flight.inc();
    let drain = "/v1/drain?job=job::/a::blue&instance=127.0.0.1:9001&timeout_ms=1";
    let (status, answer) = world.read(drain).await;
    assert_eq!((status, answer["code"].as_str()), (409, Some("in_table")), "it would never drain");

    let remove =
        json!({"op": "remove_instance", "job": "job::/a::blue", "instance": "127.0.0.1:9001"});
    world.change(&json!({"wait": "none", "changes": [remove]})).await;
    world.catch_up();
    let (status, answer) = world.read(drain).await;
    assert_eq!(
        (status, &answer["drained"], &answer["draining"][0]["in_flight"]),
        (504, &json!(false), &json!(1))
    );
    let (_, answer) = world.read("/v1/draining").await;
    assert_eq!(answer["draining"][0]["instance"], "127.0.0.1:9001");

    world.hub.cores()[1].stats.instance(slot).in_flight.dec();
    let (status, answer) = world.read(drain).await;
    assert_eq!((status, &answer["drained"]), (200, &json!(true)));
}

#[tokio::test]
async fn readiness_follows_the_first_table_and_the_drain() {
    let world = World::start().await;
    world.change(&json!({"wait": "none", "changes": [{"op": "put_job", "name": "a"}]})).await;
    assert_eq!(world.get("/healthz").await.0, 200);
    assert_eq!(world.get("/readyz").await.0, 503);
    world.catch_up();
    assert_eq!(world.get("/readyz").await.0, 200);
    let (_, status) = world.read("/v1/status").await;
    assert_eq!(
        (&status["engine"], &status["phase"], &status["table"]["version"]),
        (&json!("sim"), &json!("serving"), &json!(1))
    );
    world.hub.set_phase(Phase::Draining);
    assert_eq!(world.get("/readyz").await.0, 503);
}

#[tokio::test]
async fn strangers_and_mistyped_paths_are_refused_in_json() {
    let world = World::start().await;
    let (status, answer) = world.read("/v1/tabel").await;
    assert_eq!((status, answer["try"].as_str()), (404, Some("/v1/table")));
    let (status, answer) = world.read("/v1/changes").await;
    assert_eq!((status, answer["try"].as_str()), (405, Some("POST")));
    let foreign = "GET /v1/table HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(world.send(foreign).await.0, 403);
    let form = "POST /v1/changes HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\n\
                Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    assert_eq!(world.send(form).await.0, 403);
}

#[tokio::test]
async fn the_dashboard_loads_nothing_from_elsewhere() {
    let world = World::start().await;
    for path in ["/", "/dashboard.css", "/dashboard.js"] {
        let (status, body) = world.get(path).await;
        assert_eq!(status, 200);
        let outside =
            body.replace("http://www.w3.org/2000/svg", "").replace("http://app.example.com", "");
        assert!(!outside.contains("http://") && !outside.contains("https://"), "{path}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_private_and_replaces_a_dead_one() {
    use std::os::unix::fs::PermissionsExt;
    let path: PathBuf =
        std::env::temp_dir().join(format!("router-admin-{}.sock", std::process::id()));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let world = World::start_at(&AdminAddress::Unix(path.clone())).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(world.get("/healthz").await.0, 200);
    let second = AdminListener::bind(&AdminAddress::Unix(path.clone()));
    assert!(second.is_err(), "a live socket is not taken away from its owner");
    std::fs::remove_file(&path).unwrap();
}

/// Goal: clients that never end their heads do not keep the others out for ever.
#[tokio::test]
async fn stalled_clients_are_let_go() {
    let world = World::start().await;
    let AdminAddress::Tcp(addr) = world.address.clone() else { panic!("TCP") };
    let mut stalled = Vec::new();
    for _ in 1..listen::CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX").await.unwrap();
        stalled.push(stream);
    }
    // The last place serves: by then those before it have theirs.
    assert_eq!(world.get("/healthz").await.0, 200);
    tokio::time::pause();
    tokio::time::advance(listen::HEAD_TIME + std::time::Duration::from_secs(1)).await;
    tokio::time::resume();
    for mut stream in stalled {
        let mut rest = Vec::new();
        // Reset or closed: in both cases the place is free.
        drop(stream.read_to_end(&mut rest).await);
    }
    assert_eq!(world.get("/healthz").await.0, 200);
}
