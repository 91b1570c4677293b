//! How often which command came and how it went. Both are of small closed sets, never what a client made up.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Counts by command and result.
#[derive(Debug, Default)]
pub struct Commands(Mutex<BTreeMap<(Text, Text), u64>>);

type Text = Cow<'static, str>;

impl Commands {
    /// Counts one.
    pub fn count(&self, command: &'static str, result: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((command.into(), result.into())).or_default() += 1;
    }

    /// All counts.
    pub fn list(&self) -> Vec<((Text, Text), u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(key, count)| (key.clone(), *count)).collect()
    }

    /// Takes the place of all counts.
    pub fn replace(&self, counts: Vec<(String, String, u64)>) {
        let counts = counts.into_iter().map(|(command, result, count)| ((command.into(), result.into()), count));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts.collect();
    }
}
