//! The JA4 fingerprint of a hello (FoxIO, BSD-3; GREASE is left out of every list, signature algorithms included).

use std::fmt;

use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use super::ClientHello;
use super::parse::is_grease;

/// A JA4 fingerprint, 36 characters as text; kept short, because every open session has one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ja4 {
    head: [u8; 10],
    ciphers: [u8; 6],
    extensions: [u8; 6],
}

impl fmt::Display for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Built from ASCII letters and digits below.
        f.write_str(std::str::from_utf8(&self.head).unwrap_or_default())?;
        for digest in [self.ciphers, self.extensions] {
            f.write_str("_")?;
            for byte in digest {
                write!(f, "{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl Ja4 {
    /// Reads what is written above.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('_');
        let head = parts.next()?.as_bytes().try_into().ok()?;
        let mut digest = || {
            let text = parts.next().filter(|text| text.len() == 12 && text.is_ascii())?;
            let mut bytes = [0; 6];
            for (place, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&text[place * 2..place * 2 + 2], 16).ok()?;
            }
            Some(bytes)
        };
        let (ciphers, extensions) = (digest()?, digest()?);
        parts.next().is_none().then_some(Self { head, ciphers, extensions })
    }
}

impl fmt::Debug for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Numbers of one hello. Real ones have up to about sixty; only hostile ones spill.
type Numbers = SmallVec<[u16; 128]>;

/// Computes the fingerprint over TCP.
pub fn ja4(hello: &ClientHello<'_>) -> Ja4 {
    let mut ciphers = numbers(hello.cipher_suites);
    let cipher_count = ciphers.len();
    ciphers.sort_unstable();

    let mut extensions: Numbers = hello.extensions().map(|(kind, _)| kind).filter(|kind| !is_grease(*kind)).collect();
    let extension_count = extensions.len();
    extensions.retain(|kind| !matches!(kind, 0 | 16));
    extensions.sort_unstable();

    let version = match hello.version.0 {
        0x0304 => *b"13",
        0x0303 => *b"12",
        0x0302 => *b"11",
        0x0301 => *b"10",
        0x0300 => *b"s3",
        0x0002 => *b"s2",
        _ => *b"00",
    };
    let mut head = [b't'; 10];
    head[1..3].copy_from_slice(&version);
    head[3] = if hello.server_name_wire.is_some() { b'd' } else { b'i' };
    head[4..6].copy_from_slice(&two_digits(cipher_count));
    head[6..8].copy_from_slice(&two_digits(extension_count));
    head[8..10].copy_from_slice(&alpn_marks(hello.alpn.iter().next()));
    Ja4 { head, ciphers: digest(&ciphers, &[]), extensions: digest(&extensions, &numbers(hello.signature_algorithms)) }
}

fn numbers(bytes: &[u8]) -> Numbers {
    let pairs = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    pairs.filter(|number| !is_grease(*number)).collect()
}

const fn two_digits(count: usize) -> [u8; 2] {
    let count = if count > 99 { 99 } else { count as u8 };
    [b'0' + count / 10, b'0' + count % 10]
}

/// First and last character of the first protocol; the outer hexadecimal digits when one is not alphanumeric.
fn alpn_marks(first: Option<&[u8]>) -> [u8; 2] {
    let Some((&head, &tail)) = first.and_then(|name| Some((name.first()?, name.last()?))) else {
        return *b"00";
    };
    if head.is_ascii_alphanumeric() && tail.is_ascii_alphanumeric() {
        [head, tail]
    } else {
        [HEX[usize::from(head >> 4)], HEX[usize::from(tail & 15)]]
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// First six bytes of the SHA-256 of the lists, or zeros when there is nothing to hash.
fn digest(sorted: &[u16], in_order: &[u16]) -> [u8; 6] {
    if sorted.is_empty() && in_order.is_empty() {
        return [0; 6];
    }
    let mut text = SmallVec::<[u8; 512]>::new();
    append_list(&mut text, sorted);
    if !in_order.is_empty() {
        text.push(b'_');
        append_list(&mut text, in_order);
    }
    let hash = Sha256::digest(&text);
    std::array::from_fn(|place| hash[place])
}

fn append_list(text: &mut SmallVec<[u8; 512]>, list: &[u16]) {
    for (position, number) in list.iter().enumerate() {
        if position > 0 {
            text.push(b',');
        }
        for shift in [12, 8, 4, 0] {
            text.push(HEX[usize::from(number >> shift & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        let text = "t13d1516h2_8daaf6152771_e5627efa2ab1";
        assert_eq!(Ja4::parse(text).map(|ja4| ja4.to_string()).as_deref(), Some(text));
        for length in 0..text.len() {
            assert_eq!(Ja4::parse(&text[..length]), None, "{length}");
        }
        let wrong = [
            "t13d1516h2_8daaf6152771_e5627efa2ab1_",
            "t13d1516h2_8daaf615277g_e5627efa2ab1",
            "t13d1516h2_8daaf615277\u{e9}_e5627efa2ab",
        ];
        assert!(wrong.into_iter().all(|wrong| Ja4::parse(wrong).is_none()));
    }
}
