//! What the clients of a life do: scripts of steps, drawn by chance.
//!
//! Deliberately absent: their playing; see `client.rs`.

use super::chance::{Chance, body};
use super::client::Step;
use super::ledger::{Ledger, Request};
use super::part::chunked;
use super::tables::DEEP;

/// Hosts that may have routes.
pub(crate) const HOSTS: [&str; 3] = ["one.test", "two.test", "three.test"];

/// A whole script for one connection.
pub(crate) fn any(ledger: &mut Ledger, chance: &mut Chance) -> Vec<Step> {
    if chance.percent(4) {
        return garbage(chance);
    }
    let polite = chance.percent(if ledger.fair { 75 } else { 60 });
    let pipelined = chance.percent(25);
    let mut steps = Vec::new();
    for _ in 0..chance.between(1, if pipelined { 8 } else { 5 }) {
        let last = chance.percent(10);
        request(&mut steps, ledger, chance, !polite, pipelined, last);
        if last {
            break;
        }
        if !pipelined {
            steps.push(Step::AwaitAnswers);
        }
        if chance.percent(25) {
            steps.push(Step::Wait(chance.millis(0, 300)));
        }
    }
    if polite {
        goodbye(&mut steps, chance)
    } else {
        rudely(&mut steps, chance)
    }
    steps
}

/// Many small requests at once, by one who never reads an answer.
pub(crate) fn flood(ledger: &mut Ledger, chance: &mut Chance) -> Vec<Step> {
    let mut steps = vec![Step::StopReading];
    let mut bytes = Vec::new();
    let host = *chance.pick(&HOSTS);
    for _ in 0..chance.between(20, 200) {
        let number = ledger.plan(Request {
            method: "GET",
            host: host.to_owned(),
            excused: true,
            ..Request::default()
        });
        ledger.requests[number].path = format!("/n/{number}");
        steps.push(Step::Begin(number));
        let line =
            format!("GET /n/{number} HTTP/1.1\r\nHost: {host}\r\nX-Number: {number}\r\n\r\n");
        bytes.extend_from_slice(line.as_bytes());
    }
    steps.push(Step::Bytes(bytes));
    steps
}

/// One polite GET that has to be served.
pub(crate) fn probe(ledger: &mut Ledger, host: &str, prefix: &str) -> (usize, Vec<Step>) {
    let request =
        Request { method: "GET", host: host.to_owned(), last: true, ..Request::default() };
    let number = ledger.plan(request);
    let path = format!("{prefix}/n/{number}");
    let text = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-Number: {number}\r\n\r\n"
    );
    ledger.requests[number].path = path;
    let steps = vec![
        Step::Begin(number),
        Step::Bytes(text.into_bytes()),
        Step::Whole(number),
        Step::AwaitAnswers,
        Step::Leave,
    ];
    (number, steps)
}

fn garbage(chance: &mut Chance) -> Vec<Step> {
    let texts: [&[u8]; 8] = [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: one.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET",
        b"GET / HTTP/1.1\r\nHost: one.test\r\n folded\r\n\r\n",
        b"NONSENSE",
        b"GET / HTTP/1.1\r\nHo",
        b"",
    ];
    let text = *chance.pick(&texts);
    let end = chance.pick(&[Step::Stay, Step::Fin, Step::Leave]).clone();
    vec![Step::Bytes(text.to_vec()), end]
}

fn goodbye(steps: &mut Vec<Step>, chance: &mut Chance) {
    let upgrade = steps.iter().any(|step| {
        matches!(step, Step::Bytes(bytes) if bytes.windows(9).any(|part| part == b"Upgrade: "))
    });
    if chance.percent(25) && !upgrade {
        steps.push(Step::Fin);
    }
    steps.push(Step::AwaitAnswers);
    steps.push(if chance.percent(30) { Step::Stay } else { Step::Leave });
}

/// Somewhere on the way, even within a message, this one does what it should not.
fn rudely(steps: &mut Vec<Step>, chance: &mut Chance) {
    let at = chance.below(steps.len());
    steps.truncate(at + 1);
    if let Some(Step::Bytes(bytes)) = steps.last_mut() {
        let end = chance.below(bytes.len() + 1);
        bytes.truncate(end);
    }
    if chance.percent(40) {
        steps.push(Step::Wait(chance.millis(0, 60)));
    }
    steps.push(
        chance.pick(&[Step::Reset, Step::Leave, Step::Stay, Step::Fin, Step::StopReading]).clone(),
    );
}

fn request(
    steps: &mut Vec<Step>,
    ledger: &mut Ledger,
    chance: &mut Chance,
    excused: bool,
    pipelined: bool,
    last: bool,
) {
    let old = last && chance.percent(30);
    let upgrade = last && !old && chance.percent(50);
    let method = match chance.below(20) {
        _ if upgrade => "GET",
        0..=9 => "GET",
        10 | 11 => "HEAD",
        12..=15 => "POST",
        16 | 17 => "PUT",
        18 => "DELETE",
        _ => "OPTIONS",
    };
    let has_body = matches!(method, "POST" | "PUT") || !upgrade && chance.percent(3);
    let body_len = if has_body { chance.body_len() } else { 0 };
    let lost = chance.percent(4);
    let host = if lost { "nobody.test" } else { *chance.pick(&HOSTS) };
    let number = ledger.plan(Request {
        method,
        host: host.to_owned(),
        body_len,
        has_body: has_body && body_len > 0,
        last: last && !upgrade,
        excused: excused || lost,
        ..Request::default()
    });
    let deep = if chance.percent(30) { DEEP } else { "" };
    let path = format!("{deep}/n/{number}");
    let version = if old { "1.0" } else { "1.1" };
    let mut head =
        format!("{method} {path} HTTP/{version}\r\nHost: {host}\r\nX-Number: {number}\r\n");
    ledger.requests[number].path = path;
    if upgrade {
        head += "Connection: upgrade\r\nUpgrade: echo\r\n";
    } else if last && !old {
        head += "Connection: close\r\n";
    }
    let in_chunks = has_body && !old && chance.percent(50);
    ledger.requests[number].has_body |= in_chunks;
    if in_chunks {
        head += "Transfer-Encoding: chunked\r\n";
    } else if has_body {
        head += &format!("Content-Length: {body_len}\r\n");
    }
    let expect = has_body && !old && !pipelined && chance.percent(20);
    head += if expect { "Expect: 100-continue\r\n\r\n" } else { "\r\n" };
    let mut body = body(number as u64, body_len);
    if in_chunks {
        body = chunked(&body, "", chance);
    }
    send(steps, number, head.into_bytes(), body, expect, chance);
}

fn send(
    steps: &mut Vec<Step>,
    number: usize,
    mut head: Vec<u8>,
    body: Vec<u8>,
    expect: bool,
    chance: &mut Chance,
) {
    steps.push(Step::Begin(number));
    if expect {
        steps.push(Step::Bytes(head));
        steps.push(Step::AwaitContinue);
        steps.push(Step::Bytes(body));
    } else if chance.percent(60) {
        head.extend(body);
        steps.push(Step::Bytes(head));
    } else {
        steps.push(Step::Bytes(head));
        steps.push(Step::Wait(chance.millis(0, 40)));
        steps.push(Step::Bytes(body));
    }
    steps.push(Step::Whole(number));
}
