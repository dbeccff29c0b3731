//! Proof of the harness itself: its origin and client see what they should through nginx, and notice what they must.
//!
//! Deliberately absent: our router. A judge is tried on a known case first.

use tests::body::{chunked, pattern};
use tests::peer::Nginx;
use tests::{Client, End, Origin};

/// Goal: keep-alive, bodies both ways and HEAD come through a proxy that is known to be right, without a fault told.
#[test]
fn a_right_proxy_is_found_right() {
    let origin = Origin::named("a");
    let Some(nginx) = Nginx::proxy(origin.addr()) else { return };
    let mut client = Client::connect(nginx.addr());
    for number in 0..20 {
        let response = client.get("app.test", &format!("/{number}"));
        assert_eq!((response.status, response.text()), (200, format!("/{number}")));
    }
    let body = pattern(0, 100_000);
    client.send("POST /up HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(chunked(&body, 7_000, &[]));
    assert_eq!(client.response().status, 200);
    client.send("HEAD /head HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response_to("HEAD").get("content-length").as_deref(), Some("5"));
    let seen = origin.seen();
    assert_eq!((seen.requests.len(), seen.connections.len()), (22, 1), "keep-alive both ways");
    assert_eq!(seen.of("/up")[0].body.bytes, body);
    assert!(seen.connections[0].bytes.starts_with(b"GET /0 HTTP/1.1\r\n"), "raw bytes are kept");
}

/// Goal: the raw client tells a cut response from a whole one.
#[test]
fn a_cut_response_is_an_error() {
    let origin = Origin::scripted("cut", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
        exchange.close();
        Ok(())
    });
    let mut client = Client::connect(origin.addr());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let error = client.try_response("GET").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

/// Goal: FIN and RST are told apart, so that "the router never ends a cut body cleanly" can be tested at all.
#[test]
fn fin_and_reset_are_told_apart() {
    let origin = Origin::scripted("end", |exchange| {
        if exchange.request.target == "/reset" {
            exchange.reset();
        } else {
            exchange.close();
        }
        Ok(())
    });
    for (target, end) in [("/fin", End::Clean), ("/reset", End::Reset)] {
        let mut client = Client::connect(origin.addr());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.expect_end(), end, "{target}");
    }
}

/// Goal: an origin that was sent something invalid fails its test when it is dropped.
#[test]
fn an_invalid_request_fails_the_test() {
    let origin = Origin::named("judge");
    let mut client = Client::connect(origin.addr());
    client.send("GET / HTTP/1.1\r\nHost : a\r\n\r\n");
    client.response();
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(origin)));
    assert!(dropped.is_err(), "the origin let an invalid field name pass");
}

/// Goal: a black hole neither answers nor refuses.
#[test]
fn a_black_hole_does_not_answer() {
    let hole = tests::server::BlackHole::start();
    let wait = std::time::Duration::from_millis(100);
    let error = std::net::TcpStream::connect_timeout(&hole.addr(), wait).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

/// Goal: a server that stopped refuses at once, and its address can be used again.
#[test]
fn a_stopped_server_refuses_and_comes_back() {
    let origin = Origin::named("first");
    let addr = origin.addr();
    assert_eq!(Client::connect(addr).get("a", "/").status, 200);
    drop(origin);
    let wait = std::time::Duration::from_secs(5);
    let error = std::net::TcpStream::connect_timeout(&addr, wait).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let again = Origin::scripted_at(addr, "second", |exchange| exchange.answer_target());
    assert_eq!(
        Client::connect(again.addr()).get("a", "/").get("x-origin").as_deref(),
        Some("second")
    );
}
