//! Cost of one ACL decision, against the number of rules; the client matches none, or the last.

mod fixture;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fixture::is_full;
use route::ClientAcl;
use std::hint::black_box;
use std::net::IpAddr;

fn acl(rules: usize) -> ClientAcl {
    let rule = |n: usize| match n % 4 {
        0 => format!("allow 2001:db8:{n:x}::/48"),
        _ => format!("deny 10.{}.{}.0/24", n / 256, n % 256),
    };
    let rules: Vec<_> = (0..rules).map(rule).collect();
    rules.join(", ").parse().expect("the fixture writes good rules")
}

fn admits(c: &mut Criterion) {
    let mut group = c.benchmark_group("route_acl");
    let sizes: &[usize] = if is_full() { &[0, 1, 2, 10, 100, 256] } else { &[2] };
    let clients = [("ipv4", "192.0.2.7"), ("mapped", "::ffff:192.0.2.7"), ("ipv6", "2001:db9::7")];
    for &rules in sizes {
        let acl = acl(rules);
        for (name, client) in clients {
            let client: IpAddr = client.parse().expect("the fixture writes good addresses");
            group.bench_function(BenchmarkId::new(name, rules), |b| {
                b.iter(|| black_box(&acl).admits(black_box(client)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, admits);
criterion_main!(benches);
