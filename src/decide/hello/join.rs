//! Joins handshake bytes over records and segments. Record and segment borders mean nothing (RFC 8446 5.1);
//! every byte is looked at once, a claim over the limit is refused on its fourth byte, and nothing is kept here.

use super::{FirstBytes, Limits, MAX_RECORD, Refusal, guess};

const HANDSHAKE: u8 = 0x16;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;

/// What [`Joiner::push`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The hello is not whole yet.
    NeedMore,
    /// A handshake message is whole; [`joined`] takes it out of the raw bytes.
    Complete,
}

/// Follows the handshake bytes of one client over records, and keeps none of them: whoever reads them keeps the raw
/// bytes anyway, and [`joined`] takes the message out of those once it is whole.
#[derive(Debug)]
pub struct Joiner {
    limits: Limits,
    header: [u8; RECORD_HEADER],
    header_filled: usize,
    /// Payload bytes of the current record that are still to come.
    left_in_record: usize,
    message_header: [u8; MESSAGE_HEADER],
    /// Handshake bytes so far.
    handshake: usize,
    raw: usize,
    records: u32,
}

impl Joiner {
    /// An empty joiner.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            header: [0; RECORD_HEADER],
            header_filled: 0,
            left_in_record: 0,
            message_header: [0; MESSAGE_HEADER],
            handshake: 0,
            raw: 0,
            records: 0,
        }
    }

    /// Takes the bytes that came next. After [`Step::Complete`] or a refusal nothing more must be pushed.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Step, Refusal> {
        while !bytes.is_empty() {
            if self.left_in_record == 0 {
                bytes = self.take_header(bytes)?;
                if self.header_filled < RECORD_HEADER {
                    break;
                }
                self.header_filled = 0;
                self.records += 1;
                self.left_in_record = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                continue;
            }
            let count = self.left_in_record.min(bytes.len());
            self.take_payload(&bytes[..count])?;
            self.left_in_record -= count;
            bytes = &bytes[count..];
            if self.claimed().is_some_and(|claimed| self.handshake >= claimed) {
                return Ok(Step::Complete);
            }
        }
        if self.raw > self.limits.raw_bytes() {
            return Err(Refusal::TooManyRawBytes { limit: self.limits.raw_bytes() });
        }
        Ok(Step::NeedMore)
    }

    /// Records begun so far.
    pub const fn records(&self) -> u32 {
        self.records
    }

    /// How far an incomplete message has come, in words.
    pub fn progress(&self) -> String {
        match self.claimed() {
            Some(claimed) => format!("{} of {claimed} handshake bytes", self.handshake),
            None => format!("{} handshake bytes", self.handshake),
        }
    }

    /// Moves bytes into the record header and checks what is known of it, byte by byte, so that a refusal does
    /// not wait for bytes that may never come.
    fn take_header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let count = (RECORD_HEADER - self.header_filled).min(bytes.len());
        self.header[self.header_filled..self.header_filled + count].copy_from_slice(&bytes[..count]);
        self.header_filled += count;
        self.raw += count;
        let known = &self.header[..self.header_filled];
        if known[0] != HANDSHAKE {
            // Whether it is TLS at all is said by the second byte, however the two are cut.
            let is_other_record = self.records > 0 || matches!(known[..], [20 | 21 | 23, 3, ..]);
            return match known {
                [20 | 21 | 23] if self.records == 0 => Ok(&bytes[count..]),
                _ if is_other_record => Err(Refusal::RecordType(known[0])),
                _ => self.not_tls(bytes),
            };
        }
        if let Some(major) = known.get(1).filter(|major| **major != 3) {
            return Err(Refusal::RecordVersion(*major));
        }
        if known.len() == RECORD_HEADER {
            let length = u16::from_be_bytes([known[3], known[4]]);
            if usize::from(length) > MAX_RECORD {
                return Err(Refusal::RecordTooLong(length));
            }
        }
        Ok(&bytes[count..])
    }

    /// The first byte is not a handshake record: an SSL 2.0 hello, whose sign is in its third and fourth byte,
    /// or something else altogether.
    fn not_tls<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let known = &self.header[..self.header_filled];
        if known[0] & 0x80 != 0 {
            if known.len() < 4 {
                return Ok(&bytes[bytes.len()..]);
            }
            if known[2] == CLIENT_HELLO && matches!(known[3], 0 | 3) {
                return Err(Refusal::SslV2);
            }
            return Err(Refusal::NotTls(FirstBytes::Unknown));
        }
        Err(Refusal::NotTls(guess(if bytes.len() > known.len() { bytes } else { known })))
    }

    fn take_payload(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        self.raw += payload.len();
        for (place, byte) in self.message_header.iter_mut().skip(self.handshake).zip(payload) {
            *place = *byte;
        }
        self.handshake += payload.len();
        if self.message_header[0] != CLIENT_HELLO {
            return Err(Refusal::HandshakeType(self.message_header[0]));
        }
        match self.claimed() {
            Some(claimed) if claimed > self.limits.handshake_bytes => {
                Err(Refusal::TooLarge { claimed, limit: self.limits.handshake_bytes })
            }
            _ => Ok(()),
        }
    }

    /// Length of the message with its header, once the header is there.
    fn claimed(&self) -> Option<usize> {
        (self.handshake >= MESSAGE_HEADER).then(|| message_length(self.message_header))
    }
}

/// Length that the header of a handshake message claims, the header included.
fn message_length(header: [u8; MESSAGE_HEADER]) -> usize {
    MESSAGE_HEADER + (u32::from_be_bytes(header) & 0x00ff_ffff) as usize
}

/// One TLS record as far as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Content type (RFC 8446 5.1); 22 is a handshake record.
    pub kind: u8,
    /// Version in the header; servers ignore all but the major number.
    pub version: u16,
    /// Length that the header claims, in bytes.
    pub length: u16,
    /// Payload, shorter than `length` where the bytes end before it.
    pub payload: &'a [u8],
}

/// The records of raw bytes, as far as whole headers are there; what a header claims is not judged.
pub fn records(mut bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER>()?;
        let length = u16::from_be_bytes([header[3], header[4]]);
        let (payload, after) = rest.split_at(rest.len().min(usize::from(length)));
        bytes = after;
        Some(Record { kind: header[0], version: u16::from_be_bytes([header[1], header[2]]), length, payload })
    })
}

/// The handshake message, header and body and nothing after it, out of raw bytes that a [`Joiner`] called complete.
pub fn joined(raw: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    for record in records(raw) {
        message.extend_from_slice(record.payload);
        if let Some(header) = message.first_chunk::<MESSAGE_HEADER>() {
            let length = message_length(*header);
            if message.len() >= length {
                message.truncate(length);
                break;
            }
            // What was claimed is known to be within the limit, and known to be there.
            message.reserve_exact(length - message.len());
        }
    }
    message
}

/// The handshake message when it lies whole in the first record of `bytes`: the ordinary case, without a copy.
/// `None` means that a [`Joiner`] must look, be it to wait or to refuse.
pub fn single_record(bytes: &[u8], limits: Limits) -> Option<&[u8]> {
    let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER>()?;
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if header[0] != HANDSHAKE || header[1] != 3 || length > MAX_RECORD {
        return None;
    }
    let payload = rest.get(..length)?;
    let message_header = payload.first_chunk::<MESSAGE_HEADER>()?;
    let claimed = message_length(*message_header);
    if message_header[0] != CLIENT_HELLO || claimed > limits.handshake_bytes {
        return None;
    }
    payload.get(..claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { handshake_bytes: 65_536 };

    #[track_caller]
    fn refused(bytes: &[u8], want: Refusal) {
        assert_eq!(Joiner::new(LIMITS).push(bytes), Err(want));
        let mut byte_wise = Joiner::new(LIMITS);
        let found = bytes.iter().find_map(|byte| byte_wise.push(&[*byte]).err());
        match (found, want) {
            // Byte by byte, less is known of what speaks.
            (Some(Refusal::NotTls(_)), Refusal::NotTls(_)) => {}
            _ => assert_eq!(found, Some(want), "byte by byte"),
        }
    }

    #[test]
    fn what_is_not_a_hello_is_refused_at_once() {
        refused(b"GET / HTTP/1.1\r\n", Refusal::NotTls(FirstBytes::Http));
        refused(b"SSH-2.0-x\r\n", Refusal::NotTls(FirstBytes::Ssh));
        refused(&[0x80, 0x2e, 1, 3, 1], Refusal::SslV2);
        refused(&[0x16, 2, 0], Refusal::RecordVersion(2));
        refused(&[0x16, 3, 1, 0x40, 0x01], Refusal::RecordTooLong(16_385));
        refused(&[20, 3, 3, 0, 1, 1], Refusal::RecordType(20));
        refused(&[21, 3, 3, 0, 2, 1, 0], Refusal::RecordType(21));
        refused(&[21, 0x50], Refusal::NotTls(FirstBytes::Unknown));
        refused(&[0x16, 3, 1, 0, 4, 2, 0, 0, 0], Refusal::HandshakeType(2));
        refused(&[0x16, 3, 1, 0, 2, 1, 0, 21, 3, 3, 0, 2], Refusal::RecordType(21));
    }

    #[test]
    fn a_claim_over_the_limit_is_refused_on_its_fourth_byte() {
        let bytes = [0x16, 3, 1, 0, 200, 1, 1, 0, 0];
        let mut joiner = Joiner::new(LIMITS);
        assert_eq!(joiner.push(&bytes[..8]), Ok(Step::NeedMore));
        assert_eq!(joiner.push(&bytes[8..]), Err(Refusal::TooLarge { claimed: 65_540, limit: 65_536 }));
    }

    #[test]
    fn empty_records_end_at_the_raw_limit() {
        let mut joiner = Joiner::new(Limits { handshake_bytes: 100 });
        let refusal = (0..100).find_map(|_| joiner.push(&[0x16, 3, 1, 0, 0]).err());
        assert_eq!(refusal, Some(Refusal::TooManyRawBytes { limit: 200 }));
    }
}
