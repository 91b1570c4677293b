//! What must hold for any bytes whatever: shared by the fuzz targets and by the test that replays their corpus.
//! Each function panics where something does not hold.

use sluice::decide::hello::postgres::{self, Opening, SslAnswer};
use sluice::decide::hello::proxy::{self, Outgoing};
use sluice::decide::hello::{
    Arrival, ClientHello, FirstBytes, HelloFacts, Joiner, Limits, MOST_TO_RECOGNISE, Recognised, Refusal, Step, guess,
    joined, recognise, records, single_record,
};

/// Small, so that the limits themselves are met.
const LIMITS: Limits = Limits { handshake_bytes: 4096 };

/// What became of a stream of bytes.
type Outcome = Option<Result<Vec<u8>, Refusal>>;

fn join<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let mut joiner = Joiner::new(LIMITS);
    let mut raw = Vec::new();
    for piece in pieces {
        raw.extend_from_slice(piece);
        match joiner.push(piece) {
            Ok(Step::Complete) => {
                assert!(joiner.records() as usize <= raw.len() / 5);
                return Some(Ok(joined(&raw)));
            }
            Ok(Step::NeedMore) => assert!(raw.len() <= LIMITS.raw_bytes(), "waits beyond the limit of raw bytes"),
            Err(refusal) => return Some(Err(refusal)),
        }
    }
    None
}

/// Whether two outcomes are the same, but for what a refusal of something that is not TLS is called: with fewer bytes
/// less is known of it.
fn same(a: &Outcome, b: &Outcome) -> bool {
    match (a, b) {
        // All at once, the limit of raw bytes is looked at after everything else.
        (Some(Err(Refusal::NotTls(_))), Some(Err(Refusal::NotTls(_))))
        | (Some(_), Some(Err(Refusal::TooManyRawBytes { .. })))
        | (Some(Err(Refusal::TooManyRawBytes { .. })), Some(_)) => true,
        _ => a == b,
    }
}

/// The hello reader: the pieces do not matter, and what is taken is within its limits and exact.
pub fn hello(bytes: &[u8]) {
    let whole = join(std::iter::once(bytes));
    let split = bytes.len().saturating_sub(1).min(usize::from(bytes.first().copied().unwrap_or(0)));
    let (front, back) = bytes.split_at(split);
    let halves = join([front, back].into_iter().filter(|piece| !piece.is_empty()));
    assert!(same(&whole, &halves), "{whole:?} or, split at {split}, {halves:?}");
    let bytewise = join(bytes.chunks(1));
    assert!(same(&whole, &bytewise), "{whole:?} or, byte by byte, {bytewise:?}");
    if let Some(message) = single_record(bytes, LIMITS) {
        assert_eq!(whole, Some(Ok(message.to_vec())), "the short way and the long way agree");
    }
    assert!(records(bytes).map(|record| 5 + record.payload.len()).sum::<usize>() <= bytes.len());
    if let Some(Ok(message)) = &whole {
        assert!(message.len() <= LIMITS.handshake_bytes);
        message_of(message);
    }
    // The parser by itself takes anything.
    message_of(bytes);
    if let Some(Err(refusal)) = whole {
        assert!(!refusal.to_string().is_empty());
        assert!(refusal.alert().is_some() || matches!(refusal, Refusal::NotTls(_)));
    }
    spoken(bytes);
}

fn message_of(message: &[u8]) {
    let Ok(hello) = ClientHello::parse(message) else { return };
    // Lengths nest and end on the byte: one more byte, or one less, is another matter.
    assert!(ClientHello::parse(&message[..message.len() - 1]).is_err());
    assert!(ClientHello::parse(&[message, &[0]].concat()).is_err());
    let facts = HelloFacts::of(&hello, Arrival { bytes: 0, records: 1, segments: 1 });
    assert_eq!(facts.ja4.to_string().len(), 36);
    assert!(facts.alpn.len() <= 300, "bounded for the record");
    if let Some(name) = facts.sni {
        let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        assert!((1..=253).contains(&name.len()) && name.bytes().all(good) && !name.ends_with('.'), "{name:?}");
        let wire = hello.server_name_wire.expect("a name was sent");
        assert!(wire.len() - name.len() <= 1 && wire[..name.len()].eq_ignore_ascii_case(name.as_bytes()));
    }
    assert!(hello.extensions().count() <= message.len() / 4);
}

/// Recognition is sure or waits, and never changes its mind.
fn spoken(bytes: &[u8]) {
    let mut certain = None;
    for length in 0..=bytes.len().min(MOST_TO_RECOGNISE + 4) {
        match (recognise(&bytes[..length]), certain) {
            (Recognised::NeedMore, None) => assert!(length < MOST_TO_RECOGNISE),
            (Recognised::NeedMore, Some(known)) => panic!("was {known:?} and is nothing at {length}"),
            (Recognised::Certain(now), None) => certain = Some(now),
            (Recognised::Certain(now), Some(known)) => assert_eq!(now, known, "at {length}"),
        }
    }
    if let Some(known) = certain.filter(|known| *known != FirstBytes::Unknown) {
        assert_eq!(guess(bytes), known);
    }
}

/// The reader of PROXY headers: a header is whole at one length only, and what is passed on reads back.
pub fn proxy_header(bytes: &[u8]) {
    let found = proxy::parse(bytes);
    match &found {
        Ok(None) => assert!(bytes.len() < 16 + proxy::MOST_V2),
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(Some(header)) => {
            assert!(header.length <= bytes.len() && header.length >= 8);
            assert_eq!(proxy::parse(&bytes[..header.length]).as_ref(), found.as_ref(), "what follows does not matter");
            for length in 0..header.length {
                assert_eq!(proxy::parse(&bytes[..length]), Ok(None), "cut at {length}");
            }
            if let Some(addresses) = header.addresses {
                let outgoing = Outgoing {
                    source: addresses.source,
                    destination: addresses.destination,
                    unique_id: b"0123456789abcdef",
                    authority: header.tlvs.authority.as_deref(),
                    alpn: header.tlvs.alpn.as_deref(),
                    cloud: header.tlvs.cloud.as_ref(),
                };
                let written = proxy::write_v2(&outgoing);
                assert!(written.len() <= 232);
                let again = proxy::parse(&written).expect("valid").expect("whole");
                assert_eq!(again.length, written.len());
                let canonical = |address: std::net::SocketAddr| (address.ip().to_canonical(), address.port());
                let read = again.addresses.expect("addresses");
                assert_eq!(canonical(read.source), canonical(addresses.source));
                assert_eq!(canonical(read.destination), canonical(addresses.destination));
                let line = proxy::write_v1(addresses.source, addresses.destination);
                let line = proxy::parse(&line).expect("valid").expect("whole").addresses.expect("addresses");
                assert_eq!(canonical(line.source), canonical(addresses.source));
            }
        }
    }
}

/// PostgreSQL's first packets, from either side.
pub fn postgres(bytes: &[u8]) {
    let found = postgres::opening(bytes);
    match found {
        Opening::NeedMore => assert!(bytes.len() < 268),
        Opening::Cancel { length } => {
            assert!((16..=268).contains(&length) && length <= bytes.len());
            assert_eq!(postgres::opening(&bytes[..length]), found);
            assert_eq!(postgres::opening(&bytes[..length - 1]), Opening::NeedMore);
        }
        Opening::Request(_) | Opening::StartUp { .. } => {
            assert_eq!(postgres::opening(&bytes[..postgres::HEAD]), found);
            for length in 0..postgres::HEAD {
                assert_eq!(postgres::opening(&bytes[..length]), Opening::NeedMore);
            }
        }
        Opening::Tls => assert_eq!(bytes[0], 0x16),
        Opening::Refused(error) => assert!(!error.to_string().is_empty()),
    }
    if !bytes.is_empty() {
        match postgres::ssl_answer(bytes) {
            SslAnswer::Yes => assert_eq!(bytes, b"S"),
            SslAnswer::No => assert_eq!(bytes, b"N"),
            SslAnswer::Error(text) => assert!(text.len() <= 200 && text.is_ascii()),
            SslAnswer::Surplus(count) => assert_eq!(count + 1, bytes.len()),
            SslAnswer::Unknown(byte) => assert_eq!(byte, bytes[0]),
        }
    }
    spoken(bytes);
}
