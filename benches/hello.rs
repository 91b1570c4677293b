//! Micro-benches of the hello reader on captured hellos of real clients: finding the message in its record, parsing, the
//! facts for the record with their fingerprint, and joining over records.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice::decide::hello::{
    Arrival, ClientHello, HelloFacts, Joiner, Limits, MAX_HELLO, ja4, joined, proxy, single_record,
};

const LIMITS: Limits = Limits { handshake_bytes: MAX_HELLO };

fn captured(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hello").join(name)).unwrap()
}

fn hellos(criterion: &mut Criterion) {
    for name in ["curl-h2", "chromium-1"] {
        let bytes = captured(&format!("{name}.bin"));
        let mut group = criterion.benchmark_group(format!("{name}, {} bytes", bytes.len()));
        group.throughput(Throughput::Elements(1));
        group.bench_function("find and parse", |bench| {
            bench.iter(|| ClientHello::parse(single_record(black_box(&bytes), LIMITS).unwrap()).unwrap());
        });
        let hello = ClientHello::parse(single_record(&bytes, LIMITS).unwrap()).unwrap();
        group.bench_function("ja4", |bench| bench.iter(|| ja4(black_box(&hello))));
        let arrival = Arrival { bytes: bytes.len() as u32, records: 1, segments: 1 };
        group.bench_function("facts, ja4 included", |bench| {
            bench.iter(|| HelloFacts::of(black_box(&hello), arrival));
        });
        group.finish();
    }
    let bytes = captured("openssl-records.bin");
    criterion.bench_function(&format!("openssl over six records, {} bytes: join and parse", bytes.len()), |bench| {
        bench.iter(|| {
            let mut joiner = Joiner::new(LIMITS);
            joiner.push(black_box(&bytes)).unwrap();
            let message = joined(&bytes);
            ClientHello::parse(&message).unwrap().cipher_suites.len()
        });
    });
}

fn headers(criterion: &mut Criterion) {
    let outgoing = proxy::Outgoing {
        source: "192.0.2.1:56324".parse().unwrap(),
        destination: "198.51.100.1:443".parse().unwrap(),
        unique_id: b"fbf5010000000001",
        authority: Some(b"shop.example.com"),
        alpn: None,
        cloud: None,
    };
    criterion.bench_function("PROXY v2 header: write", |bench| bench.iter(|| proxy::write_v2(black_box(&outgoing))));
    let header = proxy::write_v2(&outgoing);
    criterion.bench_function("PROXY v2 header: read", |bench| bench.iter(|| proxy::parse(black_box(&header)).unwrap()));
}

criterion_group!(benches, hellos, headers);
criterion_main!(benches);
