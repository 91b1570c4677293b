//! Version 1: one line of text, read strictly: one space between words, numbers as they are written canonically.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Header, HeaderError, MOST_V1, Tlvs, V1_START, Version};

/// Reads a line whose start is known to be right.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let window = &bytes[..bytes.len().min(MOST_V1)];
    let Some(end) = window.iter().position(|byte| !matches!(byte, b' '..=b'~')) else {
        return if window.len() < MOST_V1 { Ok(None) } else { Err(HeaderError::Line("is longer than 107 bytes")) };
    };
    match window[end..] {
        [b'\r'] if window.len() < MOST_V1 => return Ok(None),
        [b'\r'] => return Err(HeaderError::Line("is longer than 107 bytes")),
        [b'\r', b'\n', ..] => {}
        _ => return Err(HeaderError::Line("does not end with CR and LF")),
    }
    // Printable ASCII, as just seen.
    let line = std::str::from_utf8(&window[V1_START.len()..end]).unwrap_or_default();
    Ok(Some(Header { version: Version::V1, addresses: addresses(line)?, tlvs: Tlvs::default(), length: end + 2 }))
}

fn addresses(line: &str) -> Result<Option<Addresses>, HeaderError> {
    let mut words = line.split(' ');
    let address: fn(&str) -> Option<IpAddr> = match words.next() {
        // Whatever follows is to be ignored.
        Some("UNKNOWN") => return Ok(None),
        Some("TCP4") => |word| word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some("TCP6") => |word| word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return Err(HeaderError::Line("names a protocol other than TCP4, TCP6 and UNKNOWN")),
    };
    let words: Vec<&str> = words.take(5).collect();
    let [source, destination, source_port, destination_port] = words[..] else {
        return Err(HeaderError::Line("does not have two addresses and two ports"));
    };
    let address = |word| address(word).ok_or(HeaderError::Line("has an address that does not fit its protocol"));
    let port = |word| port(word).ok_or(HeaderError::Line("has a port that is no number from 0 to 65535"));
    let (source, destination) = (address(source)?, address(destination)?);
    Ok(Some(Addresses {
        source: SocketAddr::new(source, port(source_port)?),
        destination: SocketAddr::new(destination, port(destination_port)?),
    }))
}

/// Digits without a leading zero.
fn port(word: &str) -> Option<u16> {
    let canonical = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if canonical { word.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[track_caller]
    fn refused(line: &str, why: &'static str) {
        assert_eq!(parse(line.as_bytes()), Err(HeaderError::Line(why)), "{line:?}");
    }

    #[test]
    fn lines_are_read() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nrest";
        let header = parse(line).expect("valid").expect("whole");
        assert_eq!(header.length, line.len() - 4);
        let addresses = header.addresses.expect("addresses");
        assert_eq!((addresses.source.to_string(), addresses.destination.port()), ("192.0.2.1:56324".into(), 443));
        for (line, source) in [
            ("PROXY TCP6 2001:db8::1 ::1 1 2\r\n", Some("[2001:db8::1]:1")),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535")),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 0 0\r\n", Some("192.0.2.1:0")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN anything at all\r\n", None),
        ] {
            let header = parse(line.as_bytes()).expect(line).expect(line);
            assert_eq!(header.addresses.map(|found| found.source.to_string()).as_deref(), source, "{line:?}");
            for length in 0..line.len() {
                assert_eq!(parse(&line.as_bytes()[..length]), Ok(None), "{line:?} cut at {length}");
            }
        }
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(longest.len(), MOST_V1);
        assert!(parse(longest.as_bytes()).is_ok_and(|header| header.is_some()));
    }

    #[test]
    fn wrong_lines_are_refused() {
        let protocol = "names a protocol other than TCP4, TCP6 and UNKNOWN";
        let count = "does not have two addresses and two ports";
        let address = "has an address that does not fit its protocol";
        let port = "has a port that is no number from 0 to 65535";
        let end = "does not end with CR and LF";
        refused("PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", protocol);
        refused("PROXY \r\n", protocol);
        refused("PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", protocol);
        refused("PROXY UNKNOWNX\r\n", protocol);
        refused("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", count);
        refused("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", count);
        refused("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", count);
        refused("PROXY TCP4 192.0.2.1  192.0.2.2 1\r\n", address);
        refused("PROXY TCP4 2001:db8::1 ::1 1 2\r\n", address);
        refused("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", address);
        refused("PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\n", address);
        refused("PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", address);
        refused("PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", port);
        refused("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", port);
        refused("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", port);
        refused("PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n", port);
        refused("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", end);
        refused("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n", end);
        refused("PROXY TCP4\t192.0.2.1", end);
        refused("PROXY TCP4 192.0.2.1\0", end);
        refused(&format!("PROXY UNKNOWN {}", "x".repeat(93)), "is longer than 107 bytes");
        refused(&format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)), "is longer than 107 bytes");
        assert_eq!(parse(b"PROXZ"), Err(HeaderError::Missing));
        assert_eq!(parse(b"proxy "), Err(HeaderError::Missing));
        assert_eq!(parse(&[0x16]), Err(HeaderError::Missing));
    }
}
