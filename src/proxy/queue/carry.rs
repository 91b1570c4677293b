//! A session in the line on its way to another process: the client's socket, what it has said, its turn.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::proxy::client::{Client, RefusalLanguage};
use crate::proxy::first_write::FirstWrite;

/// All that a session in the line needs to go on elsewhere, beside what is known of it.
#[derive(Debug)]
pub struct Ticket {
    /// The client's socket.
    pub client: OwnedFd,
    /// How a refusal is told.
    pub language: RefusalLanguage,
    /// What a backend is given first.
    pub first: FirstWrite,
    /// Hash of the affinity key.
    pub key: Option<u64>,
    /// Until when it waits, on the coarse clock.
    pub until_ms: u64,
    /// Its number in the line.
    pub turn: u64,
}

/// All but the socket and the bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct TicketCopy {
    language: Language,
    /// Bytes of the first write; how many of them are ours; and those behind them that wait for an answer.
    bytes: usize,
    ours: usize,
    after_answer: Option<usize>,
    key: Option<u64>,
    until_ms: u64,
    turn: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Language {
    Tls,
    Postgres,
    Unknown,
}

impl Ticket {
    /// Of a client that waits; its socket is duplicated.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn of(client: &Client, first: &FirstWrite, key: Option<u64>, (until_ms, turn): (u64, u64)) -> io::Result<Self> {
        let (first, language) = (first.clone(), client.language);
        Ok(Self { client: client.duplicate()?, language, first, key, until_ms, turn })
    }

    /// Copies it; its bytes go behind `bytes`, its socket behind `descriptors`.
    pub fn copy_to<'t>(&'t self, bytes: &mut Vec<u8>, descriptors: &mut Vec<BorrowedFd<'t>>) -> TicketCopy {
        let FirstWrite { bytes: first, ours, after_answer } = &self.first;
        bytes.extend_from_slice(first);
        bytes.extend(after_answer.iter().flatten());
        descriptors.push(self.client.as_fd());
        TicketCopy {
            language: match self.language {
                RefusalLanguage::Tls => Language::Tls,
                RefusalLanguage::Postgres => Language::Postgres,
                RefusalLanguage::Unknown => Language::Unknown,
            },
            bytes: first.len(),
            ours: *ours,
            after_answer: after_answer.as_ref().map(Vec::len),
            key: self.key,
            until_ms: self.until_ms,
            turn: self.turn,
        }
    }

    /// Makes it again from the copy, the first of `bytes` and the next of `descriptors`.
    ///
    /// # Errors
    /// `InvalidData` when some are missing.
    pub fn from_copy(
        copy: &TicketCopy,
        bytes: &mut &[u8],
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut next = |count: usize| {
            let (taken, rest) = bytes.split_at_checked(count).ok_or_else(invalid)?;
            *bytes = rest;
            io::Result::Ok(taken.to_vec())
        };
        let (first, after_answer) = (next(copy.bytes)?, copy.after_answer.map(&mut next).transpose()?);
        if copy.ours > first.len() {
            return Err(invalid());
        }
        Ok(Self {
            client: descriptors.next().ok_or_else(invalid)?,
            language: match copy.language {
                Language::Tls => RefusalLanguage::Tls,
                Language::Postgres => RefusalLanguage::Postgres,
                Language::Unknown => RefusalLanguage::Unknown,
            },
            first: FirstWrite { bytes: first, ours: copy.ours, after_answer },
            key: copy.key,
            until_ms: copy.until_ms,
            turn: copy.turn,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(bytes: &[u8], ours: usize, after_answer: Option<&[u8]>) -> Ticket {
        let client = std::fs::File::open("/dev/null").expect("/dev/null").into();
        let first = FirstWrite { bytes: bytes.to_vec(), ours, after_answer: after_answer.map(<[u8]>::to_vec) };
        Ticket { client, language: RefusalLanguage::Postgres, first, key: Some(7), until_ms: 99, turn: 5 }
    }

    fn descriptor() -> impl Iterator<Item = OwnedFd> {
        std::iter::once_with(|| std::fs::File::open("/dev/null").expect("/dev/null").into())
    }

    #[test]
    fn a_ticket_comes_back_as_it_was_and_none_from_less() {
        for (first, ours, after) in [(&b""[..], 0, None), (b"header hello", 7, None), (b"ask", 3, Some(&b"hello"[..]))]
        {
            let given = ticket(first, ours, after);
            let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
            let copy = given.copy_to(&mut bytes, &mut descriptors);
            assert_eq!(descriptors.len(), 1);
            let copy = serde_json::from_str(&serde_json::to_string(&copy).expect("JSON")).expect("a copy");
            bytes.extend_from_slice(b"of the next");
            let mut rest = &bytes[..];
            let back = Ticket::from_copy(&copy, &mut rest, &mut descriptor()).expect("a ticket");
            assert_eq!(rest, b"of the next");
            let seen = |ticket: &Ticket| {
                let FirstWrite { bytes, ours, after_answer } = ticket.first.clone();
                (bytes, ours, after_answer, ticket.language, ticket.key, ticket.until_ms, ticket.turn)
            };
            assert_eq!(seen(&back), seen(&given));
            let whole = bytes.len() - rest.len();
            for length in 0..whole {
                assert!(Ticket::from_copy(&copy, &mut &bytes[..length], &mut descriptor()).is_err(), "{length}");
            }
            assert!(Ticket::from_copy(&copy, &mut &bytes[..whole], &mut std::iter::empty()).is_err());
        }
    }

    #[test]
    fn numbers_that_are_changed_are_refused_or_within_what_came() {
        let given = ticket(b"header hello", 7, Some(b"more"));
        let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
        let text = serde_json::to_string(&given.copy_to(&mut bytes, &mut descriptors)).expect("JSON");
        let (mut dice, mut good) = (3_u64, 0);
        for _ in 0..20_000 {
            let mut mutant = text.clone().into_bytes();
            dice = crate::decide::balance::next_random(dice);
            let place = dice as usize % mutant.len();
            mutant[place] = b'0' + ((dice >> 32) % 10) as u8;
            let Ok(copy) = serde_json::from_slice(&mutant) else { continue };
            if let Ok(ticket) = Ticket::from_copy(&copy, &mut &bytes[..], &mut descriptor()) {
                assert!(ticket.first.ours <= ticket.first.bytes.len());
                let _ = ticket.first.clone().into_unsent(0);
                good += 1;
            }
        }
        assert!(good > 100, "{good}");
    }
}
