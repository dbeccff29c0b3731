//! Every limit and time-out that a client or an origin can run into: the status, the code, the end of the connection.

use std::time::{Duration, Instant};

use tests::{Client, Config, End, Origin, Response, Router};

/// Goal: a head above the limit is 431, a target above it 414, fields above it 431; just below, all are served.
#[test]
fn heads_are_bounded() {
    let origin = Origin::named("a");
    let config = Config::app(&origin)
        .limit("head_bytes_max", 4_096)
        .limit("target_bytes_max", 1_000)
        .limit("fields_max", 20);
    let router = Router::start(&config);
    let padded = |size: usize| {
        format!("GET / HTTP/1.1\r\nHost: app.test\r\nX: {}\r\n\r\n", "x".repeat(size))
    };
    let targeted =
        |size: usize| format!("GET /{} HTTP/1.1\r\nHost: app.test\r\n\r\n", "t".repeat(size));
    let fielded = |count: usize| {
        format!("GET / HTTP/1.1\r\nHost: app.test\r\n{}\r\n", "X: 1\r\n".repeat(count))
    };
    for (request, status) in [
        (padded(4_000), 200),
        (padded(4_200), 431),
        (padded(100_000), 431),
        (targeted(990), 200),
        (targeted(1_100), 414),
        (targeted(100_000), 414),
        (fielded(18), 200),
        (fielded(21), 431),
        (fielded(300), 431),
    ] {
        let mut client = router.connect();
        // The router may refuse and close before it has taken all of it.
        tests::server::ignore(client.try_send(&request));
        let response =
            client.try_response("GET").unwrap_or_else(|e| panic!("{} bytes: {e}", request.len()));
        let start = &request[..30];
        assert_eq!(response.status, status, "{} bytes: {start}", request.len());
        if status != 200 {
            assert!(response.code().is_some() && response.says_close());
        }
    }
    assert_eq!(origin.seen().requests.len(), 3);
}

/// Goal: the defaults of the limits are those of the documentation: a 12 KiB cookie passes, a 17 KiB one does not.
#[test]
fn heads_are_bounded_by_default() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    for (size, status) in [(12_000, 200), (17_000, 431)] {
        let mut client = router.connect();
        let cookie = "c".repeat(size);
        tests::server::ignore(
            client
                .try_send(format!("GET / HTTP/1.1\r\nHost: app.test\r\nCookie: {cookie}\r\n\r\n")),
        );
        assert_eq!(client.response().status, status, "{size}");
    }
}

/// Goal: a body above the limit is 413 before the origin sees a whole request, by length and by chunks.
#[test]
fn bodies_are_bounded() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).limit("body_bytes_max", 10_000));
    let mut client = router.connect();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10000\r\n\r\n");
    client.send(vec![b'x'; 10_000]);
    assert_eq!(client.response().status, 200);
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10001\r\n\r\n");
    check_refusal(&client.response(), 413);
    let mut client = router.connect();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    tests::server::ignore(client.try_send(tests::body::chunked(&[b'x'; 20_000], 1_000, &[])));
    check_refusal(&client.response(), 413);
    let whole = origin.look(|seen| seen.requests.iter().filter(|r| r.body.complete).count());
    assert_eq!(whole, 1);
}

/// Goal: a head that does not end in time is 408 with its code, however busily it drips.
#[test]
fn slow_heads_are_408() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).timeout("head_timeout_ms", 400));
    let mut still = router.connect();
    still.send("GET / HTTP/1.1\r\nHost: app.");
    let mut busy = router.connect();
    let started = Instant::now();
    tests::until("a busy slow head is cut off", || {
        busy.try_send("X").is_err() || started.elapsed() > Duration::from_secs(2)
    });
    check_refusal(&still.response(), 408);
    assert_eq!(still.expect_end(), End::Clean);
    match busy.try_response("GET") {
        Ok(response) => assert!([400, 408, 501].contains(&response.status)),
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "never cut off"),
    }
    assert!(origin.seen().requests.is_empty());
}

/// Goal: a connection on which nothing was asked ends without a word, after the idle time and not the head time.
#[test]
fn idle_connections_end_silently() {
    let origin = Origin::named("a");
    let config =
        Config::app(&origin).timeout("client_idle_timeout_ms", 600).timeout("head_timeout_ms", 50);
    let router = Router::start(&config);
    let (mut fresh, mut used) = (router.connect(), router.connect());
    assert_eq!(used.get("app.test", "/").status, 200);
    let started = Instant::now();
    assert_eq!(used.expect_end(), End::Clean);
    assert!(started.elapsed() > Duration::from_millis(400), "{:?}", started.elapsed());
    assert_eq!(fresh.expect_end(), End::Clean);
}

/// Goal: an origin that does not answer in time is 504 with its code, and its connection is not used again.
#[test]
fn a_silent_origin_is_504() {
    let origin = Origin::scripted("a", |exchange| {
        if exchange.request.target == "/silent" {
            exchange.wire.fill()?; // Until the router gives up.
        }
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin).timeout("origin_silence_timeout_ms", 300));
    let mut client = router.connect();
    let response = client.get("app.test", "/silent");
    assert_eq!((response.status, response.code().as_deref()), (504, Some("upstream_silent")));
    assert_eq!(client.get("app.test", "/next").text(), "/next");
    origin.wait("the silent connection is closed", |seen| seen.connections[0].ended.is_some());
}

/// Goal: an origin that falls silent within its answer: the client is cut off, never told that this was all.
#[test]
fn an_origin_silent_within_its_answer_cuts_the_client() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked", "Connection: close"] {
        let origin = Origin::scripted("a", move |exchange| {
            exchange.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n4\r\nhalf\r\n"))?;
            exchange.wire.fill().map(drop)
        });
        let router = Router::start(&Config::app(&origin).timeout("origin_silence_timeout_ms", 300));
        let mut client = router.connect();
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
        client.try_response("GET").expect_err("a cut answer must not look whole");
    }
}

/// Goal: a slow answer that keeps moving is not cut, however long it takes in all.
#[test]
fn a_slow_answer_that_moves_is_not_cut() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")?;
        for _ in 0..12 {
            // The pace is the subject of this test, not a wait for anything.
            std::thread::sleep(Duration::from_millis(100));
            exchange.send("x")?;
        }
        Ok(())
    });
    let router = Router::start(&Config::app(&origin).timeout("origin_silence_timeout_ms", 600));
    assert_eq!(router.connect().get("app.test", "/").text(), "x".repeat(12));
}

/// Goal: a client that stops within its upload is 408 with its code, and the origin gets no whole request.
#[test]
fn a_stalled_upload_is_408() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).timeout("body_silence_timeout_ms", 300));
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = router.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n4\r\nhalf\r\n"));
        check_refusal(&client.response(), 408);
    }
    origin.wait("both uploads end", |seen| seen.connections.len() == 2 && seen.open() == 0);
    assert!(origin.look(|seen| seen.requests.iter().all(|r| !r.body.complete)));
}

/// Goal: a client that takes nothing of its answer is cut off, and the origin is let go.
#[test]
fn a_client_that_never_reads_is_cut_off() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
        loop {
            exchange.send([b'x'; 65_536])?;
        }
    });
    let router = Router::start(&Config::app(&origin).timeout("body_silence_timeout_ms", 400));
    let mut client = Client::connect_narrow(router.http(), 8 << 10);
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    origin.wait("the origin is let go", |seen| seen.connections.len() == 1 && seen.open() == 0);
    client.try_response("GET").expect_err("a cut answer must not look whole");
}

/// Goal: a connection closes politely after its number of requests: the last answer says so.
#[test]
fn requests_of_a_connection_are_bounded() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).limit("connection_requests_max", 3));
    let mut client = router.connect();
    assert!(!client.get("app.test", "/").says_close());
    assert!(!client.get("app.test", "/").says_close());
    assert!(client.get("app.test", "/").says_close());
    assert_eq!(client.expect_end(), End::Clean);
}

/// Goal: connections above the limit are turned away; as others leave, new ones are served.
#[test]
fn connections_are_bounded() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin).limit("connections_max", 20));
    let mut served = Vec::new();
    for _ in 0..20 {
        let mut client = router.connect();
        assert_eq!(client.get("app.test", "/").status, 200);
        served.push(client);
    }
    let ask = || {
        let mut client = Client::try_connect(router.http())?;
        client.try_send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")?;
        client.try_response("GET")
    };
    match ask() {
        Ok(response) => assert_eq!(response.status, 503),
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "left hanging"),
    }
    for client in &mut served {
        assert_eq!(client.get("app.test", "/").status, 200, "those who were in stay in");
    }
    drop(served);
    tests::until("a new client is served", || ask().is_ok_and(|response| response.status == 200));
}

/// Goal: idle connections to an instance are bounded in number and in time.
#[test]
fn idle_origin_connections_are_bounded() {
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let origin = Origin::scripted("a", move |exchange| {
        let waited = gate.lock().expect("no poison").recv_timeout(tests::DEADLINE);
        waited.map_err(std::io::Error::other)?;
        exchange.answer_target()
    });
    let config =
        Config::app(&origin).limit("upstream_idle_max", 4).timeout("upstream_idle_timeout_ms", 700);
    let router = Router::start(&config);
    let mut clients: Vec<_> = (0..12).map(|_| router.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    }
    origin.wait("twelve requests at once", |seen| seen.requests.len() == 12);
    (0..12).for_each(|_| release.send(()).unwrap());
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    origin.wait("all but four are closed", |seen| seen.open() <= 4);
    origin.wait("the rest is closed in time", |seen| seen.open() == 0);
}

fn check_refusal(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{:?}", response.fields);
    assert!(response.code().is_some(), "no reason code");
    assert!(response.says_close(), "a connection in doubt is kept");
}
