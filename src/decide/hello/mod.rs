//! The first bytes of a client: TLS records joined, the ClientHello parsed exactly, its facts taken out; and what may come
//! instead or before: PostgreSQL's requests, a PROXY header, or another protocol altogether.
//! Second stop of the spine (inspect). Three outcomes that never blur: complete and valid, incomplete, refused.
//! It does not read sockets and does not choose routes.

mod answer;
mod facts;
mod ja4;
mod join;
mod name;
mod parse;
pub mod postgres;
pub mod proxy;
mod refusal;
mod sniff;

pub use answer::{ANSWER_BYTES, FirstAnswer, alert_name};
pub use facts::{AlpnList, Arrival, HelloFacts, TlsVersion};
pub use ja4::{Ja4, ja4};
pub use join::{Joiner, Record, Step, joined, records, single_record};
pub use name::ServerName;
pub use parse::{ClientHello, is_grease};
pub use refusal::Refusal;
pub use sniff::{FirstBytes, MOST_TO_RECOGNISE, Recognised, guess, recognise};

/// Longest TLS record payload in plain text, in bytes (RFC 8446 5.1).
pub const MAX_RECORD: usize = 16_384;

/// Default of `max-hello`: handshake bytes of the hello, the limit of Go and rustls.
pub const MAX_HELLO: usize = 64 * 1024;

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
