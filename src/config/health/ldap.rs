//! `check = "ldap"`: whether inside TLS.

use super::kind::KindTable;
use super::{CheckKind, Encryption, encryption, tls};
use crate::config::problem::Problems;
use crate::config::section::Section;

pub(super) const TABLE: KindTable = KindTable {
    word: "ldap",
    own: &[],
    takes: &[encryption::NAMES, tls::NAMES],
    read: |section, problems| Ldap::read(section, problems).map(CheckKind::Ldap),
};

/// Settings of `ldap`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ldap {
    /// Whether it is inside TLS, as on port 636.
    pub encryption: Encryption,
}

impl Ldap {
    fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        Encryption::read(section, &[], problems).map(|encryption| Self { encryption })
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        self.encryption.dump(table);
    }
}
