//! The PROXY protocol, versions 1 and 2 (haproxy.org, `proxy-protocol.txt`): reading a header strictly, and writing one.
//! Complete, incomplete or refused, as with hellos. Whether a source may send a header is not decided here.

mod v1;
mod v2;
mod write;

use std::fmt;
use std::net::SocketAddr;

pub use write::{Outgoing, write_local, write_v1, write_v2};

/// What a header of version 2 begins with.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_START: &[u8] = b"PROXY ";

/// Longest header of version 1, its line end included.
pub const MOST_V1: usize = 107;
/// Most bytes that a header of version 2 may claim after its first sixteen (chosen: HAProxy and AWS stay below 600).
pub const MOST_V2: usize = 4096;

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

impl Version {
    /// Name as in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Whose connection it is, as the sender of the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// Where the client connected to.
    pub destination: SocketAddr,
}

/// A header that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its version.
    pub version: Version,
    /// `None`: the sender speaks for itself (LOCAL) or does not know (UNKNOWN, a unix socket): the real peer counts.
    pub addresses: Option<Addresses>,
    /// What else it says.
    pub tlvs: Tlvs,
    /// Its bytes; what follows belongs to the client.
    pub length: usize,
}

/// Type-length-value fields that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// Application protocol that the sender negotiated or saw.
    pub alpn: Option<Box<[u8]>>,
    /// Host name that the sender saw.
    pub authority: Option<Box<[u8]>>,
    /// The sender's own name of the connection, up to 128 bytes.
    pub unique_id: Option<Box<[u8]>>,
    /// Which private endpoint of a cloud the connection came through.
    pub cloud: Option<Cloud>,
}

/// A private endpoint of a cloud, by the field of its provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// Type 0xEA, subtype 1: id of the VPC endpoint.
    Aws(Box<[u8]>),
    /// Type 0xEE, subtype 1: `LinkIdentifier`.
    Azure(u32),
    /// Type 0xE0: id of the Private Service Connect connection.
    Gcp(u64),
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aws(id) => write!(f, "aws:{}", id.escape_ascii()),
            Self::Azure(id) => write!(f, "azure:{id}"),
            Self::Gcp(id) => write!(f, "gcp:{id}"),
        }
    }
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The first bytes are no header at all.
    Missing,
    /// A line of version 1 that is wrong; how.
    Line(&'static str),
    /// A version other than 2 behind the signature, or a command other than LOCAL and PROXY.
    Command(u8),
    /// A family or transport that does not exist.
    Family(u8),
    /// Version 2 claims more bytes than allowed.
    TooLong(u16),
    /// Fewer bytes than the addresses of the family need.
    Addresses,
    /// A field that reaches beyond the header.
    Overrun,
    /// The checksum is wrong, of the wrong size, or there are two.
    Checksum,
    /// A unique id of more than 128 bytes.
    UniqueId,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no PROXY header"),
            Self::Line(why) => write!(f, "PROXY v1 header {why}"),
            Self::Command(byte) => write!(f, "PROXY v2 header with version and command {byte:#04x}"),
            Self::Family(byte) => write!(f, "PROXY v2 header with family {byte:#04x}"),
            Self::TooLong(length) => write!(f, "PROXY v2 header claims {length} bytes, more than {MOST_V2}"),
            Self::Addresses => f.write_str("PROXY v2 header too short for its addresses"),
            Self::Overrun => f.write_str("PROXY v2 header with a field that reaches beyond it"),
            Self::Checksum => f.write_str("PROXY v2 header with a wrong checksum"),
            Self::UniqueId => f.write_str("PROXY v2 header with a unique id of more than 128 bytes"),
        }
    }
}

/// Reads a header from the first bytes of a connection. `Ok(None)`: it is not whole yet.
///
/// # Errors
/// As soon as no further bytes could make a header of it.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let common = |start: &[u8]| bytes.iter().zip(start).all(|(byte, wanted)| byte == wanted);
    if common(V1_START) {
        if bytes.len() < V1_START.len() { Ok(None) } else { v1::parse(bytes) }
    } else if common(SIGNATURE) {
        if bytes.len() < SIGNATURE.len() { Ok(None) } else { v2::parse(bytes) }
    } else {
        Err(HeaderError::Missing)
    }
}
