//! Joins handshake bytes over records and segments. Record and segment borders mean nothing (RFC 8446 5.1);
//! every byte is looked at once, memory grows with what arrived, a claim over the limit is refused on its fourth byte.

use super::{FirstBytes, Limits, MAX_RECORD, Refusal, first_bytes};

const HANDSHAKE: u8 = 0x16;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;

/// What [`Joiner::push`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The hello is not whole yet.
    NeedMore,
    /// [`Joiner::message`] is a whole handshake message.
    Complete,
}

/// Collects the handshake bytes of one client.
#[derive(Debug)]
pub struct Joiner {
    limits: Limits,
    header: [u8; RECORD_HEADER],
    header_filled: usize,
    /// Payload bytes of the current record that are still to come.
    left_in_record: usize,
    handshake: Vec<u8>,
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
            handshake: Vec::new(),
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
            if self.is_complete() {
                return Ok(Step::Complete);
            }
        }
        if self.raw > self.limits.raw_bytes() {
            return Err(Refusal::TooManyRawBytes { limit: self.limits.raw_bytes() });
        }
        Ok(Step::NeedMore)
    }

    /// The handshake message: header and body, nothing after it. Valid after [`Step::Complete`].
    pub fn message(&self) -> &[u8] {
        &self.handshake[..self.claimed().unwrap_or(0).min(self.handshake.len())]
    }

    /// Records begun so far.
    pub const fn records(&self) -> u32 {
        self.records
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
            if self.records > 0 || matches!(known[0], 20 | 21 | 23) && known.get(1).is_none_or(|major| *major == 3) {
                return Err(Refusal::RecordType(known[0]));
            }
            return self.not_tls(bytes);
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
        Err(Refusal::NotTls(first_bytes(if bytes.len() > known.len() { bytes } else { known })))
    }

    fn take_payload(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        self.raw += payload.len();
        let before = self.handshake.len();
        // What follows the message in its last record is the server's business; it is forwarded, not kept here.
        let wanted = match self.claimed() {
            Some(claimed) => (claimed - before).min(payload.len()),
            None => payload.len(),
        };
        self.handshake.extend_from_slice(&payload[..wanted]);
        if before == 0 && self.handshake[0] != CLIENT_HELLO {
            return Err(Refusal::HandshakeType(self.handshake[0]));
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
        let header = self.handshake.get(..MESSAGE_HEADER)?;
        Some(MESSAGE_HEADER + usize::from(header[1]) * 65_536 + usize::from(header[2]) * 256 + usize::from(header[3]))
    }

    fn is_complete(&self) -> bool {
        self.claimed().is_some_and(|claimed| self.handshake.len() >= claimed)
    }
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
    let claimed = MESSAGE_HEADER + (u32::from_be_bytes(*message_header) & 0x00ff_ffff) as usize;
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
