//! `check = "mysql"`: as whom the check logs in.

use super::kind::KindTable;
use super::postgres::USER;
use super::{CheckKind, wire_text};
use crate::config::problem::Problems;
use crate::config::section::Section;

pub(super) const TABLE: KindTable = KindTable {
    word: "mysql",
    own: &[],
    takes: &[&["user"]],
    read: |section, problems| Some(CheckKind::MySql(MySql::read(section, problems))),
};

/// Settings of `mysql`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MySql {
    /// A user without a password.
    pub user: String,
}

impl MySql {
    fn read(section: &Section<'_>, problems: &mut Problems) -> Self {
        Self { user: wire_text::read(section, "user", problems).unwrap_or_else(|| USER.to_owned()) }
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        table.insert("user".to_owned(), self.user.as_str().into());
    }
}
