//! Cost of a commit against the size of the table. The version before is dropped within the
//! measured time, as it is when every reader has moved on.

mod fixture;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use fixture::{Rng, apply, editor, endpoint, host, is_full, job_name, put_jobs, put_target, sizes};
use route::{Change, Editor, Weight};
use std::net::SocketAddr;

fn one_change(c: &mut Criterion) {
    let mut group = c.benchmark_group("route_commit");
    for &routes in sizes() {
        let mut editor = editor(routes);
        let mut rng = Rng(7);
        let mut weight = 0;
        group.bench_function(BenchmarkId::new("one weight", routes), |b| {
            b.iter_batched(
                || {
                    let number = rng.below(routes);
                    weight = (weight + 1) % 10_000;
                    [Change::SetWeight {
                        endpoint: endpoint(&host(number)),
                        job: job_name(number),
                        weight: Weight::from_hundredths(weight).expect("below the greatest"),
                    }]
                },
                |change| apply(&mut editor, &change).delta,
                BatchSize::SmallInput,
            );
        });
        let mut number = routes;
        group.bench_function(BenchmarkId::new("one route added and removed", routes), |b| {
            b.iter_batched(
                || {
                    number += 1;
                    let remove = Change::RemoveRoute { endpoint: endpoint(&host(number)) };
                    (put_target(&host(number), number, 0.0), remove)
                },
                |(put, remove)| {
                    apply(&mut editor, &[put]);
                    apply(&mut editor, &[remove]).delta
                },
                BatchSize::SmallInput,
            );
        });
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("one instance", routes), |b| {
            b.iter_batched(
                || {
                    turn += 1;
                    let job = job_name(turn / 2); // Comes in an even turn, goes in the next.
                    let addr = SocketAddr::from(([10, 0, 0, 9], 9_001));
                    [if turn % 2 == 0 {
                        Change::AddInstance { job, addr }
                    } else {
                        Change::RemoveInstance { job, addr }
                    }]
                },
                |change| apply(&mut editor, &change).delta,
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A whole table in one commit, as after a start.
fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("route_commit");
    group.sample_size(10);
    let sizes: &[usize] = if is_full() { &[10, 1_000, 100_000] } else { &[10] };
    for &routes in sizes {
        let mut changes = put_jobs();
        changes.extend((0..routes).map(|n| put_target(&host(n), n, 0.0)));
        group.bench_function(BenchmarkId::new("whole table", routes), |b| {
            b.iter(|| Editor::new().apply(&changes).is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, one_change, load);
criterion_main!(benches);
