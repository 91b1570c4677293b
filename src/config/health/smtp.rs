//! `check = "smtp"`: what the check calls itself, and whether inside TLS.

use super::kind::KindTable;
use super::{CheckKind, Encryption, encryption, tls, wire_text};
use crate::config::keys::{Key, Kind, built};
use crate::config::problem::Problems;
use crate::config::section::Section;

pub(super) const TABLE: KindTable = KindTable {
    word: "smtp",
    own: KEYS,
    takes: &[encryption::NAMES, tls::NAMES],
    read: |section, problems| Smtp::read(section, problems).map(CheckKind::Smtp),
};

const KEYS: &[Key] = &[built("name", Kind::Text, "\"localhost\"", "smtp: host name that EHLO gives as ours.")];

/// Settings of `smtp`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Smtp {
    /// Our name in EHLO.
    pub name: String,
    /// Whether it is inside TLS, as on port 465.
    pub encryption: Encryption,
}

impl Smtp {
    fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let (name, encryption) = (wire_text::read(section, "name", problems), Encryption::read(section, &[], problems));
        Some(Self { name: name?, encryption: encryption? })
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        table.insert("name".to_owned(), self.name.as_str().into());
        self.encryption.dump(table);
    }
}
