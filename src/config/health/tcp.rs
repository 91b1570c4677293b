//! `check = "tcp"`: no settings.

use super::CheckKind;
use super::kind::KindTable;

pub(super) const TABLE: KindTable =
    KindTable { word: "tcp", own: &[], takes: &[], read: |_, _| Some(CheckKind::Tcp(Tcp)) };

/// Settings of `tcp`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tcp;

impl Tcp {
    #[expect(clippy::unused_self, reason = "every kind has it")]
    pub(super) fn dump(&self, _table: &mut toml::Table) {}
}
