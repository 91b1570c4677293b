//! A hello that came whole in one record is found and parsed without allocating, and a half one costs nothing beyond
//! the bytes that whoever reads it keeps.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use sluice::decide::hello::{ClientHello, Joiner, Limits, MAX_HELLO, Step, joined, single_record};

const LIMITS: Limits = Limits { handshake_bytes: MAX_HELLO };

fn captured() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hello");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let hellos = files.filter(|path| path.extension().is_some_and(|extension| extension == "bin"));
    hellos.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

#[test]
fn hellos_of_real_clients_are_parsed_without_allocating() {
    let mut parsed = 0;
    for (name, bytes) in captured() {
        let Some(message) = single_record(&bytes, LIMITS) else { continue };
        let cost = allocation_counter::measure(|| {
            let hello = ClientHello::parse(message).unwrap();
            assert!(hello.alpn.iter().count() < 100 && hello.extensions().count() < 100);
        });
        assert_eq!(cost.count_total, 0, "{name}: {cost:?}");
        parsed += 1;
    }
    assert!(parsed >= 20, "{parsed} hellos");
}

#[test]
fn following_a_hello_over_records_keeps_nothing() {
    for (name, bytes) in captured() {
        let cost = allocation_counter::measure(|| {
            let mut joiner = Joiner::new(LIMITS);
            let steps = bytes.chunks(1).map(|byte| joiner.push(byte).unwrap());
            assert_eq!(steps.last(), Some(Step::Complete));
        });
        assert_eq!(cost.count_total, 0, "{name}: {cost:?}");
        // Joined, it is allocated once, in the size that it has.
        let cost = allocation_counter::measure(|| drop(joined(&bytes)));
        assert!((1..=2).contains(&cost.count_total) && cost.bytes_max <= bytes.len() as u64 * 2, "{name}: {cost:?}");
    }
}
