//! Documents say what the code does: the table of refusals, and the limits that are named in words.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use sluice::decide::hello::proxy::{Outgoing, parse, write_v2};
use sluice::decide::hello::{FirstBytes, Limits, MAX_HELLO, Refusal};

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn every_refusal_of_a_hello_is_in_the_table_with_its_alert_and_end() {
    let limits = Limits { handshake_bytes: MAX_HELLO };
    // One of each; the match below does not compile when one is added.
    let refusals = [
        Refusal::SslV2,
        Refusal::NotTls(FirstBytes::Http),
        Refusal::RecordVersion(2),
        Refusal::RecordType(21),
        Refusal::RecordTooLong(16_385),
        Refusal::HandshakeType(2),
        Refusal::TooLarge { claimed: 65_540, limit: limits.handshake_bytes },
        Refusal::TooManyRawBytes { limit: limits.raw_bytes() },
        Refusal::Length("extensions"),
        Refusal::DuplicateExtension(0),
        Refusal::PreSharedKeyNotLast,
        Refusal::NameList("has more than one entry"),
        Refusal::Name("has a NUL byte"),
    ];
    let text = document("docs/first-bytes.md");
    for refusal in refusals {
        match refusal {
            Refusal::SslV2
            | Refusal::NotTls(_)
            | Refusal::RecordVersion(_)
            | Refusal::RecordType(_)
            | Refusal::RecordTooLong(_)
            | Refusal::HandshakeType(_)
            | Refusal::TooLarge { .. }
            | Refusal::TooManyRawBytes { .. }
            | Refusal::Length(_)
            | Refusal::DuplicateExtension(_)
            | Refusal::PreSharedKeyNotLast
            | Refusal::NameList(_)
            | Refusal::Name(_) => {}
        }
        let alert = refusal.alert().map_or_else(|| "none".to_owned(), |alert| alert.to_string());
        let row = format!("| {refusal} | {alert} | `{}` |", refusal.close_reason().name());
        assert!(text.contains(&row), "docs/first-bytes.md lacks: {row}");
    }
    for spoken in FirstBytes::ROUTABLE {
        assert!(text.contains(&format!("`{}`", spoken.name())) || text.contains(&format!("\"{}\"", spoken.name())));
    }
}

#[test]
fn every_kind_of_check_is_in_the_table_with_its_name() {
    let schema: serde_json::Value = serde_json::from_str(&document("docs/config.schema.json")).unwrap();
    let check = &schema["properties"]["pool"]["additionalProperties"]["properties"]["health"]["properties"]["check"];
    let words: Vec<&str> = check["enum"].as_array().unwrap().iter().filter_map(|word| word.as_str()).collect();
    assert!(words.len() > 5, "{words:?}");
    for word in words.into_iter().filter(|word| *word != "off") {
        assert!(document("README.md").contains(&format!("\n| `{word}` | ")), "README.md has no row for `{word}`");
        let explained = check["description"].as_str().unwrap();
        assert!(explained.contains(word), "the description of `check` does not name `{word}`");
    }
}

#[test]
fn longest_names_of_a_proxy_header_are_as_documented() {
    let text = document("docs/first-bytes.md");
    for (source, destination, family) in [("192.0.2.1:1", "192.0.2.2:2", "IPv4"), ("[::1]:1", "[::2]:2", "IPv6")] {
        let carries = |length: usize| {
            let name = vec![b'a'; length];
            let outgoing = Outgoing {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                unique_id: b"0123456789abcdef",
                authority: Some(&name),
                alpn: None,
                cloud: None,
            };
            parse(&write_v2(&outgoing)).unwrap().unwrap().tlvs.authority.is_some()
        };
        let longest = (1..=253).rev().find(|length| carries(*length)).unwrap();
        assert!(text.contains(&format!("{longest} ")) && text.contains(family), "{longest} over {family}");
    }
}
