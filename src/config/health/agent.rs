//! `check = "agent"`: what is said to HAProxy's kind of agent before it speaks.

use super::CheckKind;
use super::kind::KindTable;
use crate::config::keys::{Key, Kind, built};
use crate::config::problem::{Code, Problems};
use crate::config::section::Section;

pub(super) const TABLE: KindTable = KindTable {
    word: "agent",
    own: KEYS,
    takes: &[],
    read: |section, problems| Some(CheckKind::Agent(Agent::read(section, problems))),
};

const KEYS: &[Key] = &[built(
    "send",
    Kind::Text,
    "",
    "agent: text that is sent first, with the escapes of TOML, such as \"shop-3\\n\". The agent's port is set with port.",
)];

/// Longest text.
const MOST: usize = 1024;

/// Settings of `agent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    /// What is sent first; `None`: nothing.
    pub send: Option<String>,
}

impl Agent {
    fn read(section: &Section<'_>, problems: &mut Problems) -> Self {
        let send = section.text("send", problems);
        if let Some(send) = send.as_ref().filter(|send| !(1..=MOST).contains(&send.value.len())) {
            let message = format!("`send` has {} bytes, outside 1 to {MOST}", send.value.len());
            problems.add(Code::BadCheck, send.place.clone(), message);
        }
        Self { send: send.map(|send| send.value) }
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        if let Some(send) = &self.send {
            table.insert("send".to_owned(), send.as_str().into());
        }
    }
}
