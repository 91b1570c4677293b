//! Every key of the configuration, once: kind, default, unit and reason. Reading, did-you-mean hints, the JSON
//! schema and the tests of the shipped files all draw on these tables.

mod listening;
mod pools;

pub use super::health::HEALTH;
pub use listening::{GLOBAL, LISTENER, LOG, RELAY, ROOT, ROUTE};
pub use pools::{BACKEND, HASH, PASSIVE, POOL};

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A string without further form.
    Text,
    /// A name: letters, digits, `-`, `_`, `.`, `:`, `[`, `]`; at most 64 bytes.
    Name,
    /// A whole number.
    Integer(i64, i64),
    /// `"auto"` or a whole number.
    AutoOr(i64, i64),
    /// `true` or `false`.
    Flag,
    /// A number from 0 to 1.
    Share,
    /// A number within limits, or `"off"`.
    FactorOrOff(f64, f64),
    /// A duration string with limits in milliseconds.
    Duration(u64, u64),
    /// A duration string or `"off"`.
    DurationOrOff(u64, u64),
    /// A size string or integer with limits in bytes.
    Size(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Several of these words.
    Words(&'static [&'static str]),
    /// `address:port`.
    SocketAddress,
    /// An address without a port.
    Address,
    /// Several `address:port`.
    SocketAddresses,
    /// `address:port`, `host:port` or `srv:name`.
    Backend,
    /// Several of these.
    Backends,
    /// `"off"`, an address, or several.
    Sources,
    /// Several prefixes.
    Prefixes,
    /// Several strings.
    Texts,
    /// A table or a list of tables with keys of its own.
    Tables,
    /// A list of tables with these keys, written inline.
    List(&'static SectionKeys),
}

/// Whether this version has the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It works.
    Built,
    /// It is part of the contract and refused until it works.
    NotBuilt,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name as written.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Default in TOML; empty when there is none.
    pub default: &'static str,
    /// Meaning, unit, and why the default is what it is.
    pub doc: &'static str,
    /// Whether this version has it.
    pub status: Status,
}

/// The keys of one kind of table.
#[derive(Debug)]
pub struct SectionKeys {
    /// Heading in a file, with NAME for a pool's name.
    pub heading: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

pub(crate) const fn built(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, doc, status: Status::Built }
}

pub(super) const fn later(name: &'static str) -> Key {
    Key { name, kind: Kind::Text, default: "", doc: "", status: Status::NotBuilt }
}

pub(crate) const SECOND: u64 = 1000;
pub(crate) const DAY: u64 = 86_400 * SECOND;

/// All tables, in the order of a file.
pub static SECTIONS: &[&SectionKeys] =
    &[&GLOBAL, &RELAY, &LOG, &LISTENER, &ROUTE, &POOL, &BACKEND, &HASH, &HEALTH, &PASSIVE];

impl SectionKeys {
    /// The key called `name`; tests hold that every name asked for exists.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}
