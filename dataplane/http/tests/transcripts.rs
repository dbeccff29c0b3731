//! What goes in and what comes out, byte by byte, for the rules a head is forwarded by.

use http1::{
    Fields, Forward, HeadError, HeadLimits, Known, Method, Out, Reply, RequestFacts,
    RequestFraming, RequestHead, ResponseFraming, ResponseHead, TargetForm, TlsFacts, Version,
    encode_request, encode_response, parse_request, parse_response, put_https_location,
};

fn parse(raw: &str) -> Result<(RequestHead, Fields), HeadError> {
    let mut fields = Fields::new();
    let head = parse_request(raw.as_bytes(), &mut fields, &HeadLimits::default())?;
    Ok((head.expect("complete"), fields))
}

fn good(raw: &str) -> (RequestHead, Fields) {
    parse(raw).unwrap_or_else(|error| panic!("{raw:?}: {error}"))
}

fn plain(head: &RequestHead) -> Forward<'static> {
    Forward {
        client_ip: "192.0.2.7",
        peer_ip: "192.0.2.7",
        port_text: "80",
        request_id: b"id-1",
        framing: head.framing,
        expect_continue: head.expect_continue,
        ..Forward::default()
    }
}

/// What every plain request from an untrusted peer gets at the end.
const TAIL: &str = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n\
    X-Forwarded-Host: a.test\r\nX-Forwarded-Port: 80\r\nX-Real-IP: 192.0.2.7\r\n\
    X-Request-Id: id-1\r\nApcera-HTTPS:\r\n\r\n";

fn forward_with(raw: &str, change: impl Fn(&mut Forward<'_>)) -> String {
    let (head, fields) = good(raw);
    let mut forward = plain(&head);
    change(&mut forward);
    let mut buffer = [0; 32 * 1024];
    let mut out = Out::new(&mut buffer);
    encode_request(&mut out, raw.as_bytes(), &head, &fields, &forward).expect("room");
    String::from_utf8(out.written().to_vec()).expect("text")
}

fn forward(raw: &str) -> String {
    forward_with(raw, |_| ())
}

/// Checks the part of a forwarded head before the fields that are always added.
#[track_caller]
fn assert_forwarded(raw: &str, expected: &str) {
    assert_eq!(forward(raw), format!("{expected}{TAIL}"));
}

#[test]
fn a_head_from_curl() {
    let raw = "GET /x?y=1 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n";
    let (head, _) = good(raw);
    assert_eq!(head.head_len, raw.len());
    assert_eq!((head.method, head.version), (Method::Get, Version::Http11));
    assert_eq!(head.path.of(raw.as_bytes()), b"/x");
    assert_eq!(head.path_query.of(raw.as_bytes()), b"/x?y=1");
    assert_eq!(head.host.of(raw.as_bytes()), b"a.test");
    assert!(head.keep_alive && !head.has_body());
    assert_forwarded(
        raw,
        "GET /x?y=1 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: curl/8\r\nAccept: */*\r\n",
    );
}

#[test]
fn fields_of_this_hop_end_here() {
    assert_forwarded(
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: x\r\nProxy-Authorization: Basic x\r\nTE: gzip\r\nTrailer: X\r\n\
         Upgrade: websocket\r\nProxy: http://evil\r\nHTTP2-Settings: x\r\nA: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nA: 1\r\n",
    );
}

#[test]
fn what_a_client_says_about_itself_is_dropped() {
    assert_forwarded(
        "GET / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nHost: a.test\r\n\
         X-Forwarded-Server: s\r\nX_Forwarded_For: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nB: 2\r\n\
         X-Request-Id: theirs\r\nForwarded: for=1.1.1.1\r\nApcera-HTTPS: on\r\napcera_https: on\r\n\
         Apcera-SSL-Cipher: NULL\r\nContent_Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nB: 2\r\n",
    );
}

#[test]
fn odd_white_space_is_made_even() {
    assert_forwarded(
        "GET / HTTP/1.1\r\nHost:a.test\r\nA:1\r\nB: 2\r\nC:\t 3 \t\r\nD:\r\nE: 5\r\nF: 6\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nA: 1\r\nB: 2\r\nC: 3\r\nD:\r\nE: 5\r\nF: 6\r\n",
    );
}

#[test]
fn framing_is_written_as_understood() {
    assert_forwarded(
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0005\r\nA: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nA: 1\r\nContent-Length: 5\r\n",
    );
    assert_forwarded(
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: CHUNKED\r\nTrailer: Digest\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTrailer: Digest\r\nTransfer-Encoding: chunked\r\n",
    );
}

#[test]
fn framing_cannot_be_nominated_away() {
    assert_forwarded(
        "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: Content-Length, Host, X-Real-IP\r\n\
         Content-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n",
    );
}

#[test]
fn an_upgrade_is_passed_on_when_it_is_meant() {
    assert_forwarded(
        "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
        "GET /chat HTTP/1.1\r\nHost: a.test\r\nSec-WebSocket-Version: 13\r\n\
         Connection: upgrade\r\nUpgrade: websocket\r\n",
    );
    for odd in [
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: upgrade\r\nUpgrade: H2C\r\n",
        "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n",
        "Connection: upgrade\r\nUpgrade: TLS/1.2\r\n",
        "Connection: upgrade\r\nUpgrade: web socket\r\n",
        "Connection: upgrade\r\nUpgrade:\r\n",
        "Connection: upgrade\r\n",
    ] {
        assert_forwarded(
            &format!("GET / HTTP/1.1\r\nHost: a.test\r\n{odd}\r\n"),
            "GET / HTTP/1.1\r\nHost: a.test\r\n",
        );
    }
    let (head, _) = good(
        "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Content-Length: 5\r\n\r\n",
    );
    assert_eq!(head.upgrade, None, "a body and a new protocol cannot share a connection");
}

#[test]
fn trailers_and_continue_are_asked_for() {
    assert_forwarded(
        "POST / HTTP/1.1\r\nHost: a.test\r\nTE: deflate, Trailers\r\nConnection: TE\r\n\
         Expect: 100-Continue\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nConnection: te\r\nTE: trailers\r\n\
         Expect: 100-continue\r\n",
    );
    assert_forwarded(
        "GET / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\n",
    );
}

#[test]
fn absolute_form_becomes_origin_form() {
    for (target, host, line) in [
        ("http://a.test/x?y", "a.test", "GET /x?y HTTP/1.1"),
        ("http://a.test", "A.TEST:80", "GET / HTTP/1.1"),
        ("HTTP://a.test?y=/z", "a.test", "GET /?y=/z HTTP/1.1"),
        ("https://a.test:443/", "a.test", "GET / HTTP/1.1"),
        ("http://a.test:/x", "a.test", "GET /x HTTP/1.1"),
    ] {
        assert_eq!(
            forward(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
                .split("X-Forwarded-For")
                .next()
                .map(str::to_ascii_lowercase),
            Some(format!("{line}\r\nHost: {}\r\n", target_host(target)).to_ascii_lowercase()),
        );
    }
    let raw = "GET http://a.test?q HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let (head, _) = good(raw);
    assert_eq!(head.form, TargetForm::AbsoluteWithoutPath);
    assert_eq!(head.route_path(raw.as_bytes()), b"/");
}

fn target_host(target: &str) -> &str {
    let rest = target.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?']).next().map_or("", |host| host.trim_end_matches(':'))
}

#[test]
fn options_of_the_server() {
    for target in ["*", "http://a.test"] {
        let raw = format!("OPTIONS {target} HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 3\r\n\r\n");
        assert_forwarded(&raw, "OPTIONS * HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 2\r\n");
        assert_eq!(good(&raw).0.route_path(raw.as_bytes()), b"/");
    }
    // Of other methods it means nothing and is nobody's business here.
    let line = "GET / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: x\r\n";
    assert_forwarded(&format!("{line}\r\n"), line);
    let (head, _) = good("OPTIONS / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 0\r\n\r\n");
    assert_eq!(head.max_forwards, Some(0));
}

#[test]
fn http_1_0_becomes_http_1_1() {
    let raw = "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n";
    assert_forwarded(raw, "GET / HTTP/1.1\r\nHost: a.test\r\n");
    assert!(!good(raw).0.keep_alive);
    let kept = "GET / HTTP/1.0\r\nHost: a.test\r\nConnection: Keep-Alive\r\n\r\n";
    assert!(good(kept).0.keep_alive);
    let both = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, close\r\n\r\n";
    assert!(!good(both).0.keep_alive);
    let upgrade = "GET / HTTP/1.0\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
        Expect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    assert_eq!((good(upgrade).0.upgrade, good(upgrade).0.expect_continue), (None, false));
}

#[test]
fn a_trusted_proxy_is_believed() {
    let raw = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 1.1.1.1\r\n\
        X-Forwarded-Proto: https\r\nX-Forwarded-For: 2.2.2.2, 3.3.3.3\r\nX-Request-Id: theirs\r\n\
        Forwarded: for=1.1.1.1\r\nX-Real-IP: 9.9.9.9\r\nX_Real_IP: 9.9.9.9\r\nApcera-HTTPS: on\r\n\
        Connection: X-Forwarded-Proto\r\n\r\n";
    let seen = forward_with(raw, |forward| {
        forward.peer_trusted = true;
        forward.client_ip = "3.3.3.3";
    });
    let expected = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Proto: https\r\n\
        X-Request-Id: theirs\r\nForwarded: for=1.1.1.1\r\n\
        X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 192.0.2.7\r\nX-Real-IP: 3.3.3.3\r\n\
        X-Forwarded-Host: a.test\r\nX-Forwarded-Port: 80\r\nApcera-HTTPS:\r\n\r\n";
    assert_eq!(seen, expected);
}

#[test]
fn tls_facts_are_told() {
    let facts = TlsFacts {
        cipher: "TLS_AES_128_GCM_SHA256",
        protocol: "TLSv1.3",
        session_id: "0af3",
        reused: true,
        server_name: "a.test",
    };
    let seen = forward_with("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", |forward| {
        forward.https = Some(facts);
        forward.via = "edge";
        forward.lines = b"X-More: 1\r\n";
    });
    let tail = "Apcera-HTTPS: on\r\nApcera-SSL-Cipher: TLS_AES_128_GCM_SHA256\r\n\
        Apcera-SSL-Protocol: TLSv1.3\r\nApcera-SSL-Session-Id: 0af3\r\n\
        Apcera-SSL-Session-Reused: r\r\nApcera-SSL-Server-Name: a.test\r\n\
        Via: 1.1 edge\r\nX-More: 1\r\n\r\n";
    assert!(seen.ends_with(tail), "{seen}");
    assert!(seen.contains("X-Forwarded-Proto: https\r\n"), "{seen}");
}

#[test]
fn a_redirect_keeps_host_and_target() {
    let locate = |raw: &str, port| {
        let (head, _) = good(raw);
        let mut buffer = [0; 256];
        let mut out = Out::new(&mut buffer);
        put_https_location(&mut out, raw.as_bytes(), &head, port).expect("room");
        String::from_utf8(out.written().to_vec()).expect("text")
    };
    let request =
        |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    assert_eq!(locate(&request("/x?y=1", "a.test:8080"), None), "https://a.test/x?y=1");
    assert_eq!(locate(&request("/", "[::1]:80"), Some(8443)), "https://[::1]:8443/");
    assert_eq!(locate(&request("/", "[::1]"), None), "https://[::1]/");
    assert_eq!(locate(&request("http://a.test?q", "a.test"), None), "https://a.test/?q");
}

fn parse_reply(raw: &str, facts: RequestFacts) -> Result<(ResponseHead, Fields), HeadError> {
    let mut fields = Fields::new();
    let head = parse_response(raw.as_bytes(), &mut fields, &HeadLimits::default(), facts)?;
    Ok((head.expect("complete"), fields))
}

fn reply_head(raw: &str) -> ResponseHead {
    parse_reply(raw, RequestFacts::default()).unwrap_or_else(|error| panic!("{raw:?}: {error}")).0
}

fn answer_with(raw: &str, facts: RequestFacts, change: impl Fn(&mut Reply<'_>)) -> String {
    let (head, fields) = parse_reply(raw, facts).expect("good");
    let mut reply = Reply { framing: head.framing, ..Reply::default() };
    change(&mut reply);
    let mut buffer = [0; 4096];
    let mut out = Out::new(&mut buffer);
    encode_response(&mut out, raw.as_bytes(), &head, &fields, &reply).expect("room");
    String::from_utf8(out.written().to_vec()).expect("text")
}

#[test]
fn the_end_of_a_response_body() {
    use ResponseFraming as F;
    let head = RequestFacts { is_head: true, upgrade: false };
    let get = RequestFacts::default();
    let cases = [
        ("200 OK", "Content-Length: 5\r\n", get, F::Length(5), true),
        ("200 OK", "Transfer-Encoding: chunked\r\n", get, F::Chunked, true),
        ("200 OK", "", get, F::UntilClose, false),
        ("200 OK", "Content-Length: 5\r\nConnection: close\r\n", get, F::Length(5), false),
        ("200 OK", "Content-Length: 5\r\n", head, F::None, true),
        ("200 OK", "Transfer-Encoding: chunked\r\n", head, F::None, true),
        ("200 OK", "", head, F::None, true),
        ("304 Not Modified", "Content-Length: 5\r\n", get, F::None, true),
        ("204 No Content", "", get, F::None, true),
        ("204 No Content", "Content-Length: 0\r\n", get, F::None, true),
        ("204 No Content", "Content-Length: 5\r\n", get, F::None, false),
        ("204 No Content", "Transfer-Encoding: chunked\r\n", get, F::None, false),
        ("100 Continue", "", get, F::None, true),
        ("103 Early Hints", "Link: x\r\n", get, F::None, true),
        ("100 Continue", "Content-Length: 5\r\n", get, F::None, false),
        ("205 Reset Content", "Content-Length: 0\r\n", get, F::Length(0), true),
        ("999", "Content-Length: 0\r\n", get, F::Length(0), true),
    ];
    for (status, lines, facts, framing, keep_alive) in cases {
        let raw = format!("HTTP/1.1 {status}\r\n{lines}\r\n");
        let (head, _) = parse_reply(&raw, facts).unwrap_or_else(|e| panic!("{raw:?}: {e}"));
        assert_eq!((head.framing, head.keep_alive), (framing, keep_alive), "{raw:?}");
    }
    let old = reply_head("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n");
    assert!(!old.keep_alive);
    let old = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n";
    assert!(reply_head(old).keep_alive);
}

#[test]
fn responses_that_are_refused() {
    use HeadError as E;
    let cases = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            E::LengthWithCoding,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", E::LengthDuplicate),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", E::LengthMalformed),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", E::LengthMalformed),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", E::CodingNotChunkedLast),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", E::CodingUnsupported),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", E::CodingBeforeHttp11),
        ("HTTP/1.1 200 OK\r\nA: 1\r\n b\r\n\r\n", E::FoldedLine),
        ("HTTP/1.1 200 OK\nA: 1\r\n\r\n", E::BareLf),
        ("HTTP/1.1 200 OK\r\nA: 1\n\r\n", E::BareLf),
        ("HTTP/1.1 200 O\rK\r\n\r\n", E::BareCr),
        ("HTTP/1.1 200 O\0K\r\n\r\n", E::StatusLineMalformed),
        ("HTTP/1.1 20 OK\r\n\r\n", E::StatusLineMalformed),
        ("HTTP/1.1 2000 OK\r\n\r\n", E::StatusLineMalformed),
        ("HTTP/1.1 099 OK\r\n\r\n", E::StatusLineMalformed),
        ("HTTP/1.1  200 OK\r\n\r\n", E::StatusLineMalformed),
        ("HTTP/2.0 200 OK\r\n\r\n", E::VersionUnsupported),
        ("ICY 200 OK\r\n\r\n", E::StatusLineMalformed),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", E::StatusLineMalformed),
        ("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", E::UpgradeUnasked),
    ];
    for (raw, expected) in cases {
        assert_eq!(parse_reply(raw, RequestFacts::default()).err(), Some(expected), "{raw:?}");
    }
    let asked = RequestFacts { is_head: false, upgrade: true };
    for lines in ["", "Upgrade: websocket\r\n", "Connection: upgrade\r\nUpgrade: h2c\r\n"] {
        let raw = format!("HTTP/1.1 101 X\r\n{lines}\r\n");
        assert_eq!(parse_reply(&raw, asked).err(), Some(E::UpgradeMalformed), "{raw:?}");
    }
}

#[test]
fn a_response_is_passed_on() {
    let get = RequestFacts::default();
    let raw = "HTTP/1.0 200 Fine\r\nServer : x\r\nContent-Length: 05\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
        Keep-Alive: 5\r\nApcera-Error: spoof\r\nSet-Cookie: a=b\r\nContent_Length: 9\r\nEmpty:\r\n\r\n";
    assert_eq!(
        answer_with(raw, get, |_| ()),
        "HTTP/1.1 200 Fine\r\nServer: x\r\nSet-Cookie: a=b\r\nEmpty:\r\nContent-Length: 5\r\n\r\n"
    );
    let chunked = "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\n\r\n";
    assert_eq!(
        answer_with(chunked, get, |reply| reply.via = "edge"),
        "HTTP/1.1 200 \r\nTrailer: Digest\r\nTransfer-Encoding: chunked\r\nVia: 1.1 edge\r\n\r\n"
    );
    let to_old_client = |reply: &mut Reply<'_>| {
        reply.client_version = Version::Http10;
        reply.framing = ResponseFraming::UntilClose;
        reply.close = true;
    };
    assert_eq!(
        answer_with(chunked, get, to_old_client),
        "HTTP/1.1 200 \r\nConnection: close\r\n\r\n"
    );
    let kept = |reply: &mut Reply<'_>| reply.client_version = Version::Http10;
    assert_eq!(
        answer_with("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", get, kept),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn heads_without_bodies_are_passed_on() {
    let head = RequestFacts { is_head: true, upgrade: false };
    let keep = |reply: &mut Reply<'_>| reply.keep_length = true;
    let raw = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(answer_with(raw, head, keep), raw);
    assert_eq!(answer_with(raw, head, |_| ()), "HTTP/1.1 200 OK\r\n\r\n");
    let none = "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n";
    let get = RequestFacts::default();
    assert_eq!(answer_with(none, get, keep), "HTTP/1.1 204 No Content\r\n\r\n");
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 5\r\n\r\n";
    let closing = |reply: &mut Reply<'_>| (reply.close, reply.keep_length) = (true, true);
    assert_eq!(answer_with(hints, get, closing), "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
    let asked = RequestFacts { is_head: false, upgrade: true };
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: x\r\n\r\n";
    assert_eq!(
        answer_with(switch, asked, |_| ()),
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\n\r\n"
    );
    let (head, fields) = parse_reply(switch, asked).expect("good");
    assert!(fields.has(Known::Upgrade) && !head.keep_alive && head.upgrade.is_some());
}

#[test]
fn a_full_buffer_is_said() {
    let raw = "GET / HTTP/1.1\r\nHost: a.test\r\nA: 1\r\nB:2\r\n\r\n";
    let (head, fields) = good(raw);
    let whole = forward(raw).len();
    for room in 0..whole {
        let mut buffer = vec![0; room];
        let mut out = Out::new(&mut buffer);
        let outcome = encode_request(&mut out, raw.as_bytes(), &head, &fields, &plain(&head));
        assert!(outcome.is_err(), "{room} of {whole} bytes cannot be enough");
    }
    assert_eq!(head.framing, RequestFraming::None);
}
