//! Connections that serve more than one request: to clients, to origins, one after the other and pipelined.

use tests::body::chunked;
use tests::{Config, End, Origin, Router};

/// Goal: keep-alive to the client and to the origin. Method: a hundred requests in turn, one connection on each side.
#[test]
fn a_hundred_requests_share_one_connection_on_each_side() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for number in 0..100 {
        let response = client.get("app.test", &format!("/{number}"));
        assert_eq!((response.status, response.text()), (200, format!("/{number}")));
        assert!(!response.says_close());
    }
    assert_eq!(origin.seen().connections.len(), 1);
}

/// Goal: an origin connection outlives the client that caused it. Method: two clients in turn, one core.
#[test]
fn another_client_reuses_the_origin_connection() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    for number in 0..5 {
        let mut client = router.connect();
        client
            .send(format!("GET /{number} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"));
        let response = client.response();
        assert!(response.says_close(), "a connection that ends says so");
        assert_eq!(response.text(), format!("/{number}"));
        assert_eq!(client.expect_end(), End::Clean);
    }
    assert_eq!(origin.seen().connections.len(), 1);
}

/// Goal: what the origin says about its connection is no matter of the client's.
#[test]
fn an_origin_that_closes_does_not_close_the_client() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.answer("200 OK", &["Connection: close"], b"bye")?;
        exchange.close();
        Ok(())
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for number in 0..10 {
        let response = client.get("app.test", &format!("/{number}"));
        assert_eq!((response.status, response.text().as_str()), (200, "bye"));
        assert!(!response.says_close());
    }
    assert_eq!(origin.seen().connections.len(), 10);
}

/// Goal: an HTTP/1.0 origin without keep-alive works, and its connection is not used again.
#[test]
fn an_http_1_0_origin_is_served() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.send("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        exchange.close();
        Ok(())
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for _ in 0..3 {
        let response = client.get("app.test", "/");
        assert_eq!((response.minor, response.text().as_str()), (1, "ok"));
    }
    assert_eq!(origin.seen().connections.len(), 3);
}

/// Goal: an HTTP/1.0 client gets its answer and the end of the connection; the origin still sees HTTP/1.1.
#[test]
fn an_http_1_0_client_gets_one_answer_and_the_end() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("GET /old HTTP/1.0\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response().text(), "/old");
    assert_eq!(client.expect_end(), End::Clean);
    assert!(origin.request(0).head.starts_with(b"GET /old HTTP/1.1\r\n"));
}

/// Goal: HTTP/1.0 with `Connection: keep-alive` stays open if and only if the answer says so.
#[test]
fn an_http_1_0_client_may_ask_for_keep_alive() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let ask = "GET /1 HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n";
    client.send(ask);
    let response = client.response();
    let promised = response.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("keep-alive"));
    if promised {
        client.send(ask);
        assert_eq!(client.response().text(), "/1");
    } else {
        assert_eq!(client.expect_end(), End::Clean);
    }
}

/// Goal: pipelined requests of every framing are answered in order, and reach the origin whole and in order.
/// Method: sixty requests in one write; GET, HEAD, POST by length, POST chunked, in turn.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let (bytes, methods) = pipeline(60);
    client.send(bytes);
    check_pipeline(&mut client, &methods);
    let seen = origin.seen();
    let targets: Vec<String> = seen.requests.iter().map(|r| r.target.clone()).collect();
    let wanted: Vec<String> = (0..60).map(|number| format!("/{number}")).collect();
    assert_eq!(targets, wanted);
}

/// Goal: any split of the bytes gives the same answers. Method: the same pipeline one byte a write.
#[test]
fn a_pipeline_byte_by_byte_is_the_same() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let (bytes, methods) = pipeline(8);
    for byte in bytes {
        client.send([byte]);
    }
    check_pipeline(&mut client, &methods);
}

/// Goal: what is pipelined behind `Connection: close` is never looked at.
#[test]
fn nothing_is_served_after_connection_close() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(
        "GET /1 HTTP/1.1\r\nHost: app.test\r\n\r\n\
         GET /2 HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: app.test\r\n\r\n",
    );
    assert_eq!(client.response().text(), "/1");
    assert_eq!(client.response().text(), "/2");
    let (rest, _) = client.read_to_end();
    assert!(rest.is_empty(), "an answer after the last one");
    assert_eq!(origin.seen().requests.len(), 2);
}

/// Goal: a client that half-closes after its requests gets every answer, then the end.
#[test]
fn a_client_that_half_closes_gets_its_answers() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let (bytes, methods) = pipeline(12);
    client.send(bytes).end_writing();
    check_pipeline(&mut client, &methods);
    assert_eq!(client.expect_end(), End::Clean);
}

/// Goal: a client that half-closes while the origin still thinks gets its answer.
#[test]
fn half_close_during_a_slow_answer() {
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let origin = Origin::scripted("slow", move |exchange| {
        let waited = gate.lock().expect("no poison").recv_timeout(tests::DEADLINE);
        waited.map_err(std::io::Error::other)?;
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("GET /half HTTP/1.1\r\nHost: app.test\r\n\r\n").end_writing();
    origin.wait("the request", |seen| seen.requests.len() == 1);
    release.send(()).unwrap();
    assert_eq!(client.response().text(), "/half");
    assert_eq!(client.expect_end(), End::Clean);
}

/// Goal: blank lines before a request are put up with (RFC 9112 section 2.2), a few of them.
#[test]
fn a_blank_line_between_requests_is_tolerated() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("\r\nGET /1 HTTP/1.1\r\nHost: app.test\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response().text(), "/1");
    assert_eq!(client.response().text(), "/2");
}

/// Goal: answers of the router itself keep the connection where that is safe. Method: 404 between two good requests.
#[test]
fn a_miss_does_not_cost_the_connection() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    assert_eq!(client.get("app.test", "/1").status, 200);
    let miss = client.get("nobody.test", "/");
    assert_eq!((miss.status, miss.code().as_deref()), (404, Some("no_route")));
    assert!(!miss.says_close());
    assert_eq!(client.get("app.test", "/2").text(), "/2");
}

/// Goal: a 404 to a request with a body: the body is never taken for the next request.
#[test]
fn the_body_of_a_missed_request_is_not_a_request() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let inner = "GET /inner HTTP/1.1\r\nHost: app.test\r\n\r\n";
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: {}\r\n\r\n{inner}\
         GET /after HTTP/1.1\r\nHost: app.test\r\n\r\n",
        inner.len()
    ));
    let miss = client.response();
    assert_eq!(miss.status, 404);
    if !miss.says_close() {
        assert_eq!(client.response().text(), "/after");
    }
    assert!(origin.seen().of("/inner").is_empty());
}

fn pipeline(count: usize) -> (Vec<u8>, Vec<&'static str>) {
    let (mut bytes, mut methods) = (Vec::new(), Vec::new());
    for number in 0..count {
        let (method, fields, body) = match number % 4 {
            0 => ("GET", "", Vec::new()),
            1 => ("HEAD", "", Vec::new()),
            2 => ("POST", "Content-Length: 5\r\n", b"hello".to_vec()),
            _ => ("POST", "Transfer-Encoding: chunked\r\n", chunked(b"hello world", 4, &[])),
        };
        let head = format!("{method} /{number} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(&body);
        methods.push(method);
    }
    (bytes, methods)
}

fn check_pipeline(client: &mut tests::Client, methods: &[&str]) {
    for (number, method) in methods.iter().enumerate() {
        let response = client.response_to(method);
        let target = format!("/{number}");
        assert_eq!(response.status, 200);
        assert_eq!(response.get("content-length"), Some(target.len().to_string()));
        let wanted = if *method == "HEAD" { String::new() } else { target };
        assert_eq!(response.text(), wanted);
    }
}
