//! The last first-bytes that a listener refused: why, and in which pieces they came, so that an operator sees whether
//! something on the way cuts or splits hellos. No names are kept: the bytes shown end before they begin.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::decide::close::CloseReason;

/// How many a listener keeps.
const MOST: usize = 64;

/// First bytes that were refused, or that did not come in time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefusedHello {
    /// When.
    pub at: jiff::Timestamp,
    /// The session, as in its record.
    pub session: u64,
    /// Who sent them.
    pub client: SocketAddr,
    /// The `end` of the record.
    #[serde(with = "super::heritage::reason")]
    pub end: CloseReason,
    /// Why exactly.
    pub detail: Box<str>,
    /// The alert that a TLS client gets for it.
    pub alert: Option<u8>,
    /// Bytes that came.
    pub bytes: usize,
    /// Reads that brought them.
    pub reads: u16,
    /// Sizes of the first reads.
    pub read_sizes: Box<[u16]>,
    /// The TLS records that they seem to hold, the first ones.
    pub records: Box<[RecordLayout]>,
    /// The first bytes themselves.
    pub first: Box<[u8]>,
}

impl RefusedHello {
    /// Records that are kept.
    pub const MOST_RECORDS: usize = 16;
    /// Bytes that are kept of TLS: headers, version and random of a hello, which end at the 43rd.
    const MOST_OF_TLS: usize = 32;
    /// Bytes that are kept of anything else: enough to tell what it is, and before any user, path or name.
    const MOST_OF_OTHERS: usize = 8;

    /// How many of the first bytes are kept.
    pub fn shown(bytes: &[u8]) -> &[u8] {
        let most = if bytes.first() == Some(&0x16) { Self::MOST_OF_TLS } else { Self::MOST_OF_OTHERS };
        &bytes[..bytes.len().min(most)]
    }
}

/// The header of a TLS record.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RecordLayout {
    /// Content type.
    pub kind: u8,
    /// Version.
    pub version: u16,
    /// Claimed length.
    pub length: u16,
}

/// The last ones, the oldest first.
#[derive(Debug, Default)]
pub struct RefusedRing(Mutex<VecDeque<Arc<RefusedHello>>>);

impl RefusedRing {
    /// Adds one; the oldest gives way. While somebody else adds or reads, it is left out: a worker never waits for it.
    pub fn push(&self, refused: RefusedHello) {
        let refused = Arc::new(refused);
        let Ok(mut ring) = self.0.try_lock() else { return };
        let oldest = if ring.len() == MOST { ring.pop_front() } else { None };
        ring.push_back(refused);
        drop(ring);
        drop(oldest);
    }

    /// Takes the place of all of them.
    pub fn replace(&self, refused: &[RefusedHello]) {
        let refused = refused.iter().cloned().map(Arc::new).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// All of them.
    pub fn list(&self) -> Vec<Arc<RefusedHello>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
