//! The affinity key: which facts of a connection decide about its backend in a hashed pool, as one number.
//! It is the same in every instance and worker with the same seed, and does not depend on the pool otherwise.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher13;

/// Makes hashes of keys independent of those of members.
const KEYS: u64 = 0x736c_7569_6365_2d33;

/// What hashes of keys depend on beside the key. The same in all instances that are to agree; whoever does not know it
/// cannot choose keys that meet at one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// That of a text; an empty one is none.
    pub fn of(text: &str) -> Self {
        if text.is_empty() {
            return Self::default();
        }
        let sum = Sha256::digest(text);
        Self(sum.iter().take(8).fold(0, |digits, byte| digits << 8 | u64::from(*byte)))
    }

    /// As a number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// One fact of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// The client's address.
    Source,
    /// The network of the client's address: /24 of IPv4, /64 of IPv6.
    SourcePrefix,
    /// The server name.
    Sni,
    /// The offered application protocols, in their order.
    Alpn,
    /// Address and port that the client connected to.
    Destination,
}

impl KeyPart {
    /// Every part.
    pub const ALL: [Self; 5] = [Self::Source, Self::SourcePrefix, Self::Sni, Self::Alpn, Self::Destination];

    /// Name as written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::SourcePrefix => "source-prefix",
            Self::Sni => "sni",
            Self::Alpn => "alpn",
            Self::Destination => "destination",
        }
    }
}

/// What a key is made of.
#[derive(Clone, Copy, Debug)]
pub struct KeyFacts<'a> {
    /// The client, as the PROXY header has it where there is one.
    pub source: IpAddr,
    /// Server name in the lower case that [`ServerName`](crate::decide::hello::ServerName) gives it.
    pub sni: Option<&'a str>,
    /// List of application protocols as on the wire, without its length; empty when none is offered.
    pub alpn: &'a [u8],
    /// Address and port that the client connected to; `None` when nobody knows, as in a dry run.
    pub destination: Option<SocketAddr>,
}

/// The key of a connection, or `None` when it has none of `parts`: then there is nothing to be faithful to, and
/// hashing would send all such connections to one backend.
///
/// Parts count in their order. Each is hashed with its kind, whether it is there, and its length, so that different
/// lists of parts never run together; a part that is missing beside others is hashed as missing. Nothing is allocated.
pub fn hash_key(seed: Seed, parts: &[KeyPart], facts: &KeyFacts<'_>) -> Option<u64> {
    let mut hasher = SipHasher13::new_with_keys(KEYS ^ seed.number(), parts.len() as u64);
    let mut present = false;
    for part in parts {
        present |= match part {
            KeyPart::Source => write_address(&mut hasher, *part, facts.source),
            KeyPart::SourcePrefix => write_prefix(&mut hasher, facts.source),
            KeyPart::Sni => write(&mut hasher, *part, facts.sni.map(str::as_bytes)),
            KeyPart::Alpn => write(&mut hasher, *part, Some(facts.alpn).filter(|list| !list.is_empty())),
            KeyPart::Destination => write_destination(&mut hasher, facts.destination),
        };
    }
    present.then(|| hasher.finish())
}

/// Writes kind, presence and length as one word, then the bytes. Says whether the part is there.
fn write(hasher: &mut SipHasher13, part: KeyPart, bytes: Option<&[u8]>) -> bool {
    let length = bytes.map_or(u32::MAX, |bytes| bytes.len() as u32);
    // The order of bytes is fixed, so that machines of both kinds agree.
    hasher.write(&(u64::from(length) << 8 | part as u64).to_le_bytes());
    hasher.write(bytes.unwrap_or_default());
    bytes.is_some()
}

fn write_address(hasher: &mut SipHasher13, part: KeyPart, address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => write(hasher, part, Some(&v4.octets())),
        IpAddr::V6(v6) => write(hasher, part, Some(&v6.octets())),
    }
}

fn write_prefix(hasher: &mut SipHasher13, address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => write(hasher, KeyPart::SourcePrefix, Some(&v4.octets()[..3])),
        IpAddr::V6(v6) => write(hasher, KeyPart::SourcePrefix, Some(&v6.octets()[..8])),
    }
}

fn write_destination(hasher: &mut SipHasher13, destination: Option<SocketAddr>) -> bool {
    let Some(destination) = destination else { return write(hasher, KeyPart::Destination, None) };
    // IPv4 as its mapped form: one length, and the same key on a socket of either family.
    let address = match destination.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&address.octets());
    bytes[16..].copy_from_slice(&destination.port().to_be_bytes());
    write(hasher, KeyPart::Destination, Some(&bytes))
}
