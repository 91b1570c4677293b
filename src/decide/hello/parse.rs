//! The ClientHello, parsed exactly (RFC 8446 4.1.2, RFC 5246 7.4.1.2): lengths nest and end on the byte, no
//! extension stands twice. Nothing is copied; unknown extensions are skipped whatever their size and place.

use super::{AlpnList, Refusal, ServerName, TlsVersion};

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SIGNATURE_ALGORITHMS: u16 = 13;
const SESSION_TICKET: u16 = 35;
const PRE_SHARED_KEY: u16 = 41;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// X25519MLKEM768, the post-quantum key share in use.
const X25519_MLKEM768: u16 = 0x11ec;

/// A valid ClientHello, borrowing from the joined handshake message.
#[derive(Clone, Debug)]
pub struct ClientHello<'a> {
    /// `legacy_version`.
    pub legacy_version: u16,
    /// Cipher suites, two bytes each.
    pub cipher_suites: &'a [u8],
    /// The extension block, already known to be well formed; empty when there is none.
    pub extensions: &'a [u8],
    /// The server name; `None` when absent or an IP literal.
    pub server_name: Option<ServerName>,
    /// The bytes of the name as sent, case and trailing dot untouched; `None` without the extension.
    pub server_name_wire: Option<&'a [u8]>,
    /// Offered application protocols.
    pub alpn: AlpnList<'a>,
    /// Highest offered version that is not GREASE (RFC 8701).
    pub version: TlsVersion,
    /// Whether an `encrypted_client_hello` extension is there; real or GREASE cannot be told apart.
    pub ech: bool,
    /// Whether a post-quantum key share is there.
    pub post_quantum: bool,
    /// Whether it offers to resume a session: a pre-shared key (RFC 8446 4.2.11) or a ticket that is not empty
    /// (RFC 5077 3.2). Only the server that issued it, or one with the same keys, takes it up.
    pub resumes: bool,
    /// The list of `signature_algorithms`, two bytes each; empty when absent.
    pub signature_algorithms: &'a [u8],
}

impl<'a> ClientHello<'a> {
    /// Parses a handshake message, its four header bytes included.
    pub fn parse(message: &'a [u8]) -> Result<Self, Refusal> {
        let mut outer = Reader(message);
        match outer.u8("handshake header")? {
            1 => {}
            other => return Err(Refusal::HandshakeType(other)),
        }
        let mut body = Reader(outer.vector(3, "handshake message")?);
        outer.end("handshake message")?;

        let legacy_version = body.u16("legacy_version")?;
        body.take(32, "random")?;
        if body.vector(1, "session_id")?.len() > 32 {
            return Err(Refusal::Length("session_id"));
        }
        let cipher_suites = body.vector(2, "cipher_suites")?;
        if cipher_suites.is_empty() || cipher_suites.len() % 2 != 0 {
            return Err(Refusal::Length("cipher_suites"));
        }
        if body.vector(1, "compression_methods")?.is_empty() {
            return Err(Refusal::Length("compression_methods"));
        }
        let mut hello = Self {
            legacy_version,
            cipher_suites,
            extensions: &[],
            server_name: None,
            server_name_wire: None,
            alpn: AlpnList::default(),
            version: TlsVersion(legacy_version),
            ech: false,
            post_quantum: false,
            resumes: false,
            signature_algorithms: &[],
        };
        // TLS 1.2 and older may leave the whole block out.
        if !body.0.is_empty() {
            hello.extensions = body.vector(2, "extensions")?;
            body.end("extensions")?;
            hello.read_extensions()?;
        }
        Ok(hello)
    }

    /// The extensions in the order of the wire.
    pub fn extensions(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = Reader(self.extensions);
        std::iter::from_fn(move || {
            let kind = rest.u16("extension").ok()?;
            Some((kind, rest.vector(2, "extension").ok()?))
        })
    }

    fn read_extensions(&mut self) -> Result<(), Refusal> {
        let mut seen = SeenExtensions::default();
        let mut rest = Reader(self.extensions);
        while !rest.0.is_empty() {
            let kind = rest.u16("extension type")?;
            let data = rest.vector(2, "extension")?;
            seen.insert(kind)?;
            match kind {
                SERVER_NAME => {
                    let wire = host_name(data)?;
                    self.server_name_wire = Some(wire);
                    self.server_name = ServerName::from_wire(wire)?;
                }
                ALPN => self.alpn = AlpnList::parse(data)?,
                SUPPORTED_VERSIONS => self.version = highest_version(data)?.unwrap_or(self.version),
                SIGNATURE_ALGORITHMS => {
                    let mut list = Reader(data);
                    self.signature_algorithms = list.vector(2, "signature_algorithms")?;
                    list.end("signature_algorithms")?;
                }
                KEY_SHARE => self.post_quantum = has_post_quantum_share(data)?,
                ENCRYPTED_CLIENT_HELLO => self.ech = true,
                SESSION_TICKET => self.resumes |= !data.is_empty(),
                PRE_SHARED_KEY if !rest.0.is_empty() => return Err(Refusal::PreSharedKeyNotLast),
                PRE_SHARED_KEY => self.resumes = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// GREASE values (RFC 8701): two equal bytes `0x?a`.
pub const fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

/// The one entry of the server name list (RFC 6066 3).
fn host_name(data: &[u8]) -> Result<&[u8], Refusal> {
    let mut outer = Reader(data);
    let mut list = Reader(outer.vector(2, "server_name")?);
    outer.end("server_name")?;
    if list.0.is_empty() {
        return Err(Refusal::NameList("is empty"));
    }
    if list.u8("server_name entry")? != 0 {
        return Err(Refusal::NameList("has an entry that is no host name"));
    }
    let name = list.vector(2, "server_name entry")?;
    if !list.0.is_empty() {
        return Err(Refusal::NameList("has more than one entry"));
    }
    Ok(name)
}

fn highest_version(data: &[u8]) -> Result<Option<TlsVersion>, Refusal> {
    let mut outer = Reader(data);
    let list = outer.vector(1, "supported_versions")?;
    outer.end("supported_versions")?;
    if list.is_empty() || list.len() % 2 != 0 {
        return Err(Refusal::Length("supported_versions"));
    }
    let versions = list.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    // Only numbers of the TLS family count: GREASE and drafts must not pass for something newer than 1.3.
    Ok(versions.filter(|version| version >> 8 == 3).max().map(TlsVersion))
}

fn has_post_quantum_share(data: &[u8]) -> Result<bool, Refusal> {
    let mut outer = Reader(data);
    let mut shares = Reader(outer.vector(2, "key_share")?);
    outer.end("key_share")?;
    let mut found = false;
    while !shares.0.is_empty() {
        found |= shares.u16("key_share entry")? == X25519_MLKEM768;
        shares.vector(2, "key_share entry")?;
    }
    Ok(found)
}

/// Extension types seen so far. Those below 64 are bits; the others a short list, and a sorted one from the
/// moment it is no longer short, so that a hello of 16 000 extensions costs no quadratic time.
#[derive(Default)]
struct SeenExtensions {
    low: u64,
    few: [u16; 24],
    few_length: usize,
    many: std::collections::BTreeSet<u16>,
}

impl SeenExtensions {
    fn insert(&mut self, kind: u16) -> Result<(), Refusal> {
        let fresh = if kind < 64 {
            let bit = 1_u64 << kind;
            let fresh = self.low & bit == 0;
            self.low |= bit;
            fresh
        } else if self.few[..self.few_length].contains(&kind) {
            false
        } else if self.few_length < self.few.len() {
            self.few[self.few_length] = kind;
            self.few_length += 1;
            true
        } else {
            self.many.insert(kind)
        };
        if fresh { Ok(()) } else { Err(Refusal::DuplicateExtension(kind)) }
    }
}

/// Reads numbers and length-prefixed vectors from the front of a slice.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize, place: &'static str) -> Result<&'a [u8], Refusal> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(Refusal::Length(place))?;
        self.0 = rest;
        Ok(front)
    }

    pub(super) fn u8(&mut self, place: &'static str) -> Result<u8, Refusal> {
        Ok(self.take(1, place)?[0])
    }

    pub(super) fn u16(&mut self, place: &'static str) -> Result<u16, Refusal> {
        let bytes = self.take(2, place)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector whose length stands before it in `width` bytes.
    pub(super) fn vector(&mut self, width: usize, place: &'static str) -> Result<&'a [u8], Refusal> {
        let length = self.take(width, place)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        self.take(length, place)
    }

    pub(super) fn end(&self, place: &'static str) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::Length(place)) }
    }
}
