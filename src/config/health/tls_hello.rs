//! `check = "tls-hello"`: what the ClientHello says. The keys are those of `tls`.

use rustls::pki_types::ServerName;

use super::CheckKind;
use super::kind::KindTable;
use super::tls::{dump_alpn, dump_sni, read_alpn, read_sni};
use crate::config::problem::Problems;
use crate::config::section::Section;

pub(super) const TABLE: KindTable = KindTable {
    word: "tls-hello",
    own: &[],
    takes: &[&["sni", "alpn"]],
    read: |section, problems| Some(CheckKind::TlsHello(TlsHello::read(section, problems))),
};

/// Settings of `tls-hello`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsHello {
    /// Server name; `None`: none is sent.
    pub sni: Option<ServerName<'static>>,
    /// Application protocols, the preferred one first.
    pub alpn: Vec<String>,
}

impl TlsHello {
    fn read(section: &Section<'_>, problems: &mut Problems) -> Self {
        Self { sni: read_sni(section, problems), alpn: read_alpn(section, problems) }
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        dump_sni(self.sni.as_ref(), table);
        dump_alpn(&self.alpn, table);
    }
}
