//! Writing headers for backends. Never the field for TLS (0x20): it would claim that TLS ended here.

use std::net::{IpAddr, SocketAddr};

use super::v2::{ALPN, AUTHORITY, AWS, AZURE, CRC32C, FIXED, GCP, LOCAL, PROXY, TCP4, TCP6, UNIQUE_ID};
use super::{Cloud, SIGNATURE, Version};

/// Longest header of version 2 that is sent: the buffer of the specification's sample receiver. A field that does not
/// fit any more is left out; those that matter most come first.
const MOST_SENT: usize = 232;

/// What a header of version 2 tells a backend.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The client.
    pub source: SocketAddr,
    /// Where the client connected to.
    pub destination: SocketAddr,
    /// Our name of the connection, as in its record; at most 128 bytes.
    pub unique_id: &'a [u8],
    /// The server name, as the client sent it.
    pub authority: Option<&'a [u8]>,
    /// The application protocol, when only one is possible.
    pub alpn: Option<&'a [u8]>,
    /// The private endpoint that an incoming header named.
    pub cloud: Option<&'a Cloud>,
}

/// A header of version 1.
pub fn write_v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (source, destination) = in_one_family(source, destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// A header of version 2 with a checksum.
pub fn write_v2(outgoing: &Outgoing<'_>) -> Vec<u8> {
    let (source, destination) = in_one_family(outgoing.source, outgoing.destination);
    let mut header = Vec::with_capacity(MOST_SENT);
    header.extend_from_slice(SIGNATURE);
    header.extend_from_slice(&[PROXY, if source.is_ipv4() { TCP4 } else { TCP6 }, 0, 0]);
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(v4) => header.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => header.extend_from_slice(&v6.octets()),
        }
    }
    for address in [source, destination] {
        header.extend_from_slice(&address.port().to_be_bytes());
    }
    append(&mut header, CRC32C, &[0; 4]);
    let checksum = header.len() - 4;
    append(&mut header, UNIQUE_ID, outgoing.unique_id);
    for (kind, value) in [(AUTHORITY, outgoing.authority), (ALPN, outgoing.alpn)] {
        if let Some(value) = value {
            append(&mut header, kind, value);
        }
    }
    match outgoing.cloud {
        Some(Cloud::Aws(id)) => append(&mut header, AWS, &[&[1], &**id].concat()),
        Some(Cloud::Azure(id)) => append(&mut header, AZURE, &[&[1][..], &id.to_le_bytes()].concat()),
        Some(Cloud::Gcp(id)) => append(&mut header, GCP, &id.to_be_bytes()),
        None => {}
    }
    let length = (header.len() - FIXED) as u16;
    header[FIXED - 2..FIXED].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c::crc32c(&header);
    header[checksum..checksum + 4].copy_from_slice(&sum.to_be_bytes());
    header
}

/// The header of a connection of our own, such as a health check, over these two ends: LOCAL in version 2; version 1
/// has no such word, so that the connection is its own client.
pub fn write_local(version: Version, own: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    match version {
        Version::V1 => write_v1(own, peer),
        Version::V2 => [&SIGNATURE[..], &[LOCAL, 0, 0, 0]].concat(),
    }
}

fn append(header: &mut Vec<u8>, kind: u8, value: &[u8]) {
    if header.len() + 3 + value.len() <= MOST_SENT {
        header.push(kind);
        header.extend_from_slice(&(value.len() as u16).to_be_bytes());
        header.extend_from_slice(value);
    }
}

/// Both as IPv4 where both are, mapped or not; otherwise both as IPv6.
fn in_one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (canonical(source), canonical(destination));
    let as_v6 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    if source.is_ipv4() == destination.is_ipv4() { (source, destination) } else { (as_v6(source), as_v6(destination)) }
}

#[cfg(test)]
mod tests {
    use super::super::{Addresses, parse};
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    #[track_caller]
    fn reads_back(source: &str, destination: &str, want: (&str, &str)) {
        let (source, destination) = (address(source), address(destination));
        let outgoing = Outgoing { source, destination, unique_id: b"0123", authority: None, alpn: None, cloud: None };
        let want = Addresses { source: address(want.0), destination: address(want.1) };
        for bytes in [write_v1(source, destination), write_v2(&outgoing)] {
            let header = parse(&bytes).expect("valid").expect("whole");
            assert_eq!((header.addresses, header.length), (Some(want), bytes.len()));
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        reads_back("192.0.2.1:1", "198.51.100.1:443", ("192.0.2.1:1", "198.51.100.1:443"));
        reads_back("[::ffff:192.0.2.1]:1", "198.51.100.1:443", ("192.0.2.1:1", "198.51.100.1:443"));
        reads_back("[2001:db8::1]:1", "[2001:db8::2]:443", ("[2001:db8::1]:1", "[2001:db8::2]:443"));
        reads_back("192.0.2.1:1", "[2001:db8::2]:443", ("[::ffff:192.0.2.1]:1", "[2001:db8::2]:443"));
        for cloud in [Cloud::Aws((*b"vpce-1").into()), Cloud::Azure(7), Cloud::Gcp(1 << 40)] {
            let outgoing = Outgoing {
                source: address("192.0.2.1:1"),
                destination: address("198.51.100.1:443"),
                unique_id: b"fbf5010000000001",
                authority: Some(b"Shop.Example.COM."),
                alpn: Some(b"postgresql"),
                cloud: Some(&cloud),
            };
            let tlvs = parse(&write_v2(&outgoing)).expect("valid").expect("whole").tlvs;
            assert_eq!(tlvs.unique_id.as_deref(), Some(outgoing.unique_id));
            assert_eq!(tlvs.authority.as_deref(), outgoing.authority);
            assert_eq!(tlvs.alpn.as_deref(), outgoing.alpn);
            assert_eq!(tlvs.cloud, Some(cloud));
        }
    }

    #[test]
    fn a_header_stays_within_the_buffer_of_the_sample_receiver() {
        let outgoing = Outgoing {
            source: address("[2001:db8::1]:1"),
            destination: address("[2001:db8::2]:443"),
            unique_id: b"fbf5010000000001",
            authority: Some(&[b'a'; 151]),
            alpn: Some(b"h2"),
            cloud: None,
        };
        let bytes = write_v2(&outgoing);
        assert_eq!(bytes.len(), MOST_SENT);
        let tlvs = parse(&bytes).expect("valid").expect("whole").tlvs;
        assert_eq!((tlvs.authority.map(|name| name.len()), tlvs.alpn), (Some(151), None));
        let longer = Outgoing { authority: Some(&[b'a'; 152]), ..outgoing };
        let tlvs = parse(&write_v2(&longer)).expect("valid").expect("whole").tlvs;
        assert_eq!((tlvs.authority, tlvs.alpn.as_deref()), (None, Some(&b"h2"[..])));
    }

    #[test]
    fn own_connections_say_so() {
        let (own, peer) = (address("127.0.0.1:5"), address("127.0.0.1:443"));
        let bytes = write_local(Version::V2, own, peer);
        assert_eq!(bytes, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        assert_eq!(parse(&bytes).expect("valid").expect("whole").addresses, None);
        assert_eq!(write_local(Version::V1, own, peer), b"PROXY TCP4 127.0.0.1 127.0.0.1 5 443\r\n");
    }
}
