//! The bodies of the fuzz targets: plain functions that panic when a promise is broken.
//!
//! Each takes any bytes. What they check beyond "does not crash": a split of the bytes changes
//! nothing, what is sent is accepted again with the same meaning, text that was parsed prints as
//! text that parses to the same.
//! Deliberately absent: libFuzzer. `fuzz_targets/` holds one line per target, `tests/corpus.rs` runs the
//! same functions on stable.

#![forbid(unsafe_code)]

use http1::{
    Chunked, Fields, Forward, HeadLimits, Out, Piece, Reply, RequestFacts, RequestHead,
    ResponseFraming, encode_request, encode_response, head_end, parse_request, parse_response,
};

/// A fuzz target: its name, which is also that of its corpus folder, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this build.
pub const TARGETS: &[Target] = &[
    ("head", head),
    ("framing", framing),
    ("chunked", chunked),
    ("endpoint", endpoint),
    ("acl", acl),
    #[cfg(feature = "config")]
    ("config", config),
];

const LIMITS: HeadLimits = HeadLimits { bytes_max: 4096, target_bytes_max: 1024, fields_max: 64 };

/// Request heads: splits, forwarding, and reading back what was forwarded.
pub fn head(bytes: &[u8]) {
    let mut fields = Fields::new();
    let whole = parse_request(bytes, &mut fields, &LIMITS);
    let middle = bytes.len() / 2;
    for end in [middle, middle / 2, middle + middle / 2, bytes.len().saturating_sub(1)] {
        let part = parse_request(&bytes[..end], &mut Fields::new(), &LIMITS);
        assert!(part == Ok(None) || part == whole, "a split after {end} bytes changes the head");
    }
    let Ok(Some(head)) = whole else { return };
    assert_eq!(head_end(bytes, &mut 0), Some(head.head_len));
    for trusted in [false, true] {
        forwarded_reads_back(bytes, &head, &fields, trusted);
    }
}

fn forwarded_reads_back(bytes: &[u8], head: &RequestHead, fields: &Fields, trusted: bool) {
    let forward = Forward {
        client_ip: "192.0.2.7",
        peer_ip: "192.0.2.7",
        peer_trusted: trusted,
        port_text: "80",
        request_id: b"id",
        framing: head.framing,
        expect_continue: head.expect_continue,
        via: "edge",
        ..Forward::default()
    };
    let mut buffer = vec![0; head.head_len + 1024];
    let mut out = Out::new(&mut buffer);
    encode_request(&mut out, bytes, head, fields, &forward).expect("the promised room");
    let sent = out.written();
    assert_strict(sent);
    let mut again = Fields::new();
    let limits = HeadLimits { bytes_max: sent.len() + 1, fields_max: 128, ..LIMITS };
    let seen = parse_request(sent, &mut again, &limits).expect("we accept what we send");
    let seen = seen.expect("what we send is complete");
    assert_eq!(seen.head_len, sent.len());
    assert_eq!(seen.framing, head.framing);
    assert_eq!(whole_target(&seen, sent), whole_target(head, bytes));
    assert_eq!(seen.host.of(sent), head.host.of(bytes));
    assert_eq!(seen.expect_continue, head.expect_continue);
}

fn whole_target(head: &RequestHead, bytes: &[u8]) -> Vec<u8> {
    let (start, rest) = head.target(bytes);
    [start, rest].concat()
}

/// A naive look at a head: every line ends in CR LF, every name is a token, one Host, at most
/// one framing.
fn assert_strict(head: &[u8]) {
    let text = String::from_utf8_lossy(head);
    let body = text.strip_suffix("\r\n\r\n").expect("a blank line at the end");
    let mut counts = [0_u32; 3];
    for line in body.split("\r\n").skip(1) {
        let (name, value) = line.split_once(':').expect("a colon in every line");
        let odd = |c: char| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(c);
        assert!(!name.is_empty() && !name.contains(odd), "name {name:?}");
        let control = |c: char| c.is_ascii_control() && c != '\t';
        assert!(!value.contains(control), "value {value:?}");
        let names = ["host", "content-length", "transfer-encoding"];
        for (count, known) in counts.iter_mut().zip(names) {
            let folded = name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_lowercase(), "-");
            *count += u32::from(folded == known);
        }
    }
    assert_eq!(counts[0], 1, "one Host");
    assert!(counts[1] + counts[2] <= 1, "one framing");
}

/// Response heads: splits, and reading back what was passed on.
pub fn framing(bytes: &[u8]) {
    let mut fields = Fields::new();
    for facts in [
        RequestFacts::default(),
        RequestFacts { is_head: true, upgrade: false },
        RequestFacts { is_head: false, upgrade: true },
    ] {
        let whole = parse_response(bytes, &mut fields, &LIMITS, facts);
        let half = &bytes[..bytes.len() / 2];
        let part = parse_response(half, &mut Fields::new(), &LIMITS, facts);
        assert!(part == Ok(None) || part == whole, "a split changes the head");
        let Ok(Some(head)) = whole else { continue };
        let reply = Reply {
            framing: head.framing,
            close: head.framing == ResponseFraming::UntilClose,
            keep_length: true,
            ..Reply::default()
        };
        let mut buffer = vec![0; head.head_len + 256];
        let mut out = Out::new(&mut buffer);
        encode_response(&mut out, bytes, &head, &fields, &reply).expect("the promised room");
        let sent = out.written();
        let limits = HeadLimits { bytes_max: sent.len() + 1, fields_max: 128, ..LIMITS };
        let seen = parse_response(sent, &mut Fields::new(), &limits, facts);
        let seen = seen.expect("we accept what we send").expect("complete");
        assert_eq!((seen.status, seen.framing), (head.status, head.framing));
        assert_eq!(seen.head_len, sent.len());
    }
}

/// What a body decoded to: data, trailers, bytes used; or `None` when it was refused.
type Body = Option<(Vec<u8>, Vec<u8>, usize)>;

fn decode(bytes: &[u8], step: usize) -> Body {
    let mut decoder = Chunked::new();
    let (mut data, mut used, mut fed) = (Vec::new(), 0, 0);
    loop {
        let input = &bytes[used..fed];
        let (taken, piece) = decoder.step(input).ok()?;
        assert!(taken <= input.len());
        used += taken;
        match piece {
            Piece::Data(range) => data.extend_from_slice(&input[range]),
            Piece::End => return Some((data, decoder.trailers().to_vec(), used)),
            Piece::More if fed == bytes.len() => return Some((data, Vec::new(), used)),
            Piece::More => fed = (fed + step).min(bytes.len()),
        }
    }
}

/// Chunked bodies: any split decodes the same.
pub fn chunked(bytes: &[u8]) {
    let whole = decode(bytes, bytes.len().max(1));
    assert_eq!(decode(bytes, 1), whole, "byte by byte");
    assert_eq!(decode(bytes, 3), whole, "three bytes at a time");
    if let Some((data, trailers, used)) = whole {
        assert!(data.len() <= used && used <= bytes.len());
        assert!(trailers.is_empty() || trailers.ends_with(b"\r\n"));
    }
}

/// Endpoints of routes: what parses prints, and parses again to the same.
pub fn endpoint(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    if let Ok(endpoint) = text.parse::<route::Endpoint>() {
        let again = endpoint.to_string().parse::<route::Endpoint>();
        assert_eq!(again.as_ref().ok(), Some(&endpoint));
    }
    if let Ok(weight) = text.parse::<route::Weight>() {
        assert_eq!(weight.to_string().parse::<route::Weight>().ok(), Some(weight));
    }
}

/// Client ACLs: what parses prints, parses again to the same, and judges alike.
pub fn acl(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let Ok(acl) = text.parse::<route::ClientAcl>() else { return };
    let again = acl.to_string().parse::<route::ClientAcl>().expect("canonical text parses");
    for client in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1", "10.0.0.1"] {
        let client = client.parse().expect("an address");
        assert_eq!(acl.admits(client), again.admits(client));
    }
}

/// Configuration files: any text is a configuration or a list of mistakes, never a crash.
#[cfg(feature = "config")]
pub fn config(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    if let Err(mistakes) = router::config::parse_str(text) {
        assert!(!mistakes.to_string().is_empty());
    }
}
