//! Plays one attack of a client and looks at both ends: what the client was told, what the origin saw.
//!
//! Deliberately absent: the attacks themselves, see `requests.rs`.

use tests::{Client, End, Origin, Router};

/// What has to become of the bytes of an attack.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// Refused with this status and the connection closed; nothing reaches the origin.
    Refused(u16),
    /// Refused with any 4xx or 5xx and the connection closed; nothing reaches the origin.
    RefusedAny,
    /// Answered with an error of the router, the connection closed or not; nothing of the first request reaches the
    /// origin, and what follows it only if the answer leaves the connection open.
    NotServed,
    /// Refused within the body: the origin may see the head, never a whole request.
    Spoiled,
    /// Served as exactly so many requests, with these bodies.
    Served(&'static [&'static str]),
    /// Served as one request with this body, or refused as [`Fate::RefusedAny`].
    ServedOrRefused(&'static str),
}

use Fate::{NotServed, Refused, RefusedAny, Served, ServedOrRefused, Spoiled};

/// How the bytes of an attack are cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cut {
    Whole,
    Bytes,
    /// Behind a good request on the same connection, in one write.
    Pipelined,
}

/// Play one attack and look at both ends.
pub(crate) fn judge(
    router: &Router,
    origin: &Origin,
    bytes: &[u8],
    fate: Fate,
    cut: Cut,
) -> Result<(), String> {
    let mut client = router.connect();
    let mut before = origin.look(|seen| seen.requests.len());
    match cut {
        Cut::Whole => tests::server::ignore(client.try_send(bytes)),
        // A router that refuses early closes before the last byte: then the rest cannot be sent.
        Cut::Bytes => {
            tests::server::ignore(bytes.iter().try_for_each(|byte| client.try_send([*byte])))
        }
        Cut::Pipelined => {
            let first = b"GET /first HTTP/1.1\r\nHost: app.test\r\n\r\n";
            client.send([first, bytes].concat());
            let response = client.try_response("GET").map_err(|e| format!("the good one: {e}"))?;
            if response.text() != "/first" {
                return Err(format!("the good one got {}", response.status));
            }
            before += 1;
        }
    }
    let method = if bytes.starts_with(b"HEAD ") { "HEAD" } else { "POST" };
    let outcome = check_fate(&mut client, fate, method);
    let new: Vec<_> = {
        // The connection to the client is over or idle: what the origin will ever see of this, it sees soon.
        let settled = |seen: &tests::origin::Seen| {
            seen.requests[before..].iter().all(|request| {
                request.body.complete || seen.connections[request.connection].ended.is_some()
            })
        };
        origin.wait("requests are whole or cut", settled).requests.split_off(before)
    };
    let served = outcome?;
    let whole: Vec<String> =
        new.iter().filter(|r| r.body.complete).map(tests::Request::text).collect();
    let faults: Vec<String> = new.iter().flat_map(tests::Request::all_faults).collect();
    if !faults.is_empty() && !matches!(fate, Spoiled) {
        return Err(format!("invalid bytes reached the origin: {faults:?}"));
    }
    let wanted: Vec<String> = served.iter().map(|body| (*body).to_owned()).collect();
    if whole != wanted {
        return Err(format!("the origin saw requests with bodies {whole:?}, not {wanted:?}"));
    }
    if new.len() > served.len() && !matches!(fate, Spoiled) {
        return Err(format!("the origin saw {} heads", new.len()));
    }
    Ok(())
}

/// What the client got; gives the bodies that the origin must have seen.
fn check_fate(client: &mut Client, fate: Fate, method: &str) -> Result<Vec<&'static str>, String> {
    let response = client.try_response(method).map_err(|e| format!("no answer: {e}"))?;
    let status = response.status;
    let refused = |ended: bool| {
        if !(400..600).contains(&status) || response.code().is_none() {
            return Err(format!("answered {status}, code {:?}", response.code()));
        }
        match ended {
            true if !response.says_close() => Err("refused without saying close".to_owned()),
            _ => Ok(Vec::new()),
        }
    };
    match fate {
        Refused(wanted) if status != wanted => Err(format!("answered {status}, not {wanted}")),
        Spoiled if status != 400 => Err(format!("answered {status}, not 400")),
        Refused(_) | RefusedAny | Spoiled => {
            let verdict = refused(true)?;
            expect_silence(client)?;
            Ok(verdict)
        }
        NotServed => {
            refused(false)?;
            if response.says_close() {
                expect_silence(client)?;
                return Ok(Vec::new());
            }
            // The router knows where the refused request ends: what follows is a request of its own.
            let next =
                client.try_response("GET").map_err(|e| format!("kept, but no answer: {e}"))?;
            if next.text() == "/hidden" {
                Ok(vec![""])
            } else {
                Err(format!("then {}", next.status))
            }
        }
        ServedOrRefused(_) if status >= 400 => {
            refused(true)?;
            expect_silence(client)?;
            Ok(Vec::new())
        }
        ServedOrRefused(body) => expect_ok(status).map(|()| vec![body]),
        Served(bodies) => {
            expect_ok(status)?;
            for _ in 1..bodies.len() {
                let next = client.try_response(method).map_err(|e| format!("no answer: {e}"))?;
                expect_ok(next.status)?;
            }
            Ok(bodies.to_vec())
        }
    }
}

fn expect_ok(status: u16) -> Result<(), String> {
    if status == 200 { Ok(()) } else { Err(format!("answered {status}, not 200")) }
}

/// After a refusal the connection ends, and not one byte more comes.
fn expect_silence(client: &mut Client) -> Result<(), String> {
    let (bytes, end) = client.read_to_end();
    match bytes.is_empty() && end != End::Truncated {
        true => Ok(()),
        false => Err(format!("after the refusal came {:?}", tests::message::latin1(&bytes))),
    }
}

/// The next client on another connection gets its own answer, and the origin its own request, untouched.
pub(crate) fn check_victim(router: &Router, origin: &Origin, number: usize) -> Result<(), String> {
    let target = format!("/victim-{number}");
    let mut client = router.connect();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: app.test\r\n\r\n"));
    let response =
        client.try_response("GET").map_err(|e| format!("the victim got nothing: {e}"))?;
    if response.text() != target {
        return Err(format!("the victim got {:?}", response.text()));
    }
    let last = origin.look(|seen| seen.requests.last().cloned()).ok_or("no request at all")?;
    let head = tests::message::latin1(&last.head);
    match head.starts_with(&format!("GET {target} HTTP/1.1\r\n")) && last.faults.is_empty() {
        true => Ok(()),
        false => Err(format!("the victim's request became {head:?}")),
    }
}
