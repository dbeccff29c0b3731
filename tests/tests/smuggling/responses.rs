//! Attacks by an origin: its answer is one answer, to the one who asked, or it is a 502.

use tests::{Client, Config, Origin, Router};

/// What has to become of an answer.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// 502 with a reason code; not a byte of it reaches the client.
    BadGateway,
    /// The head passes, but the client must notice that the body is not whole.
    Cut,
    /// Passes with this body; the connection to the origin is not used again.
    Once(&'static str),
    /// Passes with this body, and the connection may be used again.
    Fine(&'static str),
}

use Fate::{BadGateway, Cut, Fine, Once};

const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// Name, answer (`§` stands for a second answer), fate.
#[rustfmt::skip]
const ANSWERS: &[(&str, &str, Fate)] = &[
    // === framing ===
    ("CL and TE", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n§", BadGateway),
    ("two different CL", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok§", BadGateway),
    ("list of different CL", "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok§", BadGateway),
    ("signed CL", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok§", BadGateway),
    ("negative CL", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok§", BadGateway),
    ("CL of letters", "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok§", BadGateway),
    ("CL too large", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok§", BadGateway),
    ("TE not chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n§", BadGateway),
    ("TE list", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n§", BadGateway),
    ("two TE", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n§", BadGateway),
    ("TE in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BadGateway),
    // === heads ===
    ("no status line", "nonsense\r\n\r\n", BadGateway),
    ("empty line first", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("status below 100", "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("HTTP/2 status line", "HTTP/2 200\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("another protocol", "SSH-2.0-OpenSSH_9\r\n\r\n", BadGateway),
    ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", BadGateway),
    ("CR in a value", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("NUL in a value", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("folded line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("no colon", "HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok", BadGateway),
    ("a head without end", "HTTP/1.1 200 OK\r\nX: y\r\n", BadGateway),
    // === bodies ===
    ("short body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", Cut),
    ("chunk without size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", Cut),
    ("chunk longer than its size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n", Cut),
    ("chunk size too large", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nok", Cut),
    ("signed chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n", Cut),
    ("bare LF in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n", Cut),
    ("no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", Cut),
    ("no end of the trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n", Cut),
    ("bad trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nbad name: y\r\n\r\n", Cut),
    // === more than was asked for ===
    ("bytes after the length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok§", Once("ok")),
    ("bytes after the last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n§", Once("ok")),
    ("bytes after 204", "HTTP/1.1 204 No Content\r\n\r\n§", Once("")),
    ("bytes after 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n§", Once("")),
    // === what is fine ===
    // RFC 9112 section 5.1: a proxy takes the space away from a response; the client of this test would refuse it.
    ("space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", Fine("ok")),
    ("no reason", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", Fine("ok")),
    ("unknown status", "HTTP/1.1 599 Whatever\r\nContent-Length: 2\r\n\r\nok", Fine("ok")),
    ("chunk extension", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0;c\r\n\r\n", Fine("ok")),
];

/// Goal: no answer of the table gets through as something it is not, nor touches the answer of anybody else.
#[test]
fn answers_of_a_hostile_origin() {
    let mut failures = Vec::new();
    for (name, text, fate) in ANSWERS {
        let answer = text.replace('§', EVIL).into_bytes();
        let ends = matches!(fate, Cut | BadGateway);
        let origin = Origin::scripted("hostile", move |exchange| {
            if exchange.request.target != "/attack" {
                return exchange.answer_target();
            }
            exchange.read_body()?;
            exchange.send(&answer)?;
            if ends {
                exchange.close();
            }
            Ok(())
        });
        let router = Router::start(&Config::app(&origin));
        for round in 0..3 {
            if let Err(why) = judge(&router, &origin, *fate) {
                failures.push(format!("{name} (round {round}): {why}"));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{} answers:\n{}", failures.len(), failures.join("\n"));
}

/// Goal: an answer that comes before anybody asked is nobody's: the idle connection is given up.
#[test]
fn an_answer_that_nobody_asked_for_is_nobodys() {
    let (speak, spoken) = std::sync::mpsc::channel::<()>();
    let speak = std::sync::Mutex::new(speak);
    let origin = Origin::scripted("chatty", move |exchange| {
        exchange.answer_target()?;
        if exchange.request.target == "/first" {
            // A second answer as soon as the router has read the first and keeps the connection.
            exchange.send(EVIL)?;
            tests::server::ignore(speak.lock().expect("no poison").send(()));
        }
        Ok(())
    });
    let router = Router::start(&Config::app(&origin));
    for _ in 0..20 {
        let mut client = router.connect();
        assert_eq!(client.get("app.test", "/first").text(), "/first");
        spoken.recv_timeout(tests::DEADLINE).unwrap();
        assert_eq!(client.get("app.test", "/second").text(), "/second");
        assert_eq!(router.connect().get("app.test", "/third").text(), "/third");
    }
}

/// Goal: a response head above the limit is 502, not memory.
#[test]
fn an_endless_response_head_is_bounded() {
    let origin = Origin::scripted("endless", |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\n")?;
        loop {
            exchange.send(
                "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
            )?;
        }
    });
    let router = Router::start(&Config::app(&origin));
    let response = router.connect().get("app.test", "/");
    assert_eq!((response.status, response.code().as_deref()), (502, Some("upstream_malformed")));
}

fn judge(router: &Router, origin: &Origin, fate: Fate) -> Result<(), String> {
    let mut client = router.connect();
    let attacked = origin.look(|seen| seen.requests.len());
    client.send("GET /attack HTTP/1.1\r\nHost: app.test\r\n\r\n");
    match fate {
        BadGateway => {
            let response = client.try_response("GET").map_err(|e| format!("no answer: {e}"))?;
            let code = response.code().unwrap_or_default();
            if response.status != 502 || !code.starts_with("upstream_") {
                return Err(format!("answered {} with code {code:?}", response.status));
            }
        }
        Cut => {
            if let Ok(response) = client.try_response("GET")
                && response.status != 502
            {
                return Err(format!("looked whole: {:?}", response.text()));
            }
        }
        Once(body) | Fine(body) => {
            let response = client.try_response("GET").map_err(|e| format!("no answer: {e}"))?;
            if response.text() != body {
                return Err(format!("got {:?}", response.text()));
            }
        }
    }
    for next in ["/next", "/victim"] {
        let mut other: Client = router.connect();
        let text = other.get("app.test", next).text();
        if text != next {
            return Err(format!("{next} got {text:?}"));
        }
    }
    if !matches!(fate, Fine(_)) {
        let same = origin.look(|seen| {
            let of_attack = seen.requests.get(attacked).map(|r| r.connection);
            seen.requests.iter().skip(attacked + 1).any(|r| Some(r.connection) == of_attack)
        });
        if same {
            return Err("the connection of the attack was used again".to_owned());
        }
    }
    Ok(())
}
