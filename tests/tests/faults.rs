//! Origins that fail in every way, and what the client, the other instances and the next request see of it.
//!
//! Deliberately absent: malformed answers (`smuggling/responses.rs`) and slowness within limits (`e2e/limits.rs`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tests::admin::put_job;
use tests::server::{BlackHole, ignore};
use tests::{Client, Config, Origin, Router, Server, until};

/// Goal: an origin killed within its answer never looks like the end of that answer.
/// Method: every framing, FIN and RST, cut after the head, within the body, within a chunk, before the last CRLF.
#[test]
fn a_cut_answer_never_looks_whole() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";
    let chunks =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n4\r\nefgh\r\n0\r\n\r\n";
    for whole in [length, chunks] {
        let head = whole.find("\r\n\r\n").unwrap() + 4;
        for reset in [false, true] {
            let cut = Arc::new(AtomicUsize::new(0));
            let at = Arc::clone(&cut);
            let origin = Origin::scripted("dying", move |exchange| {
                exchange.send(&whole.as_bytes()[..at.load(SeqCst)])?;
                if reset {
                    exchange.reset();
                } else {
                    exchange.close();
                }
                Ok(())
            });
            let router = Router::start(&Config::app(&origin));
            for at in (1..head).step_by(9).chain(head..whole.len()) {
                cut.store(at, SeqCst);
                let mut client = router.connect();
                client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
                match client.try_response("GET") {
                    Ok(response) => {
                        assert_eq!(response.status, 502, "cut at {at}, reset {reset}: looks whole");
                        assert_eq!(response.code().as_deref(), Some("upstream_reset"));
                    }
                    Err(_) => {
                        assert!(at >= head, "cut at {at} within the head, reset {reset}: no answer")
                    }
                }
            }
        }
    }
}

/// Goal: a body that ends with the connection ends by FIN only; RST is a cut, and the client can tell.
#[test]
fn a_reset_is_not_the_end_of_a_body() {
    let origin = Origin::scripted("dying", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of it")?;
        // The router must have passed it on before the reset may discard it.
        exchange.wire.fill()?;
        exchange.reset();
        Ok(())
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut response = client.try_head("POST").unwrap();
    client.send("1\r\nx\r\n"); // Lets the origin go on to its reset.
    let framing = response.framing;
    response.body.read(&mut client.wire, framing).expect_err("a cut body looks whole");
}

/// Goal: a refused connection is tried at another instance, whatever the method, and the client never notices.
#[test]
fn refused_connections_go_to_another_instance() {
    let alive = Origin::named("alive");
    let dead: Vec<SocketAddr> = (0..3).map(|_| refusing()).collect();
    let instances = [dead[0], dead[1], alive.addr(), dead[2]];
    let router = Router::start(
        &Config::new().job("app", &instances).route("http://app.test", &[("app", 0.0)]),
    );
    let mut client = router.connect();
    for number in 0..60 {
        let method = ["GET", "POST", "DELETE"][number % 3];
        client.send(format!(
            "{method} /{number} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n\r\nbody"
        ));
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, format!("/{number}")));
    }
    let seen = alive.seen();
    assert_eq!(seen.requests.len(), 60, "each request once");
    assert!(seen.requests.iter().all(|r| r.text() == "body"));
}

/// Goal: when every instance refuses: 502 with its code, soon; the first that comes back serves.
#[test]
fn all_refused_is_502_until_one_is_back() {
    let dead: Vec<SocketAddr> = (0..3).map(|_| refusing()).collect();
    let router =
        Router::start(&Config::new().job("app", &dead).route("http://app.test", &[("app", 0.0)]));
    for _ in 0..30 {
        let response = router.connect().get("app.test", "/");
        assert_eq!((response.status, response.code().as_deref()), (502, Some("upstream_refused")));
    }
    let back = Origin::scripted_at(dead[1], "back", |exchange| exchange.answer_target());
    until("the instance that is back serves", || {
        router.connect().get("app.test", "/").get("x-origin").as_deref() == Some("back")
    });
    until("it serves everybody", || {
        (0..20).all(|_| router.connect().get("app.test", "/").status == 200)
    });
    drop(back);
}

/// Goal: an instance that swallows connection attempts costs at most the connect time; alone, it is 504 in the budget.
#[test]
fn a_black_hole_costs_one_connect_time() {
    let (hole, alive) = (BlackHole::start(), Origin::named("alive"));
    let config = Config::new()
        .job("mixed", &[hole.addr(), alive.addr()])
        .job("hole", &[hole.addr()])
        .route("http://mixed.test", &[("mixed", 0.0)])
        .route("http://hole.test", &[("hole", 0.0)])
        .timeout("connect_timeout_ms", 200)
        .timeout("connect_budget_ms", 900);
    let router = Router::start(&config);
    for number in 0..10 {
        let target = format!("/{number}");
        assert_eq!(router.connect().get("mixed.test", &target).text(), target);
    }
    let started = Instant::now();
    let response = router.connect().get("hole.test", "/");
    assert_eq!((response.status, response.code().as_deref()), (504, Some("connect_timeout")));
    let took = started.elapsed();
    assert!(took > Duration::from_millis(150) && took < Duration::from_secs(5), "{took:?}");
}

/// Goal: a failing instance is left alone for a while, so that it does not cost every request its connect time.
#[test]
fn a_failing_instance_is_ejected() {
    let (hole, alive) = (BlackHole::start(), Origin::named("alive"));
    let config = Config::new()
        .job("app", &[hole.addr(), alive.addr()])
        .route("http://app.test", &[("app", 0.0)])
        .timeout("connect_timeout_ms", 250);
    let router = Router::start(&config);
    let mut slow = 0;
    for _ in 0..100 {
        let mut client = router.connect();
        let started = Instant::now();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
        assert_eq!(client.response().status, 200);
        slow += usize::from(started.elapsed() > Duration::from_millis(240));
    }
    assert!(slow <= 20, "{slow} of 100 requests waited for an instance that never answers");
}

/// Goal: the last instance is never ejected: it is tried again by each request, however often it failed.
#[test]
fn the_last_instance_is_never_ejected() {
    let addr = refusing();
    let router =
        Router::start(&Config::new().job("app", &[addr]).route("http://app.test", &[("app", 0.0)]));
    for _ in 0..50 {
        assert_eq!(router.connect().get("app.test", "/").status, 502);
    }
    let back = Origin::scripted_at(addr, "back", |exchange| exchange.answer_target());
    assert_eq!(
        router.connect().get("app.test", "/").status,
        200,
        "not one request is lost once it is back"
    );
    drop(back);
}

/// Goal: a kept connection that the origin closed meanwhile costs a client nothing when the request is replayable.
/// Method: the origin closes after each answer without saying so; a hundred GETs, none fails, each seen once.
#[test]
fn a_dead_kept_connection_is_replaced() {
    let origin = Origin::scripted("forgetful", |exchange| {
        exchange.answer_target()?;
        exchange.close();
        Ok(())
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for number in 0..100 {
        let target = format!("/{number}");
        assert_eq!(client.get("app.test", &target).text(), target);
    }
    assert_eq!(origin.seen().requests.len(), 100);
}

/// Goal: an origin that reads a request on a kept connection and then dies: GET is tried once more, POST never twice.
#[test]
fn only_replayable_requests_are_replayed() {
    let dying = Arc::new(AtomicBool::new(false));
    let die = Arc::clone(&dying);
    let origin = Origin::scripted("dying", move |exchange| {
        exchange.read_body()?;
        if exchange.request.index > 0 && die.load(SeqCst) {
            exchange.reset();
            return Ok(());
        }
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    for (method, replayed) in
        [("GET", true), ("HEAD", true), ("OPTIONS", true), ("POST", false), ("PATCH", false)]
    {
        let mut client = router.connect();
        dying.store(false, SeqCst);
        assert_eq!(client.get("app.test", "/warm").status, 200);
        dying.store(true, SeqCst);
        let target = format!("/{method}");
        client.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n"
        ));
        let response = client.response_to(method);
        let count = origin.seen().of(&target).len();
        if replayed {
            assert_eq!((response.status, count), (200, 2), "{method}");
        } else {
            assert_eq!(
                (response.status, count),
                (502, 1),
                "{method} may change something: never twice"
            );
            assert_eq!(response.code().as_deref(), Some("upstream_reset"));
        }
    }
}

/// Goal: a replay happens once, not for ever. Method: an origin that dies on every request.
#[test]
fn a_replay_happens_once() {
    let origin = Origin::scripted("dead", |exchange| {
        if exchange.request.target == "/warm" {
            return exchange.answer_target();
        }
        exchange.reset();
        Ok(())
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    assert_eq!(client.get("app.test", "/warm").status, 200);
    let response = client.get("app.test", "/dead");
    assert_eq!((response.status, response.code().as_deref()), (502, Some("upstream_reset")));
    let count = origin.seen().of("/dead").len();
    assert!((1..=2).contains(&count), "{count} tries");
}

/// Goal: an origin that died after the answer began cannot be replaced by another answer.
#[test]
fn a_begun_answer_is_never_replayed() {
    let origin = Origin::scripted("dying", |exchange| {
        if exchange.request.target == "/warm" {
            return exchange.answer_target();
        }
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")?;
        exchange.close();
        Ok(())
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    assert_eq!(client.get("app.test", "/warm").status, 200);
    client.send("GET /begun HTTP/1.1\r\nHost: app.test\r\n\r\n");
    client.try_response("GET").expect_err("a cut answer");
    assert_eq!(origin.seen().of("/begun").len(), 1);
}

/// Goal: an upload to an origin that dies within it: an answer or the end, never a hang, and the router goes on.
#[test]
fn an_origin_that_dies_within_an_upload() {
    let origin = Origin::scripted("dying", |exchange| {
        if exchange.request.method == "POST" {
            exchange.wire.fill()?;
            exchange.reset();
            return Ok(());
        }
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    for _ in 0..10 {
        let mut client = router.connect();
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 50000000\r\n\r\n");
        let piece = vec![b'x'; 100_000];
        for _ in 0..500 {
            if client.try_send(&piece).is_err() {
                break;
            }
        }
        if let Ok(response) = client.try_response("POST") {
            assert_eq!(response.status, 502);
        }
        assert_eq!(router.connect().get("app.test", "/next").text(), "/next");
    }
}

/// Goal: a client that leaves takes its origin connection with it, promptly, and no other.
#[test]
fn a_client_that_leaves_releases_the_origin() {
    let origin = Origin::scripted("slow", |exchange| {
        if exchange.request.target == "/slow" {
            return exchange.wire.fill().map(drop);
        }
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    for (begun, by_reset) in [(1, true), (2, false)] {
        let mut staying = router.connect();
        assert_eq!(staying.get("app.test", "/").status, 200);
        let mut leaving = router.connect();
        leaving.send("GET /slow HTTP/1.1\r\nHost: app.test\r\n\r\n");
        origin.wait("the slow request", |seen| seen.of("/slow").len() == begun);
        if by_reset {
            leaving.reset();
            let gone = |seen: &tests::origin::Seen| {
                let slow = seen.of("/slow");
                slow.iter().all(|r| seen.connections[r.connection].ended.is_some())
            };
            origin.wait("the origin is let go", gone);
        } else {
            drop(leaving);
        }
        assert_eq!(staying.get("app.test", "/still").text(), "/still");
    }
}

/// Goal: an instance that dies and comes back under load loses what was in it, and nothing else.
#[test]
fn an_instance_that_dies_takes_only_its_own() {
    let (mortal, other) = (Origin::named("mortal"), Origin::named("other"));
    let addr = mortal.addr();
    let router = Router::start(
        &Config::new().job("app", &[addr, other.addr()]).route("http://app.test", &[("app", 0.0)]),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let (ended, http) = (Arc::clone(&stop), router.http());
    let load = std::thread::spawn(move || {
        let (mut served, mut client) = (0_u32, Client::connect(http));
        while !ended.load(SeqCst) {
            let target = format!("/{served}");
            let response = client.get("app.test", &target);
            assert_eq!(
                (response.status, response.text()),
                (200, target),
                "GETs survive any instance"
            );
            served += 1;
        }
        served
    });
    mortal.wait("it serves", |seen| seen.requests.len() > 20);
    drop(mortal); // Refuses, and cuts what is open.
    let before = other.look(|seen| seen.requests.len());
    other.wait("the other one serves", |seen| seen.requests.len() > before + 50);
    let back = Origin::scripted_at(addr, "back", |exchange| exchange.answer_target());
    back.wait("the instance is used again", |seen| seen.requests.len() > 20);
    stop.store(true, SeqCst);
    assert!(load.join().unwrap() > 90);
}

/// Goal: a flood of connections that send nothing does not keep a client from being served.
#[test]
fn a_flood_of_silent_connections_is_survived() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).timeout("client_idle_timeout_ms", 3_000));
    let mut silent = Vec::new();
    for round in 0..1_500 {
        silent.push(router.connect());
        if round % 100 == 0 {
            let started = Instant::now();
            assert_eq!(router.connect().get("app.test", "/").status, 200);
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        }
    }
    for client in &mut silent {
        client.expect_end();
    }
}

/// Goal: connections opened and dropped at once, by FIN and RST, leave nothing behind.
#[test]
fn connections_dropped_at_once_leave_nothing() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    assert_eq!(router.connect().get("app.test", "/").status, 200);
    let before = router.process.descriptors();
    for number in 0..1_000 {
        let mut client = router.connect();
        match number % 4 {
            0 => drop(client),
            1 => client.reset(),
            2 => {
                client.send("GET / HT");
                client.reset();
            }
            _ => {
                client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
                client.reset();
            }
        }
    }
    assert_eq!(router.connect().get("app.test", "/").status, 200);
    // Idle connections to the origin may be more than before: each of 250 requests may have had its own.
    until("clients are gone", || {
        router.process.descriptors() <= before + 4 + origin.look(tests::origin::Seen::open)
    });
}

/// Goal: instances that come and go many times never mix: each answer is of an instance that was in the table.
#[test]
fn answers_come_from_the_table() {
    let origins: Vec<Origin> = (0..6).map(|n| Origin::named(&format!("o{n}"))).collect();
    let router = Router::start(
        &Config::new().job("app", &[origins[0].addr()]).route("http://app.test", &[("app", 0.0)]),
    );
    let mut client = router.connect();
    for round in 0..60 {
        let wanted: BTreeSet<usize> = [round % 6, (round * 5 + 1) % 6].into();
        let addrs: Vec<SocketAddr> = wanted.iter().map(|&n| origins[n].addr()).collect();
        router.admin.apply(&[put_job("app", &addrs)]);
        for _ in 0..6 {
            let name = client.get("app.test", "/").get("x-origin").expect("an origin answered");
            let number: usize = name[1..].parse().unwrap();
            assert!(wanted.contains(&number), "round {round}: {name} is not in the table");
        }
    }
}

/// Goal: a TCP server that ends the connection at once, in front of HTTP: an error answer, and no hang.
#[test]
fn an_origin_that_hangs_up_at_once_is_502() {
    let server = Server::start(|stream, _| ignore(stream.shutdown(std::net::Shutdown::Both)));
    let router = Router::start(
        &Config::new().job("app", &[server.addr()]).route("http://app.test", &[("app", 0.0)]),
    );
    for _ in 0..20 {
        let response = router.connect().get("app.test", "/");
        assert_eq!((response.status, response.code().as_deref()), (502, Some("upstream_reset")));
    }
}

/// An address where nobody listens.
fn refusing() -> SocketAddr {
    let server = Server::start(|_, _| {});
    server.addr()
}
