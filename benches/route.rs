//! Micro-benches of finding the rule for a server name: exact names, wildcards of both kinds and misses, among 10 and 10 000 names.
//! Must: under 100 ns at 10 000 names.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sluice::decide::hello::{AlpnList, TlsVersion};
use sluice::decide::route::{Conditions, Miss, NamePattern, Question, RouteTable};

/// Names asked for in turn, so that no single entry stays in the nearest cache by itself.
const ASKED: usize = 1024;

/// What is asked for, as a pattern of a name with its number.
type Asked = (&'static str, fn(usize) -> String, bool);

/// `count` rules: of ten names, eight are exact, one has a star for one label and one for any.
fn table(count: usize) -> RouteTable {
    let pattern = |number: usize| match number % 10 {
        8 => format!("*.tenant-{number}.example.com"),
        9 => format!("**.zone-{number}.example.com"),
        _ => format!("shop-{number}.example.com"),
    };
    let rule =
        |number| Conditions { names: vec![NamePattern::parse(&pattern(number)).unwrap()], ..Conditions::default() };
    RouteTable::new((0..count).map(rule).collect())
}

fn route(criterion: &mut Criterion) {
    println!("must: every answer under 100 ns at 10 000 names");
    let kinds: [Asked; 4] = [
        ("exact", |tens| format!("shop-{}.example.com", tens * 10), true),
        ("one-label wildcard", |tens| format!("www.tenant-{}.example.com", tens * 10 + 8), true),
        ("any-labels wildcard", |tens| format!("a.b.zone-{}.example.com", tens * 10 + 9), true),
        ("miss", |tens| format!("missing-{tens}.example.com"), false),
    ];
    for (kind, name, found) in kinds {
        let mut group = criterion.benchmark_group(kind);
        for count in [10, 10_000] {
            let table = table(count);
            let names: Vec<String> = (0..ASKED).map(|number| name(number * 7919 % (count / 10))).collect();
            let questions: Vec<Question<'_>> = names.iter().map(|name| question(name)).collect();
            for question in &questions {
                assert_eq!(table.find(question).is_ok(), found, "{question:?}");
                assert!(found || table.find(question) == Err(Miss::Name));
            }
            group.bench_function(BenchmarkId::from_parameter(format!("{count} names")), |bench| {
                let mut next = 0;
                bench.iter(|| {
                    next = (next + 1) % ASKED;
                    table.find(black_box(&questions[next]))
                });
            });
        }
        group.finish();
    }
}

fn question(name: &str) -> Question<'_> {
    Question {
        sni: Some(name),
        alpn: AlpnList::default(),
        version: Some(TlsVersion(0x0304)),
        source: IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)),
    }
}

criterion_group!(benches, route);
criterion_main!(benches);
