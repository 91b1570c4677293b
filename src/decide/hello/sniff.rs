//! What speaks when it is not TLS. Two questions, kept apart: `recognise` is sure or says that it is not, and routes
//! may rest on it; `guess` names what a few bytes look like, for the record of a refusal.

use super::postgres::{self, Opening};

/// A protocol recognised by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FirstBytes {
    /// An HTTP request in plain text.
    Http,
    /// `SSH-` (RFC 4253 4.2).
    Ssh,
    /// A PostgreSQL start-up packet or request.
    Postgres,
    /// A PROXY protocol header, version 1 or 2.
    Proxy,
    /// A TDS pre-login packet (Microsoft SQL Server, MS-TDS 2.2.6.5).
    Tds,
    /// An X.224 connection request in a TPKT packet (remote desktop, MS-RDPBCGR 2.2.1.1).
    Rdp,
    /// An LDAP message (RFC 4511 4.1.1).
    Ldap,
    /// Nothing within the time for the hello: the server is to speak first.
    Silence,
    /// Anything else.
    Unknown,
}

impl FirstBytes {
    /// Those that a route may name.
    pub const ROUTABLE: [Self; 7] =
        [Self::Http, Self::Ssh, Self::Postgres, Self::Rdp, Self::Tds, Self::Ldap, Self::Silence];

    /// Name as it stands in records and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Postgres => "postgres",
            Self::Proxy => "proxy",
            Self::Tds => "tds",
            Self::Rdp => "rdp",
            Self::Ldap => "ldap",
            Self::Silence => "silence",
            Self::Unknown => "unknown",
        }
    }

    /// Reads a name of [`FirstBytes::ROUTABLE`].
    pub fn from_config(name: &str) -> Option<Self> {
        Self::ROUTABLE.into_iter().find(|known| known.name() == name)
    }
}

/// How well bytes fit a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// They do, and no other bytes may follow that would change it.
    Sure,
    /// So far; more bytes must tell.
    SoFar,
    /// They do not.
    No,
}

/// What bytes are known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// Certain, whatever follows; [`FirstBytes::Unknown`]: certainly none of those known.
    Certain(FirstBytes),
    /// More bytes must tell.
    NeedMore,
}

/// Longest run of bytes that [`recognise`] may ask for.
pub const MOST_TO_RECOGNISE: usize = 16;

const HTTP_STARTS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
    b"PRI * HTTP/2.0",
];
const PROXY_STARTS: [&[u8]; 2] = [b"PROXY ", super::proxy::SIGNATURE];

type Test = fn(&[u8]) -> Fit;

const TESTS: [(FirstBytes, Test); 7] = [
    (FirstBytes::Http, |bytes| any_start(bytes, &HTTP_STARTS)),
    (FirstBytes::Ssh, |bytes| any_start(bytes, &[b"SSH-"])),
    (FirstBytes::Proxy, |bytes| any_start(bytes, &PROXY_STARTS)),
    (FirstBytes::Postgres, fits_postgres),
    (FirstBytes::Tds, |bytes| any_start(bytes, &[&[0x12, 0x01]])),
    (FirstBytes::Rdp, fits_rdp),
    (FirstBytes::Ldap, fits_ldap),
];

/// Says what sent `bytes`, which are all that came so far, when that is certain.
pub fn recognise(bytes: &[u8]) -> Recognised {
    let mut open = false;
    for (protocol, test) in TESTS {
        match test(bytes) {
            Fit::Sure => return Recognised::Certain(protocol),
            Fit::SoFar => open = true,
            Fit::No => {}
        }
    }
    if open && bytes.len() < MOST_TO_RECOGNISE {
        Recognised::NeedMore
    } else {
        Recognised::Certain(FirstBytes::Unknown)
    }
}

/// What `bytes` look like; two are enough for a name, one is not.
pub fn guess(bytes: &[u8]) -> FirstBytes {
    let fitting = |fit: Fit| TESTS.iter().find(|(_, test)| test(bytes) == fit).map(|(protocol, _)| *protocol);
    fitting(Fit::Sure).or_else(|| fitting(Fit::SoFar).filter(|_| bytes.len() > 1)).unwrap_or(FirstBytes::Unknown)
}

fn any_start(bytes: &[u8], patterns: &[&[u8]]) -> Fit {
    let mut best = Fit::No;
    for pattern in patterns {
        if bytes.starts_with(pattern) {
            return Fit::Sure;
        }
        if pattern.starts_with(bytes) {
            best = Fit::SoFar;
        }
    }
    best
}

fn fits_postgres(bytes: &[u8]) -> Fit {
    match postgres::opening(bytes) {
        Opening::NeedMore if bytes.len() < postgres::HEAD => Fit::SoFar,
        Opening::NeedMore | Opening::Request(_) | Opening::Cancel { .. } | Opening::StartUp { .. } => Fit::Sure,
        Opening::Tls | Opening::Refused(_) => Fit::No,
    }
}

/// TPKT version 3, a length of two bytes, then an X.224 length and the code of a connection request.
fn fits_rdp(bytes: &[u8]) -> Fit {
    let matches = |place: usize, good: &dyn Fn(u8) -> bool| bytes.get(place).is_none_or(|byte| good(*byte));
    let fits = matches(0, &|byte| byte == 3)
        && matches(1, &|byte| byte == 0)
        && matches(2, &|byte| byte < 2)
        && matches(4, &|byte| byte >= 6)
        && matches(5, &|byte| byte & 0xf0 == 0xe0);
    match (fits, bytes.len() >= 6) {
        (false, _) => Fit::No,
        (true, true) => Fit::Sure,
        (true, false) => Fit::SoFar,
    }
}

/// A BER sequence with a definite length, then the integer of the message's number.
fn fits_ldap(bytes: &[u8]) -> Fit {
    match bytes {
        [] | [0x30] => Fit::SoFar,
        [0x30, length, rest @ ..] => {
            let long_form = match length {
                0..=0x7f => 0,
                0x81..=0x84 => usize::from(length & 0x7f),
                _ => return Fit::No,
            };
            match rest.get(long_form) {
                None => Fit::SoFar,
                Some(0x02) => Fit::Sure,
                Some(_) => Fit::No,
            }
        }
        _ => Fit::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: [(&[u8], FirstBytes); 13] = [
        (b"GET / HTTP/1.1\r\n", FirstBytes::Http),
        (b"OPTIONS * HTTP/1.1\r\n", FirstBytes::Http),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FirstBytes::Http),
        (b"SSH-2.0-OpenSSH", FirstBytes::Ssh),
        (&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], FirstBytes::Postgres),
        (&[0, 0, 0, 22, 0, 3, 0, 0], FirstBytes::Postgres),
        (b"PROXY TCP4 192.0.2.1 ", FirstBytes::Proxy),
        (b"\r\n\r\n\0\r\nQUIT\n\x21", FirstBytes::Proxy),
        (&[0x12, 1, 0, 0x5e], FirstBytes::Tds),
        (&[3, 0, 0, 0x13, 0x0e, 0xe0, 0, 0], FirstBytes::Rdp),
        (&[0x30, 0x0c, 2, 1, 1, 0x60], FirstBytes::Ldap),
        (&[0x30, 0x84, 0, 0, 0, 0x10, 2, 1, 1], FirstBytes::Ldap),
        (&[0xff, 0xfe], FirstBytes::Unknown),
    ];

    #[test]
    fn protocols_are_recognised_and_every_prefix_waits_or_is_sure() {
        for (bytes, want) in SAMPLES {
            assert_eq!(recognise(bytes), Recognised::Certain(want), "{}", bytes.escape_ascii());
            assert_eq!(guess(bytes), want, "{}", bytes.escape_ascii());
            for length in 1..bytes.len() {
                let found = recognise(&bytes[..length]);
                let fine = found == Recognised::NeedMore || found == Recognised::Certain(want);
                assert!(fine, "{} cut at {length}: {found:?}", bytes.escape_ascii());
            }
        }
        assert_eq!(recognise(&[]), Recognised::NeedMore);
    }

    #[test]
    fn what_only_begins_like_a_protocol_is_not_that_protocol() {
        let table: [&[u8]; 9] = [
            b"GETTING",
            b"SSH1",
            b"PROXYTCP",
            b"PRI * HTTP/1.0",
            &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2e],
            &[0, 0, 0, 9, 4, 0xd2, 0x16, 0x2f],
            &[3, 0, 0, 0x13, 0x0e, 0x10],
            &[0x30, 0x0c, 4],
            &[0x30, 0x80, 2],
        ];
        for bytes in table {
            assert_eq!(recognise(bytes), Recognised::Certain(FirstBytes::Unknown), "{}", bytes.escape_ascii());
        }
    }

    /// Whatever comes, the question is settled within a bound.
    #[test]
    fn recognition_never_asks_for_more_than_its_bound() {
        let mut dice = 11;
        for _ in 0..100_000 {
            let mut bytes = [0; MOST_TO_RECOGNISE];
            for chunk in bytes.chunks_mut(8) {
                dice = crate::decide::balance::next_random(dice);
                chunk.copy_from_slice(&dice.to_be_bytes());
            }
            let first = [b'G', b'P', 0, 3, 0x12, 0x30, b'\r', b'S'][dice as usize % 8];
            bytes[0] = first;
            assert_ne!(recognise(&bytes), Recognised::NeedMore, "{bytes:02x?}");
        }
    }

    #[test]
    fn one_byte_is_no_ground_for_a_name() {
        assert_eq!(guess(b"G"), FirstBytes::Unknown);
        assert_eq!(guess(b"GE"), FirstBytes::Http);
        assert_eq!(guess(b"PROX"), FirstBytes::Proxy);
    }

    #[test]
    fn names_of_the_configuration_are_read_back() {
        for protocol in FirstBytes::ROUTABLE {
            assert_eq!(FirstBytes::from_config(protocol.name()), Some(protocol));
        }
        assert_eq!(FirstBytes::from_config("proxy"), None);
        assert_eq!(FirstBytes::from_config("unknown"), None);
    }
}
