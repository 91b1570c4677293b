//! What is written to a backend first: what we say ourselves, a PROXY header or PostgreSQL's request for TLS, and the client's
//! bytes as they came.

use super::inspect::Inspected;
use crate::decide::hello::postgres::SSL_REQUEST;

/// What is written to a backend first.
#[derive(Clone, Debug)]
pub struct FirstWrite {
    /// Ours, and the client's bytes behind it unless the backend must answer first.
    pub bytes: Vec<u8>,
    /// How many of them are ours.
    pub ours: usize,
    /// The client's bytes that wait for the backend's `S`.
    pub after_answer: Option<Vec<u8>>,
}

impl FirstWrite {
    /// For what was read.
    pub fn of(inspected: Inspected) -> Self {
        let Inspected { bytes: client, mut header, asks_for_tls, .. } = inspected;
        if asks_for_tls {
            header.extend_from_slice(&SSL_REQUEST);
            return Self { ours: header.len(), bytes: header, after_answer: Some(client) };
        }
        let ours = header.len();
        let bytes = if ours == 0 {
            client
        } else {
            header.extend_from_slice(&client);
            header
        };
        Self { bytes, ours, after_answer: None }
    }

    /// Whether the client has spoken: otherwise the server may be to speak first.
    pub fn client_speaks(&self) -> bool {
        self.after_answer.is_some() || self.bytes.len() > self.ours
    }

    /// What the backend was not given yet, after it took `sent` of the client's bytes.
    pub fn into_unsent(self, sent: usize) -> Vec<u8> {
        let (mut bytes, taken) = match self.after_answer {
            Some(client) => (client, sent),
            None => (self.bytes, self.ours + sent),
        };
        bytes.drain(..taken);
        bytes
    }
}
