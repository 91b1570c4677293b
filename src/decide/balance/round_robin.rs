//! Turns by weight. Equal weights: one after the other. Different weights: the member whose next turn is due first in
//! virtual time, where a member of weight w is due every 1/w; a heap finds it among a thousand as fast as among three.
//! Any cycle (as many picks as the weights in lowest terms add up to) gives each member exactly its weight.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::{Load, in_lowest_terms};

/// Virtual time of one cycle. Turns are placed to a millionth of a millionth of it.
const CYCLE: u64 = 1 << 40;

/// 2^64 / the golden ratio: multiples of it, as fractions of 2^64, are spread evenly however many are taken.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Unusable members that lose their turn one by one before all are looked at.
const MOST_SKIPPED: usize = 16;

/// How often a member is due; from its weight, immutable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Virtual time from turn to turn, rounded down.
    stride: u64,
    /// In lowest terms.
    weight: u32,
    /// Where in its stride its turns lie, in 1/2^64. Members of the same weight have evenly spread ones: were all
    /// due together, a heavy member would get its turns in one burst between theirs.
    phase: u64,
}

impl Pace {
    /// The paces of members with these weights, all above zero.
    pub(super) fn of(weights: &[u32]) -> Vec<Self> {
        let weights = in_lowest_terms(weights);
        let pace = |weight: &u32| Self { stride: CYCLE / u64::from(*weight), weight: *weight, phase: 0 };
        let mut paces: Vec<Self> = weights.iter().map(pace).collect();
        let mut by_weight: Vec<&mut Self> = paces.iter_mut().collect();
        by_weight.sort_by_key(|pace| pace.weight);
        for (rank, pace) in by_weight.into_iter().enumerate() {
            pace.phase = GOLDEN.wrapping_mul(rank as u64);
        }
        paces
    }

    /// The part of the stride that `phase`, in 1/2^64, makes.
    fn part(self, phase: u64) -> u64 {
        ((u128::from(self.stride) * u128::from(phase)) >> 64) as u64
    }
}

/// The state of one worker for one pool. Made by [`Balancer::turns`](super::Balancer::turns), for that balancer only.
#[derive(Clone, Debug)]
pub struct Turns {
    /// Of the members that are no backups, then of the backups.
    pub(super) tiers: [Order; 2],
}

/// Whose turn it is in one tier.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// Members of equal weight take turns by their place.
    Rotation(Rotation),
    /// Members of different weights take turns by when they are due.
    Due(Due),
}

/// The place of the next turn, and how often all places had theirs.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    place: usize,
    lap: u64,
}

impl Rotation {
    pub(super) const fn new(start: usize) -> Self {
        Self { place: start, lap: 0 }
    }

    /// The next usable place of `count` that takes its turn. Members in slow start let most of theirs pass.
    pub(super) fn next(&mut self, count: usize, usable: impl Fn(usize) -> Option<Load>) -> Option<usize> {
        let mut passed: Option<Self> = None;
        let Self { mut place, mut lap } = *self;
        for _ in 0..count {
            if place >= count {
                place %= count;
                lap += 1;
            }
            if let Some(load) = usable(place) {
                let next = Self { place: place + 1, lap };
                // The place shifts the turns of neighbours, so that those that are fresh together alternate.
                if load.ramp.takes_turn(lap + place as u64) {
                    *self = next;
                    return Some(place);
                }
                passed.get_or_insert(next);
            }
            place += 1;
        }
        // All that are usable let it pass: the first of them serves.
        *self = passed?;
        Some(self.place - 1)
    }
}

/// When each member of a tier is due.
#[derive(Clone, Debug)]
pub(super) struct Due {
    /// When the last turn was due. Times wrap around.
    now: u64,
    heap: BinaryHeap<Reverse<Turn>>,
}

/// When one member is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    at: u64,
    place: u32,
    /// What rounding down left of the stride, in 1/weight: the turns of a cycle take exactly a cycle.
    rest: u32,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        // No two are half the range apart: a cycle is 2^40, the longest stride ten of them.
        let apart = self.at.wrapping_sub(other.at) as i64;
        apart.cmp(&0).then(self.place.cmp(&other.place))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Turn {
    /// Moves to the member's next turn.
    fn advance(&mut self, pace: Pace, load: Option<Load>) {
        match load.map(|load| load.ramp.thousandths()) {
            Some(share) if share < 1000 => self.at = self.at.wrapping_add(pace.stride * 1000 / share),
            _ => {
                self.at = self.at.wrapping_add(pace.stride);
                let rest = (CYCLE - pace.stride * u64::from(pace.weight)) as u32;
                if self.rest >= pace.weight - rest {
                    self.rest -= pace.weight - rest;
                    self.at = self.at.wrapping_add(1);
                } else {
                    self.rest += rest;
                }
            }
        }
    }

    /// Whether it was due before the last turn: its member was unusable and others went ahead.
    const fn is_behind(&self, now: u64) -> bool {
        (self.at.wrapping_sub(now) as i64) < 0
    }
}

impl Due {
    /// All due at their phase; `start`, usually the number of the worker, shifts the phases of workers apart.
    pub(super) fn new(paces: &[Pace], start: usize) -> Self {
        // Shortly before times wrap around, so that every run goes past that.
        let now = 0_u64.wrapping_sub(CYCLE);
        let shift = GOLDEN.rotate_left(32).wrapping_mul(start as u64);
        let turn = |(place, pace): (usize, &Pace)| {
            let at = now.wrapping_add(pace.part(pace.phase.wrapping_add(shift)));
            Reverse(Turn { at, place: place as u32, rest: 0 })
        };
        Self { now, heap: paces.iter().enumerate().map(turn).collect() }
    }

    /// The usable place that is due first.
    pub(super) fn next(&mut self, paces: &[Pace], usable: impl Fn(usize) -> Option<Load>) -> Option<usize> {
        for _ in 0..MOST_SKIPPED {
            let mut first = self.heap.peek_mut()?;
            let turn = &mut first.0;
            let place = turn.place as usize;
            if turn.is_behind(self.now) {
                // It is owed nothing for the time that it was away, and those that come back together are spread.
                turn.at = self.now.wrapping_add(paces[place].part(paces[place].phase));
                continue;
            }
            let load = usable(place);
            let due = turn.at;
            turn.advance(paces[place], load);
            if load.is_some() {
                self.now = due;
                return Some(place);
            }
        }
        self.next_of_few(paces, usable)
    }

    /// The same by looking at all members. Those that are passed over fall behind.
    fn next_of_few(&mut self, paces: &[Pace], usable: impl Fn(usize) -> Option<Load>) -> Option<usize> {
        let mut turns = std::mem::take(&mut self.heap).into_vec();
        let takers = turns.iter_mut().filter_map(|turn| Some((usable(turn.0.place as usize)?, turn)));
        let found = takers.min_by_key(|(_, turn)| turn.0).map(|(load, turn)| {
            let (place, due) = (turn.0.place as usize, turn.0.at);
            if !turn.0.is_behind(self.now) {
                self.now = due;
            }
            turn.0.at = self.now;
            turn.0.advance(paces[place], Some(load));
            place
        });
        self.heap = turns.into();
        found
    }
}
