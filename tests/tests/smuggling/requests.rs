//! Attacks by a client: one table. `judge.rs` plays them and looks at both ends.

use tests::{Config, Origin, Router};

use crate::judge::{Cut, Fate, check_victim, judge};
use Fate::{NotServed, Refused, RefusedAny, Served, ServedOrRefused, Spoiled};

/// A second request hidden in what a wrong reader takes for a body, or for the end of one.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: app.test\r\n\r\n";

/// Name, bytes, fate. `\r\n` is written out; `HIDDEN` is put where the mark `§` stands.
#[rustfmt::skip]
const ATTACKS: &[(&str, &str, Fate)] = &[
    // === length and coding together ===
    ("CL.TE", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n§", Refused(400)),
    ("TE.CL", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n28\r\n§\r\n0\r\n\r\n", Refused(400)),
    ("CL 0 and TE", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n§", Refused(400)),
    ("CL and TE identity", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nTransfer-Encoding: identity\r\n\r\nhello§", RefusedAny),
    // === Content-Length ===
    ("two different CL", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n§", Refused(400)),
    ("two equal CL", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello§", Refused(400)),
    ("list of CL", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5, 5\r\n\r\nhello§", Refused(400)),
    ("list of different CL", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0, 5\r\n\r\nhello§", Refused(400)),
    ("signed CL", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: +5\r\n\r\nhello§", Refused(400)),
    ("negative CL", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: -1\r\n\r\n§", Refused(400)),
    ("negative zero CL", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: -0\r\n\r\n§", Refused(400)),
    ("hexadecimal CL", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0x5\r\n\r\nhello§", Refused(400)),
    ("CL with exponent", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5e0\r\n\r\nhello§", Refused(400)),
    ("CL with fraction", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5.0\r\n\r\nhello§", Refused(400)),
    ("CL with space inside", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1 0\r\n\r\nhello§", Refused(400)),
    ("CL with underscore", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1_0\r\n\r\nhello§", Refused(400)),
    ("empty CL", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: \r\n\r\n§", Refused(400)),
    ("CL in quotes", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: \"5\"\r\n\r\nhello§", Refused(400)),
    ("CL beyond 64 bits", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 18446744073709551621\r\n\r\nhello§", RefusedAny),
    ("CL with parameter", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5;x\r\n\r\nhello§", Refused(400)),
    ("CL after a vertical tab", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: \x0b5\r\n\r\nhello§", Refused(400)),
    ("CL in other digits", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: \u{0665}\r\n\r\nhello§", Refused(400)),
    // === Transfer-Encoding ===
    ("two TE", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n§", RefusedAny),
    ("two equal TE", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n§", RefusedAny),
    ("chunked twice", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n§", RefusedAny),
    ("chunked not last", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n§", RefusedAny),
    ("gzip before chunked", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n§", RefusedAny),
    ("unknown TE", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n§", RefusedAny),
    ("empty TE", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: \r\n\r\n0\r\n\r\n§", RefusedAny),
    ("TE with list commas", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n§", RefusedAny),
    ("TE in quotes", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n§", RefusedAny),
    ("TE with parameter", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n§", RefusedAny),
    ("TE with vertical tab", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n§", Refused(400)),
    ("TE with NUL", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n§", Refused(400)),
    ("TE in HTTP/1.0", "POST / HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n§", Refused(400)),
    ("TE named away", "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", ServedOrRefused("hello")),
    ("CL named away", "POST / HTTP/1.1\r\nHost: app.test\r\nConnection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", ServedOrRefused("hello")),
    ("TE in another case", "POST / HTTP/1.1\r\nHost: app.test\r\ntRANSFER-eNCODING: cHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Served(&["hello"])),
    ("TE with tabs around", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding:\tchunked\t\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Served(&["hello"])),
    // === names ===
    ("space before the colon of TE", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n§", Refused(400)),
    ("space before the colon of CL", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length : 5\r\n\r\nhello§", Refused(400)),
    ("tab before the colon", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length\t: 5\r\n\r\nhello§", Refused(400)),
    ("space before the name", "POST / HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: app.test\r\n\r\n0\r\n\r\n§", Refused(400)),
    ("folded TE", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n§", Refused(400)),
    ("folded value", "GET / HTTP/1.1\r\nHost: app.test\r\nX: a\r\n Transfer-Encoding: chunked\r\n\r\n§", Refused(400)),
    ("NUL in a name", "POST / HTTP/1.1\r\nHost: app.test\r\nContent\0-Length: 5\r\n\r\nhello§", Refused(400)),
    ("no name", "GET / HTTP/1.1\r\nHost: app.test\r\n: x\r\n\r\n§", Refused(400)),
    ("no colon", "GET / HTTP/1.1\r\nHost: app.test\r\nnonsense\r\n\r\n§", Refused(400)),
    ("8-bit name", "GET / HTTP/1.1\r\nHost: app.test\r\nX\u{ff}: x\r\n\r\n§", Refused(400)),
    // === line ends ===
    ("bare LF ends a line", "POST / HTTP/1.1\r\nHost: app.test\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n§", Refused(400)),
    ("bare LF throughout", "GET / HTTP/1.1\nHost: app.test\n\n§", Refused(400)),
    ("bare LF ends the head", "GET / HTTP/1.1\r\nHost: app.test\r\n\n§", Refused(400)),
    ("bare CR ends a line", "GET / HTTP/1.1\r\nHost: app.test\rTransfer-Encoding: chunked\r\n\r\n§", Refused(400)),
    ("CR in a value", "GET / HTTP/1.1\r\nHost: app.test\r\nX: a\rb\r\n\r\n§", Refused(400)),
    ("LF in a value", "GET / HTTP/1.1\r\nHost: app.test\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n§", Refused(400)),
    ("CR CR LF", "GET / HTTP/1.1\r\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("NUL in a value", "GET / HTTP/1.1\r\nHost: app.test\r\nX: a\0b\r\n\r\n§", Refused(400)),
    ("control byte in a value", "GET / HTTP/1.1\r\nHost: app.test\r\nX: a\x01b\r\n\r\n§", Refused(400)),
    ("DEL in a value", "GET / HTTP/1.1\r\nHost: app.test\r\nX: a\x7fb\r\n\r\n§", Refused(400)),
    // === request line ===
    ("tab in the request line", "GET\t/ HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("two spaces in the request line", "GET  / HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("space at the end of the request line", "GET / HTTP/1.1 \r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("space in the target", "GET /a b HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("space before the method", " GET / HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("NUL in the target", "GET /\0 HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("control byte in the target", "GET /\x01 HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("fragment in the target", "GET /#/admin HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("no target", "GET HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("HTTP/0.9", "GET /\r\n\r\n§", Refused(400)),
    ("relative target", "GET admin HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("method with a bracket", "GE(T / HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("HTTP/2.0", "GET / HTTP/2.0\r\nHost: app.test\r\n\r\n§", Refused(505)),
    ("HTTP/1.10", "GET / HTTP/1.10\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("HTTP/01.1", "GET / HTTP/01.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("lower-case http", "GET / http/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("another protocol", "GET / ICAP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", RefusedAny),
    ("CONNECT", "CONNECT app.test:80 HTTP/1.1\r\nHost: app.test:80\r\n\r\n§", RefusedAny),
    ("CONNECT with a body", "CONNECT app.test:80 HTTP/1.1\r\nHost: app.test:80\r\nContent-Length: 5\r\n\r\nhello§", RefusedAny),
    // === host ===
    ("no Host", "GET / HTTP/1.1\r\nX: y\r\n\r\n§", Refused(400)),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: app.test\r\nHost: evil.test\r\n\r\n§", Refused(400)),
    ("two equal Hosts", "GET / HTTP/1.1\r\nHost: app.test\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("empty Host", "GET / HTTP/1.1\r\nHost: \r\n\r\n§", NotServed),
    ("Host with a path", "GET / HTTP/1.1\r\nHost: app.test/x\r\n\r\n§", Refused(400)),
    ("Host with user", "GET / HTTP/1.1\r\nHost: a@app.test\r\n\r\n§", Refused(400)),
    ("Host with comma", "GET / HTTP/1.1\r\nHost: app.test, evil.test\r\n\r\n§", Refused(400)),
    ("Host with space", "GET / HTTP/1.1\r\nHost: app.test evil.test\r\n\r\n§", Refused(400)),
    ("Host with a bad port", "GET / HTTP/1.1\r\nHost: app.test:80x\r\n\r\n§", Refused(400)),
    ("Host with a large port", "GET / HTTP/1.1\r\nHost: app.test:99999\r\n\r\n§", NotServed),
    ("target names another host", "GET http://evil.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n§", NotServed),
    ("target with user", "GET http://a@app.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("target of another scheme", "GET ftp://app.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("target without a host", "GET http:/// HTTP/1.1\r\nHost: app.test\r\n\r\n§", Refused(400)),
    ("space before Host", "GET / HTTP/1.1\r\n Host: app.test\r\nHost: evil.test\r\n\r\n§", Refused(400)),
    // === chunks ===
    ("chunk size with 0x", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("signed chunk size", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("negative chunk size", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("chunk size beyond 64 bits", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("space before the chunk size", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("space after the chunk size", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("empty chunk size", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("bare LF after the chunk size", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n§", Spoiled),
    ("bare CR after the chunk size", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5\rhello\r\n0\r\n\r\n§", Spoiled),
    ("bare LF after the chunk", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n§", Spoiled),
    ("chunk longer than its size", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("bare LF after the last chunk", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n0\n\r\n§", Spoiled),
    ("bare LF ends the trailers", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n§", Spoiled),
    ("LF in a chunk extension", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("CR in a chunk extension", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a\rb\r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("NUL in a chunk extension", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5;a\0\r\nhello\r\n0\r\n\r\n§", Spoiled),
    ("trailer smuggles framing", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 40\r\n\r\n", Served(&["hello"])),
    ("leading zeros in the size", "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n000\r\n\r\n", Served(&["hello"])),
    // === look-alikes and what is fine ===
    ("underscore framing", "POST / HTTP/1.1\r\nHost: app.test\r\nContent_Length: 40\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello", ServedOrRefused("hello")),
    ("X-HTTP-Method-Override", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nX-HTTP-Method-Override: CONNECT\r\n\r\nhello", Served(&["hello"])),
    ("GET with a body that is a request", "GET / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 42\r\n\r\nGET /hidden HTTP/1.1\r\nHost: app.test\r\n\r\n\r\n", Served(&["GET /hidden HTTP/1.1\r\nHost: app.test\r\n\r\n\r\n"])),
    ("HEAD with a body", "HEAD / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello", Served(&["hello"])),
    ("two requests", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\n\r\naPOST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\n\r\nb", Served(&["a", "b"])),
];

/// Goal: no attack of the table succeeds, in one piece. The same for the other cuts below.
#[test]
fn attacks_in_one_piece() {
    judge_all(Cut::Whole);
}

#[test]
fn attacks_byte_by_byte() {
    judge_all(Cut::Bytes);
}

#[test]
fn attacks_behind_a_good_request() {
    judge_all(Cut::Pipelined);
}

/// Goal: the table is worth its name.
#[test]
fn the_table_is_long_and_its_names_differ() {
    let names: std::collections::HashSet<&str> = ATTACKS.iter().map(|attack| attack.0).collect();
    assert_eq!(names.len(), ATTACKS.len());
    assert!(names.len() >= 100, "{}", names.len());
}

/// Goal: every split point of the classic attacks gives the same refusal.
#[test]
fn every_split_of_the_classics() {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    for (name, text, fate) in ATTACKS.iter().take(3) {
        let bytes = spelled(text);
        for at in 1..bytes.len() {
            let mut client = router.connect();
            client.send(&bytes[..at]);
            tests::server::ignore(client.try_send(&bytes[at..]));
            let Refused(status) = *fate else { panic!("{name} is a refusal") };
            assert_eq!(client.response().status, status, "{name} split at {at}");
        }
    }
    assert!(origin.seen().requests.is_empty());
}

fn judge_all(cut: Cut) {
    let origin = Origin::named("a");
    let router = Router::start(&Config::app(&origin));
    let mut failures = Vec::new();
    for (number, (name, text, fate)) in ATTACKS.iter().enumerate() {
        let verdict = judge(&router, &origin, &spelled(text), *fate, cut)
            .and_then(|()| check_victim(&router, &origin, number));
        if let Err(why) = verdict {
            failures.push(format!("{name} ({cut:?}): {why}"));
        }
    }
    assert!(failures.is_empty(), "{} attacks:\n{}", failures.len(), failures.join("\n"));
}

fn spelled(text: &str) -> Vec<u8> {
    text.replace('§', HIDDEN).into_bytes()
}
