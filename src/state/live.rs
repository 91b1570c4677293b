//! What sessions see of a backend, on the way from the workers to the control plane. A success costs a worker one read
//! of a shared line; only failures, and the success that ends a row of them, are handed over.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::decide::health::Sign;

/// Signs that wait for the control plane at most. Chosen: more than any sensible `failures`; it looks within microseconds.
const MOST: usize = 64;

/// A sign and what was seen.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The sign.
    pub sign: Sign,
    /// In a sentence; empty for a success.
    pub detail: String,
}

/// Signs of one backend.
#[derive(Debug, Default)]
pub struct LiveSigns {
    /// Not 0 while the next success is news.
    listening: AtomicU32,
    seen: Mutex<Vec<Observation>>,
    news: Notify,
}

impl LiveSigns {
    /// A session was served as it should be.
    pub fn well(&self) {
        // Read first: the line is shared by all workers and usually clean.
        if self.listening.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut seen = self.lock();
        // Under the lock: otherwise a failure that comes meanwhile could stay, with nobody listening for the next success.
        self.listening.store(0, Ordering::Relaxed);
        // Nothing before it counts any more.
        seen.clear();
        seen.push(Observation { sign: Sign::Well, detail: String::new() });
        drop(seen);
        self.news.notify_one();
    }

    /// A session was not. `detail` says what was seen, in a sentence.
    pub fn report(&self, sign: Sign, detail: &str) {
        let mut seen = self.lock();
        self.listening.store(1, Ordering::Relaxed);
        if seen.len() < MOST {
            seen.push(Observation { sign, detail: detail.to_owned() });
        }
        drop(seen);
        self.news.notify_one();
    }

    /// Asks to be told of the next success.
    pub fn listen_for_success(&self) {
        self.listening.store(1, Ordering::Relaxed);
    }

    /// Waits for signs. Cancel safe.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Takes what was seen since the last time, in order.
    pub fn take(&self) -> Vec<Observation> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Observation>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(live: &LiveSigns) -> Vec<Sign> {
        live.take().into_iter().map(|seen| seen.sign).collect()
    }

    #[test]
    fn a_success_is_news_only_after_a_failure_or_when_asked_for() {
        let live = LiveSigns::default();
        live.well();
        assert_eq!(signs(&live), []);
        live.report(Sign::Failure, "refused");
        assert_eq!(signs(&live), [Sign::Failure]);
        live.well();
        live.well();
        assert_eq!(signs(&live), [Sign::Well], "once");
        live.listen_for_success();
        live.well();
        assert_eq!(signs(&live), [Sign::Well]);
    }

    #[test]
    fn a_flood_is_bounded_and_does_not_hide_a_success() {
        let live = LiveSigns::default();
        for client in 0..1000 {
            live.report(Sign::Refused { client }, "alert");
        }
        assert_eq!(live.lock().len(), MOST);
        live.well();
        assert_eq!(signs(&live), [Sign::Well]);
    }
}
