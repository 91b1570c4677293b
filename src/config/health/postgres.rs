//! `check = "postgres"`: as whom the start-up packet comes, and whether inside TLS.

use super::kind::KindTable;
use super::{CheckKind, Encryption, encryption, tls, wire_text};
use crate::config::keys::{Key, Kind, built};
use crate::config::problem::Problems;
use crate::config::section::Section;

pub(super) const TABLE: KindTable = KindTable {
    word: "postgres",
    own: KEYS,
    takes: &[tls::NAMES],
    read: |section, problems| Postgres::read(section, problems).map(CheckKind::Postgres),
};

const KEYS: &[Key] = &[
    built(
        "user",
        Kind::Text,
        "",
        "postgres, mysql: user of the check, without a password; \"sluice\" when it is left out. It need not exist, but each refusal is a line in the server's log. redis: user of AUTH, with password-file.",
    ),
    built(
        "database",
        Kind::Text,
        "",
        "postgres: database of the check; when it is left out, the one named like the user.",
    ),
    encryption::KEY,
];

/// Name of a user that nobody named.
pub(super) const USER: &str = "sluice";

/// Settings of `postgres`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Postgres {
    /// User of the start-up packet.
    pub user: String,
    /// Database; `None`: the server takes the user's name.
    pub database: Option<String>,
    /// Whether TLS is asked for.
    pub encryption: Encryption,
}

impl Postgres {
    fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let user = wire_text::read(section, "user", problems);
        let database = wire_text::read(section, "database", problems);
        let encryption = Encryption::read(section, &["postgresql"], problems);
        Some(Self { user: user.unwrap_or_else(|| USER.to_owned()), database, encryption: encryption? })
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        table.insert("user".to_owned(), self.user.as_str().into());
        if let Some(database) = &self.database {
            table.insert("database".to_owned(), database.as_str().into());
        }
        self.encryption.dump(table);
    }
}
