//! 1xx answers: 100-continue in all its orders, early hints, and what must not be passed on.

use tests::{Config, Origin, Router};

const EXPECT: &str =
    "POST /e HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

/// Goal: the origin decides. The client gets 100 only after the origin sent it, then its body goes through.
#[test]
fn the_origin_says_continue() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.send("HTTP/1.1 100 Continue\r\n\r\n")?;
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for _ in 0..3 {
        client.send(EXPECT);
        assert_eq!(client.try_any_head("POST").unwrap().status, 100);
        client.send("hello");
        let response = client.response();
        assert_eq!((response.status, response.interim.len()), (200, 0), "one 100, not two");
    }
    assert_eq!(origin.request(0).text(), "hello");
    assert_eq!(origin.seen().connections.len(), 1);
}

/// Goal: an origin that refuses by its final answer: the client gets that, no 100, and no body is asked for.
#[test]
fn the_origin_refuses_to_continue() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.send("HTTP/1.1 401 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")?;
        exchange.close();
        Ok(())
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(EXPECT);
    let response = client.response();
    assert_eq!((response.status, response.interim.len()), (401, 0));
}

/// Goal: after a final answer instead of 100, what the client sends next is taken for what it is.
/// Method: the client, told 401 on a kept connection, sends the body that it owes and a request, or is told `close`.
#[test]
fn a_body_sent_after_a_refusal_is_not_a_request() {
    let origin = Origin::scripted("a", |exchange| {
        if exchange.request.fields.has("expect") {
            exchange.send("HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")?;
            return exchange.read_body();
        }
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let inner = "GET /inner HTTP/1.1\r\nHost: app.test\r\n\r\n";
    client.send(format!(
        "POST /e HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        inner.len()
    ));
    let response = client.response();
    assert_eq!(response.status, 401);
    let sent = client.try_send(format!("{inner}GET /after HTTP/1.1\r\nHost: app.test\r\n\r\n"));
    if !response.says_close() {
        sent.unwrap();
        assert_eq!(client.response().text(), "/after");
    }
    assert!(origin.seen().of("/inner").is_empty(), "the body became a request");
}

/// Goal: a client that does not wait for 100 is served; the origin's 100 does no harm.
#[test]
fn a_client_that_does_not_wait() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.send("HTTP/1.1 100 Continue\r\n\r\n")?;
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for _ in 0..3 {
        client.send(format!("{EXPECT}hello"));
        assert_eq!(client.response().text(), "/e");
    }
}

/// Goal: a router that answers itself does so without asking for the body.
#[test]
fn a_miss_answers_an_expectation_at_once() {
    let router = Router::start(&Config::new());
    let mut client = router.connect();
    client.send(EXPECT);
    let response = client.response();
    assert_eq!((response.status, response.interim.len()), (404, 0));
}

/// Goal: an expectation that nobody knows is 417 (RFC 9110 section 10.1.1).
#[test]
fn an_unknown_expectation_is_refused() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nExpect: miracle\r\n\r\n");
    assert_eq!(client.response().status, 417);
    assert!(origin.seen().requests.is_empty());
}

/// Goal: early hints pass to an HTTP/1.1 client in order, before the final answer, several of them.
#[test]
fn early_hints_pass() {
    let origin = Origin::scripted("a", |exchange| {
        for number in 1..=3 {
            exchange.send(format!("HTTP/1.1 103 Early Hints\r\nLink: </{number}>\r\n\r\n"))?;
        }
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for _ in 0..2 {
        let response = client.get("app.test", "/h");
        let links: Vec<_> = response.interim.iter().map(|(_, fields)| fields.get("link")).collect();
        assert_eq!(links, ["</1>", "</2>", "</3>"].map(|link| Some(link.to_owned())));
        assert!(response.interim.iter().all(|(status, _)| *status == 103));
        assert_eq!(response.text(), "/h");
    }
}

/// Goal: an HTTP/1.0 client never gets a 1xx (RFC 9110 section 15.2).
#[test]
fn an_http_1_0_client_gets_no_interim_answer() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </1>\r\n\r\n")?;
        exchange.send("HTTP/1.1 100 Continue\r\n\r\n")?;
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("GET /h HTTP/1.0\r\nHost: app.test\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.interim.len()), (200, 0));
}

/// Goal: 101 that nobody asked for is an error of the origin, not a tunnel.
#[test]
fn an_unasked_switch_is_a_bad_gateway() {
    let origin = Origin::raw(
        "a",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nraw bytes",
    );
    let router = Router::start(&Config::app(&origin));
    let response = router.connect().get("app.test", "/");
    assert_eq!((response.status, response.code().as_deref()), (502, Some("upstream_malformed")));
}

/// Goal: a flood of 1xx is bounded: the exchange ends, one way or the other.
#[test]
fn endless_interim_answers_are_not_passed_for_ever() {
    let origin = Origin::scripted("a", |exchange| {
        loop {
            exchange.send("HTTP/1.1 103 Early Hints\r\nLink: </again>\r\n\r\n".repeat(100))?;
        }
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n");
    match client.try_head("GET") {
        Ok(response) => assert_eq!(response.status, 502),
        Err(error) => assert!(!error.to_string().contains("endless"), "{error}"),
    }
}
