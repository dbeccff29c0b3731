//! What must hold for any bytes: splits change nothing, and what goes out is beyond reproach.
//!
//! The judge of what goes out is `lint` below: a second, naive reading of the grammar that shares
//! no code with the crate.

use http1::{
    ChunkError, Chunked, Fields, Forward, HeadError, HeadLimits, Out, Piece, RequestFacts,
    RequestFraming, RequestHead, ResponseFraming, encode_request, encode_response, head_end,
    parse_request, parse_response, refuse_early,
};
use proptest::prelude::*;

const SEEDS: [&str; 10] = [
    "GET /x?y=1 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: a.test:8080\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n0\r\n\r\n",
    "GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 3\r\n\r\n",
    "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\nCookie: a=b\r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nHost:a.test\r\nX-Forwarded-For: 1.1.1.1\r\nX_Real_IP: 1\r\nA:\t1 \r\n\r\n",
    "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length : 5\r\n\r\n",
];

/// Bytes that matter to parsers, so that mutations hit something.
const TRICKS: [&str; 28] = [
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "\0",
    "\u{b}",
    "\u{7f}",
    "\u{e9}",
    "#",
    "?",
    "\\",
    "/",
    "Host: b\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "chunked",
    "_",
    "HTTP/1.0",
    "Connection: host, x\r\n",
    "http://a.test",
    "0",
    "-",
    "Upgrade: h2c\r\n",
];

/// One of the seeds with a few cuts and insertions.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<u16>(), 0..4_usize, 0..TRICKS.len(), any::<bool>());
    (0..SEEDS.len(), proptest::collection::vec(edit, 0..4)).prop_map(|(seed, edits)| {
        let mut bytes = SEEDS[seed].as_bytes().to_vec();
        for (place, cut, trick, insert) in edits {
            let at = usize::from(place) % (bytes.len() + 1);
            let end = (at + cut).min(bytes.len());
            let new: &[u8] = if insert { TRICKS[trick].as_bytes() } else { b"" };
            bytes.splice(at..end, new.iter().copied());
        }
        bytes
    })
}

type Parsed = Result<Option<RequestHead>, HeadError>;

fn parse(bytes: &[u8]) -> (Parsed, Fields) {
    let mut fields = Fields::new();
    let parsed = parse_request(bytes, &mut fields, &HeadLimits::default());
    (parsed, fields)
}

/// Every complaint a strict origin could have about a forwarded head.
fn lint(head: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let Some(text) = head.strip_suffix(b"\r\n\r\n") else { return vec!["no end".to_owned()] };
    let lines: Vec<&[u8]> = split_lines(text);
    let words: Vec<&[u8]> = lines[0].split(|&byte| byte == b' ').collect();
    let visible = |byte: &u8| (0x21..0x7f).contains(byte);
    let line_is_good = words.len() == 3
        && is_token(words[0])
        && !words[1].is_empty()
        && words[1].iter().all(visible)
        && !words[1].contains(&b'#')
        && (words[1][0] == b'/' || (words[1] == b"*" && words[0] == b"OPTIONS"))
        && words[2] == b"HTTP/1.1";
    if !line_is_good {
        found.push(format!("request line {:?}", String::from_utf8_lossy(lines[0])));
    }
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for line in &lines[1..] {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(0);
        let value_is_good =
            line[colon..].iter().all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f));
        if !is_token(&line[..colon]) || !value_is_good {
            found.push(format!("line {:?}", String::from_utf8_lossy(line)));
        }
        let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
        let folded = name.replace(|c: char| !c.is_ascii_lowercase(), "-");
        if folded != name && ["content-length", "transfer-encoding", "host"].contains(&&*folded) {
            found.push(format!("look-alike {name}"));
        }
        *counts.entry(name).or_default() += 1;
    }
    let count = |name: &str| counts.get(name).copied().unwrap_or_default();
    if count("host") != 1 {
        found.push(format!("{} Host fields", count("host")));
    }
    if count("content-length") + count("transfer-encoding") > 1 {
        found.push("two framings".to_owned());
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authorization", "http2-settings"] {
        if count(name) > 0 {
            found.push(format!("{name} of another hop"));
        }
    }
    for name in ["x-forwarded-for", "x-real-ip", "x-request-id", "apcera-https"] {
        if count(name) != 1 {
            found.push(format!("{} {name}", count(name)));
        }
    }
    found
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn split_lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    lines
}

fn forward(bytes: &[u8], head: &RequestHead, fields: &Fields, trusted: bool) -> Vec<u8> {
    let forward = Forward {
        client_ip: "192.0.2.7",
        peer_ip: "192.0.2.7",
        peer_trusted: trusted,
        port_text: "80",
        request_id: b"id-1",
        framing: head.framing,
        expect_continue: head.expect_continue,
        ..Forward::default()
    };
    let mut buffer = vec![0; bytes.len() + 1024];
    let mut out = Out::new(&mut buffer);
    encode_request(&mut out, bytes, head, fields, &forward).expect("the promised room");
    out.written().to_vec()
}

fn whole_target(head: &RequestHead, bytes: &[u8]) -> Vec<u8> {
    let (start, rest) = head.target(bytes);
    [start, rest].concat()
}

/// The fields that are for the two ends only: neither ours nor of one hop.
fn end_to_end(bytes: &[u8], fields: &Fields) -> Vec<(String, Vec<u8>)> {
    fields
        .all()
        .iter()
        .filter(|field| field.known == http1::Known::Other && !field.is_nominated())
        .map(|field| {
            let name = String::from_utf8_lossy(field.name.of(bytes)).into_owned();
            (name, field.value.of(bytes).to_vec())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// A prefix is either incomplete or decided as the whole is.
    #[test]
    fn any_split_parses_the_same(bytes in mutated()) {
        let (whole, whole_fields) = parse(&bytes);
        let mut searched = 0;
        for end in 0..bytes.len() {
            let (part, part_fields) = parse(&bytes[..end]);
            if part != Ok(None) {
                prop_assert_eq!(&part, &whole, "after {} bytes", end);
                if whole.is_ok() {
                    prop_assert_eq!(part_fields.all(), whole_fields.all());
                }
            }
            if let Ok(Some(head)) = part {
                // Linear search and the parser agree on where a good head ends.
                prop_assert_eq!(head_end(&bytes[..end], &mut searched), Some(head.head_len));
            } else if part == Ok(None) {
                prop_assert_eq!(head_end(&bytes[..end], &mut searched), None);
                prop_assert_eq!(refuse_early(&bytes[..end], &HeadLimits::default()), Ok(()));
            }
        }
    }

    /// Whatever is accepted goes out in a form nobody can object to, and reads back the same.
    #[test]
    fn what_goes_out_is_beyond_reproach(bytes in mutated(), trusted in any::<bool>()) {
        let (Ok(Some(head)), fields) = parse(&bytes) else { return Ok(()) };
        let sent = forward(&bytes, &head, &fields, trusted);
        prop_assert_eq!(lint(&sent), Vec::<String>::new(), "{:?}", String::from_utf8_lossy(&sent));
        let (again, again_fields) = parse(&sent);
        let again = again.expect("we accept what we send").expect("complete");
        prop_assert_eq!(again.head_len, sent.len());
        prop_assert_eq!(again.framing, head.framing);
        prop_assert_eq!(again.route_path(&sent), head.route_path(&bytes));
        prop_assert_eq!(whole_target(&again, &sent), whole_target(&head, &bytes));
        prop_assert_eq!(again.host.of(&sent), head.host.of(&bytes));
        prop_assert_eq!(again.upgrade.map(|s| s.of(&sent)), head.upgrade.map(|s| s.of(&bytes)));
        let (mut before, after) = (end_to_end(&bytes, &fields), end_to_end(&sent, &again_fields));
        if head.max_forwards.is_some() {
            before.retain(|(name, _)| !name.eq_ignore_ascii_case("max-forwards"));
        }
        prop_assert_eq!(before, after);
    }

    /// Bytes from nowhere never panic, and are refused at the same place in any split.
    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (whole, _) = parse(&bytes);
        let (part, _) = parse(&bytes[..bytes.len() / 2]);
        prop_assert!(part == Ok(None) || part == whole);
        let mut fields = Fields::new();
        let facts = RequestFacts::default();
        let limits = HeadLimits::default();
        prop_assert!(parse_response(&bytes, &mut fields, &limits, facts).ok().flatten().is_none());
    }
}

const REPLIES: [&str; 6] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\nhello",
    "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\n\r\n",
    "HTTP/1.0 404 Not Found\r\nConnection: keep-alive, x-a\r\nX-A: 1\r\nB : 2\r\n\r\n",
    "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nApcera-Error: x\r\n\r\n",
    "HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Responses: the same two properties.
    #[test]
    fn responses_keep_their_meaning(
        seed in 0..REPLIES.len(),
        edits in proptest::collection::vec((any::<u16>(), 0..3_usize, 0..TRICKS.len()), 0..3),
        is_head in any::<bool>(),
    ) {
        let mut bytes = REPLIES[seed].as_bytes().to_vec();
        for (place, cut, trick) in edits {
            let at = usize::from(place) % (bytes.len() + 1);
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, TRICKS[trick].bytes());
        }
        let facts = RequestFacts { is_head, upgrade: true };
        let limits = HeadLimits::default();
        let mut fields = Fields::new();
        let whole = parse_response(&bytes, &mut fields, &limits, facts);
        for end in 0..bytes.len() {
            let part = parse_response(&bytes[..end], &mut Fields::new(), &limits, facts);
            prop_assert!(part == Ok(None) || part == whole, "after {} bytes", end);
        }
        let Ok(Some(head)) = whole else { return Ok(()) };
        let reply = http1::Reply {
            framing: head.framing,
            close: head.framing == ResponseFraming::UntilClose,
            keep_length: true,
            ..http1::Reply::default()
        };
        let mut buffer = vec![0; bytes.len() + 256];
        let mut out = Out::new(&mut buffer);
        encode_response(&mut out, &bytes, &head, &fields, &reply).expect("the promised room");
        let sent = out.written().to_vec();
        let mut again_fields = Fields::new();
        let again = parse_response(&sent, &mut again_fields, &limits, facts);
        let again = again.expect("we accept what we send").expect("complete");
        prop_assert_eq!(again.head_len, sent.len());
        prop_assert_eq!((again.status, again.framing), (head.status, head.framing));
        prop_assert_eq!(end_to_end(&bytes, &fields), end_to_end(&sent, &again_fields));
    }
}

type Body = Result<Option<(Vec<u8>, Vec<u8>, usize)>, ChunkError>;

/// Decodes `bytes`, cut at the given places.
fn decode(bytes: &[u8], cuts: &[usize]) -> Body {
    let mut decoder = Chunked::new();
    let (mut data, mut used) = (Vec::new(), 0);
    for &fed in cuts.iter().chain([&bytes.len()]) {
        loop {
            let input = &bytes[used..fed.max(used)];
            let (taken, piece) = decoder.step(input)?;
            used += taken;
            match piece {
                Piece::Data(range) => data.extend_from_slice(&input[range]),
                Piece::More => break,
                Piece::End => return Ok(Some((data, decoder.trailers().to_vec(), used))),
            }
        }
    }
    Ok(None)
}

const BODIES: [&str; 4] = [
    "5\r\nhello\r\n0\r\n\r\nGET /",
    "1;a=b;c=\"d\\\"\"\r\nx\r\nA\r\n0123456789\r\n0\r\nDigest: x\r\nHost: evil\r\n\r\n",
    "003\r\nabc\r\n0;x\r\n\r\n",
    "ffff\r\nabc",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Any split of a chunked body, good or bad, decodes the same.
    #[test]
    fn any_split_decodes_the_same(
        seed in 0..BODIES.len(),
        edits in proptest::collection::vec((any::<u16>(), 0..3_usize, 0..TRICKS.len()), 0..3),
        mut cuts in proptest::collection::vec(0..60_usize, 0..6),
    ) {
        let mut bytes = BODIES[seed].as_bytes().to_vec();
        for (place, cut, trick) in edits {
            let at = usize::from(place) % (bytes.len() + 1);
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, TRICKS[trick].bytes());
        }
        cuts.retain(|&cut| cut <= bytes.len());
        cuts.sort_unstable();
        let every: Vec<usize> = (0..bytes.len()).collect();
        let whole = decode(&bytes, &[]);
        prop_assert_eq!(&decode(&bytes, &cuts), &whole);
        prop_assert_eq!(&decode(&bytes, &every), &whole);
        if let Ok(Some((_, trailers, used))) = whole {
            prop_assert!(used <= bytes.len());
            for line in split_lines(&trailers) {
                let colon = line.iter().position(|&byte| byte == b':').unwrap_or(0);
                prop_assert!(line.is_empty() || is_token(&line[..colon]), "{:?}", line);
            }
        }
    }
}

/// Goal: the framing of the seeds is what it seems, so that the properties above have meat.
#[test]
fn seeds_are_a_fair_mix() {
    let framings: Vec<_> = SEEDS
        .iter()
        .map(|seed| parse(seed.as_bytes()).0.map(|head| head.expect("complete").framing))
        .collect();
    assert_eq!(framings.iter().filter(|framing| framing.is_err()).count(), 2);
    assert!(framings.contains(&Ok(RequestFraming::Length(5))));
    assert!(framings.contains(&Ok(RequestFraming::Chunked)));
}
