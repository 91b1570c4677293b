//! Reads the backends of a pool: `backends = [...]` and `[[pool.NAME.backend]]`, by address or by name. Names are
//! checked for their form only: a configuration is read without asking anybody.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use super::keys::BACKEND;
use super::section::{At, Section};
use super::{Code, Place, Problems};
use crate::decide::balance::Tier;
use crate::decide::names::{Target, TargetError};

/// Default weight, so that weights can be lowered as well as raised in fine steps.
pub const DEFAULT_WEIGHT: u32 = 100;

/// Most weight.
pub const MOST_WEIGHT: u32 = 1000;

/// Where a backend is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Here.
    Socket(SocketAddr),
    /// Where this name leads to, now.
    Name(Target),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name(target) => target.fmt(f),
        }
    }
}

impl FromStr for Address {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        match text.parse() {
            Ok(address) => Ok(Self::Socket(address)),
            Err(_) => Target::parse(text).map(Self::Name),
        }
    }
}

impl Address {
    /// Whether it is this address, and no name.
    pub fn is(&self, address: SocketAddr) -> bool {
        matches!(self, Self::Socket(own) if *own == address)
    }

    /// The name, if it is one.
    pub const fn target(&self) -> Option<&Target> {
        match self {
            Self::Socket(_) => None,
            Self::Name(target) => Some(target),
        }
    }
}

/// `[[pool.NAME.backend]]`, or an entry of `backends`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Name, unique in its pool.
    pub name: Arc<str>,
    /// Where it listens, or the name that says where.
    pub address: Address,
    /// Share of new connections; 0 takes none.
    pub weight: u32,
    /// When it is used: first, or as backup; members that the records of a service lead to by their priorities.
    pub tier: Tier,
    /// Connections at once.
    pub max_connections: Option<u32>,
}

/// Reads both forms, the short one first.
pub fn read_backends(section: &Section<'_>, problems: &mut Problems) -> Vec<Backend> {
    let mut read: Vec<At<Backend>> = Vec::new();
    let short = section.list("backends", problems, |section, key, raw, problems| {
        let value = read_address(section, key, raw, problems)?;
        Some(At { value, place: section.place_of(raw) })
    });
    for address in short.map(|list| list.value).unwrap_or_default() {
        check_port(&address, problems);
        let name = Arc::from(address.value.to_string());
        let backend =
            Backend { name, address: address.value, weight: DEFAULT_WEIGHT, tier: Tier::FIRST, max_connections: None };
        read.push(At { value: backend, place: address.place });
    }
    for table in section.tables("backend", problems) {
        let title = format!("backend of {}", section.title);
        let inner = Section::open(&BACKEND, &title, &table.place, table.value, problems);
        let address =
            inner.read("address", problems, |inner, key, raw, problems| read_address(inner, key.name, raw, problems));
        if !inner.has("address") {
            inner.missing("address", "such as address = \"10.0.0.13:443\"", problems);
        }
        let name = inner.name("name", problems);
        let weight = inner.integer("weight", problems).map_or(DEFAULT_WEIGHT, |weight| weight.value as u32);
        let is_backup = inner.flag("backup", problems).is_some_and(|flag| flag.value);
        let tier = if is_backup { Tier::BACKUP } else { Tier::FIRST };
        let max_connections = inner.integer("max-connections", problems).map(|most| most.value as u32);
        let Some(address) = address else { continue };
        check_port(&address, problems);
        refuse_what_records_say(&inner, &address.value, problems);
        let place = name.as_ref().map_or_else(|| address.place.clone(), |name| name.place.clone());
        let name = Arc::from(name.map_or_else(|| address.value.to_string(), |name| name.value));
        read.push(At { value: Backend { name, address: address.value, weight, tier, max_connections }, place });
    }
    let mut seen: HashMap<Arc<str>, Place> = HashMap::new();
    for backend in &read {
        if let Some(first) = seen.get(&backend.value.name) {
            let message = format!("backend `{}` stands twice in {}", backend.value.name, section.title);
            problems.add(Code::DuplicateName, backend.place.clone(), message).also(first.clone(), "first here");
        } else {
            seen.insert(Arc::clone(&backend.value.name), backend.place.clone());
        }
    }
    read.into_iter().map(|backend| backend.value).collect()
}

fn read_address(
    section: &Section<'_>,
    key: &str,
    raw: &Spanned<DeValue<'_>>,
    problems: &mut Problems,
) -> Option<Address> {
    let text = section.string(key, raw, problems)?;
    let error = match text.parse::<Address>() {
        Ok(address) => return Some(address),
        Err(error) => error,
    };
    let place = section.place_of(raw);
    let (message, hint) = match &error {
        TargetError::Form => (
            format!("`{text}` is not an address with a port for `{key}`"),
            "such as \"10.0.0.11:443\", \"[2001:db8::1]:443\" or \"shop.example.com:443\"".to_owned(),
        ),
        TargetError::Prefix => {
            let service = text.rsplit_once(':').map_or(text, |(name, _)| name);
            (format!("`{text}` in `{key}` is no host: {error}"), format!("write \"srv:{service}\""))
        }
        TargetError::ServicePort => {
            let service = text.rsplit_once(':').map_or(text, |(name, _)| name);
            (format!("`{text}` in `{key}` names nothing: {error}"), format!("write \"{service}\""))
        }
        TargetError::Service => (
            format!("`{text}` in `{key}` names nothing: {error}"),
            "such as \"srv:_https._tcp.shop.example.com\"".to_owned(),
        ),
        TargetError::Port | TargetError::Name(_) => {
            (format!("`{text}` in `{key}` names nothing: {error}"), "such as \"shop.example.com:443\"".to_owned())
        }
    };
    problems.add(Code::BadAddress, place, message).hint(hint);
    None
}

fn check_port(address: &At<Address>, problems: &mut Problems) {
    if let Address::Socket(socket) = address.value
        && socket.port() == 0
    {
        problems.add(Code::OutOfRange, address.place.clone(), format!("backend {socket} has port 0"));
    }
}

/// Records of a service have weights and priorities; a key beside them would have to mean something else.
fn refuse_what_records_say(backend: &Section<'_>, address: &Address, problems: &mut Problems) {
    if !matches!(address, Address::Name(Target::Service(_))) {
        return;
    }
    for (key, theirs) in [("weight", "weights"), ("backup", "priorities")] {
        if backend.has(key) {
            let message = format!("`{key}` of {} beside `{address}`: its records have {theirs}", backend.title);
            problems.add(Code::Conflict, backend.key_place(key), message).hint("remove it");
        }
    }
}
