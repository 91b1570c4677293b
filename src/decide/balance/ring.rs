//! The ring of consistent hashing: every member has points on it, in proportion to its weight, and a key belongs to
//! the first point at or after it. A pure function of its members; it knows nothing of keys that are refused.

use std::fmt;

use super::hashed::{TableError, hash};
use super::{Table, in_lowest_terms};

/// Points of the lightest member: ketama's number, which keeps the standard error of shares at 8 %.
const POINTS: u64 = 160;

/// Most points: 8 MiB. Weights such as 999 and 1000 have no common divisor and would ask for any number.
const MOST_POINTS: u64 = 1 << 20;

/// Most points in a part on average. Chosen: half of what a line of the cache holds.
const POINTS_IN_PART: usize = 4;

/// A ring over the places 0..n of its members.
#[derive(Clone)]
pub struct Ring {
    /// In the order of their hashes; equal ones in the order of members.
    points: Box<[Point]>,
    /// The first point of each equal part of the ring. Hashes are spread evenly, so it is a few before the one that
    /// is looked for, mostly in the same line of the cache.
    starts: Box<[u32]>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    /// 32 bits as in ketama, so that a ring takes half the cache; equal ones are few.
    hash: u32,
    owner: u16,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} points)", self.points.len())
    }
}

impl Ring {
    /// Points of each member of a pool with these weights: 160 for each unit of weight in lowest terms. Where that
    /// makes more than 2^20 together, these are shared out by weight instead, at least one to each.
    ///
    /// # Errors
    /// When the members are so many that they would have fewer than 160 each.
    pub fn points_for(weights: &[u32]) -> Result<Vec<u32>, TableError> {
        let most = (MOST_POINTS / POINTS) as usize;
        if weights.len() > most {
            return Err(TableError { table: Table::Ring, members: weights.len(), most, largest: MOST_POINTS as usize });
        }
        let weights = in_lowest_terms(weights);
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let points = |weight: &u32| {
            let weight = u64::from(*weight);
            if sum * POINTS <= MOST_POINTS { weight * POINTS } else { (weight * MOST_POINTS / sum).max(1) }
        };
        Ok(weights.iter().map(|weight| points(weight) as u32).collect())
    }

    /// A ring of `(name, points)` members, sorted by name, which decides between points with the same hash.
    pub fn new(members: &[(&str, u32)]) -> Self {
        let mut points = Vec::with_capacity(members.iter().map(|(_, count)| *count as usize).sum());
        for (owner, (name, count)) in members.iter().enumerate() {
            let point = |number| {
                let hash = hash(0x736c_7569_6365_2d34, u64::from(number), name);
                Point { hash: (hash >> 32) as u32, owner: owner as u16 }
            };
            points.extend((0..*count).map(point));
        }
        points.sort_unstable();
        let parts = (points.len() / POINTS_IN_PART).max(2).next_power_of_two();
        let mut starts = vec![0; parts].into_boxed_slice();
        let mut reached = 0;
        for (part, start) in starts.iter_mut().enumerate() {
            while points.get(reached).is_some_and(|point| part_of(point.hash, parts) < part) {
                reached += 1;
            }
            *start = reached as u32;
        }
        Self { points: points.into(), starts }
    }

    /// Owners from the key's point on, around the ring. Must not be asked of a ring without members.
    pub fn owners(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let hash = (key >> 32) as u32;
        let mut start = self.starts[part_of(hash, self.starts.len())] as usize;
        while self.points.get(start).is_some_and(|point| point.hash < hash) {
            start += 1;
        }
        let (before, from) = self.points.split_at(start);
        from.iter().chain(before).map(|point| usize::from(point.owner))
    }

    /// How many points there are.
    pub fn size(&self) -> usize {
        self.points.len()
    }
}

/// Which of `parts` equal parts of the ring a hash lies in; `parts` is a power of two, at least two.
const fn part_of(hash: u32, parts: usize) -> usize {
    (hash >> (u32::BITS - parts.trailing_zeros())) as usize
}
