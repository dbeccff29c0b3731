//! Cost of parsing one request or response head, for heads as real programs send them.
//!
//! Compare runs on one machine, never across machines. Under `cargo test` every case runs once,
//! so that the benchmark cannot rot.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http1::{Fields, HeadLimits, RequestFacts, head_end, parse_request, parse_response};

/// As wrk sends it.
const WRK: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: app.example.com\r\n\r\n";

/// As curl sends it.
const CURL: &[u8] = b"GET /api/v1/items?page=2 HTTP/1.1\r\nHost: app.example.com\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

/// As a browser sends it, cookies included.
const BROWSER: &[u8] = b"GET /shop/cart?item=42 HTTP/1.1\r\nHost: www.example.com\r\n\
    Connection: keep-alive\r\nCache-Control: max-age=0\r\n\
    sec-ch-ua: \"Chromium\";v=\"124\", \"Google Chrome\";v=\"124\", \"Not-A.Brand\";v=\"99\"\r\n\
    sec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
Chrome/124.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\n\
    Sec-Fetch-Dest: document\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-US,en;q=0.9\r\n\
    Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=1\r\n\r\n";

/// As nginx answers.
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\n\
    Date: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: text/html\r\nContent-Length: 1024\r\n\
    Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nConnection: keep-alive\r\n\
    ETag: \"6591f0a0-400\"\r\nAccept-Ranges: bytes\r\n\r\n";

fn requests(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut fields = Fields::new();
    let mut group = criterion.benchmark_group("http_head/request");
    for (name, bytes) in [("wrk", WRK), ("curl", CURL), ("browser", BROWSER)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let head = parse_request(black_box(bytes), &mut fields, &limits);
                head.ok().flatten().expect("a good head").head_len
            });
        });
    }
    group.finish();
}

fn responses(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut fields = Fields::new();
    let mut group = criterion.benchmark_group("http_head/response");
    group.throughput(Throughput::Bytes(REPLY.len() as u64));
    group.bench_function("nginx", |bencher| {
        bencher.iter(|| {
            let facts = RequestFacts::default();
            let head = parse_response(black_box(REPLY), &mut fields, &limits, facts);
            head.ok().flatten().expect("a good head").status
        });
    });
    group.finish();
}

/// The worst a client can do to us by sending slowly: one call per byte.
fn byte_by_byte(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http_head/byte_by_byte");
    group.throughput(Throughput::Bytes(BROWSER.len() as u64));
    group.bench_function("head_end", |bencher| {
        bencher.iter(|| {
            let mut searched = 0;
            let ends = (1..=BROWSER.len())
                .find_map(|len| head_end(black_box(&BROWSER[..len]), &mut searched));
            ends.expect("a whole head")
        });
    });
    group.finish();
}

criterion_group!(benches, requests, responses, byte_by_byte);
criterion_main!(benches);
