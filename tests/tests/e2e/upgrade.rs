//! Upgrades: the tunnel after 101, in both directions, and the requests that do not become one.

use std::io::{Read, Write};
use std::net::Shutdown;

use tests::body::{PatternCheck, pattern};
use tests::client::Stream;
use tests::router::Folder;
use tests::{Authority, Config, End, Exchange, Origin, Router};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade, keep-alive\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Version: 13\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Goal: the handshake passes with its fields, then bytes go both ways unframed.
#[test]
fn a_tunnel_echoes() {
    let origin = echo_origin();
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(ASK);
    let response = client.try_head("GET").unwrap();
    assert_eq!(response.status, 101);
    assert_eq!(response.get("upgrade").as_deref(), Some("websocket"));
    assert!(response.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("upgrade")));
    assert_eq!(
        response.get("sec-websocket-accept").as_deref(),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    let request = origin.seen().requests.swap_remove(0);
    assert_eq!(request.fields.all("upgrade"), ["websocket"]);
    assert!(request.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("upgrade")));
    assert_eq!(request.get("sec-websocket-key").as_deref(), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    for text in ["hello", "\x00\x01\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"] {
        client.send(text);
        assert_eq!(client.read_exactly(text.len()), text.as_bytes());
    }
    client.end_writing();
    assert_eq!(client.expect_end(), End::Clean);
}

/// Goal: bytes that come in one piece with the handshake, on either side, are part of the tunnel.
#[test]
fn early_bytes_belong_to_the_tunnel() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.send(format!("{AGREE}first words"))?;
        echo(exchange)
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(format!("{ASK}early"));
    assert_eq!(client.try_head("GET").unwrap().status, 101);
    assert_eq!(client.read_exactly(16), b"first wordsearly");
}

/// Goal: half-close is kept, from the client's side: the origin reads the end and can still talk.
#[test]
fn the_client_half_closes_a_tunnel() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.send(AGREE)?;
        let mut all = Vec::new();
        exchange.wire.stream.tcp.read_to_end(&mut all)?;
        exchange.send(format!("got {}", all.len()))?;
        exchange.close();
        Ok(())
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(ASK);
    assert_eq!(client.try_head("GET").unwrap().status, 101);
    client.send("12345").end_writing();
    assert_eq!(client.read_to_end(), (b"got 5".to_vec(), End::Clean));
}

/// Goal: half-close is kept, from the origin's side: the client reads the end and can still talk.
#[test]
fn the_origin_half_closes_a_tunnel() {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let origin = Origin::scripted("a", move |exchange| {
        exchange.send(format!("{AGREE}bye"))?;
        exchange.wire.stream.tcp.shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        exchange.wire.stream.tcp.read_to_end(&mut all)?;
        tell.lock().expect("no poison").send(all).map_err(std::io::Error::other)
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(ASK);
    assert_eq!(client.try_head("GET").unwrap().status, 101);
    assert_eq!(client.read_to_end(), (b"bye".to_vec(), End::Clean));
    client.send("still here").end_writing();
    assert_eq!(told.recv_timeout(tests::DEADLINE).unwrap(), b"still here");
}

/// Goal: megabytes through a tunnel, both ways at once, are exact; over TLS too.
#[test]
fn a_tunnel_carries_bulk() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let certificate = authority.certificate(folder.path(), "app", &["app.test"]);
    let origin = echo_origin();
    let config = Config::app(&origin).certificate(&[], &certificate.chain, &certificate.key);
    let router = Router::start_in(folder, &config);
    let mut client = router.connect();
    client.send(ASK);
    assert_eq!(client.try_head("GET").unwrap().status, 101);
    let mut writer = client.wire.stream.tcp().try_clone().unwrap();
    let bytes = pattern(0, 16 << 20);
    let sender = std::thread::spawn(move || {
        writer.write_all(&bytes).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut check = PatternCheck::default();
    client.wire.exactly(16 << 20, |piece| check.take(piece)).unwrap();
    assert_eq!(client.expect_end(), End::Clean);
    sender.join().unwrap();
    let mut client = router.connect_tls(&authority.any_client(), "app.test");
    client.send(ASK);
    assert_eq!(client.try_head("GET").unwrap().status, 101);
    for round in 0..40 {
        let bytes = pattern(round, 50_000);
        client.send(&bytes);
        assert!(client.read_exactly(50_000) == bytes, "round {round}");
    }
    client.end_writing();
    assert_eq!(client.expect_end(), End::Clean);
}

/// Goal: a tunnel that is reset on one side is reset or ended on the other, promptly.
#[test]
fn a_reset_tunnel_ends_on_the_other_side() {
    let origin = echo_origin();
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(ASK);
    assert_eq!(client.try_head("GET").unwrap().status, 101);
    client.reset();
    origin.wait("the origin's connection to end", |seen| seen.open() == 0);
    let mut client = router.connect();
    client.send(ASK);
    assert_eq!(client.try_head("GET").unwrap().status, 101);
    origin.server().reset_connections();
    let (bytes, _) = client.read_to_end();
    assert!(bytes.is_empty());
}

/// Goal: an origin that does not switch answers as usual, and the connection serves on.
#[test]
fn an_upgrade_may_be_declined() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(ASK);
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "/chat"));
    assert_eq!(client.get("app.test", "/next").text(), "/next");
}

/// Goal: `Upgrade` that `Connection` does not name is no upgrade, and is not forwarded.
#[test]
fn an_upgrade_must_be_named_by_connection() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let request = origin.request(0);
    assert!(!request.fields.has("upgrade") && !request.fields.has("connection"));
}

/// Goal: an upgrade to HTTP/2 over plain TCP is never passed on: it would smuggle requests past the router.
#[test]
fn h2c_is_never_tunnelled() {
    let origin = Origin::scripted("h2c", |exchange| {
        if exchange.request.fields.has("upgrade") {
            return exchange.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            );
        }
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(
        "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    );
    let response = client.response();
    assert_ne!(response.status, 101);
    assert!(!origin.seen().requests.iter().any(|r| r.fields.has("upgrade")), "h2c was forwarded");
}

/// Goal: a tunnel in which nothing moves ends after its own time, not after that of a request.
#[test]
fn an_idle_tunnel_ends_in_its_own_time() {
    let origin = echo_origin();
    let config = Config::app(&origin)
        .timeout("tunnel_idle_timeout_ms", 700)
        .timeout("client_idle_timeout_ms", 100)
        .timeout("origin_silence_timeout_ms", 100);
    let router = Router::start(&config);
    let mut client = router.connect();
    client.send(ASK);
    assert_eq!(client.try_head("GET").unwrap().status, 101);
    let started = std::time::Instant::now();
    client.send("x");
    assert_eq!(client.read_exactly(1), b"x");
    let (bytes, _) = client.read_to_end();
    assert!(bytes.is_empty());
    assert!(started.elapsed().as_millis() >= 500, "ended after {:?}", started.elapsed());
    origin.wait("the origin's side to end", |seen| seen.open() == 0);
}

fn echo_origin() -> Origin {
    Origin::scripted("echo", |exchange| {
        exchange.send(AGREE)?;
        echo(exchange)
    })
}

fn echo(exchange: &mut Exchange<'_>) -> std::io::Result<()> {
    loop {
        let bytes = exchange.wire.buffered().to_vec();
        exchange.wire.consume(bytes.len());
        exchange.send(&bytes)?;
        if exchange.wire.fill()? == 0 {
            exchange.close();
            return Ok(());
        }
    }
}
