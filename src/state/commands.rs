//! How often which command came and how it went. Both are of small closed sets, never what a client made up.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Counts by command and result.
#[derive(Debug, Default)]
pub struct Commands(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl Commands {
    /// Counts one.
    pub fn count(&self, command: &'static str, result: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((command, result)).or_default() += 1;
    }

    /// All counts.
    pub fn list(&self) -> Vec<((&'static str, &'static str), u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(key, count)| (*key, *count)).collect()
    }
}
