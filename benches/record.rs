//! Micro-benches of the record: one session with the hello of a browser in each format of the log.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use sluice::decide::close::CloseReason;
use sluice::decide::hello::{Arrival, ClientHello, HelloFacts, Limits, MAX_HELLO, single_record};
use sluice::proxy::{Load, RecordLine};

fn hello() -> HelloFacts {
    let bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hello/chromium-1.bin")).unwrap();
    let message = single_record(&bytes, Limits { handshake_bytes: MAX_HELLO }).unwrap();
    HelloFacts::of(&ClientHello::parse(message).unwrap(), Arrival::of(message.len(), 1, 1))
}

fn records(criterion: &mut Criterion) {
    let hello = hello();
    let line = RecordLine {
        time: Timestamp::UNIX_EPOCH + Duration::from_millis(1_767_225_600_123),
        session: 0xfbf5_0100_0000_0001,
        listener: "https",
        client: "198.51.100.23:40312".parse().unwrap(),
        destination: "192.0.2.10:443".parse().unwrap(),
        hello: Some(&hello),
        route: Some("sluice.toml:14"),
        pool: Some("shop"),
        backend: Some("10.0.0.11:443"),
        tries: 1,
        hello_time: Some(Duration::from_micros(183)),
        connect_time: Some(Duration::from_micros(412)),
        first_byte_time: Some(Duration::from_micros(1893)),
        duration: Duration::from_micros(84_217),
        bytes: [1893, 24_817],
        paths: [Some("copy"), Some("mixed")],
        end: Some(CloseReason::Done),
        detail: None,
        via: None,
    };
    let load = Load { process: 812, listener: 640, backend: 97 };
    let mut group = criterion.benchmark_group("one record");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::new();
    let mut bench = |name: &str, write: &dyn Fn(&RecordLine<'_>, &mut Vec<u8>)| {
        write(&line, &mut out);
        group.bench_function(format!("{name}, {} bytes", out.len()), |bench| {
            bench.iter(|| {
                out.clear();
                write(black_box(&line), &mut out);
            });
        });
        out.clear();
    };
    bench("text", &|line, out| line.text(out));
    bench("json", &|line, out| line.json(out));
    bench("tcplog", &|line, out| line.tcplog(load, out));
    group.finish();
}

criterion_group!(benches, records);
criterion_main!(benches);
