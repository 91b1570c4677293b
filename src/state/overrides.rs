//! What operators said of a backend, for good or for a while. A word for a while covers the lasting one, which counts again
//! afterwards. No clock: times are arguments.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What an operator said of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// Health decides, whatever the agent asks for.
    Ready,
    /// No new connections; sessions run on.
    #[serde(rename = "drain")]
    Draining,
    /// No new connections.
    #[serde(rename = "disable")]
    Disabled,
}

impl Admin {
    /// Name as it stands in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "drain",
            Self::Disabled => "disable",
        }
    }
}

/// One word, and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word<T> {
    /// What was said.
    pub said: T,
    /// By which user.
    pub by_uid: u32,
    /// When.
    pub since: Timestamp,
    /// When it undoes itself.
    pub until: Option<Timestamp>,
}

/// The words about one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words<T> {
    lasting: Option<Word<T>>,
    passing: Option<Word<T>>,
}

impl<T> Default for Words<T> {
    fn default() -> Self {
        Self { lasting: None, passing: None }
    }
}

impl<T: Copy> Words<T> {
    /// The word that counts.
    pub fn in_force(&self) -> Option<Word<T>> {
        self.passing.or(self.lasting)
    }

    /// What all of them say.
    pub fn all(&self) -> impl Iterator<Item = T> {
        [self.lasting, self.passing].into_iter().flatten().map(|word| word.said)
    }

    /// Takes a word. A lasting one ends all others; one for a while covers the lasting one.
    pub fn say(&mut self, word: Word<T>) {
        if word.until.is_some() {
            self.passing = Some(word);
        } else {
            *self = Self { lasting: Some(word), passing: None };
        }
    }

    /// Ends all of them.
    pub fn take_back(&mut self) {
        *self = Self::default();
    }

    /// Ends the one whose time is over. Says whether there was one.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        self.passing.take_if(|word| word.until.is_some_and(|until| until <= now)).is_some()
    }

    /// When that will be.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.passing.and_then(|word| word.until)
    }
}

/// All words about one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// Whether it takes connections.
    #[serde(default)]
    pub admin: Words<Admin>,
    /// Its weight.
    #[serde(default)]
    pub weight: Words<u32>,
}

impl Overrides {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Ends the words whose time is over. Says whether there were any.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        // Both, whatever the first one says.
        self.admin.expire(now) | self.weight.expire(now)
    }

    /// When the next one is over.
    pub fn next_end(&self) -> Option<Timestamp> {
        [self.admin.next_end(), self.weight.next_end()].into_iter().flatten().min()
    }
}

/// How the sessions of a drained backend end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrainPlan {
    /// When those that are left are ended.
    pub kill_at: Timestamp,
    /// So many a second; `None`: at once.
    pub rate: Option<f64>,
    /// Whether that has begun.
    pub has_begun: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn word(said: u32, until: Option<i64>) -> Word<u32> {
        Word { said, by_uid: 7, since: at(0), until: until.map(at) }
    }

    type Step = (Option<(u32, Option<i64>)>, i64);

    /// The words in turn: `(said, until)`, or `None` for the passage of time to the given second; what is in force after each.
    #[track_caller]
    fn check(steps: &[Step], want: &[Option<u32>]) {
        let mut words = Words::default();
        let seen: Vec<Option<u32>> = steps
            .iter()
            .map(|(said, now)| {
                match said {
                    Some((said, until)) => words.say(word(*said, *until)),
                    None => drop(words.expire(at(*now))),
                }
                words.in_force().map(|word| word.said)
            })
            .collect();
        assert_eq!(seen, want, "{steps:?}");
    }

    #[test]
    fn a_word_for_a_while_gives_way_to_the_lasting_one() {
        check(&[(Some((5, Some(10))), 0), (None, 9), (None, 10)], &[Some(5), Some(5), None]);
        check(&[(Some((1, None)), 0), (Some((5, Some(10))), 0), (None, 10)], &[Some(1), Some(5), Some(1)]);
        check(
            &[(Some((1, None)), 0), (Some((5, Some(10))), 0), (Some((6, Some(20))), 0), (None, 10), (None, 20)],
            &[Some(1), Some(5), Some(6), Some(6), Some(1)],
        );
        check(&[(Some((5, Some(10))), 0), (Some((2, None)), 0), (None, 99)], &[Some(5), Some(2), Some(2)]);
    }

    #[test]
    fn both_kinds_of_words_end_at_their_own_time() {
        let mut all = Overrides::default();
        assert!(all.is_empty() && all.next_end().is_none());
        all.weight.say(word(5, Some(10)));
        all.admin.say(Word { said: Admin::Draining, by_uid: 7, since: at(0), until: Some(at(20)) });
        assert_eq!(all.next_end(), Some(at(10)));
        assert!(all.expire(at(10)) && all.weight.in_force().is_none() && all.admin.in_force().is_some());
        assert!(!all.expire(at(19)) && all.expire(at(30)) && all.is_empty());
    }
}
