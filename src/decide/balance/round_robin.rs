//! Turns by weight. Members of the same weight form a class and take the turns of their class one after the other;
//! among classes the turn goes to the one that must have it first, of those that are not ahead of their share (EEVDF:
//! Stoica, Abdel-Wahab 1995). So a pick costs as much as there are different weights, by a heap, whatever the members.
//! Any cycle, as many turns as the weights in lowest terms add up to, gives each member exactly its weight. The order
//! of turns never depends on who is usable: who is not loses its turn, and is owed nothing when it comes back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::{Load, in_lowest_terms};

/// A cycle in virtual time: fine enough that different turns of any weights lie at different times.
const CYCLE: u64 = 1 << 62;

/// Turns that may be lost in one pick before all members are looked at.
const MOST_LOST: usize = 16;

/// The classes of one tier; from its weights, immutable.
#[derive(Debug)]
pub(super) struct Classes {
    /// From the heaviest.
    classes: Vec<Class>,
    /// Of the whole tier.
    pace: Pace,
}

#[derive(Debug)]
struct Class {
    places: Vec<usize>,
    pace: Pace,
}

impl Classes {
    /// The classes of members with these weights, all above zero.
    pub(super) fn new(weights: &[u32]) -> Self {
        let weights = in_lowest_terms(weights);
        let mut places: BTreeMap<Reverse<u32>, Vec<usize>> = BTreeMap::new();
        for (place, weight) in weights.iter().enumerate() {
            places.entry(Reverse(*weight)).or_default().push(place);
        }
        let class = |(Reverse(weight), places): (Reverse<u32>, Vec<usize>)| Class {
            pace: Pace::of(u64::from(weight) * places.len() as u64),
            places,
        };
        Self {
            classes: places.into_iter().map(class).collect(),
            pace: Pace::of(weights.iter().map(|weight| u64::from(*weight)).sum()),
        }
    }
}

/// Divides a cycle into equal steps.
#[derive(Clone, Copy, Debug)]
struct Pace {
    steps: u64,
    /// Length of a step, rounded down.
    stride: u64,
    /// What rounding leaves, in 1/steps.
    rest: u64,
}

impl Pace {
    const fn of(steps: u64) -> Self {
        Self { steps, stride: CYCLE / steps, rest: CYCLE % steps }
    }
}

/// A time in a cycle that is reached in steps: after k of n it is k/n of the cycle, rounded down.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    at: u64,
    rest: u64,
}

impl Clock {
    const fn step(&mut self, pace: Pace) {
        self.at += pace.stride;
        self.rest += pace.rest;
        if self.rest >= pace.steps {
            self.rest -= pace.steps;
            self.at += 1;
        }
    }
}

/// The state of one worker for one pool. Made by [`Balancer::turns`](super::Balancer::turns), for that balancer only.
#[derive(Clone, Debug)]
pub struct Turns {
    /// Of each tier that has members.
    pub(super) tiers: Vec<Order>,
}

/// Whose turn it is in one tier.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    now: Clock,
    /// Classes whose next turn begins later, by when it does.
    waiting: BinaryHeap<Reverse<(u64, usize)>>,
    /// Classes whose next turn has begun, by when it must be over.
    ready: BinaryHeap<Reverse<(u64, usize)>>,
    classes: Vec<Progress>,
    /// For [`next_of_few`](Self::next_of_few).
    credit: Vec<i128>,
}

/// Where a class is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// When its next turn begins, or must be over once it has begun.
    clock: Clock,
    /// Which of its members has the next turn.
    member: usize,
    /// How often all of its members had theirs.
    lap: u64,
}

impl Order {
    /// From the turn number `start` on, which keeps workers apart.
    pub(super) fn new(classes: &Classes, start: usize) -> Self {
        let members = classes.classes.iter().map(|class| class.places.len()).sum();
        let mut order = Self {
            classes: vec![Progress::default(); classes.classes.len()],
            credit: vec![0; members],
            ..Self::default()
        };
        order.begin_cycle();
        for _ in 0..start {
            order.turn(classes);
        }
        order
    }

    /// The usable place whose turn it is.
    pub(super) fn next(
        &mut self,
        classes: &Classes,
        weights: &[u32],
        usable: impl Fn(usize) -> Option<Load>,
    ) -> Option<usize> {
        for _ in 0..MOST_LOST {
            let (place, lap) = self.turn(classes);
            // The place shifts the turns of neighbours, so that those that are fresh together alternate.
            if usable(place).is_some_and(|load| load.ramp.takes_turn(lap + place as u64)) {
                return Some(place);
            }
        }
        self.next_of_few(weights, usable)
    }

    /// All classes begin together.
    fn begin_cycle(&mut self) {
        self.now = Clock::default();
        self.ready.clear();
        self.waiting.clear();
        for (class, progress) in self.classes.iter_mut().enumerate() {
            progress.clock = Clock::default();
            self.waiting.push(Reverse((0, class)));
        }
    }

    /// The next turn: its place, and how many turns the place had before.
    fn turn(&mut self, classes: &Classes) -> (usize, u64) {
        if self.now.at == CYCLE {
            self.begin_cycle();
        }
        while let Some(Reverse((_, class))) = self.waiting.peek().filter(|first| first.0.0 <= self.now.at).copied() {
            self.waiting.pop();
            let clock = &mut self.classes[class].clock;
            clock.step(classes.classes[class].pace);
            self.ready.push(Reverse((clock.at, class)));
        }
        self.now.step(classes.pace);
        let Reverse((over, class)) = self.ready.pop().expect("somebody is not ahead of its share");
        self.waiting.push(Reverse((over, class)));

        let progress = &mut self.classes[class];
        let places = &classes.classes[class].places;
        let taken = (places[progress.member], progress.lap);
        progress.member += 1;
        if progress.member == places.len() {
            progress.member = 0;
            progress.lap += 1;
        }
        taken
    }

    /// For a pool of which hardly anybody is usable: smooth weighted turns (nginx) among those that are. Each gains
    /// its weight, the richest is chosen and pays the sum.
    fn next_of_few(&mut self, weights: &[u32], usable: impl Fn(usize) -> Option<Load>) -> Option<usize> {
        let mut richest: Option<usize> = None;
        let mut sum = 0;
        for (place, weight) in weights.iter().enumerate() {
            let Some(load) = usable(place) else { continue };
            let gain = i128::from(u64::from(*weight) * load.ramp.thousandths());
            sum += gain;
            self.credit[place] += gain;
            if richest.is_none_or(|other| self.credit[place] > self.credit[other]) {
                richest = Some(place);
            }
        }
        self.credit[richest?] -= sum;
        richest
    }
}
