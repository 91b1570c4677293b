//! Micro-benches of picking a backend, over pools of 3, 32 and 1000 members whose load is read from atomics as the workers do.
//! Must: under 50 ns a pick.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use sluice::decide::balance::{
    Ask, Balancer, Hashing, KeyFacts, KeyPart, Load, LoadFactor, Member, MemberId, Method, Ramp, Seed, Table, Tier,
    Totals, Tried, hash_key, next_random,
};

/// One count to a pair of cache lines, as the live state of backends has it.
#[repr(align(128))]
struct Active(AtomicU32);

/// What kind of pool is measured.
#[derive(Clone, Copy)]
enum Pool {
    /// Equal weights and loads around 25.
    Busy,
    /// Equal weights and no connections: ties everywhere.
    Idle,
    /// Five different weights, loads around 25.
    Weighted,
    /// Equal weights, loads around 25, every tenth member fresh.
    Ramping,
}

impl Pool {
    const fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Idle => "idle",
            Self::Weighted => "unequal weights",
            Self::Ramping => "a tenth in slow start",
        }
    }

    fn members(self, count: u32) -> Vec<Member> {
        let weight = |number: u32| if matches!(self, Self::Weighted) { 1 + number % 5 } else { 100 };
        (0..count)
            .map(|number| Member {
                name: format!("backend-{number}").into(),
                weight: weight(number),
                tier: Tier::FIRST,
            })
            .collect()
    }

    /// From 20 to 30 connections each.
    fn loads(self, count: u32) -> Vec<Active> {
        let load = |number: u32| if matches!(self, Self::Idle) { 0 } else { 20 + next_random(number.into()) % 11 };
        (0..count).map(|number| Active(AtomicU32::new(load(number) as u32))).collect()
    }

    fn ramp(self, member: MemberId) -> Ramp {
        if matches!(self, Self::Ramping) && member % 10 == 1 { Ramp::since(1, 3) } else { Ramp::FULL }
    }
}

fn pick(criterion: &mut Criterion) {
    println!("must: every pick under 50 ns");
    let hashed = |table, factor: Option<f64>| {
        let bounded_load = factor.map(|factor| LoadFactor::new(factor).unwrap());
        Method::ConsistentHash(Hashing { table, bounded_load, seed: Seed::default() })
    };
    for (name, method, pool) in [
        ("least-connections", Method::LeastConnections, Pool::Busy),
        ("least-connections", Method::LeastConnections, Pool::Idle),
        ("least-connections", Method::LeastConnections, Pool::Ramping),
        ("random-two", Method::RandomTwo, Pool::Busy),
        ("random-two", Method::RandomTwo, Pool::Ramping),
        ("round-robin", Method::RoundRobin, Pool::Busy),
        ("round-robin", Method::RoundRobin, Pool::Weighted),
        ("maglev", hashed(Table::Maglev, None), Pool::Busy),
        // With a mean of 25, a factor of 1.1 puts every fifth member at its bound.
        ("maglev, bounded load", hashed(Table::Maglev, Some(1.1)), Pool::Busy),
        ("ring", hashed(Table::Ring, None), Pool::Busy),
        ("ring, bounded load", hashed(Table::Ring, Some(1.1)), Pool::Busy),
    ] {
        let mut group = criterion.benchmark_group(format!("{name}, {}", pool.name()));
        for count in [3, 32, 1000] {
            let members = pool.members(count);
            let balancer = Balancer::new(method, &members).unwrap();
            let active = pool.loads(count);
            let load = |member: MemberId| {
                Some(Load { active: active[member].0.load(Ordering::Relaxed), ramp: pool.ramp(member) })
            };
            let sum: u64 = active.iter().map(|active| u64::from(active.0.load(Ordering::Relaxed))).sum();
            let totals = Totals { active: sum, weight: members.iter().map(|member| u64::from(member.weight)).sum() };
            let mut turns = balancer.turns(0);
            let mut random = 1;
            group.bench_function(format!("{count} backends"), |bench| {
                bench.iter(|| {
                    random = next_random(random);
                    let key = Some(black_box(random));
                    let ask = Ask { tried: &Tried::default(), key, random, totals: &|_| totals };
                    balancer.next(&load, &ask, &mut turns).unwrap()
                });
            });
        }
        group.finish();
    }
}

fn key(criterion: &mut Criterion) {
    let facts = KeyFacts {
        source: IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)),
        sni: Some("shop.example.com"),
        alpn: b"\x02h2\x08http/1.1",
        destination: Some(([198, 51, 100, 1], 443).into()),
    };
    for (name, parts) in [("source", &[KeyPart::Source][..]), ("all five", &KeyPart::ALL)] {
        criterion.bench_function(&format!("key: {name}"), |bench| {
            bench.iter(|| hash_key(Seed::default(), parts, black_box(&facts)));
        });
    }
}

criterion_group!(benches, pick, key);
criterion_main!(benches);
