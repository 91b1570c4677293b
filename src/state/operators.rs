//! What operators said that stands in no file and belongs to no backend of it: backends that they added, and words about
//! backends that are not there at present. What they said of a backend that is there is in its `Vitals`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::names::Resolution;
use super::overrides::Overrides;

/// How long words about a backend that is not there are kept: a file that is put right, a name that answers again. Chosen;
/// after that, who comes by the same name is somebody else.
const KEPT: Duration = Duration::from_hours(24);
/// The most backends about which words are kept while they are away.
const MOST_ABSENT: usize = 4096;

/// A backend that an operator added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addition {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its weight.
    pub weight: u32,
    /// Who added it.
    pub by_uid: u32,
    /// When.
    pub at: Timestamp,
}

/// Words about a backend that is not there.
#[derive(Clone, Copy, Debug)]
pub struct Absent {
    /// The words.
    pub words: Overrides,
    /// Since when it is away.
    pub since: Timestamp,
}

/// What operators said beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct Operators {
    /// Backends that they added, by pool and name.
    pub added: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Addition>>,
    /// What they said of those that are away, by `POOL/BACKEND`.
    pub absent: BTreeMap<String, Absent>,
}

/// What makes a snapshot besides the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Supplement<'a> {
    /// Where names lead.
    pub names: &'a Resolution,
    /// What operators said.
    pub operators: &'a Operators,
}

impl Operators {
    /// An addition by its names.
    pub fn addition(&self, pool: &str, name: &str) -> Option<&Addition> {
        self.added.get(pool)?.get(name)
    }

    /// All additions of a pool.
    pub fn added_to(&self, pool: &str) -> impl Iterator<Item = (&Arc<str>, &Addition)> {
        self.added.get(pool).into_iter().flatten()
    }

    /// Keeps words about a backend that went away, and forgets those that are too old or too many.
    pub fn remember(&mut self, path: String, words: Overrides, now: Timestamp) {
        self.absent.insert(path, Absent { words, since: now });
        self.forget_old(now);
    }

    /// Forgets what has no time left, and the oldest beyond the most that is kept.
    pub fn forget_old(&mut self, now: Timestamp) {
        self.absent.retain(|path, absent| {
            absent.words.expire(now);
            let is_young = now.duration_since(absent.since).unsigned_abs() < KEPT;
            if !is_young {
                tracing::info!(backend = path, "operators' words are forgotten: their backend has been away for a day");
            }
            is_young && !absent.words.is_empty()
        });
        while self.absent.len() > MOST_ABSENT {
            let oldest = self.absent.iter().min_by_key(|(_, absent)| absent.since).map(|(path, _)| path.clone());
            oldest.map(|path| self.absent.remove(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::overrides::Word;
    use super::*;

    fn words(until: Option<i64>) -> Overrides {
        let mut words = Overrides::default();
        let at = |second| Timestamp::from_second(second).expect("a time");
        words.weight.say(Word { said: 1, by_uid: 0, since: at(0), until: until.map(at) });
        words
    }

    #[test]
    fn words_of_the_absent_are_kept_for_a_day_and_not_too_many() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let mut operators = Operators::default();
        operators.remember("a/1".to_owned(), words(None), at(0));
        operators.remember("a/2".to_owned(), words(Some(100)), at(50));
        assert_eq!(operators.absent.len(), 2);
        operators.forget_old(at(100));
        assert_eq!(operators.absent.keys().collect::<Vec<_>>(), ["a/1"], "a time that is over");
        operators.forget_old(at(86_400));
        assert!(operators.absent.is_empty(), "a day is over");
        for number in 0..MOST_ABSENT + 3 {
            operators.remember(format!("a/{number}"), words(None), at(number as i64));
        }
        assert_eq!(operators.absent.len(), MOST_ABSENT);
        assert!(!operators.absent.contains_key("a/2") && operators.absent.contains_key("a/3"), "the oldest go");
    }
}
