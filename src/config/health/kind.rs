//! The kinds of checks: one list, from which come the words of `check`, the keys of `[pool.NAME.health]`, and who reads
//! and dumps them. What a kind's keys mean stands in its own file.

use super::keys::{COMMON, HEALTH};
use super::{agent, exec, expect, http, https, ldap, mysql, postgres, redis, smtp, tcp, tls, tls_hello};
use crate::config::keys::Key;
use crate::config::nearest::listing;
use crate::config::problem::{Code, Problems};
use crate::config::section::Section;

/// What a kind's file says of it.
pub(super) struct KindTable {
    /// Its word in `check`.
    pub word: &'static str,
    /// Keys that it brings.
    pub own: &'static [Key],
    /// Names of keys that other kinds bring and this one takes too.
    pub takes: &'static [&'static [&'static str]],
    /// Reads them; what is wrong is reported.
    pub read: fn(&Section<'_>, &mut Problems) -> Option<CheckKind>,
}

impl KindTable {
    fn has(&self, key: &str) -> bool {
        self.takes.iter().any(|names| names.contains(&key)) || self.own.iter().any(|own| own.name == key)
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident($module:ident);)*) => {
        /// What a check does, with its settings.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum CheckKind { $($(#[$doc])* $variant($module::$variant),)* }

        /// All of them.
        pub(super) const KINDS: &[KindTable] = &[$($module::TABLE,)*];

        impl CheckKind {
            /// Its word in `check`.
            pub const fn word(&self) -> &'static str {
                match self { $(Self::$variant(_) => $module::TABLE.word,)* }
            }

            pub(super) fn dump(&self, table: &mut toml::Table) {
                match self { $(Self::$variant(settings) => settings.dump(table),)* }
            }
        }
    };
}

kinds! {
    /// A connection is accepted.
    Tcp(tcp);
    /// A ClientHello is answered with a ServerHello.
    TlsHello(tls_hello);
    /// A whole handshake, with a look at the certificate.
    Tls(tls);
    /// A request, and the status and text of its answer.
    Http(http);
    /// The same inside TLS.
    Https(https);
    /// PostgreSQL's start-up, by its SQLSTATE.
    Postgres(postgres);
    /// A login to MySQL or MariaDB.
    MySql(mysql);
    /// PING to Redis.
    Redis(redis);
    /// Greeting and EHLO of a mail server.
    Smtp(smtp);
    /// An anonymous bind to a directory.
    Ldap(ldap);
    /// Bytes of one's own, and what must come back.
    Expect(expect);
    /// What an agent says, in HAProxy's words.
    Agent(agent);
    /// Exit status of a program.
    Exec(exec);
}

/// The words of `check`, after `off`.
const WORDS: [&str; KINDS.len() + 1] = {
    let mut words = ["off"; KINDS.len() + 1];
    let mut at = 0;
    while at < KINDS.len() {
        words[at + 1] = KINDS[at].word;
        at += 1;
    }
    words
};

/// The words of `check`.
pub(super) const CHECK_WORDS: &[&str] = &WORDS;

/// Reads the settings of the kind that `word` names.
pub(super) fn read(section: &Section<'_>, word: &str, problems: &mut Problems) -> Option<CheckKind> {
    let table = KINDS.iter().find(|table| table.word == word)?;
    (table.read)(section, problems)
}

/// Keys of other kinds are no mistake that stops anything, but they do not do what whoever wrote them hopes for.
pub(super) fn warn_of_other_kinds(section: &Section<'_>, word: &str, problems: &mut Problems) {
    let has = |key: &str| KINDS.iter().any(|table| table.word == word && table.has(key));
    let common = |key: &str| COMMON.iter().any(|common| common.name == key);
    for key in HEALTH.keys.iter().map(|key| key.name) {
        if section.has(key) && !common(key) && !has(key) {
            let message = format!("`{key}` of {} has no effect: check is \"{word}\"", section.title);
            let takers: Vec<&str> = KINDS.iter().filter(|table| table.has(key)).map(|table| table.word).collect();
            problems
                .add(Code::NoEffect, section.key_place(key), message)
                .hint(format!("it is a key of {}", listing(&takers)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_stands_once_and_every_taken_key_exists() {
        for (at, key) in HEALTH.keys.iter().enumerate() {
            assert!(HEALTH.keys[..at].iter().all(|other| other.name != key.name), "{} stands twice", key.name);
        }
        for name in KINDS.iter().flat_map(|table| table.takes.iter().copied().flatten()) {
            assert!(HEALTH.key(name).is_some(), "nobody brings {name}");
        }
    }
}
