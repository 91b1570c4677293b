//! Consistent hashing of one tier: who takes a key when its owner does not, and the digest by which instances compare
//! their tables. Everything here is a function of the members sorted by name, never of file order, health or time.

use std::fmt;
use std::hash::Hasher;

use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher13;

use super::key::Seed;
use super::maglev::Maglev;
use super::ring::Ring;

/// Raise it with every change that gives any key another owner: tables of different versions must not look alike.
const VERSION: u32 = 1;

/// Steps from the key's place before all members are looked at. Chosen: far more than a few refusals cost, far less
/// than a walk around the table, which a pool that is down would cost every connection.
const MOST_STEPS: usize = 64;

/// The kind of table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// Shares equal to a slot; a change of members moves a few keys more than it must.
    #[default]
    Maglev,
    /// Shares equal to 8 %; a change of members moves the keys that it must and no other.
    Ring,
}

impl Table {
    /// Name as written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::Ring => "ring",
        }
    }
}

/// A pool too large for its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableError {
    /// The kind of table.
    pub table: Table,
    /// Members with a weight above zero.
    pub members: usize,
    /// Most members that such a table takes.
    pub most: usize,
    /// Slots or points of the largest table.
    pub largest: usize,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { members, most, largest, .. } = self;
        write!(f, "{members} backends are too many for consistent hashing: ")?;
        match self.table {
            Table::Maglev => write!(f, "the largest table, {largest} slots, keeps shares within 1 % up to {most}"),
            Table::Ring => write!(f, "the largest ring, {largest} points, keeps shares within a fifth up to {most}"),
        }
    }
}

/// The table of one tier.
pub(super) struct Hashed {
    slots: Slots,
    /// A hash of each member's name, and its weight.
    members: Box<[(u64, u32)]>,
}

enum Slots {
    Maglev(Maglev),
    Ring(Ring),
}

impl Hashed {
    /// The table of `(name, weight)` members, sorted by name, with weights above zero.
    pub(super) fn new(table: Table, members: &[(&str, u32)]) -> Result<Self, TableError> {
        let slots = match table {
            Table::Maglev => Slots::Maglev(Maglev::new(members, Maglev::size_for(members.len())?)),
            Table::Ring => {
                let weights: Vec<u32> = members.iter().map(|(_, weight)| *weight).collect();
                let points = Ring::points_for(&weights)?;
                let named: Vec<(&str, u32)> =
                    members.iter().zip(points).map(|((name, _), count)| (*name, count)).collect();
                Slots::Ring(Ring::new(&named))
            }
        };
        let seeded = members.iter().map(|(name, weight)| (hash(0x736c_7569_6365_2d35, 0, name), *weight));
        Ok(Self { slots, members: seeded.collect() })
    }

    /// The owner of the key, or the next one on the table that is accepted: a member that is not accepted moves only
    /// its own keys, and gets them back. `None` when nobody is accepted.
    pub(super) fn find(&self, key: u64, accept: impl Fn(usize) -> bool) -> Option<usize> {
        if self.members.is_empty() {
            return None;
        }
        let near = match &self.slots {
            Slots::Maglev(table) => first_accepted(table.owners(key), &accept),
            Slots::Ring(ring) => first_accepted(ring.owners(key), &accept),
        };
        near.or_else(|| self.rendezvous(key, accept))
    }

    /// The accepted member with the highest score for the key (weighted rendezvous hashing), which is as faithful as
    /// the table and takes one look at each member: also one so light that it owns no slot is found.
    fn rendezvous(&self, key: u64, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let score = |place: usize| {
            let (seed, weight) = self.members[place];
            let mixed = super::next_random(seed ^ key);
            // Above 0, so that the logarithm is finite.
            let fraction = ((mixed >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
            -f64::from(weight) / fraction.ln()
        };
        let accepted = (0..self.members.len()).filter(|place| accept(*place)).map(|place| (score(place), place));
        // The first of equals, which is the first by name.
        let best = accepted.reduce(|best, other| if other.0.total_cmp(&best.0).is_gt() { other } else { best });
        best.map(|(_, place)| place)
    }

    fn size(&self) -> usize {
        match &self.slots {
            Slots::Maglev(table) => table.slots().len(),
            Slots::Ring(ring) => ring.size(),
        }
    }
}

fn first_accepted(owners: impl Iterator<Item = usize>, accept: impl Fn(usize) -> bool) -> Option<usize> {
    let mut refused = usize::MAX;
    for owner in owners.take(MOST_STEPS) {
        if owner == refused {
            continue;
        }
        if accept(owner) {
            return Some(owner);
        }
        refused = owner;
    }
    None
}

/// What tables are made from, as 16 hexadecimal digits: algorithm version, kind, the seed of keys if there is one, and for each tier the size and the
/// `(name, weight)` members in the order of names. Equal digests are equal tables.
pub(super) fn digest<'a, M: ExactSizeIterator<Item = (&'a str, u32)>>(
    table: Table,
    seed: Seed,
    tiers: impl Iterator<Item = (&'a Hashed, M)>,
) -> Box<str> {
    let mut sum = Sha256::new();
    sum.update(VERSION.to_le_bytes());
    sum.update([table as u8]);
    if seed != Seed::default() {
        sum.update(seed.number().to_le_bytes());
    }
    for (hashed, members) in tiers {
        sum.update((hashed.size() as u64).to_le_bytes());
        sum.update((members.len() as u64).to_le_bytes());
        for (name, weight) in members {
            sum.update((name.len() as u64).to_le_bytes());
            sum.update(name);
            sum.update(weight.to_le_bytes());
        }
    }
    let first = sum.finalize().iter().take(8).fold(0_u64, |digits, byte| digits << 8 | u64::from(*byte));
    format!("{first:016x}").into()
}

/// A hash of a name under a seed and a number.
pub(super) fn hash(seed: u64, number: u64, name: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, number);
    hasher.write(name.as_bytes());
    hasher.finish()
}
