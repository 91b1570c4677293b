//! Health of one backend as pure state machines: check results and live failures in, transitions out ([`Checker`]),
//! and ejection by live traffic ([`Ejector`]). They run no checks and know no time; the control plane feeds them and
//! acts on what they say.

mod passive;

pub use passive::{Ejection, Ejector, Ground, Patience, Sign, Spare};

pub mod agent;

/// What is known of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// No check is configured; live traffic alone decides.
    Unchecked,
    /// A check is configured and has not answered yet; takes no traffic before its first success.
    Unknown,
    /// Takes traffic.
    Up,
    /// Takes no traffic.
    Down,
}

/// How many results in a row change the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thresholds {
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that bring it down.
    pub fall: u32,
}

/// The state of one checked backend.
#[derive(Clone, Debug)]
pub struct Checker {
    health: Health,
    /// Results in a row that speak against the state.
    streak: u32,
}

impl Checker {
    /// A backend about which `health` is known.
    pub const fn new(health: Health) -> Self {
        Self { health, streak: 0 }
    }

    /// One about which `streak` results in a row speak against it as well.
    pub const fn resumed(health: Health, streak: u32) -> Self {
        Self { health, streak }
    }

    /// Present state.
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Results in a row that speak against the state.
    pub const fn streak(&self) -> u32 {
        self.streak
    }

    /// Whether results that speak against the state have come in: checks run faster while this holds.
    pub const fn is_changing(&self) -> bool {
        self.streak > 0 || matches!(self.health, Health::Unknown)
    }

    /// Takes a success. Returns the new state when it changed.
    pub fn success(&mut self, thresholds: Thresholds) -> Option<Health> {
        match self.health {
            Health::Unchecked | Health::Up => {
                self.streak = 0;
                None
            }
            // The first proof is enough: at start every backend is unknown, and traffic waits for it.
            Health::Unknown => Some(self.turn(Health::Up)),
            Health::Down => {
                self.streak += 1;
                (self.streak >= thresholds.rise).then(|| self.turn(Health::Up))
            }
        }
    }

    /// Takes `count` failures in a row, of a check or of live traffic. Returns the new state when it changed.
    pub fn failure(&mut self, count: u32, thresholds: Thresholds) -> Option<Health> {
        match self.health {
            Health::Unchecked => None,
            Health::Down => {
                self.streak = 0;
                None
            }
            Health::Unknown => Some(self.turn(Health::Down)),
            Health::Up => {
                self.streak = self.streak.saturating_add(count);
                (self.streak >= thresholds.fall).then(|| self.turn(Health::Down))
            }
        }
    }

    const fn turn(&mut self, health: Health) -> Health {
        self.health = health;
        self.streak = 0;
        health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { rise: 2, fall: 3 };

    /// `+` is a success, `-` a failure; the states after each, as letters.
    #[track_caller]
    fn check(start: Health, results: &str, want: &str) {
        let mut checker = Checker::new(start);
        let states: String = results
            .chars()
            .map(|result| {
                match result {
                    '+' => checker.success(THRESHOLDS),
                    _ => checker.failure(1, THRESHOLDS),
                };
                match checker.health() {
                    Health::Unchecked => '.',
                    Health::Unknown => '?',
                    Health::Up => 'U',
                    Health::Down => 'D',
                }
            })
            .collect();
        assert_eq!(states, want, "{start:?} after {results}");
    }

    #[test]
    fn rise_and_fall_count_results_in_a_row() {
        check(Health::Unknown, "+", "U");
        check(Health::Unknown, "-", "D");
        check(Health::Up, "--+---", "UUUUUD");
        check(Health::Down, "+-++", "DDDU");
        check(Health::Unchecked, "---", "...");
    }

    #[test]
    fn several_live_failures_at_once_count_each() {
        let mut checker = Checker::new(Health::Up);
        assert_eq!(checker.failure(2, THRESHOLDS), None);
        assert!(checker.is_changing());
        assert_eq!(checker.failure(1, THRESHOLDS), Some(Health::Down));
    }

    /// The same from the whole history each time: a state lasts until enough results in a row, all since it began, speak
    /// against it. Also returns how many do.
    fn naive(start: Health, history: &[bool], thresholds: Thresholds) -> (Health, usize) {
        let (mut health, mut began) = (start, 0);
        for now in 1..=history.len() {
            let row = |want| history[began..now].iter().rev().take_while(|result| **result == want).count() as u32;
            let next = match health {
                Health::Unknown if history[now - 1] => Health::Up,
                Health::Unknown => Health::Down,
                Health::Up if row(false) >= thresholds.fall => Health::Down,
                Health::Down if row(true) >= thresholds.rise => Health::Up,
                Health::Up | Health::Down | Health::Unchecked => continue,
            };
            (health, began) = (next, now);
        }
        let against = history[began..].iter().rev().take_while(|result| **result == (health == Health::Down));
        (health, if health == Health::Unchecked { 0 } else { against.count() })
    }

    #[test]
    fn checker_agrees_with_a_naive_one_over_random_histories() {
        for seed in 0..2000_u64 {
            let mut dice = seed;
            let mut roll = |sides: u64| {
                dice = crate::decide::balance::next_random(dice);
                (dice >> 20) % sides
            };
            let start = [Health::Unchecked, Health::Unknown, Health::Up, Health::Down][roll(4) as usize];
            let thresholds = Thresholds { rise: 1 + roll(4) as u32, fall: 1 + roll(4) as u32 };
            let (mut checker, mut history) = (Checker::new(start), Vec::new());
            for step in 0..100 {
                let before = checker.health();
                let turned = if roll(2) == 0 {
                    history.push(true);
                    checker.success(thresholds)
                } else {
                    let count = 1 + roll(3);
                    history.extend((0..count).map(|_| false));
                    checker.failure(count as u32, thresholds)
                };
                let (health, against) = naive(start, &history, thresholds);
                let place = format!("seed {seed}, step {step}, {thresholds:?} from {start:?}: {history:?}");
                assert_eq!(checker.health(), health, "{place}");
                assert_eq!(turned, (before != health).then_some(health), "{place}");
                assert_eq!(checker.is_changing(), against > 0 || health == Health::Unknown, "{place}");
            }
        }
    }
}
