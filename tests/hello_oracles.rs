//! The hello reader against rustls, which reads hellos off the wire: what both take they must read alike, and the hellos
//! of real clients both must take. (`tests/hello.rs` has tls-parser, which knows whole messages only.)

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::Path;

use rustls::server::Acceptor;
use sluice::decide::balance::next_random;
use sluice::decide::hello::{ClientHello, Joiner, Limits, MAX_HELLO, Step, joined};

/// What a reader makes of bytes that end where they end.
#[derive(Debug, PartialEq)]
struct Read {
    name: Option<String>,
    alpn: Vec<Vec<u8>>,
    ciphers: Vec<u16>,
}

fn ours(bytes: &[u8]) -> Option<Read> {
    let mut joiner = Joiner::new(Limits { handshake_bytes: MAX_HELLO });
    if joiner.push(bytes) != Ok(Step::Complete) {
        return None;
    }
    let message = joined(bytes);
    let hello = ClientHello::parse(&message).ok()?;
    let pairs = hello.cipher_suites.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    Some(Read {
        name: hello.server_name.as_ref().map(|name| name.as_str().to_owned()),
        alpn: hello.alpn.iter().map(<[u8]>::to_vec).collect(),
        ciphers: pairs.collect(),
    })
}

fn rustls(mut bytes: &[u8]) -> Option<Read> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).is_err() {
            return None;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
                return Some(Read {
                    name,
                    alpn: hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
                    ciphers: hello.cipher_suites().iter().map(|suite| (*suite).into()).collect(),
                });
            }
            Err(_) => return None,
        }
    }
    None
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hello");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let hellos = files.filter(|path| path.extension().is_some_and(|extension| extension == "bin"));
    let mut hellos: Vec<_> = hellos
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    hellos.sort();
    hellos
}

/// rustls wants signature algorithms, which TLS 1.0 does not have.
const NOT_FOR_RUSTLS: [&str; 1] = ["openssl-tls10.bin"];

#[test]
fn hellos_of_real_clients_are_read_like_rustls_reads_them() {
    let mut agreed = 0;
    for (name, bytes) in corpus() {
        let own = ours(&bytes);
        assert!(own.is_some(), "{name}");
        if NOT_FOR_RUSTLS.contains(&name.as_str()) {
            assert_eq!(rustls(&bytes), None, "{name}");
            continue;
        }
        assert_eq!(own, rustls(&bytes), "{name}");
        agreed += 1;
    }
    assert!(agreed >= 25, "{agreed} hellos");
}

#[test]
fn mutants_that_both_take_are_read_alike() {
    let seed = std::env::var("SLUICE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_124_u64);
    println!("seed {seed}");
    let (mut both, mut ours_only, mut theirs_only, mut neither) = (0_u32, 0_u32, 0_u32, 0_u32);
    let mut dice = seed;
    for (name, bytes) in corpus() {
        for _ in 0..4000 {
            dice = next_random(dice);
            let mut mutant = bytes.clone();
            // Behind the record's header, so that mutants get as far as the parsers.
            let place = 5 + (dice >> 8) as usize % (mutant.len() - 5);
            match dice % 3 {
                0 => mutant[place] = (dice >> 40) as u8,
                1 => mutant[place] ^= 1 << (dice >> 40 & 7),
                _ => mutant[place] = mutant[place].wrapping_add(1),
            }
            match (ours(&mutant), rustls(&mutant)) {
                (Some(own), Some(theirs)) => {
                    both += 1;
                    assert_eq!(own, theirs, "{name} with byte {place} changed, seed {seed}");
                }
                (Some(_), None) => ours_only += 1,
                (None, Some(_)) => theirs_only += 1,
                (None, None) => neither += 1,
            }
        }
    }
    println!("both took {both}, only we {ours_only}, only rustls {theirs_only}, neither {neither}");
    assert!(both > 50_000 && neither > 1000, "both {both}, neither {neither}");
}
