//! Removing instances and routes, and stopping: what runs finishes, what idles is closed, and the router can tell.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tests::admin::{add_instance, remove_instance, remove_route};
use tests::{Client, Config, End, Origin, Router, until};

/// Goal: a removed instance finishes what it has, gets nothing new, and the router tells when nothing is in flight.
#[test]
fn a_removed_instance_drains() {
    let ((old, release), new) = (gated_origin("old"), Origin::named("new"));
    let router = Router::start(&Config::app(&old));
    let mut running = router.connect();
    running.send("GET /running HTTP/1.1\r\nHost: app.test\r\n\r\n");
    old.wait("the request", |seen| seen.requests.len() == 1);
    router.admin.apply(&[add_instance("app", new.addr()), remove_instance("app", old.addr())]);
    let mut client = router.connect();
    for _ in 0..20 {
        assert_eq!(client.get("app.test", "/").get("x-origin").as_deref(), Some("new"));
    }
    let draining = router.admin.get("/v1/draining").response.text();
    assert!(draining.contains(&old.addr().to_string()), "{draining}");
    let path = format!("/v1/drain?job=app&instance={}&timeout_ms=50", old.addr());
    let answer = router.admin.get(&path);
    assert!(
        !(200..300).contains(&answer.status) || answer.json["drained"] == false,
        "{:?}",
        answer.json
    );
    release.send(()).unwrap();
    assert_eq!(running.response().text(), "/running");
    let path = format!("/v1/drain?job=app&instance={}&timeout_ms=10000", old.addr());
    let answer = router.admin.get(&path);
    assert_eq!(answer.status, 200, "{}", answer.response.text());
    old.wait("its connections are closed", |seen| seen.open() == 0);
    assert_eq!(old.seen().requests.len(), 1);
}

/// Goal: idle connections to a removed instance are closed at once.
#[test]
fn idle_connections_to_a_removed_instance_close() {
    let (old, new) = (Origin::named("old"), Origin::named("new"));
    let router = Router::start(&Config::app(&old).set("cores", "2"));
    for _ in 0..20 {
        assert_eq!(router.connect().get("app.test", "/").status, 200);
    }
    assert!(old.seen().open() >= 1);
    router.admin.apply(&[add_instance("app", new.addr()), remove_instance("app", old.addr())]);
    let seen = old.wait("idle connections are closed", |seen| seen.open() == 0);
    let clean = Some(tests::origin::Ended::Clean);
    assert!(seen.connections.iter().all(|connection| connection.ended == clean));
}

/// Goal: the last instance removed: running exchanges finish, new ones are 503.
#[test]
fn the_last_instance_may_go() {
    let (old, release) = gated_origin("old");
    let router = Router::start(&Config::app(&old));
    let mut running = router.connect();
    running.send("GET /running HTTP/1.1\r\nHost: app.test\r\n\r\n");
    old.wait("the request", |seen| seen.requests.len() == 1);
    router.admin.apply(&[remove_instance("app", old.addr())]);
    let response = router.connect().get("app.test", "/");
    assert_eq!((response.status, response.code().as_deref()), (503, Some("no_instance")));
    release.send(()).unwrap();
    assert_eq!(running.response().text(), "/running");
    assert_eq!(running.get("app.test", "/").status, 503, "the client's connection lives on");
}

/// Goal: a removed route: what runs finishes, what comes is 404; connections of other routes notice nothing.
#[test]
fn a_removed_route_finishes_what_runs() {
    let (old, release) = gated_origin("old");
    let other = Origin::named("other");
    let config = Config::app(&old)
        .job("other", &[other.addr()])
        .route("http://other.test", &[("other", 0.0)]);
    let router = Router::start(&config);
    let (mut running, mut unrelated) = (router.connect(), router.connect());
    unrelated.get("other.test", "/");
    running.send("GET /running HTTP/1.1\r\nHost: app.test\r\n\r\n");
    old.wait("the request", |seen| seen.requests.len() == 1);
    router.admin.apply(&[remove_route("http://app.test")]);
    assert_eq!(router.connect().get("app.test", "/").status, 404);
    assert_eq!(unrelated.get("other.test", "/").status, 200);
    release.send(()).unwrap();
    assert_eq!(running.response().text(), "/running");
    assert_eq!(running.get("app.test", "/").status, 404);
    assert_eq!(other.seen().connections.len(), 1);
}

/// Goal: a slot of something removed never names its successor. Method: remove and add under other names, many times.
#[test]
fn what_was_removed_never_answers_for_its_successor() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let router = Router::start(&Config::new());
    let mut client = router.connect();
    for round in 0..30 {
        let (origin, name) = if round % 2 == 0 { (&a, "a") } else { (&b, "b") };
        let (job, endpoint) = (format!("job{round}"), format!("http://h{round}.test"));
        router.admin.apply(&[
            tests::admin::put_job(&job, &[origin.addr()]),
            tests::admin::put_target(&endpoint, &job, 0.0),
        ]);
        let host = format!("h{round}.test");
        assert_eq!(client.get(&host, "/").get("x-origin").as_deref(), Some(name));
        router.admin.apply(&[
            remove_route(&endpoint),
            serde_json::json!({ "op": "remove_job", "name": job }),
        ]);
        assert_eq!(client.get(&host, "/").status, 404);
    }
}

/// Goal: SIGTERM: what runs finishes, idle clients are let go, nothing new is accepted, the exit is orderly.
#[test]
fn sigterm_finishes_what_runs() {
    let (origin, release) = gated_origin("a");
    let mut router = Router::start(&Config::app(&origin).set("cores", "2"));
    let mut idle = router.connect();
    assert_eq!(idle.get("nobody.test", "/").status, 404);
    let mut running = router.connect();
    running.send("GET /running HTTP/1.1\r\nHost: app.test\r\n\r\n");
    origin.wait("the request", |seen| seen.requests.len() == 1);
    router.process.signal("TERM");
    assert_eq!(idle.expect_end(), End::Clean);
    until("nothing new is accepted", || std::net::TcpStream::connect(router.http()).is_err());
    assert!(router.process.try_exit().is_none(), "it did not wait for the running exchange");
    release.send(()).unwrap();
    let response = running.response();
    assert_eq!(response.text(), "/running");
    assert_eq!(running.expect_end(), End::Clean);
    assert_eq!(router.process.wait_exit().code(), Some(0));
}

/// Goal: /readyz says no while draining, so that a balancer in front stops sending; /healthz still says yes.
#[test]
fn a_draining_router_is_not_ready() {
    let (origin, release) = gated_origin("a");
    let mut router = Router::start(&Config::app(&origin));
    let mut running = router.connect();
    running.send("GET /running HTTP/1.1\r\nHost: app.test\r\n\r\n");
    origin.wait("the request", |seen| seen.requests.len() == 1);
    router.process.signal("TERM");
    until("the router is no longer ready", || {
        router.admin.try_raw("GET /readyz", &[], "").is_some_and(|answer| answer.status == 503)
    });
    assert_eq!(router.admin.get("/healthz").status, 200);
    release.send(()).unwrap();
    assert_eq!(running.response().text(), "/running");
    assert_eq!(router.process.wait_exit().code(), Some(0));
}

/// Goal: a drain ends within its bound, whatever still runs; the exit is still orderly.
#[test]
fn a_drain_is_bounded() {
    let (origin, _never) = gated_origin("a");
    let mut router = Router::start(&Config::app(&origin).timeout("drain_timeout_ms", 500));
    let mut running = router.connect();
    running.send("GET /running HTTP/1.1\r\nHost: app.test\r\n\r\n");
    origin.wait("the request", |seen| seen.requests.len() == 1);
    let started = Instant::now();
    router.process.signal("TERM");
    let status = router.process.wait_exit();
    assert_eq!(status.code(), Some(0));
    let took = started.elapsed();
    assert!(took > Duration::from_millis(300) && took < Duration::from_secs(8), "{took:?}");
    if let Ok(response) = running.try_response("GET") {
        assert_eq!(response.status, 503, "an answer that the origin never gave");
    }
}

/// Goal: a second signal ends the router at once.
#[test]
fn a_second_signal_ends_at_once() {
    let (origin, _never) = gated_origin("a");
    let mut router = Router::start(&Config::app(&origin));
    let mut running = router.connect();
    running.send("GET /running HTTP/1.1\r\nHost: app.test\r\n\r\n");
    origin.wait("the request", |seen| seen.requests.len() == 1);
    router.process.signal("INT");
    until("it drains", || std::net::TcpStream::connect(router.http()).is_err());
    let started = Instant::now();
    router.process.signal("INT");
    router.process.wait_exit();
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

/// Goal: a restart finds its port free (io_uring gives sockets back late if nobody takes care).
#[test]
fn the_port_is_free_after_the_exit() {
    let origin = Origin::named("a");
    let mut router = Router::start(&Config::app(&origin).set("cores", "2"));
    let addr = router.http();
    let mut client = Client::connect(addr);
    assert_eq!(client.get("app.test", "/").status, 200);
    router.process.signal("TERM");
    router.process.wait_exit();
    // Without SO_REUSEPORT and without waiting, as a plain server would do it.
    tests::server::listener(addr, 16).expect("the port is free when the process is gone");
}

/// An origin that answers each request only when it is told to.
fn gated_origin(name: &str) -> (Origin, Sender<()>) {
    let (release, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let origin = Origin::scripted(name, move |exchange| {
        let waited = gate.lock().expect("no poison").recv_timeout(tests::DEADLINE * 2);
        waited.map_err(std::io::Error::other)?;
        exchange.answer_target()
    });
    (origin, release)
}
