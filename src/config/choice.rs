//! Reads how a pool chooses among its backends beyond the method: `[pool.NAME.hash]` and `[pool.NAME.passive]`.

use std::sync::Arc;

use toml::de::DeTable;

use super::keys::{HASH, PASSIVE};
use super::section::{At, Section};
use super::{Code, Problems};
use crate::decide::balance::{Hashing, KeyPart, LoadFactor, Seed, Table};
use crate::decide::health::Patience;

/// What is hashed, and how an owner is found.
pub struct Hash {
    /// What is hashed, in this order.
    pub key: Vec<KeyPart>,
    /// How an owner is found.
    pub how: Hashing,
    /// Whether the bound is written.
    pub says_bound: bool,
    /// What the seed was made from.
    pub seed: Arc<str>,
}

/// Reads `[pool.NAME.hash]`, which is in force without being written.
pub fn read_hash(pool: &Section<'_>, problems: &mut Problems) -> Hash {
    let empty = DeTable::new();
    let written = if pool.has("hash") { pool.table("hash", problems) } else { None };
    let table = written.unwrap_or(At { value: &empty, place: pool.place.clone() });
    let title = format!("[{}.hash]", pool.title.trim_matches(['[', ']']));
    let section = Section::open(&HASH, &title, &table.place, table.value, problems);
    let words = section.words("key", problems);
    if section.is_empty_list("key") {
        let message = format!("`key` of {title} is empty");
        problems.add(Code::MissingKey, section.key_place("key"), message).hint("such as key = [\"source\"]");
    }
    let part = |word: &&str| KeyPart::ALL.into_iter().find(|part| part.name() == *word);
    let key: Vec<KeyPart> = words.iter().flat_map(|words| &words.value).filter_map(part).collect();
    if let Some(twice) = (1..key.len()).find(|place| key[..*place].contains(&key[*place])) {
        let message = format!("`{}` stands twice in `key` of {title}", key[twice].name());
        problems.add(Code::DuplicateName, section.key_place("key"), message);
    }
    let table = match section.word("table", problems).map(|word| word.value) {
        Some("ring") => Table::Ring,
        _ => Table::Maglev,
    };
    let bounded_load =
        section.factor("bounded-load", problems).and_then(|factor| factor.value).and_then(LoadFactor::new);
    let seed: Arc<str> = section.text("seed", problems).map_or_else(|| "".into(), |text| text.value.into());
    let how = Hashing { table, bounded_load, seed: Seed::of(&seed) };
    Hash { key, how, says_bound: section.has("bounded-load"), seed }
}

/// Reads `[pool.NAME.passive]`, which is in force without being written.
pub fn read_passive(pool: &Section<'_>, problems: &mut Problems) -> (Patience, f64) {
    let empty = DeTable::new();
    let written = if pool.has("passive") { pool.table("passive", problems) } else { None };
    let table = written.unwrap_or(At { value: &empty, place: pool.place.clone() });
    let title = format!("[{}.passive]", pool.title.trim_matches(['[', ']']));
    let section = Section::open(&PASSIVE, &title, &table.place, table.value, problems);
    let written = section.integer("failures", problems).map(|count| count.value as u32);
    let failures = written.unwrap_or(0);
    let eject = section.duration("eject", problems).and_then(|time| time.value).unwrap_or_default();
    let max_ejected = section.share("max-ejected", problems).map_or(0.0, |share| share.value);
    // One that is wrong is told already, and is no zero.
    if written == Some(0) {
        for key in ["eject", "max-ejected"].into_iter().filter(|key| section.has(key) && section.has("failures")) {
            let message = format!("`{key}` of {title} has no effect: failures is 0");
            problems.add(Code::NoEffect, section.key_place(key), message);
        }
    }
    (Patience { failures, eject_ms: eject.as_millis() as u64 }, max_ejected)
}
