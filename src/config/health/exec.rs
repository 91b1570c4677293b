//! `check = "exec"`: the program and its arguments.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::CheckKind;
use super::kind::KindTable;
use crate::config::keys::{Key, Kind, built};
use crate::config::problem::{Code, Problems};
use crate::config::section::Section;

pub(super) const TABLE: KindTable = KindTable {
    word: "exec",
    own: KEYS,
    takes: &[],
    read: |section, problems| Exec::read(section, problems).map(CheckKind::Exec),
};

const KEYS: &[Key] = &[built(
    "command",
    Kind::Texts,
    "",
    "exec: program, by its whole path, and arguments; no shell is between. Exit status 0: well. Its environment is PATH, SLUICE_POOL, SLUICE_BACKEND, SLUICE_ADDRESS and SLUICE_PORT.",
)];

/// Settings of `exec`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exec {
    /// Path of the program, from the root.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Exec {
    fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        if !section.has("command") {
            section.missing("command", "such as command = [\"/usr/local/bin/check-shop\", \"--quick\"]", problems);
            return None;
        }
        let written = section.texts("command", problems)?;
        let mut words = written.value.into_iter();
        let Some(program) = words.next() else {
            if section.is_empty_list("command") {
                let message = format!("`command` of {} names no program", section.title);
                problems.add(Code::BadCheck, written.place, message);
            }
            return None;
        };
        if let Err(why) = can_be_run(&program.value) {
            let message = format!("`command` of {} cannot run {}: {why}", section.title, program.value);
            problems.add(Code::Unusable, program.place.clone(), message);
        }
        let arguments = words.map(|word| {
            if word.value.contains('\0') {
                let message = format!("an argument in `command` of {} has a NUL", section.title);
                problems.add(Code::BadCheck, word.place, message);
            }
            word.value
        });
        Some(Self { program: program.value, arguments: arguments.collect() })
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        let words = [&self.program].into_iter().chain(&self.arguments).map(|word| word.as_str().into());
        table.insert("command".to_owned(), toml::Value::Array(words.collect()));
    }
}

/// Found out before a reload takes effect: a program that is missing would leave every backend without a check.
fn can_be_run(program: &str) -> Result<(), String> {
    if !program.starts_with('/') {
        return Err("the path does not begin with a slash".to_owned());
    }
    let metadata = Path::new(program).metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err("it is not a program".to_owned());
    }
    Ok(())
}
