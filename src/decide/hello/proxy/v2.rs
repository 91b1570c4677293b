//! Version 2: sixteen bytes, addresses, and fields. What is known to be wrong is refused before the rest has come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Cloud, Header, HeaderError, MOST_V2, SIGNATURE, Tlvs, Version};

pub(super) const FIXED: usize = 16;
pub(super) const LOCAL: u8 = 0x20;
pub(super) const PROXY: u8 = 0x21;
pub(super) const TCP4: u8 = 0x11;
pub(super) const TCP6: u8 = 0x21;

pub(super) const ALPN: u8 = 0x01;
pub(super) const AUTHORITY: u8 = 0x02;
pub(super) const CRC32C: u8 = 0x03;
pub(super) const UNIQUE_ID: u8 = 0x05;
pub(super) const GCP: u8 = 0xe0;
pub(super) const AWS: u8 = 0xea;
pub(super) const AZURE: u8 = 0xee;

/// Longest unique id, in bytes.
const MOST_UNIQUE_ID: usize = 128;

/// Reads a header whose signature is known to be right.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let known = &bytes[SIGNATURE.len()..];
    let Some(command) = known.first().copied() else { return Ok(None) };
    if !matches!(command, LOCAL | PROXY) {
        return Err(HeaderError::Command(command));
    }
    let Some(family) = known.get(1).copied() else { return Ok(None) };
    if command == PROXY && !matches!(family, 0x00 | TCP4 | 0x12 | TCP6 | 0x22 | 0x31 | 0x32) {
        return Err(HeaderError::Family(family));
    }
    let Some(length) = known.get(2..4) else { return Ok(None) };
    let length = u16::from_be_bytes([length[0], length[1]]);
    if usize::from(length) > MOST_V2 {
        return Err(HeaderError::TooLong(length));
    }
    let Some(whole) = bytes.get(..FIXED + usize::from(length)) else { return Ok(None) };
    let mut header = Header { version: Version::V2, addresses: None, tlvs: Tlvs::default(), length: whole.len() };
    // The sender speaks for itself: whatever it claims besides is to be skipped.
    if command == PROXY {
        let (addresses, fields) = split_addresses(family, &whole[FIXED..])?;
        header.addresses = addresses;
        header.tlvs = read_fields(whole, fields)?;
    }
    Ok(Some(header))
}

fn split_addresses(family: u8, body: &[u8]) -> Result<(Option<Addresses>, &[u8]), HeaderError> {
    match family >> 4 {
        1 => inet(body, |bytes: [u8; 4]| Ipv4Addr::from(bytes).into()),
        2 => inet(body, |bytes: [u8; 16]| Ipv6Addr::from(bytes).into()),
        // A unix socket has no address that could count as a client's.
        3 => Ok((None, body.split_at_checked(216).ok_or(HeaderError::Addresses)?.1)),
        _ => Ok((None, body)),
    }
}

/// Two addresses of `N` bytes and two ports, and what follows them.
fn inet<const N: usize>(
    body: &[u8],
    address: fn([u8; N]) -> IpAddr,
) -> Result<(Option<Addresses>, &[u8]), HeaderError> {
    let (source, rest) = body.split_first_chunk::<N>().ok_or(HeaderError::Addresses)?;
    let (destination, rest) = rest.split_first_chunk::<N>().ok_or(HeaderError::Addresses)?;
    let (ports, fields) = rest.split_first_chunk::<4>().ok_or(HeaderError::Addresses)?;
    let addresses = Addresses {
        source: SocketAddr::new(address(*source), u16::from_be_bytes([ports[0], ports[1]])),
        destination: SocketAddr::new(address(*destination), u16::from_be_bytes([ports[2], ports[3]])),
    };
    Ok((Some(addresses), fields))
}

fn read_fields(whole: &[u8], mut rest: &[u8]) -> Result<Tlvs, HeaderError> {
    let mut tlvs = Tlvs::default();
    let mut summed = false;
    while let Some((kind, after)) = rest.split_first() {
        let (length, after) = after.split_first_chunk::<2>().ok_or(HeaderError::Overrun)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (value, after) = after.split_at_checked(length).ok_or(HeaderError::Overrun)?;
        match *kind {
            ALPN => tlvs.alpn = Some(value.into()),
            AUTHORITY => tlvs.authority = Some(value.into()),
            CRC32C => {
                let place = whole.len() - after.len() - value.len();
                if std::mem::replace(&mut summed, true) || !is_checksum(whole, place, value) {
                    return Err(HeaderError::Checksum);
                }
            }
            UNIQUE_ID if length > MOST_UNIQUE_ID => return Err(HeaderError::UniqueId),
            UNIQUE_ID => tlvs.unique_id = Some(value.into()),
            // The ranges are each provider's own; what does not look like theirs is somebody else's.
            AWS if value.first() == Some(&1) => tlvs.cloud = Some(Cloud::Aws(value[1..].into())),
            AZURE if value.first() == Some(&1) => {
                tlvs.cloud = value[1..].try_into().ok().map(u32::from_le_bytes).map(Cloud::Azure).or(tlvs.cloud);
            }
            GCP => tlvs.cloud = value.try_into().ok().map(u64::from_be_bytes).map(Cloud::Gcp).or(tlvs.cloud),
            _ => {}
        }
        rest = after;
    }
    Ok(tlvs)
}

/// Whether `value`, at `place`, is the CRC-32C of the header with zeros in its own place.
fn is_checksum(whole: &[u8], place: usize, value: &[u8]) -> bool {
    let Ok(wanted) = <[u8; 4]>::try_from(value) else { return false };
    let sum = crc32c::crc32c(&whole[..place]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    crc32c::crc32c_append(sum, &whole[place + 4..]) == u32::from_be_bytes(wanted)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 1, 0xbb];

    #[track_caller]
    fn whole(bytes: &[u8]) -> Header {
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Ok(None), "cut at {length}");
        }
        parse(bytes).expect("valid").expect("whole")
    }

    #[test]
    fn addresses_of_every_family_are_read() {
        let found = whole(&header(PROXY, TCP4, &V4)).addresses.expect("addresses");
        assert_eq!(found.source.to_string(), "192.0.2.1:12345");
        assert_eq!(found.destination.to_string(), "198.51.100.2:443");
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[31] = 2;
        v6[35] = 9;
        let found = whole(&header(PROXY, TCP6, &v6)).addresses.expect("addresses");
        assert_eq!((found.source.to_string(), found.destination.to_string()), ("[::1]:0".into(), "[::2]:9".into()));
        for (command, family, body) in
            [(PROXY, 0x00, 0), (PROXY, 0x31, 216), (LOCAL, 0x00, 0), (LOCAL, TCP4, 12), (LOCAL, 0xff, 3)]
        {
            let bytes = header(command, family, &vec![0xff; body]);
            let found = if body == 0 { whole(&bytes) } else { parse(&bytes).expect("valid").expect("whole") };
            assert_eq!((found.addresses, found.length), (None, 16 + body), "{command:#x} {family:#x}");
        }
    }

    #[test]
    fn fields_are_kept_and_unknown_ones_skipped() {
        let body = [
            &V4[..],
            &tlv(ALPN, b"h2"),
            &tlv(0x20, &[1, 2, 3]),
            &tlv(AUTHORITY, b"a.test"),
            &tlv(UNIQUE_ID, &[7; 128]),
            &tlv(AWS, b"\x01vpce-08d2bf15fac5001c9"),
            &tlv(0xf0, b""),
        ]
        .concat();
        let tlvs = whole(&header(PROXY, TCP4, &body)).tlvs;
        assert_eq!(tlvs.alpn.as_deref(), Some(&b"h2"[..]));
        assert_eq!(tlvs.authority.as_deref(), Some(&b"a.test"[..]));
        assert_eq!(tlvs.unique_id.map(|id| id.len()), Some(128));
        assert_eq!(tlvs.cloud.map(|cloud| cloud.to_string()).as_deref(), Some("aws:vpce-08d2bf15fac5001c9"));
        for (kind, value, want) in [
            (AZURE, &[1, 0xff, 1, 0, 0][..], Some(Cloud::Azure(0x1ff))),
            (GCP, &[0, 0, 0, 0, 0, 0, 1, 0], Some(Cloud::Gcp(256))),
            (AZURE, &[2, 1, 1, 1, 1], None),
            (AZURE, &[1, 1], None),
            (GCP, &[1], None),
            (AWS, &[2, 65], None),
            (AWS, &[], None),
        ] {
            let body = [&V4[..], &tlv(kind, value)].concat();
            assert_eq!(whole(&header(PROXY, TCP4, &body)).tlvs.cloud, want, "{kind:#x} {value:?}");
        }
    }

    #[test]
    fn a_checksum_must_be_right() {
        let body = [&V4[..], &tlv(CRC32C, &[0; 4]), &tlv(AUTHORITY, b"a.test")].concat();
        let mut bytes = header(PROXY, TCP4, &body);
        let sum = crc32c::crc32c(&bytes);
        bytes[31..35].copy_from_slice(&sum.to_be_bytes());
        whole(&bytes);
        // Where the field's own type is changed there is no checksum any more.
        for place in (14..bytes.len()).filter(|place| *place != 28) {
            let mut broken = bytes.clone();
            broken[place] ^= 0x40;
            assert!(!matches!(parse(&broken), Ok(Some(_))), "byte {place}");
        }
        let twice = [&V4[..], &tlv(CRC32C, &[0; 4]), &tlv(CRC32C, &[0; 4])].concat();
        assert_eq!(parse(&header(PROXY, TCP4, &twice)), Err(HeaderError::Checksum));
        let short = [&V4[..], &tlv(CRC32C, &[0; 3])].concat();
        assert_eq!(parse(&header(PROXY, TCP4, &short)), Err(HeaderError::Checksum));
    }

    #[test]
    fn wrong_headers_are_refused_as_soon_as_they_are_wrong() {
        let start = |rest: &[u8]| [&SIGNATURE[..], rest].concat();
        let table: [(Vec<u8>, HeaderError); 10] = [
            (start(&[0x22]), HeaderError::Command(0x22)),
            (start(&[0x11]), HeaderError::Command(0x11)),
            (start(&[0x31]), HeaderError::Command(0x31)),
            (start(&[PROXY, 0x41]), HeaderError::Family(0x41)),
            (start(&[PROXY, 0x13]), HeaderError::Family(0x13)),
            (start(&[PROXY, TCP4, 0x10, 1]), HeaderError::TooLong(4097)),
            (header(PROXY, TCP4, &V4[..11]), HeaderError::Addresses),
            (header(PROXY, TCP6, &[0; 35]), HeaderError::Addresses),
            (header(PROXY, TCP4, &[&V4[..], &[4, 0]].concat()), HeaderError::Overrun),
            (header(PROXY, TCP4, &[&V4[..], &[4, 0, 2, 0]].concat()), HeaderError::Overrun),
        ];
        for (bytes, want) in table {
            assert_eq!(parse(&bytes), Err(want), "{bytes:02x?}");
        }
        let long_id = [&V4[..], &tlv(UNIQUE_ID, &[7; 129])].concat();
        assert_eq!(parse(&header(PROXY, TCP4, &long_id)), Err(HeaderError::UniqueId));
    }
}
