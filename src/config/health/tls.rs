//! `check = "tls"`: settings of a handshake. Other kinds that speak inside TLS take the same keys and read them here.

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;

use super::kind::KindTable;
use super::{CheckKind, Loaded};
use crate::config::keys::{Key, Kind, built};
use crate::config::problem::{Code, Problems};
use crate::config::section::Section;
use crate::decide::route::NamePattern;

/// Names of the keys of a handshake, but for `alpn`, for kinds whose protocol has an own word for it, or none.
pub(super) const NAMES: &[&str] = &["sni", "ca", "verify", "certificate", "key"];

pub(super) const TABLE: KindTable = KindTable {
    word: "tls",
    own: KEYS,
    takes: &[],
    read: |section, problems| Tls::read(section, problems).map(CheckKind::Tls),
};

const KEYS: &[Key] = &[
    built(
        "sni",
        Kind::Text,
        "",
        "Server name that is sent, and that the certificate must have. Without it none is sent, and the certificate must have the address.",
    ),
    built("alpn", Kind::Texts, "[]", "Application protocols that are offered, the preferred one first."),
    built(
        "ca",
        Kind::Text,
        "\"system\"",
        "PEM file of the authorities that may have issued the certificate. system: those of the system's store, or of SSL_CERT_FILE, read once when the process starts.",
    ),
    built(
        "verify",
        Kind::Word(&["full", "none"]),
        "\"full\"",
        "full: issuer, name and dates of the certificate. none: any certificate will do; its expiry is still shown.",
    ),
    built("certificate", Kind::Text, "", "PEM file of a certificate to show to servers that ask for one; needs key."),
    built("key", Kind::Text, "", "PEM file of the private key of certificate."),
];

/// Settings of `tls`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Server name; `None`: none is sent, and the certificate must have the address.
    pub sni: Option<ServerName<'static>>,
    /// Application protocols, the preferred one first.
    pub alpn: Vec<String>,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// What is looked at.
    pub verify: Verify,
    /// Shown to servers that ask.
    pub client: Option<ClientCertificate>,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Those of the system's store.
    System,
    /// Those of the authorities in this PEM file.
    File(Loaded),
}

/// What is looked at of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verify {
    /// Issuer, name and dates.
    Full,
    /// Nothing.
    None,
}

/// A certificate of ours and its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// PEM, with what leads to its authority.
    pub chain: Loaded,
    /// PEM; secret.
    pub key: Loaded,
}

impl Tls {
    /// Reads the keys of a handshake.
    pub(super) fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let (sni, alpn) = (read_sni(section, problems), read_alpn(section, problems));
        let verify = match section.word("verify", problems)?.value {
            "none" => Verify::None,
            _ => Verify::Full,
        };
        if verify == Verify::None && section.has("ca") {
            let message = format!("`ca` of {} has no effect: verify is \"none\"", section.title);
            problems.add(Code::NoEffect, section.key_place("ca"), message);
        }
        let (trust, client) = (read_trust(section, problems), read_client(section, problems));
        Some(Self { sni, alpn, trust: trust?, verify, client })
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        let mut set = |key: &str, value: String| table.insert(key.to_owned(), value.into());
        match (&self.trust, self.verify) {
            (_, Verify::None) => _ = set("verify", "none".to_owned()),
            (Trust::System, Verify::Full) => _ = set("ca", "system".to_owned()),
            (Trust::File(file), Verify::Full) => _ = set("ca", file.path.display().to_string()),
        }
        if self.verify == Verify::Full {
            set("verify", "full".to_owned());
        }
        if let Some(client) = &self.client {
            set("certificate", client.chain.path.display().to_string());
            set("key", client.key.path.display().to_string());
        }
        dump_sni(self.sni.as_ref(), table);
        dump_alpn(&self.alpn, table);
    }
}

/// Reads `sni`: a name as in a route, or an address, which is not sent.
pub(super) fn read_sni(section: &Section<'_>, problems: &mut Problems) -> Option<ServerName<'static>> {
    let written = section.text("sni", problems)?;
    if let Ok(address) = written.value.parse::<std::net::IpAddr>() {
        return Some(ServerName::IpAddress(address.into()));
    }
    let name = match NamePattern::parse(&written.value) {
        Ok(NamePattern::Exact(name)) => ServerName::try_from(name.into_string()).map_err(|error| error.to_string()),
        Ok(_) => Err("a check needs one name".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    match name {
        Ok(name) => Some(name),
        Err(why) => {
            let message = format!("`{}` is not a server name: {why}", written.value);
            problems.add(Code::BadServerName, written.place, message);
            None
        }
    }
}

/// Reads `alpn`.
pub(super) fn read_alpn(section: &Section<'_>, problems: &mut Problems) -> Vec<String> {
    let written = section.texts("alpn", problems).map(|list| list.value).unwrap_or_default();
    for protocol in &written {
        if !(1..=255).contains(&protocol.value.len()) {
            let message = format!("a protocol of `alpn` has {} bytes, outside 1 to 255", protocol.value.len());
            problems.add(Code::OutOfRange, protocol.place.clone(), message);
        }
    }
    written.into_iter().map(|protocol| protocol.value).collect()
}

fn read_trust(section: &Section<'_>, problems: &mut Problems) -> Option<Trust> {
    let written = section.text("ca", problems)?;
    if written.value == "system" {
        return Some(Trust::System);
    }
    let file = Loaded::read_path(section, "ca", &written, problems)?;
    let (usable, _) = RootCertStore::empty().add_parsable_certificates(certificates(&file).unwrap_or_default());
    if usable == 0 {
        let message = format!("`ca` of {} has no certificate of an authority in PEM: {}", section.title, written.value);
        problems.add(Code::Unusable, written.place, message);
        return None;
    }
    Some(Trust::File(file))
}

fn read_client(section: &Section<'_>, problems: &mut Problems) -> Option<ClientCertificate> {
    for (one, other) in [("certificate", "key"), ("key", "certificate")] {
        if section.has(one) && !section.has(other) {
            let message = format!("`{one}` of {} needs `{other}`", section.title);
            problems.add(Code::MissingKey, section.key_place(one), message);
        }
    }
    let (chain, key) = (Loaded::read(section, "certificate", problems), Loaded::read(section, "key", problems));
    let (chain, key) = (chain?, key?);
    let mut refuse = |name: &str, what: &str, file: &Loaded| {
        let message = format!("`{name}` of {} {what}: {}", section.title, file.path.display());
        problems.add(Code::Unusable, section.key_place(name), message);
        None
    };
    let Some(certificates) = certificates(&chain) else {
        return refuse("certificate", "has no certificate in PEM", &chain);
    };
    let Ok(private) = PrivateKeyDer::from_pem_slice(&key.contents) else {
        return refuse("key", "has no private key in PEM", &key);
    };
    if CertifiedKey::from_der(certificates, private, &ring::default_provider()).is_err() {
        return refuse("key", "is not the key of `certificate`, or of a kind that is not known", &key);
    }
    Some(ClientCertificate { chain, key })
}

/// The certificates of a file; `None` when there is none, or something looks like one and is not.
fn certificates(file: &Loaded) -> Option<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.contents).collect();
    read.ok().filter(|certificates| !certificates.is_empty())
}

pub(super) fn dump_sni(sni: Option<&ServerName<'_>>, table: &mut toml::Table) {
    if let Some(sni) = sni {
        table.insert("sni".to_owned(), sni.to_str().into_owned().into());
    }
}

pub(super) fn dump_alpn(alpn: &[String], table: &mut toml::Table) {
    table.insert("alpn".to_owned(), toml::Value::Array(alpn.iter().map(|name| name.as_str().into()).collect()));
}
