//! What travels through the proxies: a `ClientHello`, a request of ours, and a byte pattern in which every byte has one right place.

use std::fs::File;
use std::io::Write as _;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::Outcome;

/// Length of every `ClientHello`, as curl and Python send it (padded to 512 bytes of handshake).
pub const HELLO_LENGTH: usize = 517;
/// Length of every request.
pub const REQUEST_LENGTH: usize = 200;
/// Length of the answer in request-response loads.
pub const ANSWER_LENGTH: u64 = 1024;
/// Length of the answer to an upload.
pub const ACKNOWLEDGEMENT_LENGTH: u64 = 8;
/// The two server names; each has a pool and a backend port of its own, which refuses the other name.
pub const SERVER_NAMES: [&str; 2] = ["alpha.compare.example", "beta.compare.example"];

const REQUEST_MAGIC: u64 = u64::from_be_bytes(*b"sluicebm");
/// Bytes after which the pattern repeats: a prime number of pages, so that no power of two, thus no buffer or pipe, fits it.
const PATTERN_LENGTH: u64 = 1021 * 4096;
/// How far the copy in memory goes on past the repetition, so that a slice never has to be put together.
const PATTERN_OVERLAP: u64 = 256 * 1024;

/// A stream of bytes whose every 8-byte word tells its own place; in memory for comparing, in a file in memory for `sendfile`.
pub struct Pattern {
    bytes: Vec<u8>,
    file: File,
}

impl Pattern {
    /// Builds both copies.
    pub fn new() -> Outcome<Self> {
        let words = (PATTERN_LENGTH + PATTERN_OVERLAP) / 8;
        let mut bytes = Vec::with_capacity(usize::try_from(words * 8)?);
        for word in 0..words {
            let place = word % (PATTERN_LENGTH / 8);
            bytes.extend_from_slice(&place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        let mut file = File::from(memfd_create(c"compare-pattern", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(bytes.get(..usize::try_from(PATTERN_LENGTH)?).unwrap_or_default())?;
        Ok(Self { bytes, file })
    }

    /// The bytes at `position` of the stream that starts at `seed`; `length` is at most 256 KiB.
    pub fn slice(&self, seed: u64, position: u64, length: usize) -> &[u8] {
        let start = Self::offset(seed, position) as usize;
        &self.bytes[start..start + length]
    }

    /// The file behind the pattern.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where in the file `position` of the stream that starts at `seed` is.
    pub fn offset(seed: u64, position: u64) -> u64 {
        (seed + position) % PATTERN_LENGTH
    }

    /// Bytes of the file from `position` of the stream that starts at `seed` up to the repetition.
    pub fn contiguous(seed: u64, position: u64) -> u64 {
        PATTERN_LENGTH - Self::offset(seed, position)
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The answer is `size` bytes of the pattern.
    Send,
    /// `size` bytes of the pattern follow the request; the answer is 8 bytes of it.
    Receive,
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub mode: Mode,
    /// Bytes to send or to receive.
    pub size: u64,
    /// Where in the pattern the stream starts.
    pub seed: u64,
}

impl Request {
    /// The request number `sequence` of the flow number `flow`: the seed differs from that of every other one nearby.
    pub fn numbered(mode: Mode, size: u64, flow: usize, sequence: u64) -> Self {
        let step = (flow as u64).wrapping_mul(104_729).wrapping_add(sequence.wrapping_mul(7919));
        Self { mode, size, seed: (step % (PATTERN_LENGTH / 8)) * 8 }
    }

    /// Appends the request as it goes over the wire.
    pub fn write_to(&self, pattern: &Pattern, output: &mut Vec<u8>) {
        let mode: u64 = match self.mode {
            Mode::Send => 1,
            Mode::Receive => 2,
        };
        for word in [REQUEST_MAGIC, mode, self.size, self.seed] {
            output.extend_from_slice(&word.to_be_bytes());
        }
        output.extend_from_slice(pattern.slice(self.seed, 0, REQUEST_LENGTH - 32));
    }

    /// Reads a request back; `None` unless every one of its bytes is right.
    pub fn read_from(pattern: &Pattern, bytes: &[u8]) -> Option<Self> {
        let word = |index: usize| -> Option<u64> {
            let field = bytes.get(index * 8..index * 8 + 8)?;
            Some(u64::from_be_bytes(field.try_into().ok()?))
        };
        let mode = match word(1)? {
            1 => Mode::Send,
            2 => Mode::Receive,
            _ => return None,
        };
        let request = Self { mode, size: word(2)?, seed: word(3)? };
        let right = word(0)? == REQUEST_MAGIC
            && request.seed < PATTERN_LENGTH
            && bytes.get(32..REQUEST_LENGTH) == Some(pattern.slice(request.seed, 0, REQUEST_LENGTH - 32));
        right.then_some(request)
    }

    /// Length of the answer.
    pub fn answer_length(&self) -> u64 {
        match self.mode {
            Mode::Send => self.size,
            Mode::Receive => ACKNOWLEDGEMENT_LENGTH,
        }
    }
}

/// A `ClientHello` of 517 bytes as OpenSSL 3.0 writes it: TLS 1.3 and 1.2, one x25519 share, ALPN, padding.
pub fn client_hello(server_name: &str) -> Vec<u8> {
    const CIPHERS: [u16; 18] = [
        0x1302, 0x1303, 0x1301, 0xc02c, 0xc030, 0x009f, 0xcca9, 0xcca8, 0xccaa, 0xc02b, 0xc02f, 0x009e, 0xc024, 0xc028,
        0x006b, 0xc023, 0xc027, 0x00ff,
    ];
    const SIGNATURES: [u16; 10] = [0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0809, 0x0804, 0x0805, 0x0806, 0x0401];
    let words = |list: &[u16]| -> Vec<u8> { list.iter().flat_map(|word| word.to_be_bytes()).collect() };

    let mut extensions = Vec::new();
    let host = [&[0][..], &with_length_16(server_name.as_bytes())].concat();
    extension(&mut extensions, 0, &with_length_16(&host));
    extension(&mut extensions, 11, &[3, 0, 1, 2]);
    extension(&mut extensions, 10, &with_length_16(&words(&[0x001d, 0x0017, 0x001e, 0x0019, 0x0018])));
    extension(&mut extensions, 35, &[]);
    extension(&mut extensions, 16, &with_length_16(b"\x02h2\x08http/1.1"));
    extension(&mut extensions, 22, &[]);
    extension(&mut extensions, 23, &[]);
    extension(&mut extensions, 13, &with_length_16(&words(&SIGNATURES)));
    extension(&mut extensions, 43, &[4, 3, 4, 3, 3]);
    extension(&mut extensions, 45, &[1, 1]);
    let share = [&[0x00, 0x1d][..], &with_length_16(&arbitrary_bytes(3, 32))].concat();
    extension(&mut extensions, 51, &with_length_16(&share));

    let mut body = vec![3, 3];
    body.extend_from_slice(&arbitrary_bytes(1, 32));
    body.push(32);
    body.extend_from_slice(&arbitrary_bytes(2, 32));
    body.extend_from_slice(&with_length_16(&words(&CIPHERS)));
    body.extend_from_slice(&[1, 0]);
    let before_padding = 5 + 4 + body.len() + 2 + extensions.len() + 4;
    extension(&mut extensions, 21, &vec![0; HELLO_LENGTH.saturating_sub(before_padding)]);
    body.extend_from_slice(&with_length_16(&extensions));

    let handshake = [&[1, 0][..], &with_length_16(&body)].concat();
    [&[22, 3, 1][..], &with_length_16(&handshake)].concat()
}

/// Bytes that look random and are the same each time.
fn arbitrary_bytes(salt: u8, count: u8) -> Vec<u8> {
    (0..count).map(|index| index.wrapping_mul(167).wrapping_add(salt.wrapping_mul(59)) ^ 0xa5).collect()
}

/// The bytes behind their length in two bytes.
fn with_length_16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Appends one extension.
fn extension(output: &mut Vec<u8>, kind: u16, content: &[u8]) {
    output.extend_from_slice(&kind.to_be_bytes());
    output.extend_from_slice(&with_length_16(content));
}
