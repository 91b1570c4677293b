//! The server name of a hello (RFC 6066 3), checked and brought into the form in which routes are matched.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::Refusal;

/// Longest name after the trailing dot is gone, in bytes (RFC 1035 2.3.4, in presentation form).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A host name in lower case without a trailing dot: letters, digits, `-`, `_` and `.`, labels of 1 to 63 bytes.
/// Kept in place, so that parsing a hello allocates nothing.
#[derive(Clone)]
pub struct ServerName {
    bytes: [u8; MAX_NAME],
    length: u8,
}

impl ServerName {
    /// Checks the bytes of a `host_name` entry. `Ok(None)` is an IP literal, which counts as no name at all.
    pub fn from_wire(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        let text = std::str::from_utf8(bytes).map_err(|_| Refusal::Name("has bytes outside ASCII"))?;
        let text = text.strip_suffix('.').unwrap_or(text);
        if IpAddr::from_str(text).is_ok() {
            return Ok(None);
        }
        if text.is_empty() {
            return Err(Refusal::Name("is empty"));
        }
        if text.len() > MAX_NAME {
            return Err(Refusal::Name("is longer than 253 bytes"));
        }
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {}
                0 => return Err(Refusal::Name("has a NUL byte")),
                1..=0x20 | 0x7f => return Err(Refusal::Name("has a control character or a space")),
                0x80.. => return Err(Refusal::Name("has bytes outside ASCII")),
                _ => return Err(Refusal::Name("has a character that no host name has")),
            }
        }
        if text.split('.').any(str::is_empty) {
            return Err(Refusal::Name("has an empty label"));
        }
        if text.split('.').any(|label| label.len() > MAX_LABEL) {
            return Err(Refusal::Name("has a label longer than 63 bytes"));
        }
        let mut name = Self { bytes: [0; MAX_NAME], length: text.len() as u8 };
        let place = &mut name.bytes[..text.len()];
        place.copy_from_slice(text.as_bytes());
        place.make_ascii_lowercase();
        Ok(Some(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        // Checked above: ASCII only.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl PartialEq for ServerName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for ServerName {}

impl From<ServerName> for Box<str> {
    fn from(name: ServerName) -> Self {
        name.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wire: &[u8], want: Result<Option<&str>, &'static str>) {
        let got = ServerName::from_wire(wire);
        let got = got.as_ref().map(|name| name.as_ref().map(ServerName::as_str));
        assert_eq!(got, want.map_err(Refusal::Name).as_ref().copied(), "{}", wire.escape_ascii());
    }

    #[test]
    fn names_are_checked_and_normalised() {
        check(b"App.Example.TEST", Ok(Some("app.example.test")));
        check(b"app.example.test.", Ok(Some("app.example.test")));
        check(b"_sip.x-y.test", Ok(Some("_sip.x-y.test")));
        check(b"127.0.0.1", Ok(None));
        check(b"::1", Ok(None));
        check(b"127.0.0.1.", Ok(None));
        check(b"a\0b.test", Err("has a NUL byte"));
        check(b"a b.test", Err("has a control character or a space"));
        check("ä.test".as_bytes(), Err("has bytes outside ASCII"));
        check(b"\xff.test", Err("has bytes outside ASCII"));
        check(b"*.test", Err("has a character that no host name has"));
        check(b".", Err("is empty"));
        check(b"a..b", Err("has an empty label"));
        check(b"a.test..", Err("has an empty label"));
        check(&[b'a'; 64], Err("has a label longer than 63 bytes"));
        check(&[b'a'; 256], Err("is longer than 253 bytes"));
        check(&b"a.".repeat(127), Ok(Some("a.".repeat(127).trim_end_matches('.'))));
    }
}
