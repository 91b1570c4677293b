//! The table of Maglev (Eisenbud et al., NSDI 2016, section 3.4), weighted as Katran does it.
//! It is a pure function of its members and size; it knows nothing of keys that are refused or of bounds.

use std::fmt;

use super::hashed::{TableError, hash};
use super::{Table, in_lowest_terms};

/// Table size: the next prime above 2^16, Envoy's and Katran's default. Bounds imbalance to 1 % up to 655 members.
const SMALL: usize = 65_537;
/// The paper's large size, for pools above 655 members.
const LARGE: usize = 655_373;

/// A Maglev look-up table over the places 0..n of its members.
#[derive(Clone)]
pub struct Maglev {
    slots: Box<[u16]>,
}

impl fmt::Debug for Maglev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Maglev({} slots)", self.slots.len())
    }
}

impl Maglev {
    /// The size that a pool of so many members gets: a hundred slots each keep shares within 1 %.
    ///
    /// # Errors
    /// When the members are more than a hundredth of the largest table.
    pub fn size_for(members: usize) -> Result<usize, TableError> {
        let fits = |size: &usize| members * 100 <= *size;
        let too_many = TableError { table: Table::Maglev, members, most: LARGE / 100, largest: LARGE };
        [SMALL, LARGE].into_iter().find(fits).ok_or(too_many)
    }

    /// Fills a table of a prime `size` for `(name, weight)` members with weights above zero. They are sorted by name:
    /// the order of filling decides who wins a contested slot, so it must not be that of a file.
    pub fn new(members: &[(&str, u32)], size: usize) -> Self {
        let weights = in_lowest_terms(&members.iter().map(|(_, weight)| *weight).collect::<Vec<u32>>());
        let heaviest = weights.iter().copied().max().map_or(1, u64::from);
        let mut cursors: Vec<Cursor> = members.iter().map(|(name, _)| Cursor::new(name, size)).collect();
        let mut credit = vec![0; members.len()];

        let mut slots = vec![u16::MAX; size].into_boxed_slice();
        let mut filled = 0;
        while filled < size && !members.is_empty() {
            for place in 0..members.len() {
                credit[place] += u64::from(weights[place]);
                if credit[place] < heaviest {
                    continue;
                }
                credit[place] -= heaviest;
                let slot = cursors[place].next_free(&slots);
                slots[slot] = place as u16;
                filled += 1;
                if filled == size {
                    break;
                }
            }
        }
        Self { slots }
    }

    /// Owners from the key's slot on, around the table. Must not be asked of a table without members.
    pub fn owners(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let start = ((u128::from(key) * self.slots.len() as u128) >> 64) as usize;
        let (before, from) = self.slots.split_at(start);
        from.iter().chain(before).map(|owner| usize::from(*owner))
    }

    /// Owners of all slots.
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
        let offset = hash(0x736c_7569_6365_2d31, 0, name) % size as u64;
        let skip = hash(0x736c_7569_6365_2d32, 0, name) % (size as u64 - 1) + 1;
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
