//! What every worker has one of: counters that it alone writes, and readers add up. Workers may become more while the
//! process runs; what is here never moves and never goes.

use std::iter::successors;
use std::ops::Index;
use std::sync::OnceLock;

/// One `T` for each worker.
#[derive(Debug)]
pub struct Shards<T> {
    here: Box<[T]>,
    /// Those of workers that came later.
    more: OnceLock<Box<Self>>,
}

impl<T: Default> Shards<T> {
    /// For so many workers. More are made once they are asked for.
    pub fn new(workers: usize) -> Self {
        Self { here: (0..workers).map(|_| T::default()).collect(), more: OnceLock::new() }
    }
}

impl<T> Shards<T> {
    /// All of them, by the worker's number.
    pub fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        successors(Some(self), |shards| shards.more.get().map(|more| &**more)).flat_map(|shards| &shards.here)
    }
}

impl<T: Default> Index<usize> for Shards<T> {
    type Output = T;

    /// That of a worker, which is made where there is none yet.
    fn index(&self, worker: usize) -> &T {
        match worker.checked_sub(self.here.len()) {
            None => &self.here[worker],
            Some(later) => &self.more.get_or_init(|| Box::new(Self::new(later + 1)))[later],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn values(shards: &Shards<AtomicUsize>) -> Vec<usize> {
        shards.iter().map(|shard| shard.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn workers_that_come_later_have_their_own_and_those_before_keep_theirs() {
        let shards = Shards::<AtomicUsize>::new(2);
        let first = &raw const shards[1];
        for worker in [1, 4, 0, 2, 7, 3] {
            shards[worker].store(worker + 10, Ordering::Relaxed);
        }
        assert_eq!(values(&shards), [10, 11, 12, 13, 14, 0, 0, 17]);
        assert_eq!(first, &raw const shards[1], "it does not move");
        assert!(values(&Shards::new(0)).is_empty());
    }

    #[test]
    fn many_may_ask_for_theirs_at_once() {
        let shards = Shards::<AtomicUsize>::new(1);
        std::thread::scope(|scope| {
            for worker in 0..16 {
                let shards = &shards;
                scope.spawn(move || (0..1000).for_each(|_| _ = shards[worker].fetch_add(1, Ordering::Relaxed)));
            }
        });
        assert_eq!(values(&shards), [1000; 16]);
    }
}
