//! Why a hello is refused: a closed set, each with its alert (RFC 8446 6.2) and its end.

use std::fmt;

use super::FirstBytes;
use crate::decide::close::CloseReason;

/// Why the first bytes of a client are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The first bytes are not TLS; what they look like instead.
    NotTls(FirstBytes),
    /// An SSL 2.0 hello.
    SslV2,
    /// A record with a major version other than 3.
    RecordVersion(u8),
    /// A record that is not a handshake record, before the hello or inside it.
    RecordType(u8),
    /// A record longer than 16 384 bytes.
    RecordTooLong(u16),
    /// A handshake message that is not a ClientHello.
    HandshakeType(u8),
    /// The message claims more handshake bytes than allowed.
    TooLarge {
        /// Bytes that the header of the message claims, the header included.
        claimed: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Too many raw bytes for the handshake bytes that they carry.
    TooManyRawBytes {
        /// Raw bytes allowed.
        limit: usize,
    },
    /// A length that does not nest exactly, or a list that must not be empty; where.
    Length(&'static str),
    /// An extension that stands twice.
    DuplicateExtension(u16),
    /// `pre_shared_key` is not the last extension (RFC 8446 4.2.11).
    PreSharedKeyNotLast,
    /// The server name list does not hold exactly one host name.
    NameList(&'static str),
    /// The server name is not a host name; why.
    Name(&'static str),
}

impl Refusal {
    /// Names in metrics, in the order of [`Refusal::index`]: what is wrong with TLS, then what speaks instead.
    pub const NAMES: [&'static str; 21] = [
        "sslv2",
        "record_version",
        "record_type",
        "record_too_long",
        "handshake_type",
        "too_large",
        "too_many_raw_bytes",
        "length",
        "duplicate_extension",
        "pre_shared_key_not_last",
        "name_list",
        "name",
        FirstBytes::Http.name(),
        FirstBytes::Ssh.name(),
        FirstBytes::Postgres.name(),
        FirstBytes::Proxy.name(),
        FirstBytes::Tds.name(),
        FirstBytes::Rdp.name(),
        FirstBytes::Ldap.name(),
        FirstBytes::Silence.name(),
        FirstBytes::Unknown.name(),
    ];

    /// Position in [`Refusal::NAMES`], for tables of counters.
    pub const fn index(self) -> usize {
        match self {
            Self::SslV2 => 0,
            Self::RecordVersion(_) => 1,
            Self::RecordType(_) => 2,
            Self::RecordTooLong(_) => 3,
            Self::HandshakeType(_) => 4,
            Self::TooLarge { .. } => 5,
            Self::TooManyRawBytes { .. } => 6,
            Self::Length(_) => 7,
            Self::DuplicateExtension(_) => 8,
            Self::PreSharedKeyNotLast => 9,
            Self::NameList(_) => 10,
            Self::Name(_) => 11,
            Self::NotTls(spoken) => 12 + spoken as usize,
        }
    }

    /// The alert that tells the client, or `None` where the client does not speak TLS.
    pub const fn alert(self) -> Option<u8> {
        Some(match self {
            Self::NotTls(_) => return None,
            Self::SslV2 | Self::RecordVersion(_) => 70,
            Self::RecordType(_) | Self::HandshakeType(_) => 10,
            Self::RecordTooLong(_) => 22,
            Self::TooLarge { .. } | Self::TooManyRawBytes { .. } => 80,
            Self::Length(_) | Self::NameList(_) => 50,
            Self::DuplicateExtension(_) | Self::PreSharedKeyNotLast | Self::Name(_) => 47,
        })
    }

    /// The end that the record gets.
    pub const fn close_reason(self) -> CloseReason {
        match self {
            Self::NotTls(_) | Self::SslV2 => CloseReason::NotTls,
            Self::TooLarge { .. } | Self::TooManyRawBytes { .. } => CloseReason::HelloTooLarge,
            _ => CloseReason::HelloMalformed,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTls(guess) => write!(f, "first bytes are {}, not TLS", guess.name()),
            Self::SslV2 => f.write_str("SSL 2.0 hello"),
            Self::RecordVersion(major) => write!(f, "record with major version {major} instead of 3"),
            Self::RecordType(kind) => write!(f, "record of type {kind} where the hello was expected"),
            Self::RecordTooLong(length) => write!(f, "record of {length} bytes, more than {}", super::MAX_RECORD),
            Self::HandshakeType(kind) => write!(f, "handshake message of type {kind} instead of ClientHello"),
            Self::TooLarge { claimed, limit } => write!(f, "hello claims {claimed} bytes, more than {limit}"),
            Self::TooManyRawBytes { limit } => write!(f, "hello not complete within {limit} raw bytes"),
            Self::Length(place) => write!(f, "wrong length of {place}"),
            Self::DuplicateExtension(kind) => write!(f, "extension {kind} stands twice"),
            Self::PreSharedKeyNotLast => f.write_str("pre_shared_key is not the last extension"),
            Self::NameList(why) => write!(f, "server name list {why}"),
            Self::Name(why) => write!(f, "server name {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_where_the_index_says() {
        let spoken = [FirstBytes::Http, FirstBytes::Postgres, FirstBytes::Silence, FirstBytes::Unknown];
        for protocol in spoken {
            assert_eq!(Refusal::NAMES[Refusal::NotTls(protocol).index()], protocol.name());
        }
        assert_eq!(Refusal::NAMES[Refusal::SslV2.index()], "sslv2");
        assert_eq!(Refusal::NAMES[Refusal::Name("is empty").index()], "name");
        let unique: std::collections::HashSet<_> = Refusal::NAMES.iter().collect();
        assert_eq!(unique.len(), Refusal::NAMES.len());
    }
}
