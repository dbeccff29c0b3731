//! Cost of choosing a job by weight, against the number of jobs on the route.

mod fixture;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fixture::{apply, endpoint, is_full, put_jobs, put_target};
use route::{Editor, Splitter, Targets};
use std::hint::black_box;

fn targets(jobs: usize) -> Targets {
    let mut editor = Editor::new();
    apply(&mut editor, &put_jobs());
    let percent = |n: usize| [0.0, 1.5, 40.0][n % 3];
    let changes: Vec<_> = (0..jobs).map(|n| put_target("a.example.com", n, percent(n))).collect();
    let table = apply(&mut editor, &changes).table;
    let route = table.route_by_endpoint(&endpoint("a.example.com"));
    route.expect("it was just put").targets.clone()
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("route_weights");
    let sizes: &[usize] = if is_full() { &[1, 2, 3, 8, 64] } else { &[2] };
    for &jobs in sizes {
        let targets = targets(jobs);
        let mut splitter = Splitter::new(&targets);
        group.bench_function(BenchmarkId::new("pick", jobs), |b| {
            b.iter(|| splitter.pick(black_box(&targets), black_box(u64::MAX)));
        });
    }
    // Clients who may reach different jobs, in turn: each set has its own exact split.
    let targets = targets(3);
    let mut splitter = Splitter::new(&targets);
    let mut masks = [0b111, 0b011, 0b101, 0b110].into_iter().cycle();
    group.bench_function("pick/3/four masks in turn", |b| {
        b.iter(|| splitter.pick(black_box(&targets), masks.next().unwrap_or(0)));
    });
    group.finish();
}

criterion_group!(benches, pick);
criterion_main!(benches);
