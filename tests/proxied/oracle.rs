//! The reader of PROXY headers with the crate `ppp` as oracle, on made and mutated headers: what we take, `ppp` takes and
//! reads alike. It may take more: it knows no bound for version 2, no checksum, and does not look at fields unasked.
//! `SLUICE_TEST_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::env;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::support::proxy::{
    ALPN, AUTHORITY, AWS, CRC32C, GCP, LOCAL, PROXY, SIGNATURE, SSL, TCP4, TCP6, UNIQUE_ID, block, tlv, v2,
    with_checksum,
};
use ppp::{HeaderResult, PartialResult};
use sluice::decide::balance::next_random;
use sluice::decide::hello::proxy::{Addresses, Header, parse};

const MUTANTS: usize = 300_000;

/// What the specification allows and `ppp` refuses.
const LOCAL_ADDRESSES: &str = "LOCAL with addresses that do not fit: `the receiver must discard the protocol block \
    including the family which is ignored`, ppp wants a family that it knows and all of its bytes";
const LONG_UNKNOWN: &str = "UNKNOWN with more words than four: `the receiver must ignore anything presented before the \
    CRLF`, ppp splits a line into seven parts at most";

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = next_random(self.0);
        (self.0 >> 16) as usize % sides
    }

    fn byte(&mut self) -> u8 {
        self.roll(256) as u8
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.roll(most + 1)).map(|_| self.byte()).collect()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }

    fn v4(&mut self) -> SocketAddr {
        let ip = [self.byte(), self.byte(), self.byte(), self.byte()];
        (Ipv4Addr::from(ip), self.port()).into()
    }

    fn v6(&mut self) -> SocketAddr {
        let mut ip = [0; 16];
        // Runs of zeros, so that the short forms occur.
        for byte in &mut ip {
            *byte = if self.roll(2) == 0 { 0 } else { self.byte() };
        }
        (Ipv6Addr::from(ip), self.port()).into()
    }

    fn port(&mut self) -> u16 {
        let any = u16::from(self.byte()) << 8 | u16::from(self.byte());
        self.pick(&[0, 1, 443, 65_535, any, any])
    }

    /// A header that must be taken.
    fn header(&mut self) -> Vec<u8> {
        match self.roll(8) {
            0 | 1 => {
                let (source, destination) = (self.v4(), self.v4());
                v1("TCP4", source, destination)
            }
            2 => {
                let (source, destination) = (self.v6(), self.v6());
                v1("TCP6", source, destination)
            }
            3 => {
                let rest: String = (0..self.roll(80)).map(|_| char::from(b' ' + self.roll(95) as u8)).collect();
                if self.roll(3) == 0 {
                    b"PROXY UNKNOWN\r\n".to_vec()
                } else {
                    format!("PROXY UNKNOWN {rest}\r\n").into()
                }
            }
            4 => {
                let (family, body) = (self.pick(&[0x00, TCP4, TCP6, 0x31, 0x57]), self.bytes(230));
                v2(LOCAL, family, &body)
            }
            _ => self.with_addresses(),
        }
    }

    fn with_addresses(&mut self) -> Vec<u8> {
        let family = self.pick(&[TCP4, TCP4, 0x12, TCP6, TCP6, 0x22, 0x31, 0x32, 0x00]);
        let addresses = match family >> 4 {
            1 => block(self.v4(), self.v4()),
            2 => block(self.v6(), self.v6()),
            3 => (0..216).map(|_| self.byte()).collect(),
            _ => Vec::new(),
        };
        let mut fields = Vec::new();
        for _ in 0..self.roll(4) {
            let kind = self.pick(&[ALPN, AUTHORITY, 4, UNIQUE_ID, SSL, 0x30, AWS, GCP, 0xf3]);
            fields.extend(tlv(kind, &self.bytes(40)));
        }
        let summed = matches!(family, TCP4 | TCP6) && self.roll(3) == 0;
        if summed {
            fields.extend(tlv(CRC32C, &[0; 4]));
        }
        let header = v2(PROXY, family, &[addresses, fields].concat());
        if summed { with_checksum(header) } else { header }
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.roll(3) {
            let at = self.roll(bytes.len().max(1));
            match self.roll(7) {
                0 if at < bytes.len() => bytes[at] = self.byte(),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.insert(at, self.pick(b" 0:.\r\n\0\x20\x21\x11\x03")),
                4 => bytes.truncate(at.max(6)),
                5 => {
                    let words: [&[u8]; 9] =
                        [b"TCP4", b"TCP6", b"UNKNOWN", b"::ffff:", b" 00", b"65536", b"\r\n", b"+1", SIGNATURE];
                    let word = self.pick(&words);
                    bytes.splice(at..(at + self.roll(word.len() + 1)).min(bytes.len()), word.iter().copied());
                }
                // The length of version 2 that fits again, so that what else is wrong is looked at.
                _ if bytes.starts_with(SIGNATURE) && bytes.len() >= 16 => {
                    let length = (bytes.len() - 16) as u16;
                    bytes[14..16].copy_from_slice(&length.to_be_bytes());
                }
                _ => {}
            }
        }
    }
}

fn v1(family: &str, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into()
}

/// What both make of it. A breach of the rule panics.
fn judge(bytes: &[u8], exceptions: &mut BTreeMap<&'static str, usize>) -> &'static str {
    let oracle = HeaderResult::parse(bytes);
    let shown = bytes.escape_ascii();
    match parse(bytes) {
        Err(_) if is_taken(&oracle) => "refused, ppp takes it",
        Err(_) => "refused by both",
        Ok(None) => {
            assert!(!is_taken(&oracle), "we wait for more where ppp has a whole header: {shown}");
            "incomplete"
        }
        Ok(Some(header)) if is_taken(&oracle) => {
            assert_eq!((header.length, header.addresses), read(&oracle), "{shown}");
            compare_fields(&header, &oracle);
            "taken by both"
        }
        Ok(Some(header)) => {
            assert_eq!(header.addresses, None, "ppp refuses addresses that we take: {shown}");
            let exception = if bytes.starts_with(SIGNATURE) && bytes[12] == LOCAL {
                LOCAL_ADDRESSES
            } else {
                let words = bytes[..header.length].split(|byte| *byte == b' ').count();
                let known = bytes.starts_with(b"PROXY UNKNOWN ") && words > 6;
                assert!(known, "no known exception: {shown}: {oracle:?}");
                LONG_UNKNOWN
            };
            *exceptions.entry(exception).or_default() += 1;
            "taken, a known exception"
        }
    }
}

fn is_taken(oracle: &HeaderResult<'_>) -> bool {
    matches!(oracle, HeaderResult::V1(Ok(_)) | HeaderResult::V2(Ok(_)))
}

/// Length and addresses as `ppp` reads them, by our rules for what an address is.
fn read(oracle: &HeaderResult<'_>) -> (usize, Option<Addresses>) {
    let v4 = |read: &ppp::v2::IPv4| Addresses {
        source: (read.source_address, read.source_port).into(),
        destination: (read.destination_address, read.destination_port).into(),
    };
    let v6 = |read: &ppp::v2::IPv6| Addresses {
        source: (read.source_address, read.source_port).into(),
        destination: (read.destination_address, read.destination_port).into(),
    };
    match oracle {
        HeaderResult::V1(Ok(header)) => {
            let addresses = match &header.addresses {
                ppp::v1::Addresses::Unknown => None,
                ppp::v1::Addresses::Tcp4(read) => Some(v4(read)),
                ppp::v1::Addresses::Tcp6(read) => Some(v6(read)),
            };
            (header.header.len(), addresses)
        }
        HeaderResult::V2(Ok(header)) => {
            let addresses = match &header.addresses {
                _ if header.command == ppp::v2::Command::Local => None,
                ppp::v2::Addresses::IPv4(read) => Some(v4(read)),
                ppp::v2::Addresses::IPv6(read) => Some(v6(read)),
                ppp::v2::Addresses::Unspecified | ppp::v2::Addresses::Unix(_) => None,
            };
            (header.len(), addresses)
        }
        _ => unreachable!("taken"),
    }
}

fn compare_fields(header: &Header, oracle: &HeaderResult<'_>) {
    let HeaderResult::V2(Ok(read)) = oracle else { return };
    // Without a family, ppp takes everything for addresses.
    if read.command == ppp::v2::Command::Local || matches!(read.addresses, ppp::v2::Addresses::Unspecified) {
        return;
    }
    let fields: Vec<(u8, Vec<u8>)> = read
        .tlvs()
        .map(|field| field.expect("a field that ppp cannot read and we can"))
        .map(|field| (field.kind, field.value.to_vec()))
        .collect();
    let last = |kind: u8| fields.iter().rev().find(|field| field.0 == kind).map(|field| field.1.as_slice());
    assert_eq!(header.tlvs.alpn.as_deref(), last(ALPN));
    assert_eq!(header.tlvs.authority.as_deref(), last(AUTHORITY));
    assert_eq!(header.tlvs.unique_id.as_deref(), last(UNIQUE_ID));
}

#[test]
fn what_we_take_the_oracle_takes_and_reads_alike() {
    let seed = env::var("SLUICE_TEST_SEED").map_or(20_261_128, |seed| seed.parse().expect("a number"));
    println!("SLUICE_TEST_SEED={seed}");
    let mut dice = Dice(seed);
    let (mut verdicts, mut exceptions) = (BTreeMap::<_, usize>::new(), BTreeMap::new());
    for _ in 0..MUTANTS {
        let mut bytes = dice.header();
        assert!(
            parse(&bytes).is_ok_and(|header| header.is_some_and(|header| header.length == bytes.len())),
            "{bytes:?}"
        );
        judge(&bytes, &mut exceptions);
        bytes.extend(dice.bytes(8));
        dice.mutate(&mut bytes);
        *verdicts.entry(judge(&bytes, &mut exceptions)).or_default() += 1;
        // Where it is cut must not change what it is.
        let cut = &bytes[..dice.roll(bytes.len() + 1)];
        match (parse(cut), parse(&bytes)) {
            (Ok(None), _) => {}
            (early, whole) => assert_eq!(early, whole, "cut at {}: {}", cut.len(), bytes.escape_ascii()),
        }
    }
    println!("{verdicts:#?}\n{exceptions:#?}");
    for verdict in ["taken by both", "refused by both", "refused, ppp takes it", "incomplete"] {
        assert!(verdicts.get(verdict).is_some_and(|count| *count > MUTANTS / 1000), "{verdict}: {verdicts:?}");
    }
    assert_eq!(exceptions.len(), 2, "an exception that never occurs is none: {exceptions:?}");
}

#[test]
fn what_the_oracle_writes_is_read() {
    let mut dice = Dice(11);
    for _ in 0..10_000 {
        let (source, destination) = if dice.roll(2) == 0 { (dice.v4(), dice.v4()) } else { (dice.v6(), dice.v6()) };
        let (name, id) = (dice.bytes(60), dice.bytes(128));
        let bytes = ppp::v2::Builder::with_addresses(PROXY, ppp::v2::Protocol::Stream, (source, destination))
            .write_tlv(AUTHORITY, &name)
            .and_then(|builder| builder.write_tlv(UNIQUE_ID, &id))
            .and_then(ppp::v2::Builder::build)
            .unwrap();
        assert!(HeaderResult::parse(&bytes).is_complete());
        let header = parse(&bytes).unwrap().unwrap();
        assert_eq!((header.length, header.addresses), (bytes.len(), Some(Addresses { source, destination })));
        assert_eq!((header.tlvs.authority.as_deref(), header.tlvs.unique_id.as_deref()), (Some(&*name), Some(&*id)));
    }
}
