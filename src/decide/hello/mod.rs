//! The first bytes of a TLS client: records joined, the ClientHello parsed exactly, its facts taken out.
//! Second stop of the spine (inspect). Three outcomes that never blur: complete and valid, incomplete, refused.
//! It does not read sockets and does not choose routes.

mod facts;
mod ja4;
mod join;
mod name;
mod parse;
mod refusal;
mod sniff;

pub use facts::{AlpnList, HelloFacts, TlsVersion};
pub use ja4::{Ja4, ja4};
pub use join::{Joiner, Step, single_record};
pub use name::ServerName;
pub use parse::ClientHello;
pub use refusal::Refusal;
pub use sniff::{FirstBytes, first_bytes};

/// Longest TLS record payload in plain text, in bytes (RFC 8446 5.1).
pub const MAX_RECORD: usize = 16_384;

/// Limits of the joined hello.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most handshake bytes, the four of the message header included.
    pub handshake_bytes: usize,
}

impl Limits {
    /// Most raw bytes: twice the handshake bytes, so that one-byte records cannot multiply memory.
    pub const fn raw_bytes(self) -> usize {
        self.handshake_bytes * 2
    }
}
