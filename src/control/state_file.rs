//! The state file: operators' words and the backends that they added, kept over a restart. Written as a whole or not at all: a
//! new file beside it, synced, then renamed over it. It knows no backends: what is in the file is matched with them elsewhere.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::{MOST_WEIGHT, is_name};
use crate::state::{Absent, Addition, Admin, Operators, Overrides, Snapshot, Word};

const VERSION: u32 = 2;
/// Largest file that is read. Chosen: some hundred bytes for each of ten thousand backends.
const MAX_FILE: u64 = 16 << 20;

/// What every version says.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

/// Version 2.
#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    overrides: Vec<SavedOverrides>,
    #[serde(default)]
    added: Vec<SavedAddition>,
}

#[derive(Serialize, Deserialize)]
struct SavedOverrides {
    /// `POOL/BACKEND`.
    backend: String,
    #[serde(flatten)]
    words: Overrides,
    /// Since when it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    absent_since: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
struct SavedAddition {
    pool: String,
    backend: String,
    address: SocketAddr,
    weight: u32,
    by_uid: u32,
    at: Timestamp,
}

/// Version 1, of sluice 0.1 before words for a while and weights.
#[derive(Deserialize)]
struct SavedV1 {
    overrides: Vec<SavedOverrideV1>,
}

#[derive(Deserialize)]
struct SavedOverrideV1 {
    backend: String,
    state: Admin,
    by_uid: u32,
    since: Timestamp,
}

/// What the file says, with all words as if their backends were away; those whose time is over are left out. A missing file
/// says nothing.
///
/// # Errors
/// When the file cannot be read; `InvalidData` when it is not of a form that is known.
pub fn load(path: &Path, now: Timestamp) -> io::Result<Operators> {
    let mut text = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Operators::default()),
        other => other?.take(MAX_FILE + 1).read_to_end(&mut text)?,
    };
    if text.len() as u64 > MAX_FILE {
        return Err(invalid(format!("more than {MAX_FILE} bytes")));
    }
    parse(&text, now)
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Reads the file's text.
///
/// # Errors
/// As for [`load`].
pub fn parse(text: &[u8], now: Timestamp) -> io::Result<Operators> {
    let wrong = |error: serde_json::Error| invalid(error.to_string());
    let (overrides, added) = match serde_json::from_slice::<AnyVersion>(text).map_err(wrong)?.version {
        1 => {
            let saved: SavedV1 = serde_json::from_slice(text).map_err(wrong)?;
            (saved.overrides.into_iter().map(SavedOverrides::from).collect(), Vec::new())
        }
        VERSION => {
            let saved: Saved = serde_json::from_slice(text).map_err(wrong)?;
            (saved.overrides, saved.added)
        }
        other => return Err(invalid(format!("version {other} is not known, the latest is {VERSION}"))),
    };
    let mut operators = Operators::default();
    for SavedOverrides { backend, words, absent_since } in overrides {
        if words.weight.all().any(|weight| weight > MOST_WEIGHT) {
            return Err(invalid(format!("a weight of `{backend}` is above {MOST_WEIGHT}")));
        }
        operators.absent.insert(backend, Absent { words, since: absent_since.unwrap_or(now) });
    }
    operators.forget_old(now);
    for SavedAddition { pool, backend, address, weight, by_uid, at } in added {
        if !is_name(&backend) || address.port() == 0 || weight > MOST_WEIGHT {
            return Err(invalid(format!("the added backend `{pool}/{backend}` has a wrong name, port or weight")));
        }
        let addition = Addition { address, weight, by_uid, at };
        operators.added.entry(pool.into()).or_default().insert(backend.into(), addition);
    }
    Ok(operators)
}

impl From<SavedOverrideV1> for SavedOverrides {
    fn from(old: SavedOverrideV1) -> Self {
        let mut words = Overrides::default();
        words.admin.say(Word { said: old.state, by_uid: old.by_uid, since: old.since, until: None });
        Self { backend: old.backend, words, absent_since: None }
    }
}

/// The file's text: the words about all backends, and those that were added.
///
/// # Errors
/// When something cannot be written as JSON, which nothing that is kept here is.
pub fn text(snapshot: &Snapshot, operators: &Operators) -> io::Result<Vec<u8>> {
    let present = snapshot.backends().map(|(_, backend)| SavedOverrides {
        backend: backend.path(),
        words: backend.words(),
        absent_since: None,
    });
    let absent = operators.absent.iter().map(|(path, absent)| SavedOverrides {
        backend: path.clone(),
        words: absent.words,
        absent_since: Some(absent.since),
    });
    let added = operators.added.iter().flat_map(|(pool, added)| added.iter().map(move |(name, one)| (pool, name, one)));
    let added = added.map(|(pool, name, one)| SavedAddition {
        pool: pool.to_string(),
        backend: name.to_string(),
        address: one.address,
        weight: one.weight,
        by_uid: one.by_uid,
        at: one.at,
    });
    let saved = Saved {
        version: VERSION,
        overrides: present.filter(|saved| !saved.words.is_empty()).chain(absent).collect(),
        added: added.collect(),
    };
    let mut text = serde_json::to_vec_pretty(&saved)?;
    text.push(b'\n');
    Ok(text)
}

/// Writes the file. Blocks, as long as the disk does.
///
/// # Errors
/// When it cannot be written; the old one is then still whole.
pub fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let fresh = beside(path, ".new");
    let written = File::create(&fresh).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&fresh, path)) {
        // Half a file is of no use to anybody, and the next attempt makes it anew.
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    // The name is on the disk only when the folder is.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Puts a file aside that cannot be used, so that the next one does not take its place. Returns where it is now.
///
/// # Errors
/// When it cannot be renamed.
pub fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, ".bad");
    fs::rename(path, &aside).map(|()| aside)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::balance::next_random;

    const WHOLE: &str = r#"{
  "version": 2,
  "overrides": [
    { "backend": "a/one", "admin": { "lasting": { "said": "drain", "by_uid": 7, "since": "2026-11-24T10:00:00Z", "until": null }, "passing": null },
      "weight": { "lasting": null, "passing": { "said": 5, "by_uid": 7, "since": "2026-11-24T10:00:00Z", "until": "2026-11-24T12:00:00Z" } } },
    { "backend": "a/two", "weight": { "lasting": { "said": 9, "by_uid": 7, "since": "2026-11-24T10:00:00Z", "until": null }, "passing": null },
      "absent_since": "2026-11-24T10:30:00Z" }
  ],
  "added": [ { "pool": "a", "backend": "new", "address": "10.0.0.1:443", "weight": 50, "by_uid": 7, "at": "2026-11-24T10:00:00Z" } ]
}"#;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_whole_file_is_read_and_what_is_over_is_left_out() {
        let read = parse(WHOLE.as_bytes(), at("2026-11-24T11:00:00Z")).expect("a good file");
        let one = read.absent["a/one"].words;
        assert_eq!(one.admin.in_force().map(|word| word.said), Some(Admin::Draining));
        assert_eq!(one.weight.in_force().map(|word| word.said), Some(5));
        assert_eq!(read.absent["a/two"].since, at("2026-11-24T10:30:00Z"));
        assert_eq!(read.addition("a", "new").map(|addition| addition.weight), Some(50));
        let later = parse(WHOLE.as_bytes(), at("2026-11-24T12:00:00Z")).expect("a good file");
        assert!(later.absent["a/one"].words.weight.in_force().is_none());
    }

    #[test]
    fn version_1_is_read() {
        let text = br#"{"version":1,"overrides":[
            {"backend":"a/one","state":"drain","by_uid":1000,"since":"2026-11-24T10:00:00.123456789Z"},
            {"backend":"a/two","state":"disable","by_uid":0,"since":"2026-11-24T10:00:00Z"}]}"#;
        let read = parse(text, at("2026-11-24T11:00:00Z")).expect("a good file");
        let said = |path: &str| read.absent[path].words.admin.in_force().map(|word| (word.said, word.by_uid));
        assert_eq!(said("a/one"), Some((Admin::Draining, 1000)));
        assert_eq!(said("a/two"), Some((Admin::Disabled, 0)));
        assert!(read.added.is_empty());
    }

    #[test]
    fn whatever_else_is_in_the_file_is_an_error_with_a_reason() {
        let now = at("2026-11-24T11:00:00Z");
        for length in 0..WHOLE.len() {
            let error = parse(&WHOLE.as_bytes()[..length], now).expect_err("not whole");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{length}: {error}");
        }
        for (text, why) in [
            ("", "EOF"),
            ("\0\0\0", "expected value"),
            (r#"{"version":3,"overrides":[]}"#, "version 3 is not known"),
            (r#"{"version":"2","overrides":[]}"#, "invalid type"),
            (&WHOLE.replace(":443", ":0"), "wrong name, port or weight"),
            (&WHOLE.replace("\"weight\": 50", "\"weight\": 5000"), "wrong name, port or weight"),
            (&WHOLE.replace("\"said\": 9", "\"said\": 5000"), "above 1000"),
            (&WHOLE.replace("\"new\"", "\"a/b\""), "wrong name, port or weight"),
            (&WHOLE.replace("\"drain\"", "\"fly\""), "unknown variant"),
        ] {
            let error = parse(text.as_bytes(), now).expect_err(why).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn no_mutation_makes_it_panic() {
        let now = at("2026-11-24T11:00:00Z");
        let (mut dice, mut good) = (7, 0);
        for _ in 0..20_000 {
            let mut text = WHOLE.as_bytes().to_vec();
            for _ in 0..=dice % 3 {
                dice = next_random(dice);
                let place = dice as usize % text.len();
                dice = next_random(dice);
                match dice % 3 {
                    0 => text[place] = (dice >> 8) as u8,
                    1 => drop(text.remove(place)),
                    _ => text.insert(place, b"0123456789-{}[],:\""[(dice >> 8) as usize % 18]),
                }
            }
            good += u32::from(parse(&text, now).is_ok());
        }
        assert!(good > 100, "some mutants are good files: {good}");
    }
}
