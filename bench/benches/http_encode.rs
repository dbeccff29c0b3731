//! Cost of one request head through the router's own hands: parse, classify, encode.
//!
//! The promise is 250 ns for a typical head. Compare runs on one machine, never across machines.
//! Under `cargo test` every case runs once, so that the benchmark cannot rot.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http1::{
    Chunked, Fields, Forward, HeadLimits, Out, Piece, Reply, RequestFacts, TlsFacts,
    encode_request, encode_response, parse_request, parse_response,
};

/// As wrk sends it.
const WRK: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: app.example.com\r\n\r\n";

/// As curl sends it.
const CURL: &[u8] = b"GET /api/v1/items?page=2 HTTP/1.1\r\nHost: app.example.com\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

/// As a browser sends it.
const BROWSER: &[u8] = b"GET /shop/cart?item=42 HTTP/1.1\r\nHost: www.example.com\r\n\
    Connection: keep-alive\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:125.0) \
Gecko/20100101 Firefox/125.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n\
    Referer: https://www.example.com/shop\r\n\
    Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark\r\n\
    Upgrade-Insecure-Requests: 1\r\n\r\n";

/// As nginx answers.
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\n\
    Date: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n\
    Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nConnection: keep-alive\r\n\
    ETag: \"6591f0a0-400\"\r\nAccept-Ranges: bytes\r\n\r\n";

const TLS: TlsFacts<'static> = TlsFacts {
    cipher: "TLS_AES_128_GCM_SHA256",
    protocol: "TLSv1.3",
    session_id: "8f14e45fceea167a5a36dedd4bea25438f14e45fceea167a5a36dedd4bea2543",
    reused: false,
    server_name: "www.example.com",
};

fn requests(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut fields = Fields::new();
    let mut buffer = [0; 4096];
    let mut group = criterion.benchmark_group("http_encode/request");
    let cases = [
        ("wrk", WRK, None),
        ("curl", CURL, None),
        ("browser", BROWSER, None),
        ("browser_tls", BROWSER, Some(TLS)),
    ];
    for (name, bytes, https) in cases {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let bytes = black_box(bytes);
                let head = parse_request(bytes, &mut fields, &limits);
                let head = head.ok().flatten().expect("a good head");
                let forward = Forward {
                    client_ip: "192.0.2.7",
                    peer_ip: "192.0.2.7",
                    https,
                    port_text: "443",
                    request_id: b"01hw3v9q2m7x5k8r4n6t0zbc1d",
                    framing: head.framing,
                    ..Forward::default()
                };
                let mut out = Out::new(&mut buffer);
                encode_request(&mut out, bytes, &head, &fields, &forward).expect("room");
                black_box(out.written()).len()
            });
        });
    }
    group.finish();
}

fn responses(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut fields = Fields::new();
    let mut buffer = [0; 4096];
    let mut group = criterion.benchmark_group("http_encode/response");
    group.throughput(Throughput::Bytes(REPLY.len() as u64));
    group.bench_function("nginx", |bencher| {
        bencher.iter(|| {
            let bytes = black_box(REPLY);
            let facts = RequestFacts::default();
            let head = parse_response(bytes, &mut fields, &limits, facts);
            let head = head.ok().flatten().expect("a good head");
            let reply = Reply { framing: head.framing, ..Reply::default() };
            let mut out = Out::new(&mut buffer);
            encode_response(&mut out, bytes, &head, &fields, &reply).expect("room");
            black_box(out.written()).len()
        });
    });
    group.finish();
}

/// A body of 64 KiB in chunks of one size.
fn chunks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http_encode/chunked");
    for size in [16_usize, 1024, 16 * 1024] {
        let mut body = Vec::new();
        for _ in 0..64 * 1024 / size {
            body.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            body.resize(body.len() + size, b'x');
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(http1::LAST_CHUNK);
        group.throughput(Throughput::Bytes(64 * 1024));
        group.bench_function(format!("decode_{size}"), |bencher| {
            bencher.iter(|| decode(black_box(&body)));
        });
    }
    group.finish();
}

/// Bytes of data in a whole body.
fn decode(body: &[u8]) -> usize {
    let mut decoder = Chunked::new();
    let (mut rest, mut total) = (body, 0);
    loop {
        let (used, piece) = decoder.step(rest).expect("a good body");
        rest = &rest[used..];
        match piece {
            Piece::Data(range) => total += range.len(),
            Piece::More | Piece::End => return total,
        }
    }
}

criterion_group!(benches, requests, responses, chunks);
criterion_main!(benches);
