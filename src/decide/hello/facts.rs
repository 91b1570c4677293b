//! What a hello says that the rest of the house uses: version, application protocols, and the facts for the record.

use std::fmt::{self, Write};

use super::parse::Reader;
use super::{ClientHello, Ja4, Refusal, ja4};

/// Longest text of the offered protocols in a record, in bytes (chosen: twenty ordinary names fit).
const MOST_ALPN_TEXT: usize = 256;

/// A protocol version as on the wire, 0x0304 for TLS 1.3. Ordered as the wire numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsVersion(pub u16);

impl TlsVersion {
    /// Reads `"1.0"` to `"1.3"`, as in the configuration.
    pub fn from_config(text: &str) -> Option<Self> {
        Some(Self(match text {
            "1.0" => 0x0301,
            "1.1" => 0x0302,
            "1.2" => 0x0303,
            "1.3" => 0x0304,
            _ => return None,
        }))
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0x0300 => f.write_str("ssl3"),
            0x0301..=0x0304 => write!(f, "1.{}", self.0 - 0x0301),
            other => write!(f, "{other:#06x}"),
        }
    }
}

/// The offered application protocols (RFC 7301 3.1): the checked body of the list, names of 1 to 255 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct AlpnList<'a>(&'a [u8]);

impl<'a> AlpnList<'a> {
    /// Checks the data of the extension.
    pub fn parse(data: &'a [u8]) -> Result<Self, Refusal> {
        let mut outer = Reader(data);
        let list = outer.vector(2, "application protocols")?;
        outer.end("application protocols")?;
        let mut names = Reader(list);
        if names.0.is_empty() {
            return Err(Refusal::Length("application protocols"));
        }
        while !names.0.is_empty() {
            if names.vector(1, "application protocol")?.is_empty() {
                return Err(Refusal::Length("application protocol"));
            }
        }
        Ok(Self(list))
    }

    /// The list as on the wire, without its length; empty when none is offered.
    pub const fn as_encoded(self) -> &'a [u8] {
        self.0
    }

    /// The list of names as the wire has it, made from names; for dry runs. Names are cut at 255 bytes.
    pub fn encode<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<u8> {
        let mut list = Vec::new();
        for name in names.filter(|name| !name.is_empty()) {
            let name = &name[..name.len().min(255)];
            list.push(name.len() as u8);
            list.extend_from_slice(name);
        }
        list
    }

    /// Takes a list that [`AlpnList::encode`] made.
    pub const fn from_encoded(list: &'a [u8]) -> Self {
        Self(list)
    }

    /// The names in the order of the wire.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = Reader(self.0);
        std::iter::from_fn(move || rest.vector(1, "application protocol").ok())
    }

    /// The names as text, cut off at [`MOST_ALPN_TEXT`] bytes: a hostile hello could fill records with them.
    fn for_record(self) -> Box<str> {
        let mut text = String::new();
        for (position, name) in self.iter().enumerate() {
            if text.len() + name.len() * 4 > MOST_ALPN_TEXT {
                text.push_str(",...");
                break;
            }
            // Writing into a string cannot fail.
            let _ = write!(text, "{}{}", if position > 0 { "," } else { "" }, Escaped(name));
        }
        text.into()
    }

    /// Whether none was offered.
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// A protocol name as text: bytes outside printable ASCII, commas and backslashes are escaped.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            match byte {
                b',' => f.write_str("\\x2c")?,
                _ => write!(f, "{}", byte.escape_ascii())?,
            }
        }
        Ok(())
    }
}

/// How a hello came in: sizes of the wire, which say whether something on the way cuts or splits hellos.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its raw bytes: the message and the headers of its records.
    pub bytes: u32,
    /// Records that carried it.
    pub records: u16,
    /// Reads that it took: segments, or more than one of them at once.
    pub segments: u16,
}

impl Arrival {
    /// A message of `message` bytes that came in so many records and reads.
    pub fn of(message: usize, records: u32, segments: u16) -> Self {
        let bytes = message as u32 + 5 * records;
        Self { bytes, records: u16::try_from(records).unwrap_or(u16::MAX), segments }
    }
}

/// The facts of a hello that outlive its bytes, for the record.
#[derive(Clone, Debug)]
pub struct HelloFacts {
    /// Server name in lower case without a trailing dot.
    pub sni: Option<Box<str>>,
    /// Offered application protocols joined with commas; empty when there are none.
    pub alpn: Box<str>,
    /// How it came in.
    pub arrival: Arrival,
    /// Highest offered version.
    pub version: TlsVersion,
    /// Fingerprint.
    pub ja4: Ja4,
    /// Whether an encrypted client hello is inside, real or GREASE.
    pub ech: bool,
    /// Whether a post-quantum key share is inside.
    pub post_quantum: bool,
}

impl HelloFacts {
    /// Takes the facts out of a hello.
    pub fn of(hello: &ClientHello<'_>, arrival: Arrival) -> Self {
        Self {
            sni: hello.server_name.clone().map(Into::into),
            alpn: hello.alpn.for_record(),
            arrival,
            version: hello.version,
            ja4: ja4(hello),
            ech: hello.ech,
            post_quantum: hello.post_quantum,
        }
    }
}
