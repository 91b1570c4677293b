//! Bounds what a flood of refusals writes into the log: so many records a second, the rest is counted by
//! reason and summed up in one line. What the listeners count, and `sluice refused`, are not bounded by it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::decide::close::CloseReason;
use crate::decide::limits::Bucket;

/// Records of refusals a second, and at once, for each listener and worker. Chosen: far above what the internet's noise brings, and
/// below a megabyte a minute.
const PER_SECOND: u32 = 50;
const BURST: u32 = 500;

/// What the log of one worker still takes, by name of the listener: a flood on one hides nothing of another.
#[derive(Debug, Default)]
pub struct Refusals(RefCell<HashMap<Arc<str>, RefusalLog>>);

impl Refusals {
    /// Whether the record of a refusal is written by itself; otherwise it is counted as left out.
    pub fn take(&self, listener: &Arc<str>, reason: CloseReason, now_ms: u64) -> bool {
        let mut logs = self.0.borrow_mut();
        match logs.get_mut(listener) {
            Some(log) => log.take(reason, now_ms),
            None => logs.entry(Arc::clone(listener)).or_insert_with(|| RefusalLog::new(now_ms)).take(reason, now_ms),
        }
    }

    /// Tells of each listener what was left out since the last time: how many, and by which reasons.
    pub fn sum_up(&self, mut tell: impl FnMut(&str, u64, &str)) {
        for (listener, log) in self.0.borrow_mut().iter_mut() {
            if let Some((count, reasons)) = log.sum_up() {
                tell(listener, count, &reasons);
            }
        }
    }
}

/// What the log still takes of one listener.
#[derive(Debug)]
struct RefusalLog {
    bucket: Bucket,
    left_out: [u32; CloseReason::COUNT],
}

impl RefusalLog {
    /// Nothing left out yet.
    const fn new(now_ms: u64) -> Self {
        Self { bucket: Bucket::full(BURST, now_ms), left_out: [0; CloseReason::COUNT] }
    }

    /// Whether one more record is written; otherwise it is counted as left out.
    fn take(&mut self, reason: CloseReason, now_ms: u64) -> bool {
        let taken = self.bucket.take(PER_SECOND, BURST, now_ms);
        if !taken {
            self.left_out[reason.index()] += 1;
        }
        taken
    }

    /// How many were left out since the last time, and by which reasons.
    fn sum_up(&mut self) -> Option<(u64, String)> {
        let left_out = std::mem::replace(&mut self.left_out, [0; CloseReason::COUNT]);
        let count: u64 = left_out.iter().map(|count| u64::from(*count)).sum();
        let mut reasons = String::new();
        for (reason, count) in CloseReason::ALL.iter().zip(left_out).filter(|(_, count)| *count > 0) {
            let comma = if reasons.is_empty() { "" } else { ", " };
            // Writing into a string cannot fail.
            let _ = write!(reasons, "{comma}{} {count}", reason.name());
        }
        (count > 0).then_some((count, reasons))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_recorded_up_to_its_bound_and_then_summed_up() {
        let mut log = RefusalLog::new(0);
        let taken = (0..2000).filter(|_| log.take(CloseReason::NotTls, 1000)).count();
        assert_eq!(taken, BURST as usize);
        assert!(!log.take(CloseReason::HelloTimeout, 1000));
        assert_eq!(log.sum_up(), Some((1501, "hello_timeout 1, not_tls 1500".to_owned())));
        assert_eq!(log.sum_up(), None);
        assert!(log.take(CloseReason::NotTls, 2000), "a second later there is room again");
    }
}
