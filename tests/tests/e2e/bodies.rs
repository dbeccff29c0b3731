//! Bodies in both directions: every framing, trailers, bodyless answers, early answers, any split of the bytes.

use tests::body::{chunked, pattern};
use tests::{Config, End, Framing, Origin, Router};

/// Goal: a body with a length arrives byte for byte, with that length. Method: sizes around buffer borders.
#[test]
fn bodies_by_length_arrive_whole() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let sizes = [0, 1, 2_047, 2_048, 2_049, 16_383, 16_384, 16_385, 65_536, 262_145, 3_000_001];
    for (index, size) in sizes.into_iter().enumerate() {
        let body = pattern(7, size);
        client.send(format!(
            "PUT /{size} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {size}\r\n\r\n"
        ));
        client.send(&body);
        assert_eq!(client.response().text(), format!("/{size}"));
        let request = origin.request(index);
        assert_eq!(request.framing, Framing::Length(size as u64));
        assert_eq!(request.body.bytes, body, "{size} bytes up");
    }
}

/// Goal: a chunked body is decoded and framed anew: same bytes, no extension, valid framing.
#[test]
fn chunked_bodies_are_framed_anew() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    for (index, (size, chunk)) in
        [(0, 1), (1, 1), (100, 1), (70_000, 4_096), (2_000_000, 65_537)].into_iter().enumerate()
    {
        let body = pattern(3, size);
        client.send("POST /c HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(chunked(&body, chunk, &[]));
        assert_eq!(client.response().status, 200);
        let request = origin.request(index);
        assert_eq!(request.framing, Framing::Chunked);
        assert_eq!(request.body.bytes, body, "{size} bytes in chunks of {chunk}");
    }
    client.send("POST /x HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("5;name=value;quoted=\"a b\"\r\nhello\r\n00000;last\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.request(5).text(), "hello");
}

/// Goal: streaming. The origin gets each piece when the client sent it, not when the body is whole.
#[test]
fn an_upload_streams_piece_by_piece() {
    let origin = Origin::scripted("a", |exchange| {
        while exchange.read_chunk()? {}
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("POST /s HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for number in 1..=20 {
        client.send("3\r\nabc\r\n");
        let got = |seen: &tests::origin::Seen| {
            seen.requests.first().is_some_and(|r| r.body.bytes.len() == number * 3)
        };
        origin.wait("the piece just sent", got);
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.response().status, 200);
}

/// Goal: streaming downwards. Each piece of the answer reaches the client before the next one is sent.
#[test]
fn a_download_streams_piece_by_piece() {
    let (ask, asked) = std::sync::mpsc::channel::<()>();
    let asked = std::sync::Mutex::new(asked);
    let origin = Origin::scripted("a", move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for number in 0..20 {
            let waited = asked.lock().expect("no poison").recv_timeout(tests::DEADLINE);
            waited.map_err(std::io::Error::other)?;
            exchange.send(format!("2\r\n{number:02}\r\n"))?;
        }
        exchange.send("0\r\n\r\n")
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("GET /s HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let mut response = client.try_head("GET").unwrap();
    for number in 0..20 {
        ask.send(()).unwrap();
        while response.body.bytes.len() < (number + 1) * 2 {
            assert!(response.body.read_chunk(&mut client.wire).unwrap(), "ended early");
        }
    }
    assert!(!response.body.read_chunk(&mut client.wire).unwrap());
    let wanted: String = (0..20).map(|number| format!("{number:02}")).collect();
    assert_eq!(response.text(), wanted);
}

/// Goal: each framing that an origin may use reaches an HTTP/1.1 client with the connection kept, same bytes.
#[test]
fn answers_of_every_framing_arrive_whole() {
    for (name, size) in
        [("length", 100_000), ("chunked", 100_000), ("close", 100_000), ("close", 0)]
    {
        let origin = framed_origin(name, size);
        let router = Router::start(&Config::app(&origin));
        let mut client = router.connect();
        for _ in 0..3 {
            let response = client.get("app.test", "/");
            assert_eq!(response.body.bytes, pattern(0, size), "{name}");
            let wanted =
                if name == "length" { Framing::Length(size as u64) } else { Framing::Chunked };
            assert_eq!(response.framing, wanted, "{name}");
        }
    }
}

/// Goal: an HTTP/1.0 client never sees chunks: by length or until the end of the connection.
#[test]
fn an_http_1_0_client_never_sees_chunks() {
    for name in ["length", "chunked", "close"] {
        let origin = framed_origin(name, 50_000);
        let router = Router::start(&Config::app(&origin));
        let mut client = router.connect();
        client.send("GET / HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert_ne!(response.framing, Framing::Chunked, "{name}");
        assert_eq!(response.body.bytes, pattern(0, 50_000), "{name}");
        assert!(!response.fields.has("transfer-encoding"), "{name}");
    }
}

/// Goal: a body of the answer that comes one byte at a time is the same body.
#[test]
fn answers_byte_by_byte_are_the_same() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nX-T: 1\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ];
    for answer in answers {
        let origin = Origin::scripted("drip", move |exchange| {
            exchange.read_body()?;
            answer.bytes().try_for_each(|byte| exchange.send([byte]))
        });
        let router = Router::start(&Config::app(&origin));
        let mut client = router.connect();
        for _ in 0..2 {
            assert_eq!(client.get("app.test", "/").text(), "hello", "{answer:?}");
        }
        assert_eq!(origin.seen().connections.len(), 1);
    }
}

/// Goal: trailers pass in both directions, those that could change the meaning of the message do not.
#[test]
fn trailers_pass_and_dangerous_ones_are_dropped() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.read_body()?;
        exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")?;
        let trailers =
            ["X-Sum: 42", "Content-Length: 3", "Transfer-Encoding: chunked", "X-Last: z"];
        exchange.send(chunked(b"body", 2, &trailers))
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send(
        "POST / HTTP/1.1\r\nHost: app.test\r\nTE: trailers\r\nConnection: TE\r\n\
         Transfer-Encoding: chunked\r\nTrailer: X-Md\r\n\r\n",
    );
    let dangerous = [
        "X-Md: abc",
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        "Host: evil.test",
        "Authorization: Basic x",
        "Apcera-HTTPS: on",
        "Apcera_HTTPS: on",
        "X-Forwarded-For: 1.2.3.4",
        "Connection: close",
        "Cookie: a=b",
    ];
    client.send(chunked(b"up", 1, &dangerous));
    let response = client.response();
    assert_eq!(response.text(), "body");
    assert_eq!(response.body.trailers.get("x-sum").as_deref(), Some("42"));
    assert_eq!(response.body.trailers.get("x-last").as_deref(), Some("z"));
    assert!(!response.body.trailers.has("content-length"));
    assert!(!response.body.trailers.has("transfer-encoding"));
    let request = origin.request(0);
    assert_eq!(request.body.trailers.get("x-md").as_deref(), Some("abc"));
    for name in [
        "content-length",
        "transfer-encoding",
        "host",
        "authorization",
        "apcera-https",
        "apcera_https",
        "x-forwarded-for",
        "connection",
    ] {
        assert!(!request.body.trailers.has(name), "trailer {name} was forwarded");
    }
    assert_eq!(request.get("te").as_deref(), Some("trailers"));
}

/// Goal: a malformed trailer from a client never reaches the origin as the end of a whole request.
#[test]
fn a_malformed_request_trailer_spoils_the_request() {
    let mut origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    for line in ["no colon", "bad name: x", " folded: x", "X: a\rb"] {
        let mut client = router.connect();
        client.send("POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(format!("2\r\nok\r\n0\r\n{line}\r\n\r\n"));
        let refused = client.try_response("POST");
        assert!(refused.as_ref().is_ok_and(|r| r.status == 400) || refused.is_err(), "{line:?}");
    }
    let whole = origin.look(|seen| seen.requests.iter().filter(|r| r.body.complete).count());
    assert_eq!(whole, 0, "a request with a malformed trailer was completed");
    origin.tolerate_faults();
}

/// Goal: answers without a body stay without, keep their length where it means something, and spoil nothing after.
#[test]
fn bodyless_answers_keep_the_connection_right() {
    let origin = Origin::scripted("a", |exchange| {
        exchange.read_body()?;
        let head = match (exchange.request.method.as_str(), exchange.request.target.as_str()) {
            ("HEAD", "/chunked") => "200 OK\r\nTransfer-Encoding: chunked",
            ("HEAD", "/none") => "200 OK",
            ("HEAD", _) => "200 OK\r\nContent-Length: 12345",
            (_, "/204") => "204 No Content",
            (_, "/205") => "205 Reset Content\r\nContent-Length: 0",
            (_, "/304") => "304 Not Modified\r\nContent-Length: 77\r\nETag: \"a\"",
            _ => "200 OK\r\nContent-Length: 0",
        };
        exchange.send(format!("HTTP/1.1 {head}\r\n\r\n"))
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    let table = [
        ("HEAD", "/length", 200, Some("12345")),
        ("HEAD", "/chunked", 200, None),
        ("HEAD", "/none", 200, None),
        ("GET", "/204", 204, None),
        ("GET", "/205", 205, Some("0")),
        ("GET", "/304", 304, Some("77")),
        ("GET", "/", 200, Some("0")),
    ];
    for (method, target, status, length) in table.into_iter().chain(table) {
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
        let response = client.response_to(method);
        assert_eq!(response.status, status, "{method} {target}");
        assert_eq!(response.get("content-length").as_deref(), length, "{method} {target}");
        assert!(response.body.bytes.is_empty());
    }
    assert_eq!(origin.seen().connections.len(), 1);
}

/// Goal: bytes that an origin sends after a bodyless answer are never passed on as another answer.
#[test]
fn a_body_where_none_may_be_is_not_the_next_answer() {
    let origin = Origin::scripted("bad", |exchange| {
        exchange.read_body()?;
        if exchange.request.target == "/bad" {
            let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            return exchange.send(format!("HTTP/1.1 204 No Content\r\n\r\n{evil}"));
        }
        exchange.answer_target()
    });
    let router = Router::start(&Config::app(&origin));
    for _ in 0..10 {
        let mut client = router.connect();
        assert_eq!(client.get("app.test", "/bad").status, 204);
        assert_eq!(client.get("app.test", "/good").text(), "/good");
    }
}

/// Goal: an answer that comes before the request body is whole reaches the client at once.
#[test]
fn an_early_answer_is_passed_on_at_once() {
    let origin = Origin::scripted("early", |exchange| {
        exchange.send("HTTP/1.1 413 No\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly")?;
        exchange.close();
        Ok(())
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\n\r\nstart");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (413, "early"));
}

/// Goal: an early answer from an origin that still reads: both go on to their ends, and the connection stays usable.
#[test]
fn an_early_answer_with_the_body_still_coming() {
    let origin = Origin::scripted("early", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")?;
        exchange.read_body()
    });
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("POST /1 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 10\r\n\r\nstart");
    let response = client.response();
    assert_eq!(response.text(), "early");
    if response.says_close() {
        return;
    }
    client.send("close");
    client.send("GET /2 HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(client.response().text(), "early");
}

/// Goal: a client that leaves within its upload never makes a whole request at the origin.
#[test]
fn an_upload_cut_short_is_never_completed() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut begun = 0;
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        for by_reset in [false, true] {
            let mut client = router.connect();
            client.send(format!("POST /cut HTTP/1.1\r\nHost: app.test\r\n{framing}\r\n\r\n"));
            client.send(if framing.starts_with('T') { "4\r\nhalf\r\n" } else { "half" });
            begun += 1;
            origin.wait("the head", |seen| seen.requests.len() == begun);
            if by_reset {
                client.reset();
            } else {
                drop(client);
            }
        }
    }
    let seen = origin.wait("four cut uploads, each with its connection ended", |seen| {
        let within = Some(tests::origin::Ended::Within);
        seen.connections.iter().filter(|c| c.ended == within).count() == 4
    });
    assert!(seen.requests.iter().all(|request| !request.body.complete));
}

/// Goal: a client that half-closes within its upload gets a refusal or the end, and the origin no whole request.
#[test]
fn half_close_within_an_upload() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("POST /cut HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100\r\n\r\nhalf");
    client.end_writing();
    let (bytes, _) = client.read_to_end();
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400 "), "{bytes:?}");
    assert!(origin.look(|seen| seen.requests.iter().all(|r| !r.body.complete)));
}

/// Goal: a GET with a body is framed as it came, never dropped and never left on the wire.
#[test]
fn a_get_with_a_body_keeps_its_body() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut client = router.connect();
    client.send("GET /1 HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "/1");
    assert_eq!(client.get("app.test", "/2").text(), "/2");
    assert_eq!(origin.request(0).text(), "hello");
    client.send("GET /3 HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().text(), "/3");
    assert_eq!(client.expect_end(), End::Clean);
}

fn framed_origin(name: &'static str, size: usize) -> Origin {
    Origin::scripted(name, move |exchange| {
        exchange.read_body()?;
        let body = pattern(0, size);
        match name {
            "length" => exchange.answer("200 OK", &[], &body),
            "chunked" => {
                exchange.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                exchange.send(chunked(&body, 5_000, &[]))
            }
            _ => {
                exchange.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                exchange.send(&body)?;
                exchange.close();
                Ok(())
            }
        }
    })
}
