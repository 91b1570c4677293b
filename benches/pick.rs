//! Micro-benches of picking a backend, over pools of 3, 32 and 1000 members whose load is read from atomics as the workers do.
//! Must: under 50 ns a pick.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use sluice::decide::balance::{Balancer, Member, MemberId, Method, Tried, Turns, next_random, source_key};

/// One count to a pair of cache lines, as the live state of backends has it.
#[repr(align(128))]
struct Active(AtomicU32);

fn pick(criterion: &mut Criterion) {
    println!("must: every pick under 50 ns");
    for (method, weights) in [
        (Method::LeastConnections, "equal"),
        (Method::RandomTwo, "equal"),
        (Method::RoundRobin, "equal"),
        (Method::RoundRobin, "unequal"),
        (Method::ConsistentHash, "equal"),
    ] {
        let mut group = criterion.benchmark_group(format!("{}, {weights} weights", method.name()));
        for count in [3, 32, 1000] {
            let weight = |number: u32| if weights == "equal" { 100 } else { 1 + number % 5 };
            let member =
                |number| Member { name: format!("backend-{number}").into(), weight: weight(number), backup: false };
            let members: Vec<Member> = (0..count).map(member).collect();
            let balancer = Balancer::new(method, &members).unwrap();
            let active: Vec<Active> =
                (0..u64::from(count)).map(|number| Active(AtomicU32::new((next_random(number) % 50) as u32))).collect();
            let load = |member: MemberId| Some(active[member].0.load(Ordering::Relaxed));
            let mut turns = Turns::new(members.len(), 0);
            let mut random = 1;
            group.bench_function(format!("{count} backends"), |bench| {
                bench.iter(|| {
                    random = next_random(random);
                    balancer.next(&load, &Tried::default(), black_box(random), random, &mut turns).unwrap()
                });
            });
        }
        group.finish();
    }
    let source = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
    criterion.bench_function("consistent-hash: key of a source address", |bench| {
        bench.iter(|| source_key(black_box(source)));
    });
}

criterion_group!(benches, pick);
criterion_main!(benches);
