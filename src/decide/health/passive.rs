//! What live traffic shows of a backend, as a pure state machine: signs in, ejections out. An ejected backend takes no
//! new connections for a while, longer each time in a row. It watches no traffic and knows no clock.
//!
//! A client can make a server turn its own hello away, by an alert or by closing. Such a sign counts only together
//! with those of other clients, and once an ejection rested on them although the backend was well, they never count again.

/// Different clients whose refused hellos are needed at least: two may come from the same broken installation.
const LEAST_REFUSED: usize = 3;
/// Different refused clients that are remembered; `failures` above it are met by as many.
const MOST_REFUSED: usize = 16;
/// An ejection is never longer than this many times the first one.
const LONGEST: u32 = 10;

/// What one connection of live traffic shows of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answered as a server does.
    Well,
    /// It failed, whatever the client sent: no connection. Counts like a failed check as well.
    Failure,
    /// It took a hello and said nothing for `first-byte-timeout`. Whether it is down is for its checks to say.
    Silence,
    /// It turned this client's hello away, which may be the client's own fault. `client` stands for its network.
    Refused {
        /// Hash of the client's address or /64.
        client: u64,
    },
}

/// When a backend is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Signs in a row; 0: never ejected.
    pub failures: u32,
    /// The first ejection, in milliseconds.
    pub eject_ms: u64,
}

/// Whether the pool can spare the backend now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spare {
    /// It can.
    Yes,
    /// Too many are ejected, or it is the last one.
    No,
}

/// What the last ejection rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Failures that no client can bring about.
    Failures,
    /// Refused hellos of different clients.
    RefusedHellos,
}

/// An ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// When it ends.
    pub until_ms: u64,
    /// The how many in a row it is, from 1.
    pub in_a_row: u32,
    /// What it rests on.
    pub ground: Ground,
}

/// Live traffic of one backend.
#[derive(Clone, Debug, Default)]
pub struct Ejector {
    /// Signs in a row that speak against the backend.
    pub failures: u32,
    /// Different clients whose hellos were refused in a row.
    pub refused: Vec<u64>,
    /// The ejection in force.
    pub ejection: Option<Ejection>,
    /// The last one that is over, and when it ended.
    pub last: Option<(Ejection, u64)>,
    /// Refused hellos have led to a mistaken ejection once.
    pub refusals_mislead: bool,
}

impl Ejector {
    /// The ejection in force.
    pub const fn ejection(&self) -> Option<Ejection> {
        self.ejection
    }

    /// Signs in a row that speak against the backend.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Different clients whose hellos were refused in a row.
    pub const fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Takes a sign. Returns the ejection that it brings.
    pub fn take(&mut self, sign: Sign, now_ms: u64, patience: Patience, spare: Spare) -> Option<Ejection> {
        if let Some(ejection) = self.ejection {
            // Of sessions that began before: they say nothing new, but that one was served as it should be.
            self.refusals_mislead |= sign == Sign::Well && ejection.ground == Ground::RefusedHellos;
            return None;
        }
        match sign {
            Sign::Well => {
                self.forget();
                if self.last.is_some_and(|(last, _)| last.ground == Ground::RefusedHellos) {
                    self.refusals_mislead = true;
                }
                return None;
            }
            Sign::Failure | Sign::Silence => self.failures = self.failures.saturating_add(1),
            Sign::Refused { client } => {
                if !self.refused.contains(&client) && self.refused.len() < MOST_REFUSED {
                    self.refused.push(client);
                }
            }
        }
        let ground = self.ground(patience).filter(|_| spare == Spare::Yes)?;
        let in_a_row = self.in_a_row(now_ms, patience) + 1;
        let until_ms = now_ms + patience.eject_ms * u64::from(in_a_row.min(LONGEST));
        let ejection = Ejection { until_ms, in_a_row, ground };
        self.forget();
        self.ejection = Some(ejection);
        Some(ejection)
    }

    /// Looks at the clock. Returns the ejection that is over.
    pub fn tick(&mut self, now_ms: u64) -> Option<Ejection> {
        self.ejection.filter(|ejection| ejection.until_ms <= now_ms)?;
        self.end(now_ms)
    }

    /// Ends the ejection before its time: a check has heard the server, as clients do. If clients were refused before, that
    /// was for what they said.
    pub fn disprove(&mut self, now_ms: u64) -> Option<Ejection> {
        let ejection = self.end(now_ms)?;
        self.refusals_mislead |= ejection.ground == Ground::RefusedHellos;
        Some(ejection)
    }

    /// Ends the ejection before its time, at an operator's word.
    pub fn end(&mut self, now_ms: u64) -> Option<Ejection> {
        let ejection = self.ejection.take()?;
        self.last = Some((ejection, now_ms));
        Some(ejection)
    }

    fn forget(&mut self) {
        self.failures = 0;
        self.refused.clear();
    }

    fn ground(&self, patience: Patience) -> Option<Ground> {
        if patience.failures == 0 {
            return None;
        }
        let needed = (patience.failures as usize).clamp(LEAST_REFUSED, MOST_REFUSED);
        if self.failures >= patience.failures {
            Some(Ground::Failures)
        } else if !self.refusals_mislead && self.refused.len() >= needed {
            Some(Ground::RefusedHellos)
        } else {
            None
        }
    }

    /// Ejections in a row so far: a stretch without one, as long as the last one was, breaks the row.
    fn in_a_row(&self, now_ms: u64, patience: Patience) -> u32 {
        let Some((last, ended_ms)) = self.last else { return 0 };
        let stretch = patience.eject_ms * u64::from(last.in_a_row.min(LONGEST));
        if now_ms < ended_ms + stretch { last.in_a_row } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::balance::next_random;

    const PATIENCE: Patience = Patience { failures: 5, eject_ms: 30_000 };

    fn refused(client: u64) -> Sign {
        Sign::Refused { client }
    }

    /// Takes signs a millisecond apart; returns the last ejection and the time.
    fn feed(ejector: &mut Ejector, from_ms: u64, signs: impl IntoIterator<Item = Sign>) -> (Option<Ejection>, u64) {
        let mut now = from_ms;
        let mut last = None;
        for sign in signs {
            now += 1;
            last = ejector.take(sign, now, PATIENCE, Spare::Yes).or(last);
        }
        (last, now)
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_breaks_the_row() {
        let mut ejector = Ejector::default();
        let signs = [[Sign::Failure; 4].as_slice(), &[Sign::Well], &[Sign::Failure; 4]].concat();
        assert_eq!(feed(&mut ejector, 0, signs).0, None);
        let ejection = ejector.take(Sign::Failure, 100, PATIENCE, Spare::Yes).expect("the fifth in a row");
        assert_eq!(ejection, Ejection { until_ms: 30_100, in_a_row: 1, ground: Ground::Failures });
        assert_eq!(ejector.tick(30_099), None);
        assert_eq!(ejector.tick(30_100), Some(ejection));
    }

    #[test]
    fn ejections_in_a_row_grow_up_to_tenfold_and_a_calm_stretch_breaks_the_row() {
        let mut ejector = Ejector::default();
        let mut now = 0;
        for nth in 1..=12_u32 {
            let (ejection, at) = feed(&mut ejector, now, [Sign::Failure; 5]);
            let ejection = ejection.expect("five failures");
            assert_eq!(ejection.in_a_row, nth);
            assert_eq!(ejection.until_ms - at, 30_000 * u64::from(nth.min(10)), "number {nth}");
            now = ejection.until_ms;
            assert!(ejector.tick(now).is_some());
        }
        let (ejection, _) = feed(&mut ejector, now + 300_000, [Sign::Failure; 5]);
        assert_eq!(ejection.map(|ejection| ejection.in_a_row), Some(1), "after as long a calm as the last ejection");
    }

    #[test]
    fn one_client_never_ejects_and_several_do_so_once_at_most_by_mistake() {
        let mut ejector = Ejector::default();
        assert_eq!(feed(&mut ejector, 0, vec![refused(7); 1000]).0, None, "one client");
        assert_eq!(feed(&mut ejector, 2000, [7, 8, 9, 10].map(refused)).0, None, "four");
        let (ejection, at) = feed(&mut ejector, 3000, [refused(11)]);
        assert_eq!(ejection.map(|ejection| ejection.ground), Some(Ground::RefusedHellos), "five different ones");
        assert!(ejector.tick(at + 30_000).is_some());
        // It serves others: the ejection was a mistake.
        assert_eq!(feed(&mut ejector, 50_000, [Sign::Well]).0, None);
        assert_eq!(feed(&mut ejector, 60_000, (0..1000).map(refused)).0, None, "never a second time");
        assert!(feed(&mut ejector, 70_000, [Sign::Failure; 5]).0.is_some(), "failures count as before");
    }

    #[test]
    fn few_failures_are_enough_only_for_what_no_client_can_bring_about() {
        let patience = Patience { failures: 1, ..PATIENCE };
        let mut ejector = Ejector::default();
        assert_eq!(ejector.take(refused(1), 0, patience, Spare::Yes), None);
        assert_eq!(ejector.take(refused(2), 0, patience, Spare::Yes), None);
        assert!(ejector.clone().take(refused(3), 0, patience, Spare::Yes).is_some());
        assert!(ejector.take(Sign::Failure, 0, patience, Spare::Yes).is_some());
    }

    #[test]
    fn nothing_is_ejected_that_the_pool_cannot_spare_or_with_failures_off() {
        let mut ejector = Ejector::default();
        for _ in 0..100 {
            assert_eq!(ejector.take(Sign::Failure, 0, PATIENCE, Spare::No), None);
        }
        assert!(ejector.take(Sign::Failure, 1, PATIENCE, Spare::Yes).is_some(), "once it can be spared");
        let off = Patience { failures: 0, ..PATIENCE };
        let mut ejector = Ejector::default();
        assert!((0..100).all(|_| ejector.take(Sign::Failure, 0, off, Spare::Yes).is_none()));
    }

    /// The same, from the whole history each time.
    #[test]
    fn refused_hellos_eject_by_mistake_once_whatever_shows_that_it_was_one() {
        let patience = Patience { failures: 3, eject_ms: 50 };
        let storm = |ejector: &mut Ejector, now: u64| {
            (0..20).find_map(|client| ejector.take(refused(client), now, patience, Spare::Yes))
        };
        // A check that hears the server, a session from before that is served, and one that comes afterwards.
        for proof in 0..3 {
            let mut ejector = Ejector::default();
            assert!(storm(&mut ejector, 10).is_some_and(|ejection| ejection.ground == Ground::RefusedHellos));
            match proof {
                0 => assert!(ejector.disprove(20).is_some()),
                1 => assert!(ejector.take(Sign::Well, 20, patience, Spare::Yes).is_none()),
                _ => {
                    ejector.tick(60);
                    ejector.take(Sign::Well, 61, patience, Spare::Yes);
                }
            }
            ejector.tick(1000);
            assert_eq!(storm(&mut ejector, 2000), None, "{proof}");
            let failures = (0..3).find_map(|_| ejector.take(Sign::Failure, 2001, patience, Spare::Yes));
            assert!(failures.is_some(), "{proof}: failures still count");
        }
        // An operator's word proves nothing.
        let mut ejector = Ejector::default();
        storm(&mut ejector, 10);
        ejector.end(20);
        assert!(storm(&mut ejector, 2000).is_some());
    }

    #[derive(Default)]
    struct Naive {
        history: Vec<(u64, Sign)>,
        ejections: Vec<(u64, Ejection)>,
    }

    impl Naive {
        fn take(&mut self, sign: Sign, now: u64, patience: Patience) -> Option<Ejection> {
            let is_ejected = self.ejections.last().is_some_and(|(_, ejection)| now < ejection.until_ms);
            if !is_ejected || sign == Sign::Well {
                self.history.push((now, sign));
            }
            if is_ejected {
                return None;
            }
            let since = self.ejections.last().map_or(0, |(at, _)| *at);
            let row: Vec<Sign> = self
                .history
                .iter()
                .rev()
                .take_while(|(at, sign)| *at > since && *sign != Sign::Well)
                .map(|(_, sign)| *sign)
                .collect();
            let failures = row.iter().filter(|sign| matches!(sign, Sign::Failure | Sign::Silence)).count();
            let clients: std::collections::HashSet<u64> = row
                .iter()
                .filter_map(|sign| if let Sign::Refused { client } = sign { Some(*client) } else { None })
                .collect();
            let misled = self.ejections.iter().enumerate().any(|(nth, (from, ejection))| {
                let until = self.ejections.get(nth + 1).map_or(u64::MAX, |(at, _)| *at);
                ejection.ground == Ground::RefusedHellos
                    && self.history.iter().any(|(at, sign)| *sign == Sign::Well && at > from && *at <= until)
            });
            let ground = if failures >= patience.failures as usize {
                Ground::Failures
            } else if !misled && clients.len() >= patience.failures.max(3) as usize {
                Ground::RefusedHellos
            } else {
                return None;
            };
            let before = self.ejections.last().map_or(0, |(_, last)| {
                let length = patience.eject_ms * u64::from(last.in_a_row.min(10));
                if now < last.until_ms + length { last.in_a_row } else { 0 }
            });
            let in_a_row = before + 1;
            let until_ms = now + patience.eject_ms * u64::from(in_a_row.min(10));
            let ejection = Ejection { until_ms, in_a_row, ground };
            self.ejections.push((now, ejection));
            Some(ejection)
        }
    }

    #[test]
    fn ejector_agrees_with_a_naive_one_over_random_histories() {
        for seed in 0..2000_u64 {
            let mut dice = seed;
            let mut roll = |sides: u64| {
                dice = next_random(dice);
                (dice >> 20) % sides
            };
            let patience = Patience { failures: 1 + roll(6) as u32, eject_ms: 50 };
            let (mut ejector, mut naive) = (Ejector::default(), Naive::default());
            let mut now = 0;
            for step in 0..200 {
                // Long enough, now and then, for a calm stretch.
                now += 1 + if roll(20) == 0 { roll(1500) } else { roll(20) };
                // As the control plane does: the end comes by the clock, not by the next sign.
                if let Some(until) = ejector.ejection().map(|ejection| ejection.until_ms).filter(|until| *until <= now)
                {
                    ejector.tick(until);
                }
                let sign = match roll(10) {
                    0 => Sign::Well,
                    1 | 2 => Sign::Silence,
                    3 | 4 => Sign::Failure,
                    _ => refused(roll(8)),
                };
                let (got, want) = (ejector.take(sign, now, patience, Spare::Yes), naive.take(sign, now, patience));
                assert_eq!(got, want, "seed {seed}, step {step}, {sign:?} at {now}");
            }
        }
    }
}
