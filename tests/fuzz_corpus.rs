//! Replays the corpus of the fuzz targets (`fuzz/`), and what they once found, through the same properties.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/properties.rs"]
mod properties;

use std::fs;
use std::path::Path;

#[track_caller]
fn replay(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    for file in &files {
        // Named first, so that the last line names the one that failed.
        println!("{}", file.display());
        property(&fs::read(file).unwrap());
    }
    assert!(files.len() >= 8, "{} files in {}", files.len(), folder.display());
}

#[test]
fn hellos_of_the_corpus_hold() {
    replay("hello", properties::hello);
}

#[test]
fn proxy_headers_of_the_corpus_hold() {
    replay("proxy_header", properties::proxy_header);
}

#[test]
fn packets_of_postgresql_of_the_corpus_hold() {
    replay("postgres", properties::postgres);
}

/// Whether a byte is the type of a TLS record or something else is said by the next; cut between the two, the answer
/// was another one.
#[test]
fn one_byte_that_could_begin_an_alert_does_not_decide() {
    properties::hello(b"\x15PT");
    properties::hello(b"\x14");
    properties::hello(b"\x17\x03");
}
