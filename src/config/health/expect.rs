//! `check = "expect"`: what is sent and what must come back, step by step.

use super::kind::KindTable;
use super::{CheckKind, Encryption, encryption, tls};
use crate::config::keys::{Key, Kind, SectionKeys, built};
use crate::config::problem::{Code, Problems};
use crate::config::section::{At, Section};

pub(super) const TABLE: KindTable = KindTable {
    word: "expect",
    own: KEYS,
    takes: &[encryption::NAMES, tls::NAMES],
    read: |section, problems| Expect::read(section, problems).map(CheckKind::Expect),
};

const KEYS: &[Key] = &[built(
    "steps",
    Kind::List(&STEP),
    "",
    "expect: what is done, in this order, at most 32 steps. A step has one key.",
)];

/// Keys of a step, of which it has one.
static STEP: SectionKeys = SectionKeys {
    heading: "steps of [pool.NAME.health]",
    keys: &[
        built("send", Kind::Text, "", "Text that is sent, with the escapes of TOML, such as \"PING\\r\\n\"."),
        built("send-hex", Kind::Text, "", "Bytes that are sent, in hexadecimal, such as \"00 ff\"."),
        built(
            "expect",
            Kind::Text,
            "",
            "Text that must come anywhere in the first 16 KiB after what the step before it expected.",
        ),
        built("expect-hex", Kind::Text, "", "The same for bytes, in hexadecimal."),
    ],
};

const MOST_STEPS: usize = 32;
/// Most bytes of one step. Chosen: an answer is searched for it each time that more came.
const MOST_BYTES: usize = 1024;

/// Settings of `expect`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expect {
    /// What is done, in this order; at least one.
    pub steps: Vec<Step>,
    /// Whether it is inside TLS.
    pub encryption: Encryption,
}

/// One step; its bytes are at least one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// These bytes are sent.
    Send(Vec<u8>),
    /// These bytes must come.
    Expect(Vec<u8>),
}

impl Expect {
    fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let encryption = Encryption::read(section, &[], problems);
        if !section.has("steps") {
            section.missing("steps", "such as steps = [{ send = \"PING\\r\\n\" }, { expect = \"+PONG\" }]", problems);
            return None;
        }
        let tables = section.tables("steps", problems);
        if section.is_empty_list("steps") || tables.len() > MOST_STEPS {
            let message = format!("`steps` of {} has {} steps, outside 1 to {MOST_STEPS}", section.title, tables.len());
            problems.add(Code::BadCheck, section.key_place("steps"), message);
        }
        let title = format!("steps of {}", section.title);
        // All are read before the first that is wrong ends it.
        let steps: Vec<Option<Step>> = tables
            .into_iter()
            .map(|table| read_step(&Section::open(&STEP, &title, &table.place, table.value, problems), problems))
            .collect();
        Some(Self { steps: steps.into_iter().collect::<Option<_>>()?, encryption: encryption? })
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        let steps = self.steps.iter().map(|step| {
            let (key, bytes) = match step {
                Step::Send(bytes) => ("send", bytes),
                Step::Expect(bytes) => ("expect", bytes),
            };
            let (key, value) = match str::from_utf8(bytes) {
                Ok(text) => (key.to_owned(), text.to_owned()),
                Err(_) => (format!("{key}-hex"), to_hex(bytes)),
            };
            toml::Table::from_iter([(key, value.into())]).into()
        });
        table.insert("steps".to_owned(), toml::Value::Array(steps.collect()));
        self.encryption.dump(table);
    }
}

fn read_step(section: &Section<'_>, problems: &mut Problems) -> Option<Step> {
    let written: Vec<&str> = STEP.keys.iter().map(|key| key.name).filter(|key| section.has(key)).collect();
    if written.is_empty() && STEP.keys.iter().any(|key| section.probably_has(key.name)) {
        return None;
    }
    let &[key] = written.as_slice() else {
        let message = format!("a step has one of its keys, not {}", written.len());
        problems.add(Code::BadCheck, section.place.clone(), message).hint("send, send-hex, expect or expect-hex");
        return None;
    };
    let At { value, place } = section.text(key, problems)?;
    let bytes = if key.ends_with("-hex") { from_hex(&value) } else { Some(value.into_bytes()) };
    match bytes {
        Some(bytes) if (1..=MOST_BYTES).contains(&bytes.len()) => {
            Some(if key.starts_with("send") { Step::Send(bytes) } else { Step::Expect(bytes) })
        }
        Some(bytes) => {
            let message = format!("`{key}` has {} bytes, outside 1 to {MOST_BYTES}", bytes.len());
            problems.add(Code::BadCheck, place, message);
            None
        }
        None => {
            let message = format!("`{key}` is not bytes in hexadecimal");
            problems.add(Code::BadCheck, place, message).hint("two digits for each byte, such as \"00 ff\"");
            None
        }
    }
}

/// Pairs of digits; blanks between pairs do not count.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for word in text.split_ascii_whitespace() {
        let (pairs, rest) = word.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return None;
        }
        for pair in pairs {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            bytes.push((high? * 16 + low?) as u8);
        }
    }
    Some(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<&[u8]>) {
        assert_eq!(from_hex(text).as_deref(), want, "{text:?}");
    }

    #[test]
    fn hexadecimal_is_pairs_of_digits() {
        check("", Some(b""));
        check("00 fFa5\n7f", Some(b"\x00\xff\xa5\x7f"));
        check("0", None);
        check("0 0", None);
        check("0g", None);
        check("+1", None);
        check("\u{e9}", None);
        assert_eq!(to_hex(b"\x00\xff\xa5"), "00 ff a5");
    }
}
