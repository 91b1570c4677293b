//! Deadlines of one worker: a timer wheel over session slots. Arming, moving and disarming cost a few writes; a
//! deadline that moves later moves nothing until its old time comes (lazy re-arming).
//! Resolution is one tick; the horizon is about a minute, and what lies beyond is looked at once on the way.

/// Length of a tick. Chosen: hello time-outs of seconds stay true to a percent, and the kernel's coarse clock has 4 ms.
pub const TICK_MS: u64 = 16;
const BUCKETS: usize = 4096;
const WORDS: usize = BUCKETS / 64;
const NONE: u32 = u32::MAX;

/// Position of a session in its worker's table.
pub type Slot = u32;

#[derive(Clone, Copy, Debug)]
struct Links {
    previous: u32,
    next: u32,
    /// The tick for which the slot is armed; `u64::MAX` when it is not.
    tick: u64,
}

const UNLINKED: Links = Links { previous: NONE, next: NONE, tick: u64::MAX };

/// A timer wheel.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32; BUCKETS]>,
    occupied: [u64; WORDS],
    links: Vec<Links>,
    /// The last tick that was handled.
    now: u64,
}

impl Wheel {
    /// An empty wheel at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self { heads: Box::new([NONE; BUCKETS]), occupied: [0; WORDS], links: Vec::new(), now: now_ms / TICK_MS }
    }

    /// Arms a slot, or moves it when `at_ms` is earlier than what it is armed for. A later time is left to the
    /// visit at the earlier one, which must arm again.
    pub fn arm(&mut self, slot: Slot, at_ms: u64) {
        let place = slot as usize;
        if place >= self.links.len() {
            self.links.resize(place + 1, UNLINKED);
        }
        // Rounded up: never early.
        let tick = at_ms.div_ceil(TICK_MS).clamp(self.now + 1, self.now + BUCKETS as u64 - 1);
        if self.links[place].tick <= tick {
            return;
        }
        self.disarm(slot);
        let bucket = (tick % BUCKETS as u64) as usize;
        let next = self.heads[bucket];
        self.links[place] = Links { previous: NONE, next, tick };
        if next != NONE {
            self.links[next as usize].previous = slot;
        }
        self.heads[bucket] = slot;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
    }

    /// Disarms a slot.
    pub fn disarm(&mut self, slot: Slot) {
        let Some(links) = self.links.get(slot as usize).copied() else { return };
        if links.tick == u64::MAX {
            return;
        }
        self.links[slot as usize] = UNLINKED;
        if links.next != NONE {
            self.links[links.next as usize].previous = links.previous;
        }
        if links.previous == NONE {
            let bucket = (links.tick % BUCKETS as u64) as usize;
            self.heads[bucket] = links.next;
            if links.next == NONE {
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        } else {
            self.links[links.previous as usize].next = links.next;
        }
    }

    /// Disarms every slot whose tick has come and passes it to `visit`.
    pub fn advance(&mut self, now_ms: u64, mut visit: impl FnMut(Slot)) {
        let target = now_ms / TICK_MS;
        // After a long pause every bucket is due once; walking further round would find nothing.
        let steps = target.saturating_sub(self.now).min(BUCKETS as u64);
        for step in 1..=steps {
            let bucket = ((self.now + step) % BUCKETS as u64) as usize;
            while self.heads[bucket] != NONE {
                let slot = self.heads[bucket];
                self.disarm(slot);
                visit(slot);
            }
        }
        self.now = self.now.max(target);
    }

    /// When the next slot is due, in milliseconds of the same clock.
    pub fn next_due_ms(&self) -> Option<u64> {
        let first = (self.now + 1) % BUCKETS as u64;
        let (word, bit) = ((first / 64) as usize, first % 64);
        // The first word is looked at twice: from the hand upwards, and at the end of the round below the hand.
        for step in 0..=WORDS {
            let index = (word + step) % WORDS;
            let mask = match step {
                0 => u64::MAX << bit,
                WORDS => !(u64::MAX << bit),
                _ => u64::MAX,
            };
            let found = self.occupied[index] & mask;
            if found != 0 {
                let bucket = index as u64 * 64 + u64::from(found.trailing_zeros());
                let ahead = (bucket + BUCKETS as u64 - first) % BUCKETS as u64;
                return Some((self.now + 1 + ahead) * TICK_MS);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::decide::balance::next_random;

    #[test]
    fn slots_are_visited_once_when_due_and_never_early() {
        let mut wheel = Wheel::new(1000);
        wheel.arm(7, 1100);
        wheel.arm(3, 1500);
        let mut seen = Vec::new();
        wheel.advance(1099, |slot| seen.push(slot));
        assert!(seen.is_empty());
        assert!(wheel.next_due_ms().is_some_and(|due| (1100..1100 + 2 * TICK_MS).contains(&due)));
        wheel.advance(1120, |slot| seen.push(slot));
        wheel.advance(2000, |slot| seen.push(slot));
        assert_eq!(seen, [7, 3]);
        assert_eq!(wheel.next_due_ms(), None);
    }

    /// Against a plain map, over a random sequence of arming, disarming and the passing of time.
    #[test]
    fn agrees_with_a_naive_model() {
        for seed in 0..50 {
            let (mut wheel, mut model) = (Wheel::new(0), BTreeMap::<Slot, u64>::new());
            let (mut dice, mut now) = (seed, 0_u64);
            for _ in 0..2000 {
                dice = next_random(dice);
                let slot = (dice >> 8) as Slot % 40;
                match dice % 4 {
                    0 | 1 => {
                        let at = now + (dice >> 20) % 200_000;
                        wheel.arm(slot, at);
                        let tick = at.div_ceil(TICK_MS).clamp(now / TICK_MS + 1, now / TICK_MS + BUCKETS as u64 - 1);
                        let entry = model.entry(slot).or_insert(tick);
                        *entry = tick.min(*entry);
                    }
                    2 => {
                        wheel.disarm(slot);
                        model.remove(&slot);
                    }
                    _ => {
                        now += (dice >> 20) % 5000;
                        let mut seen = Vec::new();
                        wheel.advance(now, |slot| seen.push(slot));
                        seen.sort_unstable();
                        let due: Vec<Slot> =
                            model.iter().filter(|(_, tick)| **tick <= now / TICK_MS).map(|(slot, _)| *slot).collect();
                        model.retain(|slot, _| !due.contains(slot));
                        assert_eq!(seen, due, "seed {seed}");
                    }
                }
                let next = model.values().min().map(|tick| tick * TICK_MS);
                assert_eq!(wheel.next_due_ms(), next, "seed {seed}");
            }
        }
    }
}
