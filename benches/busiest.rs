//! Micro-benches of counting server names: one that is kept, and one that is not and replaces another.

#![allow(clippy::unwrap_used, missing_docs)]

use std::hash::RandomState;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sluice::decide::balance::next_random;
use sluice::decide::busiest::{Busiest, MOST};

fn names(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("count a server name");
    let kept: Vec<String> = (0..MOST).map(|number| format!("shop-{number}.customer.example.com")).collect();
    let mut busiest = Busiest::<RandomState>::default();
    for name in &kept {
        busiest.count(Some(name));
    }
    let mut random = 1;
    group.bench_function("one of a hundred that are kept", |bench| {
        bench.iter(|| {
            random = next_random(random);
            busiest.count(black_box(Some(&kept[random as usize % MOST])));
        });
    });
    let unknown: Vec<String> = (0..100_000).map(|number| format!("{number}-made-up.attacker.example.com")).collect();
    let mut next = 0;
    group.bench_function("one that never came before", |bench| {
        bench.iter(|| {
            next = (next + 1) % unknown.len();
            busiest.count(black_box(Some(&unknown[next])));
        });
    });
    group.bench_function("none", |bench| bench.iter(|| busiest.count(black_box(None))));
    group.bench_function("read all", |bench| bench.iter(|| black_box(busiest.summary())));
    group.finish();
}

criterion_group!(benches, names);
criterion_main!(benches);
