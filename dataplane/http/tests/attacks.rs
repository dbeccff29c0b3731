//! Requests somebody could read in two ways, and what becomes of each: the smuggler's catalogue.
//!
//! Every row is refused with a named fault, or forwarded as exactly the bytes that stand there.

use HeadError as E;
use http1::{
    Fields, Forward, HeadError, HeadLimits, Out, RequestFacts, encode_request, parse_request,
    parse_response,
};

fn parse(raw: &[u8]) -> Result<Option<usize>, HeadError> {
    let mut fields = Fields::new();
    let head = parse_request(raw, &mut fields, &HeadLimits::default())?;
    Ok(head.map(|head| head.head_len))
}

/// The forwarded head without the fields that are always added.
fn forwarded(raw: &[u8]) -> Vec<u8> {
    let mut fields = Fields::new();
    let head = parse_request(raw, &mut fields, &HeadLimits::default())
        .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(raw)))
        .expect("complete");
    let forward = Forward {
        client_ip: "192.0.2.7",
        peer_ip: "192.0.2.7",
        framing: head.framing,
        ..Forward::default()
    };
    let mut buffer = [0; 32 * 1024];
    let mut out = Out::new(&mut buffer);
    encode_request(&mut out, raw, &head, &fields, &forward).expect("room");
    let text = out.written();
    let tail = b"X-Forwarded-For: 192.0.2.7\r\n";
    let at = text.windows(tail.len()).position(|window| window == tail).expect("our own field");
    text[..at].to_vec()
}

/// A POST to `a.test` with `lines` among its fields.
fn with(lines: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n").into_bytes()
}

#[track_caller]
fn all_refused(rows: &[(&str, HeadError)], wrap: impl Fn(&str) -> Vec<u8>) {
    for (row, expected) in rows {
        assert_eq!(parse(&wrap(row)), Err(*expected), "{row:?}");
    }
}

/// CL.TE, TE.CL, TE.TE, CL.CL and their disguises.
#[test]
fn framing_that_contradicts_itself() {
    let rows = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", E::LengthWithCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", E::LengthWithCoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", E::LengthWithCoding),
        ("transfer-encoding: chunked\r\ncontent-length: x\r\n", E::LengthWithCoding),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", E::LengthDuplicate),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", E::LengthDuplicate),
        ("Content-Length: 5\r\ncONTENT-lENGTH: 5\r\n", E::LengthDuplicate),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", E::CodingDuplicate),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", E::CodingDuplicate),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", E::CodingDuplicate),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", E::CodingDuplicate),
        ("Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n", E::CodingDuplicate),
    ];
    all_refused(&rows, with);
}

#[test]
fn lengths_in_disguise() {
    let rows = [
        ("Content-Length: +5\r\n", E::LengthMalformed),
        ("Content-Length: -5\r\n", E::LengthMalformed),
        ("Content-Length: 5, 5\r\n", E::LengthMalformed),
        ("Content-Length: 5,5\r\n", E::LengthMalformed),
        ("Content-Length: 5 6\r\n", E::LengthMalformed),
        ("Content-Length: 0x5\r\n", E::LengthMalformed),
        ("Content-Length: 5h\r\n", E::LengthMalformed),
        ("Content-Length: 5.0\r\n", E::LengthMalformed),
        ("Content-Length: 5e0\r\n", E::LengthMalformed),
        ("Content-Length: 5_0\r\n", E::LengthMalformed),
        ("Content-Length: 5;\r\n", E::LengthMalformed),
        ("Content-Length: \"5\"\r\n", E::LengthMalformed),
        ("Content-Length:\r\n", E::LengthMalformed),
        ("Content-Length: \r\n", E::LengthMalformed),
        ("Content-Length: ,5\r\n", E::LengthMalformed),
        ("Content-Length: \u{ff15}\r\n", E::LengthMalformed),
        ("Content-Length: \u{a0}5\r\n", E::LengthMalformed),
        ("Content-Length: 18446744073709551621\r\n", E::LengthTooLarge),
        ("Content-Length: 0000000000000000005\r\n", E::LengthTooLarge),
        ("Content-Length: 5\u{b}\r\n", E::FieldValueMalformed),
        ("Content-Length: \u{c}5\r\n", E::FieldValueMalformed),
        ("Content-Length: 5\0\r\n", E::FieldValueMalformed),
        ("Content-Length : 5\r\n", E::SpaceBeforeColon),
        ("Content-Length\t: 5\r\n", E::SpaceBeforeColon),
        ("Content-Length:\r\n 5\r\n", E::FoldedLine),
        ("Content-Length: 5\r\n\t6\r\n", E::FoldedLine),
        (" Content-Length: 5\r\n", E::FoldedLine),
        ("Content-Length: 5\nX: 1\r\n", E::BareLf),
        ("Content-Length: 5\rX: 1\r\n", E::BareCr),
        ("Content\u{2011}Length: 5\r\n", E::FieldNameMalformed),
        ("Content-Length\0: 5\r\n", E::FieldNameMalformed),
        ("Content-Length\u{b}: 5\r\n", E::FieldNameMalformed),
        ("Content Length: 5\r\n", E::SpaceBeforeColon),
    ];
    all_refused(&rows, with);
}

#[test]
fn codings_in_disguise() {
    let rows = [
        ("Transfer-Encoding: xchunked\r\n", E::CodingNotChunkedLast),
        ("Transfer-Encoding: chunked, identity\r\n", E::CodingNotChunkedLast),
        ("Transfer-Encoding: chunked, chunked\r\n", E::CodingNotChunkedLast),
        ("Transfer-Encoding: identity\r\n", E::CodingNotChunkedLast),
        ("Transfer-Encoding: cow\r\n", E::CodingNotChunkedLast),
        ("Transfer-Encoding: identity, chunked\r\n", E::CodingUnsupported),
        ("Transfer-Encoding: chunked,\r\n", E::CodingMalformed),
        ("Transfer-Encoding: ,chunked\r\n", E::CodingMalformed),
        ("Transfer-Encoding:\r\n", E::CodingMalformed),
        ("Transfer-Encoding: \"chunked\"\r\n", E::CodingMalformed),
        ("Transfer-Encoding: 'chunked'\r\n", E::CodingNotChunkedLast),
        ("Transfer-Encoding: chunked;q=1\r\n", E::CodingMalformed),
        ("Transfer-Encoding: chunked foo\r\n", E::CodingMalformed),
        ("Transfer-Encoding: chu\u{17f}nked\r\n", E::CodingMalformed),
        ("Transfer-Encoding: \u{a0}chunked\r\n", E::CodingMalformed),
        ("Transfer-Encoding: \u{b}chunked\r\n", E::FieldValueMalformed),
        ("Transfer-Encoding: chunked\u{b}\r\n", E::FieldValueMalformed),
        ("Transfer-Encoding: chunked\0\r\n", E::FieldValueMalformed),
        ("Transfer-Encoding: chunked\u{7f}\r\n", E::FieldValueMalformed),
        ("Transfer-Encoding : chunked\r\n", E::SpaceBeforeColon),
        ("Transfer-Encoding\r\n : chunked\r\n", E::FieldNameMalformed),
        ("Transfer-Encoding:\r\n chunked\r\n", E::FoldedLine),
        ("X: 1\r\n Transfer-Encoding: chunked\r\n", E::FoldedLine),
        ("X: 1\nTransfer-Encoding: chunked\r\n", E::BareLf),
        ("X: 1\rTransfer-Encoding: chunked\r\n", E::BareCr),
        ("\0Transfer-Encoding: chunked\r\n", E::FieldNameMalformed),
        ("Transfer\u{2010}Encoding: chunked\r\n", E::FieldNameMalformed),
        ("Transfer-Encoding chunked\r\n", E::SpaceBeforeColon),
        ("Foo\r\nTransfer-Encoding: chunked\r\n", E::FieldNameMalformed),
        (": chunked\r\n", E::FieldNameMalformed),
    ];
    all_refused(&rows, with);
    let old = b"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(parse(old), Err(E::CodingBeforeHttp11));
}

#[test]
fn request_lines_in_disguise() {
    let rows = [
        ("GET  / HTTP/1.1\r\n", E::TargetMalformed),
        ("GET /  HTTP/1.1\r\n", E::RequestLineMalformed),
        ("GET\t/ HTTP/1.1\r\n", E::MethodMalformed),
        ("GET /\tHTTP/1.1\r\n", E::TargetMalformed),
        (" GET / HTTP/1.1\r\n", E::MethodMalformed),
        ("GET / HTTP/1.1 \r\n", E::RequestLineMalformed),
        ("GET / HTTP/1.1\n", E::BareLf),
        ("GET / HTTP/1.1\r\r\n", E::BareCr),
        ("GET / HTTP/1.1\rX\r\n", E::BareCr),
        ("GET /\r\n", E::TargetMalformed),
        ("GET\r\n", E::MethodMalformed),
        ("GET / http/1.1\r\n", E::VersionMalformed),
        ("GET / HTTP/1.1.1\r\n", E::RequestLineMalformed),
        ("GET / HTTP/01.1\r\n", E::VersionMalformed),
        ("GET / HTTP/1.\r\n", E::VersionMalformed),
        ("GET / HTTP/1\r\n", E::VersionMalformed),
        ("GET / HTTPS/1.1\r\n", E::VersionMalformed),
        ("GET / XHTTP/1.1\r\n", E::VersionMalformed),
        ("GET / HTTP /1.1\r\n", E::VersionMalformed),
        ("GET / HTTP/1.2\r\n", E::VersionUnsupported),
        ("GET / HTTP/0.9\r\n", E::VersionUnsupported),
        ("GET / HTTP/2.0\r\n", E::VersionUnsupported),
        ("GET / HTTP/1.1\u{0}\r\n", E::RequestLineMalformed),
        ("G(T / HTTP/1.1\r\n", E::MethodMalformed),
        ("G\u{e9}T / HTTP/1.1\r\n", E::MethodMalformed),
        ("GET /a#b HTTP/1.1\r\n", E::TargetMalformed),
        ("GET /a\\b HTTP/1.1\r\n", E::TargetMalformed),
        ("GET /\u{e9} HTTP/1.1\r\n", E::TargetMalformed),
        ("GET /a\0b HTTP/1.1\r\n", E::TargetMalformed),
        ("GET /a\u{7f}b HTTP/1.1\r\n", E::TargetMalformed),
        ("GET /a\"b HTTP/1.1\r\n", E::TargetMalformed),
        ("GET /<a> HTTP/1.1\r\n", E::TargetMalformed),
        ("GET a HTTP/1.1\r\n", E::TargetMalformed),
        ("GET ?a HTTP/1.1\r\n", E::TargetMalformed),
        ("GET * HTTP/1.1\r\n", E::TargetMalformed),
        ("OPTIONS ** HTTP/1.1\r\n", E::TargetMalformed),
        ("GET a.test HTTP/1.1\r\n", E::TargetMalformed),
        ("GET a.test:80 HTTP/1.1\r\n", E::TargetMalformed),
        ("GET ftp://a.test/ HTTP/1.1\r\n", E::TargetMalformed),
        ("GET file:///etc/passwd HTTP/1.1\r\n", E::TargetMalformed),
        ("GET http:/a.test/ HTTP/1.1\r\n", E::TargetMalformed),
        ("GET http:///x HTTP/1.1\r\n", E::HostMissing),
        ("GET http://?x HTTP/1.1\r\n", E::HostMissing),
        ("GET http://u@a.test/ HTTP/1.1\r\n", E::HostMalformed),
        ("GET http://u:p@a.test/ HTTP/1.1\r\n", E::HostMalformed),
        ("GET http://b.test/ HTTP/1.1\r\n", E::HostMismatch),
        ("GET http://a.test:81/ HTTP/1.1\r\n", E::HostMismatch),
        ("GET https://a.test:80/ HTTP/1.1\r\n", E::HostMismatch),
        ("GET http://a.test./ HTTP/1.1\r\n", E::HostMismatch),
        ("CONNECT a.test:80 HTTP/1.1\r\n", E::MethodUnsupported),
        ("TRACE / HTTP/1.1\r\n", E::MethodUnsupported),
        ("PRI * HTTP/2.0\r\n", E::MethodUnsupported),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\n", E::MethodUnsupported),
        ("\nGET / HTTP/1.1\r\n", E::BareLf),
        ("\rGET / HTTP/1.1\r\n", E::BareCr),
        ("\r\n\r\n\r\nGET / HTTP/1.1\r\n", E::LeadingBlankLines),
        ("\u{16}\u{3}\u{1}", E::TlsOnPlainPort),
        ("\u{16}\u{4}", E::MethodMalformed),
        ("\0", E::MethodMalformed),
        ("\u{80}", E::MethodMalformed),
    ];
    all_refused(&rows, |line| format!("{line}Host: a.test\r\n\r\n").into_bytes());
}

#[test]
fn hosts_in_disguise() {
    let rows = [
        ("", E::HostMissing),
        ("Host:\r\n", E::HostMissing),
        ("Host: \r\n", E::HostMissing),
        ("Host: a.test\r\nHost: b.test\r\n", E::HostDuplicate),
        ("Host: a.test\r\nHost: a.test\r\n", E::HostDuplicate),
        ("Host: a.test\r\nhOST: a.test\r\n", E::HostDuplicate),
        ("Host:\r\nHost: a.test\r\n", E::HostDuplicate),
        ("Host: a.test, b.test\r\n", E::HostMalformed),
        ("Host: a.test b.test\r\n", E::HostMalformed),
        ("Host: a.test/b\r\n", E::HostMalformed),
        ("Host: a.test@b.test\r\n", E::HostMalformed),
        ("Host: a.test#b\r\n", E::HostMalformed),
        ("Host: a.test?b\r\n", E::HostMalformed),
        ("Host: a.test\\b\r\n", E::HostMalformed),
        ("Host: http://a.test\r\n", E::HostMalformed),
        ("Host: a.test:x\r\n", E::HostMalformed),
        ("Host: a.test:99999\r\n", E::HostMalformed),
        ("Host: a.test:80:80\r\n", E::HostMalformed),
        ("Host: [::1\r\n", E::HostMalformed),
        ("Host: ::1\r\n", E::HostMalformed),
        ("Host: a%2etest\r\n", E::HostMalformed),
        ("Host: a..test\r\n", E::HostMalformed),
        ("Host: .a.test\r\n", E::HostMalformed),
        ("Host: \u{e4}.test\r\n", E::HostMalformed),
        ("Host : a.test\r\n", E::SpaceBeforeColon),
        (" Host: a.test\r\n", E::FoldedLine),
        ("Host: a.test\r\n b.test\r\n", E::FoldedLine),
        ("Host\0: a.test\r\n", E::FieldNameMalformed),
        ("X-Host: a.test\r\n", E::HostMissing),
    ];
    all_refused(&rows, |lines| format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes());
    all_refused(&rows, |lines| format!("GET / HTTP/1.0\r\n{lines}\r\n").into_bytes());
}

#[test]
fn other_refusals() {
    let rows = [
        ("Expect: 200-ok\r\n", E::ExpectationUnknown),
        ("Expect: 100-continue, x\r\n", E::ExpectationUnknown),
        ("Expect:\r\n", E::ExpectationUnknown),
        ("Connection: \"close\"\r\n", E::ConnectionMalformed),
        ("Connection: close Transfer-Encoding\r\n", E::ConnectionMalformed),
    ];
    all_refused(&rows, with);
    let options =
        |lines: &str| format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes();
    let rows = [
        ("Max-Forwards: x\r\n", E::MaxForwardsMalformed),
        ("Max-Forwards: -1\r\n", E::MaxForwardsMalformed),
        ("Max-Forwards: 1\r\nMax-Forwards: 1\r\n", E::MaxForwardsMalformed),
    ];
    all_refused(&rows, options);
}

/// Goal: what is harmless as we read it is forwarded so that nobody can read it otherwise.
#[test]
fn disguises_that_are_taken_off() {
    const LINE: &str = "POST / HTTP/1.1\r\nHost: a.test\r\n";
    let rows = [
        ("Transfer-Encoding:chunked\r\n", "Transfer-Encoding: chunked\r\n"),
        ("Transfer-Encoding:\tchunked\t\r\n", "Transfer-Encoding: chunked\r\n"),
        ("tRANSFER-eNCODING: ChUnKeD\r\n", "Transfer-Encoding: chunked\r\n"),
        ("Content-Length:\t 007 \r\n", "Content-Length: 7\r\n"),
        ("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", "Content-Length: 5\r\n"),
        ("Content-Length: 5\r\nTransfer.Encoding: chunked\r\n", "Content-Length: 5\r\n"),
        ("Transfer-Encoding: chunked\r\nContent_Length: 5\r\n", "Transfer-Encoding: chunked\r\n"),
        ("Content-Length: 5\r\nConnection: Content-Length\r\n", "Content-Length: 5\r\n"),
        (
            "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding\r\n",
            "Transfer-Encoding: chunked\r\n",
        ),
        ("Content-Length: 5\r\nConnection: close, Host\r\n", "Content-Length: 5\r\n"),
        ("X: \u{e9}\u{ff}\r\n", "X: \u{e9}\u{ff}\r\n"),
        ("X: a\tb\r\n", "X: a\tb\r\n"),
        ("X-Transfer-Encoding: chunked\r\n", "X-Transfer-Encoding: chunked\r\n"),
        ("Content-Length-X: 5\r\n", "Content-Length-X: 5\r\n"),
        ("A: 1\r\nA: 2\r\n", "A: 1\r\nA: 2\r\n"),
    ];
    for (lines, expected) in rows {
        let expected = format!("{LINE}{expected}");
        let seen = String::from_utf8(forwarded(&with(lines))).expect("UTF-8 in, UTF-8 out");
        assert_eq!(seen, expected, "{lines:?}");
    }
    let folded = "GET / HTTP/1.1\r\nHost:\ta.test \r\n\r\n";
    assert_eq!(forwarded(folded.as_bytes()), b"GET / HTTP/1.1\r\nHost: a.test\r\n");
    let blank = "\r\n\r\nGET /%2e%2e/%00?\\\"<>` HTTP/1.1\r\nHost: a.test:\r\n\r\n";
    let expected = b"GET /%2e%2e/%00?\\\"<>` HTTP/1.1\r\nHost: a.test\r\n";
    assert_eq!(forwarded(blank.as_bytes()), expected);
}

/// Goal: a second request behind the first is not touched by the first's head.
#[test]
fn what_follows_the_head_stays() {
    let first = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let both = [&first[..], b"GET /admin HTTP/1.1\r\nHost: b.test\r\n\r\n"].concat();
    assert_eq!(parse(&both), Ok(Some(first.len())));
    assert_eq!(forwarded(&both), b"GET / HTTP/1.1\r\nHost: a.test\r\n");
}

#[test]
fn limits_hold() {
    let limits = HeadLimits { bytes_max: 200, target_bytes_max: 20, fields_max: 4 };
    let mut fields = Fields::new();
    let mut outcome = |raw: String| {
        parse_request(raw.as_bytes(), &mut fields, &limits).map(|head| head.is_some())
    };
    let target = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(len - 1));
    assert_eq!(outcome(target(20)), Ok(true));
    assert_eq!(outcome(target(21)), Err(E::TargetTooLong));
    assert_eq!(outcome(format!("GET /{}", "x".repeat(20))), Err(E::TargetTooLong));
    assert_eq!(outcome(format!("GET /{}", "x".repeat(19))), Ok(false));
    let head = |len: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(len - start.len() - 4))
    };
    assert_eq!(outcome(head(200)), Ok(true));
    assert_eq!(outcome(head(201)), Err(E::HeadTooLarge));
    assert_eq!(outcome(head(2000)), Err(E::HeadTooLarge));
    let many = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: 1\r\n".repeat(n - 1));
    assert_eq!(outcome(many(4)), Ok(true));
    assert_eq!(outcome(many(5)), Err(E::TooManyFields));
}

/// Goal: the fault table is complete and sane: every status is one we may answer with.
#[test]
fn faults_have_codes() {
    for fault in [E::HeadTooLarge, E::LengthWithCoding, E::HostMismatch, E::VersionUnsupported] {
        assert!((400..=505).contains(&fault.status()));
        assert!(fault.code().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        assert_eq!(fault.to_string(), fault.why());
    }
    assert_eq!((E::TargetTooLong.code(), E::TargetTooLong.status()), ("target_too_long", 414));
    assert_eq!(
        (E::LengthWithCoding.code(), E::LengthWithCoding.status()),
        ("framing_ambiguous", 400)
    );
}

/// Goal: an origin cannot smuggle a second response behind ours either.
#[test]
fn responses_in_disguise() {
    let rows = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", E::LengthWithCoding),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", E::LengthDuplicate),
        ("Content-Length: +5\r\n", E::LengthMalformed),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", E::CodingDuplicate),
        ("Transfer-Encoding: chunked, chunked\r\n", E::CodingNotChunkedLast),
        ("Transfer-Encoding: \u{b}chunked\r\n", E::FieldValueMalformed),
        ("X: a\rSet-Cookie: b\r\n", E::BareCr),
        ("X: a\nSet-Cookie: b\r\n", E::BareLf),
        ("X Y: a\r\n", E::FieldNameMalformed),
    ];
    for (lines, expected) in rows {
        let raw = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        let mut fields = Fields::new();
        let limits = HeadLimits::default();
        let seen = parse_response(raw.as_bytes(), &mut fields, &limits, RequestFacts::default());
        assert_eq!(seen.map(|_| ()), Err(expected), "{lines:?}");
    }
}
