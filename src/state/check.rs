//! What checks leave behind for people: how each phase went, and the certificate that was shown.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One phase of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckPhase {
    /// What was done, in a word or two.
    pub name: Cow<'static, str>,
    /// How long it took.
    pub took: Duration,
    /// What was sent and what came back, escaped and cut short.
    pub evidence: String,
}

/// A certificate that a backend showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFacts {
    /// When it expires.
    pub not_after: jiff::Timestamp,
    /// Whom it names, as an X.500 name.
    pub subject: String,
    /// Who issued it, likewise.
    pub issuer: String,
}
