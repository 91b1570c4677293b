//! Places in a pool: how many are taken, exactly and over all workers, and the line of those who wait for one.
//!
//! Who gives a place back looks whether somebody waits; who finds no place joins the line and looks once more. Both do
//! so in one total order (SeqCst), so that one of the two sees the other and nobody waits for a place that is free.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::backend::HealthIgnored;
use super::counters::{Padded, PoolState};
use crate::decide::balance::Tier;

/// A number of places that are taken, never above its limit. The limit is here and not in a generation, so that it is one
/// for all sessions: those that began before a reload ask for places too.
#[derive(Debug, Default)]
pub struct Taken(Padded<Counted>);

#[derive(Debug, Default)]
struct Counted {
    taken: AtomicU32,
    /// 0: none.
    limit: AtomicU32,
}

impl Taken {
    /// How many are taken.
    pub fn count(&self) -> u32 {
        self.0.taken.load(Ordering::SeqCst)
    }

    /// How many may be; `None` without a limit.
    pub fn limit(&self) -> Option<u32> {
        Some(self.0.limit.load(Ordering::SeqCst)).filter(|limit| *limit > 0)
    }

    /// From now on at most this many, at least one; those that are taken stay so.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.0.limit.store(limit.unwrap_or(0), Ordering::SeqCst);
    }

    /// Whether none is left.
    pub fn is_full(&self) -> bool {
        self.limit().is_some_and(|limit| self.count() >= limit)
    }

    /// Takes one, if fewer than the limit and fewer than `cap` are taken. Says whether it did.
    pub fn take(&self, cap: Option<u32>) -> bool {
        let Some(most) = [cap, self.limit()].into_iter().flatten().min() else {
            self.0.taken.fetch_add(1, Ordering::SeqCst);
            return true;
        };
        let next = |taken: u32| (taken < most).then_some(taken + 1);
        self.0.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
    }

    /// Takes one, whatever the limit: it is taken already, by a session that another process began.
    pub fn take_over(&self) {
        self.0.taken.fetch_add(1, Ordering::SeqCst);
    }

    /// Gives one back.
    pub fn give_back(&self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Places of a pool. They survive a reload with the pool's counters.
#[derive(Debug, Default)]
pub struct Places {
    /// Connections of the pool.
    pub taken: Taken,
    /// What takes connections.
    pub weights: Weights,
    /// Whether so little is healthy that health is ignored.
    pub panic: AtomicBool,
    /// How many wait.
    waiting: AtomicU32,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// By the order of arrival.
    calls: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

impl Places {
    /// Whether health is ignored now.
    pub fn health_ignored(&self) -> HealthIgnored {
        if self.panic.load(Ordering::Relaxed) { HealthIgnored::Yes } else { HealthIgnored::No }
    }

    /// How many wait for a place.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Calls the first in the line, if there is one: a place may be free.
    pub fn call(&self) {
        if self.waiting() > 0
            && let Some((_, first)) = self.lock().calls.first_key_value()
        {
            first.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Weight that takes connections, of each tier.
#[derive(Debug)]
pub struct Weights([AtomicU64; Tier::COUNT]);

impl Default for Weights {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; _])
    }
}

impl Weights {
    /// That of a tier.
    pub fn of(&self, tier: Tier) -> u64 {
        self.0[tier.position()].load(Ordering::Relaxed)
    }

    /// Says what they are.
    pub fn set(&self, weights: &[u64; Tier::COUNT]) {
        for (place, weight) in self.0.iter().zip(weights) {
            place.store(*weight, Ordering::Relaxed);
        }
    }

    /// That of the first tier that has any.
    pub fn in_use(&self) -> u64 {
        self.0.iter().map(|weight| weight.load(Ordering::Relaxed)).find(|weight| *weight > 0).unwrap_or(0)
    }
}

/// A turn in the line. Dropping it leaves the line and calls the next one.
#[derive(Debug)]
pub struct Turn {
    pool: Arc<PoolState>,
    number: u64,
    call: Arc<Notify>,
}

impl Turn {
    /// Joins the end of the pool's line, or the place that it had in another process.
    pub fn join(pool: &Arc<PoolState>, number: Option<u64>) -> Self {
        let places = &pool.places;
        let call = Arc::new(Notify::new());
        let mut line = places.lock();
        let number = number.filter(|number| !line.calls.contains_key(number)).unwrap_or(line.next);
        line.next = line.next.max(number + 1);
        line.calls.insert(number, Arc::clone(&call));
        places.waiting.fetch_add(1, Ordering::SeqCst);
        drop(line);
        Self { pool: Arc::clone(pool), number, call }
    }

    /// Where it stands: lower numbers come first.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Whether it is this one's turn.
    pub fn is_first(&self) -> bool {
        self.pool.places.lock().calls.first_key_value().is_some_and(|(number, _)| *number == self.number)
    }

    /// Waits for a call. Cancel safe: a call that comes meanwhile is kept.
    pub async fn called(&self) {
        self.call.notified().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let places = &self.pool.places;
        let mut line = places.lock();
        line.calls.remove(&self.number);
        places.waiting.fetch_sub(1, Ordering::SeqCst);
        drop(line);
        // It may have been called and not have come, or several places may be free.
        places.call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_limit_over_many_threads() {
        let taken = Taken::default();
        taken.set_limit(Some(3));
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if taken.take(Some(5)) {
                            most.fetch_max(taken.count(), Ordering::Relaxed);
                            taken.give_back();
                        }
                    }
                });
            }
        });
        assert_eq!(taken.count(), 0);
        assert!((1..=3).contains(&most.load(Ordering::Relaxed)), "{most:?}");
    }

    #[test]
    fn smaller_of_limit_and_cap_counts_and_a_limit_may_change() {
        let taken = Taken::default();
        assert!((0..9).all(|_| taken.take(None)) && !taken.is_full());
        assert!(!taken.take(Some(9)) && taken.take(Some(10)));
        taken.set_limit(Some(4));
        assert!(taken.is_full() && !taken.take(None) && !taken.take(Some(20)));
        (0..7).for_each(|_| taken.give_back());
        assert!(!taken.is_full() && !taken.take(Some(3)) && taken.take(None) && taken.is_full());
        taken.set_limit(None);
        assert!(!taken.is_full() && taken.take(None));
        assert_eq!((taken.count(), taken.limit()), (5, None));
    }

    #[tokio::test]
    async fn the_line_is_served_in_order_and_who_leaves_passes_the_call_on() {
        let pool = Arc::new(PoolState::new("p".into(), 1));
        let places = &pool.places;
        let join = || Turn::join(&pool, None);
        let (first, second, third) = (join(), join(), join());
        assert_eq!(places.waiting(), 3);
        assert!(first.is_first() && !second.is_first());
        places.call();
        first.called().await;
        drop(first);
        second.called().await;
        assert!(second.is_first());
        drop(third);
        drop(second);
        assert_eq!(places.waiting(), 0);
        // Turns of another process, in whatever order they come: those who come here stand behind them.
        let (seventh, sixth) = (Turn::join(&pool, Some(70)), Turn::join(&pool, Some(60)));
        assert!(sixth.is_first() && !seventh.is_first());
        let (last, same) = (join(), Turn::join(&pool, Some(60)));
        assert_eq!((last.number(), same.number()), (71, 72), "a number that is taken is given to nobody else");
    }
}
