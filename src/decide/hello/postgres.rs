//! The first packets of a PostgreSQL connection, from either end (PostgreSQL documentation, "Message Flow" and "Message
//! Formats"): what a client opens with, what a server answers to a request for TLS, and how an error is told.
//! It reads no sockets and decides nothing about routes.

use std::fmt;

/// Bytes that tell what a client's first packet is: a length and a code.
pub const HEAD: usize = 8;

/// What a client sends to ask for TLS.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

const SSL_CODE: u32 = 80_877_103;
const GSS_CODE: u32 = 80_877_104;
const CANCEL_CODE: u32 = 80_877_102;
/// A cancel request has a process number and a key: 4 bytes until protocol 3.0, up to 256 since 3.2.
const CANCEL_LENGTHS: std::ops::RangeInclusive<usize> = 16..=268;
/// Longest start-up packet (`MAX_STARTUP_PACKET_LENGTH` of the server).
const MOST_START_UP: usize = 10_000;

/// A request that comes before anything else and is answered with one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// For TLS.
    Ssl,
    /// For encryption by GSSAPI.
    Gss,
}

impl Request {
    /// Name as in the protocol's documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ssl => "SSLRequest",
            Self::Gss => "GSSENCRequest",
        }
    }
}

/// What a client opens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Too few bytes to tell, or a cancel request that is not whole.
    NeedMore,
    /// A TLS record: direct TLS, as of PostgreSQL 17.
    Tls,
    /// A request, eight bytes.
    Request(Request),
    /// A request to cancel a query of another connection, whole.
    Cancel {
        /// Bytes of the packet.
        length: usize,
    },
    /// A start-up packet in plain text; it need not be whole.
    StartUp {
        /// Major version of the protocol: 3.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// Nothing that PostgreSQL would take.
    Refused(OpeningError),
}

/// Why a first packet is none of PostgreSQL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningError {
    /// The length is not one that a first packet can have.
    Length(u32),
    /// The length fits, the code is unknown.
    Code(u32),
}

impl fmt::Display for OpeningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(f, "start-up packet of {length} bytes"),
            Self::Code(code) => write!(f, "start-up packet with code {code:#010x}"),
        }
    }
}

/// Looks at all bytes of a client so far. A wrong length is refused on its second byte, not after its last.
pub fn opening(bytes: &[u8]) -> Opening {
    let Some(first) = bytes.first() else { return Opening::NeedMore };
    if *first == 0x16 {
        return Opening::Tls;
    }
    let Some(head) = bytes.first_chunk::<HEAD>() else {
        // Lengths of up to 10 000 have two zero bytes first.
        let known: [u8; 4] = std::array::from_fn(|place| bytes.get(place).copied().unwrap_or(0));
        return if known[..2] == [0, 0] {
            Opening::NeedMore
        } else {
            Opening::Refused(OpeningError::Length(u32::from_be_bytes(known)))
        };
    };
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let code = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let bytes_claimed = length as usize;
    match code {
        SSL_CODE if bytes_claimed == HEAD => Opening::Request(Request::Ssl),
        GSS_CODE if bytes_claimed == HEAD => Opening::Request(Request::Gss),
        CANCEL_CODE if CANCEL_LENGTHS.contains(&bytes_claimed) => {
            if bytes.len() < bytes_claimed {
                Opening::NeedMore
            } else {
                Opening::Cancel { length: bytes_claimed }
            }
        }
        SSL_CODE | GSS_CODE | CANCEL_CODE => Opening::Refused(OpeningError::Length(length)),
        _ if !(HEAD..=MOST_START_UP).contains(&bytes_claimed) => Opening::Refused(OpeningError::Length(length)),
        _ if code >> 16 == 3 => Opening::StartUp { major: 3, minor: code as u16 },
        _ => Opening::Refused(OpeningError::Code(code)),
    }
}

/// Five letters that programs understand (PostgreSQL documentation, "PostgreSQL Error Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlState(pub &'static str);

impl SqlState {
    /// `invalid_authorization_specification`: not like this, or not you.
    pub const NOT_AUTHORISED: Self = Self("28000");
    /// `too_many_connections`.
    pub const TOO_MANY: Self = Self("53300");
    /// `cannot_connect_now`.
    pub const NOT_NOW: Self = Self("57P03");
    /// `protocol_violation`.
    pub const PROTOCOL: Self = Self("08P01");
}

/// An `ErrorResponse` that ends the connection; `message` is shown to people as it is and must have no NUL.
pub fn error_response(state: SqlState, message: &str) -> Vec<u8> {
    let mut fields = Vec::with_capacity(message.len() + 40);
    for (kind, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', state.0), (b'M', message)] {
        fields.push(kind);
        fields.extend(text.bytes().filter(|byte| *byte != 0));
        fields.push(0);
    }
    fields.push(0);
    let mut packet = vec![b'E'];
    packet.extend_from_slice(&(fields.len() as u32 + 4).to_be_bytes());
    packet.extend_from_slice(&fields);
    packet
}

/// What a server answered to [`SSL_REQUEST`], as far as one read brought it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SslAnswer {
    /// `S` and nothing after it: the hello may follow.
    Yes,
    /// `N`: it has no TLS.
    No,
    /// An error instead, in its words, made safe for a log.
    Error(String),
    /// More than one byte: what follows was sent before TLS and could pass for it later (CVE-2021-23222).
    Surplus(usize),
    /// A byte that is none of these.
    Unknown(u8),
}

/// Whether nothing of an answer is missing: only an error has more than one byte, as many as it says.
pub fn is_whole_answer(bytes: &[u8]) -> bool {
    match bytes {
        [] | [b'E'] => false,
        [b'E', rest @ ..] => match rest.first_chunk::<4>() {
            Some(length) if length[..2] == [0, 0] => rest.len() >= u32::from_be_bytes(*length) as usize,
            // Text up to a NUL, as of protocol 2.
            _ => rest[0] != 0 && rest.contains(&0),
        },
        _ => true,
    }
}

/// The start-up packet of protocol 3.0. Neither name may have a NUL, and both together fit into 10 000 bytes.
pub fn start_up(user: &str, database: Option<&str>) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for (key, value) in [("user", Some(user)), ("database", database)] {
        let Some(value) = value else { continue };
        for text in [key, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()
}

/// The SQLSTATE of an error packet, kind byte included; `None` when it has none.
pub fn sql_state(packet: &[u8]) -> Option<[u8; 5]> {
    let fields = packet.get(HEAD - 3..)?;
    let code = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"))?;
    code.try_into().ok()
}

/// Longest text of a server's error that is kept, in bytes.
const MOST_ERROR_TEXT: usize = 200;

/// Reads a server's answer; `bytes` must not be empty.
pub fn ssl_answer(bytes: &[u8]) -> SslAnswer {
    match bytes {
        [b'S'] => SslAnswer::Yes,
        [b'N'] => SslAnswer::No,
        [b'S' | b'N', rest @ ..] => SslAnswer::Surplus(rest.len()),
        [b'E', rest @ ..] => SslAnswer::Error(error_text(rest)),
        [other, ..] => SslAnswer::Unknown(*other),
        [] => SslAnswer::Surplus(0),
    }
}

/// The message of an error packet whose kind byte is gone. Servers that cannot even fork send the form of protocol 2:
/// text up to a NUL, without a length.
fn error_text(body: &[u8]) -> String {
    let as_fields = body.split_first_chunk::<4>().filter(|(length, _)| length[..2] == [0, 0]);
    let text = match as_fields {
        Some((_, fields)) => {
            let field = |kind: u8| {
                fields.split(|byte| *byte == 0).find_map(|part| part.split_first().filter(|(k, _)| **k == kind))
            };
            match (field(b'M'), field(b'C')) {
                (Some((_, message)), Some((_, code))) => [message, b" (SQLSTATE ", code, b")"].concat(),
                (Some((_, message)), None) => message.to_vec(),
                (None, _) => b"no message".to_vec(),
            }
        }
        None => body.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii_end().to_vec(),
    };
    let text = text.escape_ascii().to_string();
    text.chars().take(MOST_ERROR_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANCEL: [u8; 16] = [0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e, 0, 0, 0, 1, 9, 9, 9, 9];

    #[track_caller]
    fn check(bytes: &[u8], want: Opening) {
        assert_eq!(opening(bytes), want, "{bytes:02x?}");
    }

    #[test]
    fn openings_are_told_apart_by_length_and_code() {
        check(&[], Opening::NeedMore);
        check(&[0x16], Opening::Tls);
        check(&SSL_REQUEST, Opening::Request(Request::Ssl));
        check(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x30], Opening::Request(Request::Gss));
        check(&CANCEL, Opening::Cancel { length: 16 });
        check(&[0, 0, 0, 9, 0, 3, 0, 0, 0], Opening::StartUp { major: 3, minor: 0 });
        check(&[0, 0, 0, 9, 0, 3, 0, 2, 0], Opening::StartUp { major: 3, minor: 2 });
        // All eight bytes count, not seven of them.
        check(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2d], Opening::Refused(OpeningError::Code(0x04d2_162d)));
        check(&[0, 0, 0, 9, 4, 0xd2, 0x16, 0x2f], Opening::Refused(OpeningError::Length(9)));
        check(&[0, 0, 0, 7, 0, 3, 0, 0], Opening::Refused(OpeningError::Length(7)));
        check(&[0, 0, 0x27, 0x11, 0, 3, 0, 0], Opening::Refused(OpeningError::Length(10_001)));
        check(&[0, 0, 0, 15, 4, 0xd2, 0x16, 0x2e], Opening::Refused(OpeningError::Length(15)));
        check(&[0, 0, 1, 13, 4, 0xd2, 0x16, 0x2e], Opening::Refused(OpeningError::Length(269)));
        check(&[0, 0, 0, 9, 0, 2, 0, 0], Opening::Refused(OpeningError::Code(0x0002_0000)));
        check(b"GET", Opening::Refused(OpeningError::Length(0x4745_5400)));
        check(&[0, 1], Opening::Refused(OpeningError::Length(0x0001_0000)));
    }

    #[test]
    fn every_prefix_of_a_packet_waits() {
        let long_cancel = [&[0, 0, 1, 12, 4, 0xd2, 0x16, 0x2e][..], &[7; 260]].concat();
        check(&long_cancel, Opening::Cancel { length: 268 });
        for packet in [&SSL_REQUEST[..], &CANCEL, &long_cancel] {
            for length in 0..packet.len() {
                check(&packet[..length], Opening::NeedMore);
            }
        }
    }

    #[test]
    fn mutated_packets_are_never_taken_for_another_request() {
        for place in 0..8 {
            for bit in 0..8 {
                let mut packet = SSL_REQUEST;
                packet[place] ^= 1 << bit;
                assert_ne!(opening(&packet), Opening::Request(Request::Ssl), "{packet:02x?}");
            }
        }
    }

    #[test]
    fn errors_are_packets_with_severity_code_and_message() {
        let packet = error_response(SqlState::NOT_AUTHORISED, "TLS\0 required");
        assert_eq!(packet[0], b'E');
        assert_eq!(u32::from_be_bytes([packet[1], packet[2], packet[3], packet[4]]) as usize, packet.len() - 1);
        assert_eq!(&packet[5..], b"SFATAL\0VFATAL\0C28000\0MTLS required\0\0");
    }

    #[test]
    fn start_up_packets_are_what_openings_take() {
        // What HAProxy sends.
        assert_eq!(start_up("checker", None), b"\0\0\0\x16\0\x03\0\0user\0checker\0\0");
        let packet = start_up("u", Some("d"));
        assert_eq!(packet[8..], *b"user\0u\0database\0d\0\0");
        check(&packet, Opening::StartUp { major: 3, minor: 0 });
    }

    #[test]
    fn sql_states_are_found_in_whole_errors_only() {
        assert_eq!(sql_state(&error_response(SqlState::TOO_MANY, "sorry")), Some(*b"53300"));
        for packet in
            [&b""[..], b"E", b"E\0\0\0\x05\0", b"E\0\0\0\x0aC533\0\0", b"E\0\0\0\x0cMC53300\0", b"Ecould not fork\0"]
        {
            assert_eq!(sql_state(packet), None, "{}", packet.escape_ascii());
        }
    }

    #[test]
    fn answers_to_a_request_for_tls_are_told_apart() {
        let error = [&b"E\0\0\0\x37SFATAL\0C57P03\0Mthe database system is starting up\0\0"[..]].concat();
        let table: [(&[u8], SslAnswer); 9] = [
            (b"S", SslAnswer::Yes),
            (b"N", SslAnswer::No),
            (b"S\x16\x03", SslAnswer::Surplus(2)),
            (b"NN", SslAnswer::Surplus(1)),
            (&error, SslAnswer::Error("the database system is starting up (SQLSTATE 57P03)".into())),
            (b"Ecould not fork: \xff\n\0", SslAnswer::Error("could not fork: \\xff".into())),
            (b"E\0\0", SslAnswer::Error(String::new())),
            (b"E\0\0\0\x05", SslAnswer::Error("no message".into())),
            (b"H", SslAnswer::Unknown(b'H')),
        ];
        for (bytes, want) in table {
            assert_eq!(ssl_answer(bytes), want, "{}", bytes.escape_ascii());
        }
        for length in 1..error.len() {
            assert!(!is_whole_answer(&error[..length]), "cut at {length}");
        }
        assert!(is_whole_answer(&error) && is_whole_answer(b"S") && is_whole_answer(b"Ecould not fork\0"));
        let endless = [b"E".as_slice(), &vec![b'x'; 100_000]].concat();
        assert!(matches!(ssl_answer(&endless), SslAnswer::Error(text) if text.len() == MOST_ERROR_TEXT));
    }
}
