//! Holds the house to its rules: import directions, headers, file sizes, `unsafe` only in `sys`, nothing left undone.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// The longest file that is still one idea.
const MOST_LINES: usize = 400;

/// What each room may import from the crate besides itself.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("decide", &[]),
    ("sys", &[]),
    ("config", &["decide"]),
    ("state", &["api", "decide", "config"]),
    ("proxy", &["api", "decide", "state", "sys", "config"]),
    ("control", &["api", "decide", "state", "sys", "config"]),
    ("daemon", &["api", "decide", "state", "sys", "config", "proxy", "control"]),
    ("cli", &["api", "decide", "state", "sys", "config", "control", "daemon"]),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// External crates that pure decisions may use: parsers, hashes, address types; nothing with a clock or a socket.
const PURE_CRATES: &[&str] = &[
    "std",
    "crate",
    "super",
    "self",
    "sha2",
    "siphasher",
    "smallvec",
    "crc32c",
    "hashbrown",
    "ipnet",
    "idna",
    "Blame",
];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The part before the unit tests.
    fn code(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap()
    }

    fn room(&self) -> String {
        let inside = self.path.strip_prefix(root().join("src")).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut found);
    }
    found.sort();
    let read = |path: PathBuf| Source { text: fs::read_to_string(&path).unwrap(), path };
    let sources: Vec<Source> = found.into_iter().map(read).collect();
    assert!(sources.len() > 5, "found the sources");
    sources
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[track_caller]
fn none(what: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{what}:\n  {}", breaches.join("\n  "));
}

#[test]
fn imports_go_in_the_allowed_directions() {
    let mut breaches = Vec::new();
    for source in sources(&["src"]) {
        let room = source.room();
        let (_, allowed) = MAY_IMPORT.iter().find(|(name, _)| *name == room).expect("every room has its rule");
        for (number, line) in source.code().lines().enumerate() {
            for target in line.split("crate::").skip(1) {
                let target: String = target.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let known = MAY_IMPORT.iter().any(|(name, _)| *name == target);
                if known && target != room && !allowed.contains(&target.as_str()) {
                    breaches.push(format!("{}:{} imports {target}", source.path.display(), number + 1));
                }
            }
        }
    }
    none("imports against the direction", &breaches);
}

#[test]
fn decisions_are_pure() {
    let mut breaches = Vec::new();
    for source in sources(&["src/decide"]) {
        for (number, line) in source.code().lines().enumerate() {
            let line = line.trim_start();
            let place = || format!("{}:{}: {line}", source.path.display(), number + 1);
            let named = line.strip_prefix("pub use ").or_else(|| line.strip_prefix("use "));
            if let Some(first) = named.and_then(|path| path.split("::").next()) {
                let local = first.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
                let module = source.path.parent().unwrap().join(format!("{first}.rs")).exists();
                if local && !module && !PURE_CRATES.contains(&first) {
                    breaches.push(place());
                }
            }
            let impure =
                ["async fn", "std::time", "std::fs", "std::thread", "Instant", "SystemTime", "tracing::", "println!"];
            if impure.iter().any(|word| line.contains(word)) && !line.starts_with("//") {
                breaches.push(place());
            }
        }
    }
    none("impure code in decide", &breaches);
}

#[test]
fn every_file_says_what_it_is_for_and_stays_one_idea() {
    let mut breaches = Vec::new();
    for source in sources(&["src", "tests", "benches", "examples"]) {
        if !source.text.starts_with("//!") {
            breaches.push(format!("{} has no //! header", source.path.display()));
        }
        let lines = source.text.lines().count();
        if lines > MOST_LINES {
            breaches.push(format!("{} has {lines} lines, more than {MOST_LINES}", source.path.display()));
        }
    }
    none("headers and sizes", &breaches);
}

#[test]
fn unsafe_code_is_in_sys_only_and_explained() {
    let mut breaches = Vec::new();
    for source in sources(&["src", "benches", "examples"]) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if !code.contains("unsafe {") && !code.contains("unsafe fn") && !code.contains("unsafe impl") {
                continue;
            }
            let explained = lines[..number].iter().rev().take(3).any(|above| above.contains("SAFETY:"));
            if source.room_or_folder() != "sys" || !explained {
                breaches.push(format!("{}:{}", source.path.display(), number + 1));
            }
        }
    }
    none("unsafe outside sys, or without its SAFETY note", &breaches);
}

impl Source {
    fn room_or_folder(&self) -> String {
        if self.path.starts_with(root().join("src")) { self.room() } else { String::new() }
    }
}

#[test]
fn nothing_is_left_undone_and_no_room_is_called_utils() {
    let mut breaches = Vec::new();
    for source in sources(&["src", "tests", "benches", "examples"]) {
        let this_file = source.path.ends_with("tidy.rs");
        for word in ["todo!(", "unimplemented!(", "FIXME", "XXX", "#[ignore"] {
            if source.text.contains(word) && !this_file {
                breaches.push(format!("{} contains {word}", source.path.display()));
            }
        }
        let stem = source.path.file_stem().unwrap().to_string_lossy().into_owned();
        if ["utils", "util", "common", "misc", "helpers"].contains(&stem.as_str()) {
            breaches.push(format!("{} says nothing", source.path.display()));
        }
    }
    none("left undone", &breaches);
}
