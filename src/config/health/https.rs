//! `check = "https"`: the keys of `http` and of `tls`, but for `alpn`: HTTP/1.1 is what is offered and spoken.

use super::kind::KindTable;
use super::{CheckKind, Http, Tls, http, tls};
use crate::config::problem::Problems;
use crate::config::section::Section;

pub(super) const TABLE: KindTable = KindTable {
    word: "https",
    own: &[],
    takes: &[http::NAMES, tls::NAMES],
    read: |section, problems| Https::read(section, problems).map(CheckKind::Https),
};

/// Settings of `https`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Https {
    /// The request and its answer.
    pub http: Http,
    /// The handshake before it.
    pub tls: Tls,
}

impl Https {
    fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let (http, tls) = (Http::read(section, problems), Tls::read(section, problems));
        Some(Self { http: http?, tls: Tls { alpn: vec!["http/1.1".to_owned()], ..tls? } })
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        self.http.dump(table);
        self.tls.dump(table);
        table.remove("alpn");
    }
}
