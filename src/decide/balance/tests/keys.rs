//! Keys: which connections have the same, that no two lists of facts run together, and what has none.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::*;

fn key_of(parts: &[KeyPart], facts: &KeyFacts<'_>) -> Option<u64> {
    hash_key(Seed::default(), parts, facts)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn facts<'a>(source: &str, sni: Option<&'a str>, alpn: &'a [u8]) -> KeyFacts<'a> {
    let destination: SocketAddr = "198.51.100.1:443".parse().expect("an address");
    KeyFacts { source: address(source), sni, alpn, destination: Some(destination) }
}

#[test]
fn a_prefix_is_a_24_or_a_64() {
    let key = |part, source| key_of(&[part], &facts(source, None, &[]));
    let prefix = |source| key(KeyPart::SourcePrefix, source);
    assert_eq!(prefix("192.0.2.1"), prefix("192.0.2.255"));
    assert_ne!(prefix("192.0.2.1"), prefix("192.0.3.1"));
    assert_eq!(prefix("2001:db8:0:1::1"), prefix("2001:db8:0:1:ffff::2"));
    assert_ne!(prefix("2001:db8:0:1::1"), prefix("2001:db8:0:2::1"));
    assert_ne!(key(KeyPart::Source, "192.0.2.1"), key(KeyPart::Source, "192.0.2.2"));
    assert_eq!(key(KeyPart::Source, "::ffff:192.0.2.1"), key(KeyPart::Source, "192.0.2.1"), "one client, one key");
    assert_eq!(prefix("::ffff:192.0.2.1"), prefix("192.0.2.9"));
}

#[test]
fn every_part_counts_and_so_does_the_order() {
    let base = facts("192.0.2.1", Some("a.example"), b"\x02h2");
    let other = KeyFacts {
        source: address("203.0.113.1"),
        sni: Some("b.example"),
        alpn: b"\x08http/1.1",
        destination: Some("198.51.100.1:444".parse().expect("an address")),
    };
    for part in KeyPart::ALL {
        assert_ne!(key_of(&[part], &base), key_of(&[part], &other), "{part:?} is in the key");
        for beside in KeyPart::ALL.into_iter().filter(|beside| *beside != part) {
            assert_ne!(key_of(&[part, beside], &base), key_of(&[beside, part], &base), "{part:?}, {beside:?}");
            assert_ne!(key_of(&[part, beside], &base), key_of(&[part], &base), "{part:?} with and without {beside:?}");
        }
    }
    let same = KeyFacts { sni: Some("a.example"), ..other };
    assert_eq!(key_of(&[KeyPart::Sni], &base), key_of(&[KeyPart::Sni], &same), "what is not asked for does not count");
}

#[test]
fn nothing_runs_together() {
    let mut seen: HashMap<u64, String> = HashMap::new();
    let names = [None, Some(""), Some("a"), Some("ab"), Some("h2"), Some("\u{2}h2"), Some("a\0"), Some("abc")];
    let lists: [&[u8]; 6] = [b"", b"\x01a", b"\x02h2", b"\x02ab", b"\x01a\x01b", b"\x02h2\x01a"];
    let destinations = [None, Some("192.0.2.1:443"), Some("192.0.2.1:97"), Some("[2001:db8::1]:443")];
    for (sni, alpn) in names.into_iter().flat_map(|sni| lists.map(|alpn| (sni, alpn))) {
        for destination in destinations {
            let destination = destination.map(|text| text.parse().expect("an address"));
            let facts = KeyFacts { destination, ..facts("192.0.2.1", sni, alpn) };
            // Source keeps every key present; the facts are the same only when the key is.
            let parts = [KeyPart::Source, KeyPart::Sni, KeyPart::Alpn, KeyPart::Destination];
            let key = key_of(&parts, &facts).expect("a source");
            let before = seen.insert(key, format!("{facts:?}"));
            assert_eq!(before, None, "the same as {facts:?}");
        }
    }
    assert_eq!(seen.len(), 8 * 6 * 4);
}

#[test]
fn without_any_part_there_is_no_key() {
    let bare = KeyFacts { destination: None, ..facts("192.0.2.1", None, &[]) };
    for parts in [&[][..], &[KeyPart::Sni], &[KeyPart::Alpn], &[KeyPart::Sni, KeyPart::Alpn], &[KeyPart::Destination]] {
        assert_eq!(key_of(parts, &bare), None, "{parts:?}");
    }
    let with_source = [KeyPart::Sni, KeyPart::Source];
    assert!(key_of(&with_source, &bare).is_some());
    assert_ne!(key_of(&with_source, &bare), key_of(&[KeyPart::Source], &bare), "a missing part is hashed as missing");
    let named = facts("192.0.2.1", Some("a.example"), &[]);
    assert!(key_of(&[KeyPart::Sni, KeyPart::Alpn], &named).is_some());
}

#[test]
fn keys_are_the_same_in_every_release() {
    let facts = facts("192.0.2.1", Some("a.example"), b"\x02h2");
    assert_eq!(
        [&[KeyPart::Source][..], &KeyPart::ALL].map(|parts| key_of(parts, &facts)),
        [Some(6_497_696_720_354_858_555), Some(3_367_150_184_333_291_989)]
    );
}

#[test]
fn without_a_key_the_least_loaded_is_chosen() {
    for count in [4, 100] {
        let mut pool = Pool::new(hashing(Table::Maglev, None), members(&vec![100; count]), 1);
        for _ in 0..100 * count {
            pool.arrive(None);
        }
        assert!(pool.active.iter().all(|load| load.abs_diff(100) <= 6), "{:?}", pool.active);
    }
}

#[test]
fn a_seed_changes_every_key_and_is_in_the_digest() {
    let names: Vec<String> = (0..1000).map(|number| format!("{number}.example")).collect();
    let keys =
        |seed| names.iter().map(move |name| hash_key(seed, &[KeyPart::Sni], &facts("192.0.2.1", Some(name), b"")));
    let [none, one, other] = ["", "one secret", "another"].map(Seed::of);
    assert_eq!(none, Seed::default());
    assert!(keys(none).zip(keys(one)).zip(keys(other)).all(|((a, b), c)| a != b && b != c && a != c));
    let digest = |seed| {
        let method = Method::ConsistentHash(Hashing { seed, ..Hashing::default() });
        Balancer::new(method, &members(&[100; 3])).expect("small pool").digest().map(str::to_owned)
    };
    assert_eq!(digest(one), digest(Seed::of("one secret")));
    assert!(digest(none) != digest(one) && digest(one) != digest(other));
    // Keys that meet at one backend under one seed are spread under another, as any keys are.
    let owner = |seed, key: Option<u64>| {
        Pool::new(Method::ConsistentHash(Hashing { seed, ..Hashing::default() }), members(&[100; 10]), 1).pick(key)
    };
    let chosen: Vec<usize> =
        (0..names.len()).filter(|place| owner(none, keys(none).nth(*place).flatten()) == 0).collect();
    let still = chosen.iter().filter(|place| owner(one, keys(one).nth(**place).flatten()) == 0).count();
    assert!(chosen.len() > 60 && still < chosen.len() / 3, "{still} of {}", chosen.len());
}
