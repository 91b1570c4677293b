//! Consistent hashing by Maglev (Eisenbud et al., NSDI 2016, section 3.4), weighted as Katran does it.
//! A table is a pure function of the sorted members and their weights: never of file order, health or time.

use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

/// Table size: the next prime above 2^16, Envoy's and Katran's default. Bounds imbalance to 1 % up to 655 members.
const SMALL: usize = 65_537;
/// The paper's large size, for pools above 655 members.
const LARGE: usize = 655_373;

/// Owners that refuse before it is asked whether anybody would not. Chosen: far more than a few dead members cost.
const MANY_REFUSALS: u32 = 64;

/// A Maglev look-up table over places 0..n of its members.
#[derive(Clone)]
pub struct Maglev {
    slots: Box<[u16]>,
    members: usize,
}

impl fmt::Debug for Maglev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Maglev({} slots)", self.slots.len())
    }
}

/// A pool too large for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableError {
    /// Members with a weight above zero.
    pub members: usize,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} backends are too many for consistent hashing: the largest table, {LARGE} slots, keeps shares within 1 % up to {}",
            self.members,
            LARGE / 100
        )
    }
}

impl Maglev {
    /// Fills the table for `(name, weight)` members with weights above zero.
    ///
    /// # Errors
    /// When the members are more than a hundredth of the largest table.
    pub fn new(members: &[(&str, u32)]) -> Result<Self, TableError> {
        // A hundred slots each keep shares within 1 %.
        let fits = |size: &usize| members.len() * 100 <= *size;
        let size = [SMALL, LARGE].into_iter().find(fits).ok_or(TableError { members: members.len() })?;
        Ok(Self::with_size(members, size))
    }

    /// Fills a table of a given prime size; tests repeat the paper's experiments with it.
    pub fn with_size(members: &[(&str, u32)], size: usize) -> Self {
        // Fill order decides who wins a contested slot, so it must not depend on the order of the file.
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|place| members[*place].0);
        let divisor = members.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight)).max(1);
        let weights: Vec<u64> = order.iter().map(|place| u64::from(members[*place].1 / divisor)).collect();
        let heaviest = weights.iter().copied().max().unwrap_or(1);
        let mut cursors: Vec<Cursor> = order.iter().map(|place| Cursor::new(members[*place].0, size)).collect();
        let mut credit = vec![0; order.len()];

        let mut slots = vec![u16::MAX; size].into_boxed_slice();
        let mut filled = 0;
        while filled < size && !order.is_empty() {
            for turn in 0..order.len() {
                credit[turn] += weights[turn];
                if credit[turn] < heaviest {
                    continue;
                }
                credit[turn] -= heaviest;
                let slot = cursors[turn].next_free(&slots);
                slots[slot] = order[turn] as u16;
                filled += 1;
                if filled == size {
                    break;
                }
            }
        }
        Self { slots, members: members.len() }
    }

    /// The owner of the key's slot, or of the next slot with a usable owner: an unusable member moves only its
    /// own keys, and gets them back. `None` when nobody is usable.
    pub fn find(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let start = ((u128::from(key) * self.slots.len() as u128) >> 64) as usize;
        let mut last_refused = u16::MAX;
        let mut refusals = 0;
        let (before, from) = self.slots.split_at(start);
        for owner in from.iter().chain(before) {
            if *owner == last_refused {
                continue;
            }
            refusals += 1;
            // With everybody down the whole table would be walked for every connection.
            if refusals == MANY_REFUSALS && !(0..self.members).any(&usable) {
                return None;
            }
            if usable(usize::from(*owner)) {
                return Some(usize::from(*owner));
            }
            last_refused = *owner;
        }
        None
    }

    /// Owners of all slots; for tests and digests.
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// Walks one member's permutation of the slots.
struct Cursor {
    position: usize,
    skip: usize,
    size: usize,
}

impl Cursor {
    fn new(name: &str, size: usize) -> Self {
        let offset = hash(0x736c_7569_6365_2d31, name.as_bytes()) % size as u64;
        let skip = hash(0x736c_7569_6365_2d32, name.as_bytes()) % (size as u64 - 1) + 1;
        Self { position: offset as usize, skip: skip as usize, size }
    }

    fn next_free(&mut self, slots: &[u16]) -> usize {
        loop {
            let slot = self.position;
            self.position += self.skip;
            if self.position >= self.size {
                self.position -= self.size;
            }
            if slots[slot] == u16::MAX {
                return slot;
            }
        }
    }
}

fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, 0);
    hasher.write(bytes);
    hasher.finish()
}

/// The affinity key of a source address; the same in every instance.
pub fn source_key(source: IpAddr) -> u64 {
    const SEED: u64 = 0x736c_7569_6365_2d33;
    match source.to_canonical() {
        IpAddr::V4(v4) => hash(SEED, &v4.octets()),
        IpAddr::V6(v6) => hash(SEED, &v6.octets()),
    }
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
