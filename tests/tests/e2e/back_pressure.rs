//! Slow readers on either side: the fast side is stopped, memory stays bounded, nobody else waits.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tests::body::{PatternCheck, pattern};
use tests::client::Stream;
use tests::router::Folder;
use tests::{Authority, Client, Config, Origin, Router, until};

/// Far more than all buffers on the way can hold.
const BODY_BYTES: u64 = 96 << 20;
/// Sent with each write.
const PIECE_BYTES: usize = 64 << 10;
/// A writer that makes no progress for so long is stopped. Loopback moves megabytes in that time.
const STOPPED_AFTER: Duration = Duration::from_millis(400);
/// What the router may hold for one stopped transfer, with the pages of its pool that it touches for the first time.
const GROWTH_BYTES_MAX: u64 = 16 << 20;

/// Goal: a client that does not read stops the origin; then it reads, and gets every byte.
#[test]
fn a_slow_reader_stops_the_origin() {
    for framing in ["length", "chunked", "close"] {
        let sent = Arc::new(AtomicU64::new(0));
        let origin = endless_origin(framing, &sent);
        let router = Router::start(&Config::app(&origin));
        assert_eq!(router.connect().get("nobody.test", "/").status, 404);
        let before = router.process.anonymous_bytes();
        let mut client = Client::connect_narrow(router.http(), 16 << 10);
        client.send("GET /big HTTP/1.1\r\nHost: app.test\r\n\r\n");
        wait_until_stopped(&sent);
        let grown = router.process.anonymous_bytes().saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "{framing}: {grown} bytes more for one slow reader");
        let response = client.response();
        assert_eq!(response.body.bytes.len() as u64, BODY_BYTES);
        let mut check = PatternCheck::default();
        check.take(&response.body.bytes);
    }
}

/// Goal: the same over TLS, where bytes cannot be spliced.
#[test]
fn a_slow_tls_reader_stops_the_origin() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let certificate = authority.certificate(folder.path(), "app", &["app.test"]);
    let sent = Arc::new(AtomicU64::new(0));
    let origin = endless_origin("length", &sent);
    let config = Config::app(&origin).certificate(&[], &certificate.chain, &certificate.key);
    let router = Router::start_in(folder, &config);
    let mut client = router.connect_tls(&authority.any_client(), "app.test");
    client.send("GET /warm HTTP/1.1\r\nHost: nobody.test\r\n\r\n");
    assert_eq!(client.response().status, 404);
    let before = router.process.anonymous_bytes();
    client.send("GET /big HTTP/1.1\r\nHost: app.test\r\n\r\n");
    wait_until_stopped(&sent);
    let grown = router.process.anonymous_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more for one slow reader");
    let response = client.response();
    let mut check = PatternCheck::default();
    check.take(&response.body.bytes);
    assert_eq!(check.count, BODY_BYTES);
}

/// Goal: an origin that does not read stops the client; then it reads, and gets every byte.
#[test]
fn a_slow_origin_stops_the_client() {
    for chunked in [false, true] {
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let origin = Origin::scripted("slow", move |exchange| {
            let waited = gate.lock().expect("no poison").recv_timeout(tests::DEADLINE * 3);
            waited.map_err(std::io::Error::other)?;
            let mut check = PatternCheck::default();
            if exchange.request.framing == tests::Framing::Chunked {
                exchange.read_body()?;
                check.take(&exchange.request.body.bytes);
            } else {
                exchange.wire.exactly(BODY_BYTES, |piece| check.take(piece))?;
                exchange.request.body.complete = true;
            }
            let body = check.count.to_string();
            exchange.answer("200 OK", &[], body.as_bytes())
        });
        let router = Router::start(&Config::app(&origin));
        assert_eq!(router.connect().get("nobody.test", "/").status, 404);
        let before = router.process.anonymous_bytes();
        let mut client = router.connect();
        let framing = if chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {BODY_BYTES}")
        };
        client.send(format!("POST /up HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n"));
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let writer = client.wire.stream.tcp().try_clone().unwrap();
        writer.set_write_timeout(Some(tests::DEADLINE * 3)).unwrap();
        let upload = std::thread::spawn(move || send_pattern(writer, chunked, &counter));
        wait_until_stopped(&sent);
        let grown = router.process.anonymous_bytes().saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more for one slow origin");
        release.send(()).unwrap();
        upload.join().unwrap().unwrap();
        assert_eq!(client.response().text(), BODY_BYTES.to_string());
    }
}

/// Goal: a hundred clients that read nothing hold little memory and delay nobody else.
#[test]
fn many_slow_readers_hold_neither_memory_nor_workers() {
    let origin = Origin::scripted("a", |exchange| {
        if exchange.request.target != "/big" {
            return exchange.answer_target();
        }
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
        let piece = vec![b'x'; PIECE_BYTES];
        loop {
            exchange.send(&piece)?;
        }
    });
    let router = Router::start(&Config::app(&origin));
    assert_eq!(router.connect().get("app.test", "/warm").status, 200);
    let before = router.process.anonymous_bytes();
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut client = Client::connect_narrow(router.http(), 8 << 10);
        client.send("GET /big HTTP/1.1\r\nHost: app.test\r\n\r\n");
        client.try_head("GET").unwrap();
        slow.push(client);
    }
    let mut quick = router.connect();
    for number in 0..200 {
        let target = format!("/{number}");
        assert_eq!(quick.get("app.test", &target).text(), target);
    }
    let grown = router.process.anonymous_bytes().saturating_sub(before);
    assert!(grown < 100 * (512 << 10), "{grown} bytes more for a hundred slow readers");
    drop(slow);
    until("the origin connections of clients that left are closed", || origin.seen().open() <= 2);
}

/// Goal: bulk goes by splice where both sides are plain, and delays nobody. Method: four downloads at full speed, small
/// requests beside them on the same core.
#[test]
fn bulk_is_spliced_and_delays_nobody() {
    const BYTES: usize = 64 << 20;
    let origin = Origin::scripted("a", |exchange| {
        if exchange.request.target != "/big" {
            return exchange.answer_target();
        }
        exchange.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"))?;
        let piece = pattern(0, 1 << 20);
        (0..BYTES >> 20).try_for_each(|_| exchange.send(&piece))
    });
    let router = Router::start(&Config::app(&origin));
    let addr = router.http();
    let bulk: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(addr);
                client.send("GET /big HTTP/1.1\r\nHost: app.test\r\n\r\n");
                client.try_head("GET").unwrap();
                let mut count = 0;
                client.wire.exactly(BYTES as u64, |piece| count += piece.len()).unwrap();
                assert_eq!(count, BYTES);
            })
        })
        .collect();
    let (mut client, mut slowest) = (router.connect(), Duration::ZERO);
    while !bulk.iter().all(std::thread::JoinHandle::is_finished) {
        let started = std::time::Instant::now();
        assert_eq!(client.get("app.test", "/small").status, 200);
        slowest = slowest.max(started.elapsed());
    }
    for worker in bulk {
        worker.join().unwrap();
    }
    assert!(slowest < Duration::from_secs(1), "a small request took {slowest:?}");
    let spliced = router.admin.status()["totals"]["spliced_bytes"].as_u64().unwrap_or(0);
    assert!(spliced > BYTES as u64, "only {spliced} bytes were spliced");
}

/// Goal: ordinary large bodies both ways at once on several connections, each byte checked.
#[test]
fn large_bodies_in_parallel_are_exact() {
    let origin = Origin::scripted("echo", |exchange| {
        exchange.read_body()?;
        let body = std::mem::take(&mut exchange.request.body.bytes);
        exchange.answer("200 OK", &[], &body)
    });
    let router = Router::start(&Config::app(&origin).set("cores", "2"));
    let addr = router.http();
    let workers: Vec<_> = (0..6)
        .map(|number: u64| {
            std::thread::spawn(move || {
                let mut client = Client::connect(addr);
                for round in 0..4 {
                    let body = pattern(
                        number * 1_000 + round,
                        1_000_000 + usize::try_from(number).unwrap(),
                    );
                    let head = format!(
                        "POST /{number} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    client.send(head).send(&body);
                    assert!(
                        client.response().body.bytes == body,
                        "connection {number} got another body"
                    );
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

/// Sends the pattern without end in sight and counts what the socket took.
fn endless_origin(framing: &'static str, sent: &Arc<AtomicU64>) -> Origin {
    let sent = Arc::clone(sent);
    Origin::scripted("endless", move |exchange| {
        let field = match framing {
            "length" => format!("Content-Length: {BODY_BYTES}"),
            "chunked" => "Transfer-Encoding: chunked".to_owned(),
            _ => "Connection: close".to_owned(),
        };
        exchange.send(format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n"))?;
        send_pattern(&mut exchange.wire.stream, framing == "chunked", &sent)?;
        if framing == "close" {
            exchange.close();
        }
        Ok(())
    })
}

fn send_pattern(mut to: impl Write, chunked: bool, sent: &AtomicU64) -> std::io::Result<()> {
    let mut at = 0;
    while at < BODY_BYTES {
        let piece = pattern(at, PIECE_BYTES);
        if chunked {
            to.write_all(format!("{PIECE_BYTES:x}\r\n").as_bytes())?;
        }
        to.write_all(&piece)?;
        if chunked {
            to.write_all(b"\r\n")?;
        }
        at += PIECE_BYTES as u64;
        sent.store(at, SeqCst);
    }
    if chunked {
        to.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}

/// Wait until a writer that has begun makes no more progress; being done means that nobody stopped it.
fn wait_until_stopped(sent: &AtomicU64) {
    let mut last = (0, std::time::Instant::now());
    until("the fast side is stopped", || {
        let now = sent.load(SeqCst);
        assert!(now < BODY_BYTES, "all of it was taken: somebody buffers without bound");
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        now > 0 && last.1.elapsed() > STOPPED_AFTER
    });
}
