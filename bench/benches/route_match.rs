//! Cost of one lookup against the size of the table, and what a route weighs.
//!
//! `same` asks for one host again and again (all in the nearest cache); `random` asks for strangers,
//! so that at a million routes it measures the far memory. Compare runs on one machine only.

mod fixture;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fixture::{REQUESTS, Rng, apply, editor, host, put_jobs, put_target, resident_bytes, sizes};
use route::{Editor, Table};
use std::hint::black_box;

fn hosts(routes: usize) -> Vec<String> {
    let mut rng = Rng(7);
    (0..REQUESTS).map(|_| host(rng.below(routes))).collect()
}

fn find_next<'a>(table: &Table, requests: &mut impl Iterator<Item = &'a String>) -> u64 {
    let host = requests.next().expect("the requests repeat for ever");
    table.find(host.as_bytes(), b"/index.html").map_or(0, |route| route.targets.revision)
}

fn exact(c: &mut Criterion) {
    let mut group = c.benchmark_group("route_match");
    for &routes in sizes() {
        let before = resident_bytes();
        let table = editor(routes).table().clone();
        if routes >= 100_000 {
            let resident = resident_bytes().saturating_sub(before) / routes;
            let estimate = table.memory_bytes() / routes;
            println!("{routes} routes: {resident} bytes a route resident, {estimate} by estimate");
        }
        let asked = hosts(routes);
        let mut requests = asked.iter().cycle();
        group.bench_function(BenchmarkId::new("random", routes), |b| {
            b.iter(|| find_next(&table, &mut requests));
        });
        let same = [host(routes / 2)];
        let mut requests = same.iter().cycle();
        group.bench_function(BenchmarkId::new("same", routes), |b| {
            b.iter(|| find_next(black_box(&table), &mut requests));
        });
        group.bench_function(BenchmarkId::new("unknown", routes), |b| {
            b.iter(|| table.find(black_box(b"nobody.apps.example.com"), b"/").is_ok());
        });
    }
    group.finish();
}

/// One host with very many prefixes, asked four segments deep, and a wildcard.
fn prefixes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route_match");
    for &routes in sizes() {
        let mut editor = Editor::new();
        apply(&mut editor, &put_jobs());
        for first in (0..routes).step_by(10_000) {
            let numbers = first..routes.min(first + 10_000);
            let at = |n: usize| format!("api.example.com/v1/{}/item{n}", n % 100);
            let changes: Vec<_> = numbers.map(|n| put_target(&at(n), n, 0.0)).collect();
            apply(&mut editor, &changes);
        }
        let table = apply(&mut editor, &[put_target("*.wild.example.com", 0, 0.0)]).table;
        let mut rng = Rng(7);
        let path = |n: usize| format!("/v1/{}/item{n}/details", n % 100);
        let paths: Vec<_> = (0..REQUESTS).map(|_| path(rng.below(routes))).collect();
        let mut requests = paths.iter().cycle();
        group.bench_function(BenchmarkId::new("prefix", routes), |b| {
            b.iter(|| {
                let path = requests.next().expect("the requests repeat for ever");
                table.find(b"api.example.com", path.as_bytes()).is_ok()
            });
        });
        group.bench_function(BenchmarkId::new("wildcard", routes), |b| {
            b.iter(|| table.find(black_box(b"any.wild.example.com"), b"/").is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, exact, prefixes);
criterion_main!(benches);
