//! What speaks when it is not TLS, guessed from the first bytes for the record.

/// A protocol recognised by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FirstBytes {
    /// An HTTP method in plain text.
    Http,
    /// `SSH-`.
    Ssh,
    /// A PostgreSQL start-up packet or request.
    Postgres,
    /// A PROXY protocol header, version 1 or 2.
    Proxy,
    /// A TDS pre-login packet (Microsoft SQL Server).
    Tds,
    /// A TPKT header (remote desktop).
    Rdp,
    /// A BER sequence (LDAP).
    Ldap,
    /// Anything else.
    Unknown,
}

impl FirstBytes {
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
            Self::Unknown => "unknown",
        }
    }
}

const HTTP_METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];

/// Guesses what sent `bytes`; `bytes` may be a prefix of what will come.
pub fn first_bytes(bytes: &[u8]) -> FirstBytes {
    let starts = |pattern: &[u8]| {
        let length = pattern.len().min(bytes.len());
        length > 0 && bytes[..length] == pattern[..length]
    };
    if starts(b"PROXY ") && bytes.len() > 2 || starts(b"\r\n\r\n\0\r\nQUIT\n") {
        FirstBytes::Proxy
    } else if HTTP_METHODS.iter().any(|method| starts(method)) {
        FirstBytes::Http
    } else if starts(b"SSH-") {
        FirstBytes::Ssh
    } else if bytes.len() >= 8 && bytes[..2] == [0, 0] && (bytes[4..6] == [4, 0xd2] || bytes[4..6] == [0, 3]) {
        FirstBytes::Postgres
    } else if starts(&[0x12, 0x01]) {
        FirstBytes::Tds
    } else if starts(&[0x03, 0x00]) {
        FirstBytes::Rdp
    } else if bytes.first() == Some(&0x30) {
        FirstBytes::Ldap
    } else {
        FirstBytes::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_recognised_by_their_first_bytes() {
        let table: [(&[u8], FirstBytes); 10] = [
            (b"GET / HTTP/1.1\r\n", FirstBytes::Http),
            (b"POST", FirstBytes::Http),
            (b"SSH-2.0-OpenSSH", FirstBytes::Ssh),
            (&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f], FirstBytes::Postgres),
            (&[0, 0, 0, 22, 0, 3, 0, 0], FirstBytes::Postgres),
            (b"PROXY TCP4 ", FirstBytes::Proxy),
            (&[0x12, 1, 0, 0x5e], FirstBytes::Tds),
            (&[3, 0, 0, 0x13], FirstBytes::Rdp),
            (&[0x30, 0x0c, 2, 1], FirstBytes::Ldap),
            (&[0xff, 0xfe], FirstBytes::Unknown),
        ];
        for (bytes, want) in table {
            assert_eq!(first_bytes(bytes), want, "{bytes:02x?}");
        }
    }
}
