//! The hello reader against captured hellos of real clients: every prefix, every split point, every small record size,
//! mutations, and `tls-parser` as oracle where it is right (it knows whole messages only).

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::Path;

use sluice::decide::balance::next_random;
use sluice::decide::hello::{
    Arrival, ClientHello, HelloFacts, Joiner, Limits, Refusal, ServerName, Step, ja4, joined, single_record,
};

const LIMITS: Limits = Limits { handshake_bytes: 65_536 };

/// A captured hello and what an independent parser (tests/data/hello/capture.py) says of it.
struct Captured {
    name: String,
    bytes: Vec<u8>,
    index: toml::Table,
}

fn corpus() -> Vec<Captured> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hello");
    let index: toml::Table = fs::read_to_string(folder.join("index.toml")).unwrap().parse().unwrap();
    let list: Vec<Captured> = index["hello"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let index = entry.as_table().unwrap().clone();
            let name = index["file"].as_str().unwrap().to_owned();
            let bytes = fs::read(folder.join(&name)).unwrap();
            Captured { name, bytes, index }
        })
        .collect();
    assert!(list.len() >= 20, "the corpus is there");
    list
}

impl Captured {
    /// The joined handshake message, by the test's own simple means.
    fn message(&self) -> Vec<u8> {
        let (mut rest, mut message) = (self.bytes.as_slice(), Vec::new());
        while rest.len() >= 5 {
            let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            message.extend_from_slice(&rest[5..5 + length]);
            rest = &rest[5 + length..];
        }
        message
    }
}

/// Pushes pieces; the joined message or a refusal, `None` when it is still incomplete.
fn join<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<Result<Vec<u8>, Refusal>> {
    let mut joiner = Joiner::new(LIMITS);
    let mut raw = Vec::new();
    for piece in pieces {
        raw.extend_from_slice(piece);
        match joiner.push(piece) {
            Ok(Step::Complete) => return Some(Ok(joined(&raw))),
            Ok(Step::NeedMore) => {}
            Err(refusal) => return Some(Err(refusal)),
        }
    }
    None
}

fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |chunk: &[u8]| [&[0x16, 3, 1, (chunk.len() >> 8) as u8, chunk.len() as u8], chunk].concat();
    message.chunks(size).flat_map(record).collect()
}

#[test]
fn facts_of_captured_hellos_are_those_of_an_independent_parser() {
    for hello in corpus() {
        let message = hello.message();
        let parsed = ClientHello::parse(&message).unwrap_or_else(|why| panic!("{}: {why}", hello.name));
        let facts = HelloFacts::of(&parsed, Arrival { bytes: 0, records: 1, segments: 1 });
        let text = |key: &str| hello.index.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        let want_sni = text("sni").and_then(|sni| ServerName::from_wire(sni.as_bytes()).unwrap());
        assert_eq!(facts.sni.as_deref(), want_sni.as_ref().map(ServerName::as_str), "{}", hello.name);
        assert_eq!(text("ja4").as_deref(), Some(&*ja4(&parsed).to_string()), "{}", hello.name);
        assert_eq!(text("version"), Some(facts.version.to_string()), "{}", hello.name);
        let alpn: Vec<String> = parsed.alpn.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let want_alpn: Vec<&str> =
            hello.index["alpn"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
        assert_eq!(alpn, want_alpn, "{}", hello.name);
        assert_eq!(hello.index["ech"].as_bool(), Some(facts.ech), "{}", hello.name);
        assert_eq!(hello.index["pq"].as_bool(), Some(facts.post_quantum), "{}", hello.name);
    }
}

#[test]
fn every_prefix_of_a_hello_is_incomplete() {
    for hello in corpus() {
        for length in 0..hello.bytes.len() {
            let prefix = &hello.bytes[..length];
            assert_eq!(join([prefix]), None, "{} cut at {length}", hello.name);
            assert_eq!(single_record(prefix, LIMITS), None, "{} cut at {length}", hello.name);
        }
    }
}

#[test]
fn hello_split_at_any_point_is_joined() {
    for hello in corpus() {
        let message = hello.message();
        for point in 0..=hello.bytes.len() {
            let (front, back) = hello.bytes.split_at(point);
            assert_eq!(join([front, back]), Some(Ok(message.clone())), "{} split at {point}", hello.name);
        }
        assert_eq!(join(hello.bytes.chunks(1)), Some(Ok(message)), "{} byte by byte", hello.name);
    }
}

#[test]
fn hello_over_small_records_is_joined() {
    for hello in corpus() {
        let message = hello.message();
        for size in 1..=64 {
            let bytes = in_records(&message, size);
            assert_eq!(join([bytes.as_slice()]), Some(Ok(message.clone())), "{} in records of {size}", hello.name);
            for segment in [1, 7, 1448] {
                assert_eq!(join(bytes.chunks(segment)), Some(Ok(message.clone())), "{} {size}/{segment}", hello.name);
            }
        }
        // Each split into two records, and an empty record in between, which OpenSSL sends and takes.
        for point in 1..message.len() {
            let (front, back) = message.split_at(point);
            let bytes = [in_records(front, 16_384), vec![0x16, 3, 3, 0, 0], in_records(back, 16_384)].concat();
            assert_eq!(join([bytes.as_slice()]), Some(Ok(message.clone())), "{} records at {point}", hello.name);
        }
    }
}

#[test]
fn one_record_is_found_without_joining() {
    for hello in corpus().iter().filter(|hello| hello.index["records"].as_integer() == Some(1)) {
        let message = hello.message();
        assert_eq!(single_record(&hello.bytes, LIMITS), Some(message.as_slice()), "{}", hello.name);
        // Early data behind the hello changes nothing.
        let with_more = [hello.bytes.as_slice(), &[0x14, 3, 3, 0, 1, 1, 0x17, 3, 3]].concat();
        assert_eq!(single_record(&with_more, LIMITS), Some(message.as_slice()), "{}", hello.name);
        assert_eq!(join([with_more.as_slice()]), Some(Ok(message)), "{}", hello.name);
    }
}

#[test]
fn truncated_messages_are_refused_not_misread() {
    for hello in corpus() {
        let message = hello.message();
        for length in 0..message.len() {
            assert!(ClientHello::parse(&message[..length]).is_err(), "{} cut at {length}", hello.name);
            // With the outer length mended, so that the cut is inside.
            let mut mended = message[..length].to_vec();
            if let Some(header) = mended.get_mut(1..4) {
                header.copy_from_slice(&(length as u32 - 4).to_be_bytes()[1..]);
                let without_extensions = oracle_without_extensions(&mended);
                assert!(
                    ClientHello::parse(&mended).is_err() || without_extensions,
                    "{} cut at {length} with a mended length",
                    hello.name
                );
            }
        }
    }
}

/// A hello cut right before its extension block is a valid old one.
fn oracle_without_extensions(message: &[u8]) -> bool {
    match tls_parser::parse_tls_message_handshake(message) {
        Ok((rest, tls_parser::TlsMessage::Handshake(tls_parser::TlsMessageHandshake::ClientHello(hello)))) => {
            rest.is_empty() && hello.ext.is_none() && !hello.comp.is_empty()
        }
        _ => false,
    }
}

/// Two million mutations in all. What both parsers take, they must read alike; what is refused is refused with a
/// reason; nothing panics or hangs.
#[test]
fn mutated_hellos_are_refused_or_read_like_the_oracle() {
    let seed = std::env::var("SLUICE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_123_u64);
    println!("seed {seed}");
    let corpus = corpus();
    let rounds = 2_000_000 / corpus.len();
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    let mut dice = seed;
    for hello in &corpus {
        let message = hello.message();
        for _ in 0..rounds {
            let mut mutant = message.clone();
            dice = next_random(dice);
            for _ in 0..=(dice % 3) {
                dice = next_random(dice);
                mutate(&mut mutant, dice);
            }
            match ClientHello::parse(&mutant) {
                Ok(parsed) => {
                    accepted += 1;
                    agrees_with_oracle(&mutant, &parsed);
                }
                Err(_) => refused += 1,
            }
        }
    }
    println!("{accepted} mutants accepted, {refused} refused");
    assert!(accepted > 10_000 && refused > 10_000, "{accepted} accepted, {refused} refused");
}

fn mutate(message: &mut Vec<u8>, dice: u64) {
    if message.is_empty() {
        return;
    }
    let place = (dice >> 8) as usize % message.len();
    match dice % 5 {
        0 => message[place] = (dice >> 40) as u8,
        1 => message[place] ^= 1 << (dice >> 40 & 7),
        2 => message[place] = message[place].wrapping_add(1),
        3 => drop(message.remove(place)),
        _ => message.insert(place, (dice >> 40) as u8),
    }
    // Half of the time the outer length is mended, so that the change is looked at from inside.
    if dice >> 50 & 1 == 0 && message.len() >= 4 {
        let length = (message.len() - 4) as u32;
        message[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
    }
}

/// `tls-parser` takes more than is right, but what we take it must take too, with the same name and protocols.
fn agrees_with_oracle(message: &[u8], parsed: &ClientHello<'_>) {
    use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake};
    let (rest, message) = tls_parser::parse_tls_message_handshake(message).expect("the oracle takes it too");
    assert!(rest.is_empty());
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = message else {
        panic!("the oracle sees something else: {message:?}");
    };
    assert_eq!(hello.ciphers.len() * 2, parsed.cipher_suites.len());
    let Some(block) = hello.ext else {
        assert!(parsed.extensions.is_empty());
        return;
    };
    assert_eq!(block, parsed.extensions);
    for (kind, data) in parsed.extensions().filter(|(kind, _)| matches!(kind, 0 | 16)) {
        let whole = [&kind.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat();
        match tls_parser::parse_tls_extension(&whole) {
            Ok((_, TlsExtension::SNI(names))) => {
                assert_eq!(names.len(), 1);
                let ours = ServerName::from_wire(names[0].1).expect("a name that we took");
                assert_eq!(ours, parsed.server_name);
            }
            Ok((_, TlsExtension::ALPN(names))) => assert_eq!(names, parsed.alpn.iter().collect::<Vec<_>>()),
            other => panic!("the oracle sees something else in extension {kind}: {other:?}"),
        }
    }
}

/// Bytes that were never a hello.
#[test]
fn random_bytes_never_panic_and_never_pass() {
    let mut dice = 7;
    for _ in 0..200_000 {
        let mut bytes = Vec::new();
        dice = next_random(dice);
        for _ in 0..=(dice % 40) {
            dice = next_random(dice);
            bytes.extend_from_slice(&dice.to_be_bytes()[..=((dice % 8) as usize)]);
        }
        if dice & 1 == 0 {
            bytes[0] = 0x16;
        }
        assert!(!matches!(join(bytes.chunks(5)), Some(Ok(_))), "{bytes:02x?}");
    }
}
