//! What happened to backends and pools, for people who ask: the last events, with reason and evidence. The log has the
//! same; here they can be asked for.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::api::Event;

/// Events that are kept. Chosen: a rack of backends going down and up again, some hundred kilobytes at most.
const MOST: usize = 1000;

/// The last events, the oldest first.
#[derive(Debug, Default)]
pub struct Events {
    kept: Mutex<Kept>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    next: u64,
}

impl Events {
    /// Keeps an event and gives it its number.
    pub fn add(&self, mut event: Event) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.next += 1;
        event.id = kept.next;
        if kept.events.len() == MOST {
            kept.events.pop_front();
        }
        kept.events.push_back(event);
        drop(kept);
        self.news.notify_waiters();
    }

    /// Takes the place of all that is kept, up to number `last`.
    pub fn replace(&self, events: Vec<Event>, last: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Kept { events: events.into(), next: last };
    }

    /// Waits for the next event; one that comes after the future was enabled is not missed.
    pub fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// The number of the last one.
    pub fn last(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).next
    }

    /// Those after number `after`, of one pool or all, at most `most` of the last ones.
    pub fn since(&self, after: u64, pool: Option<&str>, most: usize) -> Vec<Event> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let meant = kept.events.iter().rev().take_while(|event| event.id > after);
        let mut found: Vec<Event> =
            meant.filter(|event| pool.is_none_or(|pool| event.pool == pool)).take(most).cloned().collect();
        found.reverse();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Cause;

    fn event(pool: &str) -> Event {
        Event {
            id: 0,
            time: jiff::Timestamp::UNIX_EPOCH,
            pool: pool.to_owned(),
            backend: None,
            from: "up".to_owned(),
            to: "down".to_owned(),
            by: Cause::Check,
            reason: String::new(),
            detail: String::new(),
            evidence: Vec::new(),
        }
    }

    #[test]
    fn events_are_numbered_bounded_and_found_by_pool() {
        let events = Events::default();
        for number in 0..MOST + 10 {
            events.add(event(if number % 2 == 0 { "even" } else { "odd" }));
        }
        let ids = |found: Vec<Event>| found.iter().map(|event| event.id).collect::<Vec<_>>();
        assert_eq!(ids(events.since(0, None, usize::MAX)).first(), Some(&11), "the oldest are gone");
        assert_eq!(ids(events.since(1007, None, 10)), [1008, 1009, 1010]);
        assert_eq!(ids(events.since(0, Some("odd"), 2)), [1008, 1010]);
    }
}
