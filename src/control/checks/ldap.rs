//! The check `ldap`: an anonymous bind and its result (RFC 4511). The answer is BER, read by asn1-rs; directories of
//! Microsoft write lengths in their long form.

use asn1_rs::{Any, Class, FromBer};

use super::encryption::{self, Opener};
use super::evidence::{excerpt, harmless};
use super::{Failed, Passed, Talk};
use crate::config::Ldap;

/// Message 1: bind with version 3, no name, and an empty password.
const BIND: &[u8] = b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00";
/// Message 2: unbind.
const UNBIND: &[u8] = b"\x30\x05\x02\x01\x02\x42\x00";
/// Tags of operations (RFC 4511 4.2.2 and 4.12).
const BIND_RESPONSE: u32 = 1;
const EXTENDED_RESPONSE: u32 = 24;

/// Nothing but how to connect.
pub struct Dialogue {
    opener: Opener,
}

impl Dialogue {
    pub fn new(settings: &Ldap) -> Result<Self, String> {
        Ok(Self { opener: Opener::new(&settings.encryption)? })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let mut stream = self.opener.open(talk).await?;
        talk.phase("bind");
        talk.send(&mut stream, BIND).await?;
        let mut bytes = Vec::new();
        talk.receive(&mut stream, &mut bytes, |bytes| read(bytes).is_some()).await?;
        encryption::end(talk, stream, UNBIND).await;
        let address = talk.target.address;
        match read(&bytes) {
            Some(Answer::Bound(0)) => Ok(Passed::new("bound", format!("{address} took the bind"))),
            Some(Answer::Bound(code @ (8 | 48 | 53))) => {
                // It wants a stronger way or nobody without a name: its answer is its own, and it works.
                Ok(Passed::new("refused_user", format!("{address} is up and takes no anonymous bind (result {code})")))
            }
            Some(Answer::Bound(code)) => {
                let reason = if matches!(code, 51 | 52) { "not_now" } else { "error" };
                Err(Failed::new(reason, format!("{address} answered the bind with result {code}{}", name(code))))
            }
            Some(Answer::Disconnects(code)) => {
                Err(Failed::new("not_now", format!("{address} ends the connection with result {code}{}", name(code))))
            }
            Some(Answer::Other) | None => {
                Err(Failed::new("not_ldap", format!("{address} answered with {}", harmless(&excerpt(&bytes)))))
            }
        }
    }
}

/// Names of results that an operator may meet here (RFC 4511 4.1.9).
const fn name(code: u32) -> &'static str {
    match code {
        1 => " (operationsError)",
        2 => " (protocolError)",
        7 => " (authMethodNotSupported)",
        13 => " (confidentialityRequired)",
        49 => " (invalidCredentials)",
        50 => " (insufficientAccessRights)",
        51 => " (busy)",
        52 => " (unavailable)",
        80 => " (other)",
        _ => "",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The result of the bind.
    Bound(u32),
    /// The result that a notice of disconnection gives.
    Disconnects(u32),
    /// Not a message that can come here.
    Other,
}

/// Reads the first message; `None`: more has to come.
fn read(bytes: &[u8]) -> Option<Answer> {
    // What cannot become a message is seen at its first byte.
    if *bytes.first()? != 0x30 {
        return Some(Answer::Other);
    }
    match Any::from_ber(bytes) {
        Ok((_, message)) => Some(operation(message.data).unwrap_or(Answer::Other)),
        Err(asn1_rs::Err::Incomplete(_)) => None,
        Err(_) => Some(Answer::Other),
    }
}

/// The operation in a message: after its number, with the result first.
fn operation(message: &[u8]) -> Option<Answer> {
    let (rest, number) = Any::from_ber(message).ok()?;
    let (_, operation) = Any::from_ber(rest).ok()?;
    let (_, result) = Any::from_ber(operation.data).ok()?;
    if number.class() != Class::Universal || number.tag().0 != 2 || operation.class() != Class::Application {
        return None;
    }
    let is_enumerated = result.class() == Class::Universal && result.tag().0 == 10 && result.header.is_primitive();
    if !operation.header.is_constructed() || !is_enumerated || !(1..=4).contains(&result.data.len()) {
        return None;
    }
    let code = result.data.iter().fold(0, |code: u32, byte| code << 8 | u32::from(*byte));
    match (operation.tag().0, number.data) {
        (BIND_RESPONSE, [.., 1]) => Some(Answer::Bound(code)),
        (EXTENDED_RESPONSE, [.., 0]) => Some(Answer::Disconnects(code)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::mutants;
    use super::*;

    const BOUND: &[u8] = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00";
    /// The same as Microsoft's directories write it.
    const LONG: &[u8] = b"\x30\x84\x00\x00\x00\x10\x02\x01\x01\x61\x84\x00\x00\x00\x07\x0a\x01\x00\x04\x00\x04\x00";

    #[track_caller]
    fn check(bytes: &[u8], want: Answer) {
        let decided = (0..=bytes.len()).find_map(|cut| read(&bytes[..cut]).map(|answer| (cut, answer)));
        let (cut, answer) = decided.expect("a decision");
        assert_eq!(answer, want, "{bytes:02x?}, decided at {cut}");
        assert!(want == Answer::Other || cut == bytes.len(), "whole at its end only, not at {cut}");
    }

    #[test]
    fn every_prefix_waits_or_is_sure() {
        check(BOUND, Answer::Bound(0));
        check(LONG, Answer::Bound(0));
        check(b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x35\x04\x00\x04\x00", Answer::Bound(53));
        check(b"\x30\x0c\x02\x01\x00\x78\x07\x0a\x01\x34\x04\x00\x04\x00", Answer::Disconnects(52));
        check(b"\x30\x0c\x02\x01\x02\x61\x07\x0a\x01\x00\x04\x00\x04\x00", Answer::Other);
        check(b"\x30\x0c\x02\x01\x01\x64\x07\x0a\x01\x00\x04\x00\x04\x00", Answer::Other);
        check(b"\x30\x0c\x02\x01\x01\x41\x07\x0a\x01\x00\x04\x00\x04\x00", Answer::Other);
        check(b"\x30\x05\x02\x01\x01\x61\x00", Answer::Other);
        check(b"\x30\x00", Answer::Other);
        check(b"HTTP/1.1", Answer::Other);
        check(b"\x16\x03", Answer::Other);
        assert_eq!(read(b"\x30\x84\x7f\xff\xff\xff"), None, "the bound on answers ends that");
    }

    #[test]
    fn mutants_are_bound_only_with_a_bind_response() {
        for answer in [BOUND, LONG] {
            mutants::each(answer, |mutant| {
                if matches!(read(mutant), Some(Answer::Bound(_))) {
                    assert!(mutant[0] == 0x30 && mutant.contains(&0x61) && mutant.contains(&0x0a), "{mutant:02x?}");
                }
            });
        }
    }
}
