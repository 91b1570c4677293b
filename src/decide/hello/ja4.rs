//! The JA4 fingerprint of a hello (FoxIO, BSD-3; GREASE is left out of every list, signature algorithms included).

use std::fmt;

use sha2::{Digest, Sha256};

use super::ClientHello;
use super::parse::is_grease;

/// A JA4 fingerprint: 36 ASCII bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ja4([u8; 36]);

impl Ja4 {
    /// The fingerprint as text.
    pub fn as_str(&self) -> &str {
        // Built from hexadecimal digits and ASCII letters below.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Ja4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Computes the fingerprint over TCP.
pub fn ja4(hello: &ClientHello<'_>) -> Ja4 {
    let mut ciphers = numbers(hello.cipher_suites);
    let cipher_count = ciphers.len();
    ciphers.sort_unstable();

    let mut extensions: Vec<u16> = hello.extensions().map(|(kind, _)| kind).filter(|kind| !is_grease(*kind)).collect();
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
    let mut text = [0; 36];
    text[0] = b't';
    text[1..3].copy_from_slice(&version);
    text[3] = if hello.has_server_name { b'd' } else { b'i' };
    text[4..6].copy_from_slice(&two_digits(cipher_count));
    text[6..8].copy_from_slice(&two_digits(extension_count));
    text[8..10].copy_from_slice(&alpn_marks(hello.alpn.iter().next()));
    text[10] = b'_';
    text[11..23].copy_from_slice(&digest(&ciphers, &[]));
    text[23] = b'_';
    text[24..36].copy_from_slice(&digest(&extensions, &numbers(hello.signature_algorithms)));
    Ja4(text)
}

fn numbers(bytes: &[u8]) -> Vec<u16> {
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

/// First twelve hexadecimal digits of the SHA-256 of the lists, or twelve zeros when the first list is empty.
fn digest(sorted: &[u16], in_order: &[u16]) -> [u8; 12] {
    if sorted.is_empty() && in_order.is_empty() {
        return [b'0'; 12];
    }
    let mut text = Vec::with_capacity(5 * (sorted.len() + in_order.len()));
    append_list(&mut text, sorted);
    if !in_order.is_empty() {
        text.push(b'_');
        append_list(&mut text, in_order);
    }
    let hash = Sha256::digest(&text);
    let mut out = [0; 12];
    for (pair, byte) in out.chunks_exact_mut(2).zip(hash.iter()) {
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    out
}

fn append_list(text: &mut Vec<u8>, list: &[u16]) {
    for (position, number) in list.iter().enumerate() {
        if position > 0 {
            text.push(b',');
        }
        for shift in [12, 8, 4, 0] {
            text.push(HEX[usize::from(number >> shift & 15)]);
        }
    }
}
