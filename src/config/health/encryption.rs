//! The key `tls`, of kinds whose dialogue can be held inside TLS: whether it is. The keys of the handshake are those of
//! the check `tls`, read there.

use super::Tls;
use super::tls;
use crate::config::keys::{Key, Kind, built};
use crate::config::problem::{Code, Problems};
use crate::config::section::Section;

/// The key, which one kind brings and the others take by its name.
pub(super) const KEY: Key = built(
    "tls",
    Kind::Word(&["off", "require"]),
    "\"off\"",
    "postgres, redis, smtp, ldap, expect: require: the dialogue is held inside TLS, after a whole handshake (postgres asks with SSLRequest, the others begin with it). off: in plain text.",
);

/// Names of the keys that [`Encryption::read`] reads, for kinds that do not bring them.
pub(super) const NAMES: &[&str] = &["tls"];

/// Whether a dialogue is held inside TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// It is not.
    Off,
    /// It is, after this handshake.
    Require(Tls),
}

impl Encryption {
    /// Reads `tls` and the keys of the handshake; `alpn` is what the protocol calls itself there, if it does.
    pub(super) fn read(section: &Section<'_>, alpn: &[&str], problems: &mut Problems) -> Option<Self> {
        if section.word("tls", problems)?.value == "require" {
            let settings = Tls::read(section, problems)?;
            return Some(Self::Require(Tls { alpn: alpn.iter().map(ToString::to_string).collect(), ..settings }));
        }
        for key in tls::NAMES.iter().filter(|key| section.has(key)) {
            let message = format!("`{key}` of {} has no effect: tls is \"off\"", section.title);
            problems.add(Code::NoEffect, section.key_place(key), message);
        }
        Some(Self::Off)
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        let word = match self {
            Self::Off => "off",
            Self::Require(settings) => {
                settings.dump(table);
                table.remove("alpn");
                "require"
            }
        };
        table.insert("tls".to_owned(), word.into());
    }
}
