//! `check = "redis"`: with which password, and whether inside TLS.

use super::kind::KindTable;
use super::{CheckKind, Encryption, Loaded, encryption, tls, wire_text};
use crate::config::keys::{Key, Kind, built};
use crate::config::problem::{Code, Problems};
use crate::config::section::Section;

pub(super) const TABLE: KindTable = KindTable {
    word: "redis",
    own: KEYS,
    takes: &[&["user"], encryption::NAMES, tls::NAMES],
    read: |section, problems| Redis::read(section, problems).map(CheckKind::Redis),
};

const KEYS: &[Key] = &[built(
    "password-file",
    Kind::Text,
    "",
    "redis: file with the password of AUTH; one end of line at its end does not count. Without it nothing but PING is sent.",
)];

/// Longest password. Chosen: far beyond what people have, and small enough for one packet.
const MOST: usize = 1024;

/// Settings of `redis`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redis {
    /// User of AUTH; `None`: the server's default user.
    pub user: Option<String>,
    /// File with the password; `None`: no AUTH.
    pub password: Option<Loaded>,
    /// Whether it is inside TLS.
    pub encryption: Encryption,
}

impl Redis {
    fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let user = wire_text::read(section, "user", problems);
        let password = Loaded::read(section, "password-file", problems);
        if section.has("user") && !section.has("password-file") {
            let message = format!("`user` of {} needs `password-file`", section.title);
            problems.add(Code::MissingKey, section.key_place("user"), message);
        }
        if password.as_ref().is_some_and(|file| !(1..=MOST).contains(&trimmed(&file.contents).len())) {
            let message = format!("`password-file` of {} has no password of 1 to {MOST} bytes", section.title);
            problems.add(Code::Unusable, section.key_place("password-file"), message);
        }
        let encryption = Encryption::read(section, &[], problems);
        Some(Self { user, password, encryption: encryption? })
    }

    /// The password itself.
    pub fn secret(&self) -> Option<&[u8]> {
        self.password.as_ref().map(|file| trimmed(&file.contents))
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        if let Some(user) = &self.user {
            table.insert("user".to_owned(), user.as_str().into());
        }
        if let Some(file) = &self.password {
            table.insert("password-file".to_owned(), file.path.display().to_string().into());
        }
        self.encryption.dump(table);
    }
}

/// Without the end of line that editors put at the end of files.
fn trimmed(contents: &[u8]) -> &[u8] {
    let line = contents.strip_suffix(b"\n").unwrap_or(contents);
    line.strip_suffix(b"\r").unwrap_or(line)
}
