//! Which names come most often, within fixed memory whatever comes: the algorithm Space-Saving (Metwally, Agrawal and
//! El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005) and how such counts are added up
//! (Agarwal and others, "Mergeable Summaries", 2012). Every name with more than one in [`MOST`] of all is kept; a count is
//! never too low, and too high by no more than its error. It knows nothing of sessions.

use std::collections::HashMap;
use std::hash::BuildHasher;

use hashbrown::HashTable;

/// Names that are kept.
pub const MOST: usize = 100;
/// Bytes of a name that are kept; no host name has more.
const LONGEST: usize = 255;

/// Counts names. `S` makes hashes that nobody outside can foresee.
#[derive(Debug, Default)]
pub struct Busiest<S> {
    hasher: S,
    /// Positions in `slots`, by hash of the name.
    table: HashTable<u8>,
    slots: Vec<Slot>,
    /// Positions in `slots`, the highest count first.
    order: Vec<u8>,
    total: u64,
    without: u64,
}

#[derive(Debug)]
struct Slot {
    name: String,
    hash: u64,
    count: u64,
    error: u64,
    /// Position in `order`.
    place: u8,
}

impl<S: BuildHasher> Busiest<S> {
    /// Counts one, with its name if it has one.
    pub fn count(&mut self, name: Option<&str>) {
        self.total += 1;
        let Some(name) = name.map(|name| &name[..name.floor_char_boundary(LONGEST)]) else {
            self.without += 1;
            return;
        };
        let hash = self.hasher.hash_one(name);
        let known = self.table.find(hash, |slot| self.slots[usize::from(*slot)].name == name).copied();
        let slot = match known {
            Some(slot) => slot,
            None if self.slots.len() < MOST => self.add(),
            None => self.forget_rarest(),
        };
        if known.is_none() {
            self.call(slot, name, hash);
        }
        self.raise(slot);
    }

    fn add(&mut self) -> u8 {
        let slot = self.slots.len() as u8;
        self.slots.push(Slot { name: String::new(), hash: 0, count: 0, error: 0, place: slot });
        self.order.push(slot);
        slot
    }

    /// Whoever comes instead may have come as often before: that is its error.
    fn forget_rarest(&mut self) -> u8 {
        let rarest = self.order[MOST - 1];
        let slot = &mut self.slots[usize::from(rarest)];
        slot.error = slot.count;
        if let Ok(entry) = self.table.find_entry(slot.hash, |other| *other == rarest) {
            entry.remove();
        }
        rarest
    }

    fn call(&mut self, slot: u8, name: &str, hash: u64) {
        let named = &mut self.slots[usize::from(slot)];
        // The old name's memory is used again.
        named.name.clear();
        named.name.push_str(name);
        named.hash = hash;
        self.table.insert_unique(hash, slot, |other| self.slots[usize::from(*other)].hash);
    }

    /// Adds one, and moves to the front of those that had the same count.
    fn raise(&mut self, slot: u8) {
        let Slot { count, place, .. } = self.slots[usize::from(slot)];
        let first =
            self.order[..usize::from(place)].partition_point(|other| self.slots[usize::from(*other)].count > count);
        self.order.swap(first, place.into());
        self.slots[usize::from(self.order[usize::from(place)])].place = place;
        let raised = &mut self.slots[usize::from(slot)];
        raised.place = first as u8;
        raised.count += 1;
    }

    /// Adds what was counted elsewhere. Where both together have more names than are kept, the rarest are forgotten, as if they
    /// had been counted here.
    pub fn take(&mut self, other: &Summary)
    where
        S: Default,
    {
        let sum = Summary::add_up(&[self.summary(), other.clone()]);
        let (total, without) = (sum.total, sum.without);
        let (names, _) = sum.busiest(MOST);
        *self = Self { total, without, ..Self::default() };
        for Named { name, count, error } in names {
            let hash = self.hasher.hash_one(&name);
            let slot = self.add();
            self.call(slot, &name, hash);
            let named = &mut self.slots[usize::from(slot)];
            (named.count, named.error) = (count, error);
        }
    }

    /// What was counted so far.
    pub fn summary(&self) -> Summary {
        let named = |slot: &Slot| Named { name: slot.name.clone(), count: slot.count, error: slot.error };
        let least = if self.slots.len() < MOST { 0 } else { self.slots[usize::from(self.order[MOST - 1])].count };
        Summary { total: self.total, without: self.without, least, names: self.slots.iter().map(named).collect() }
    }
}

/// Counts of names, of one worker or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All that were counted.
    pub total: u64,
    /// Those without a name.
    pub without: u64,
    /// How often a name that is not listed may have come.
    pub least: u64,
    /// Names, in no order.
    pub names: Vec<Named>,
}

/// How often a name came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// At most so often.
    pub count: u64,
    /// At least `count - error` times.
    pub error: u64,
}

impl Summary {
    /// Adds up what was counted apart. A name that one of them does not list may have come there as often as its `least`.
    pub fn add_up(parts: &[Self]) -> Self {
        let least = parts.iter().map(|part| part.least).sum();
        let mut names: HashMap<&str, (u64, u64)> = HashMap::new();
        for part in parts {
            for Named { name, count, error } in &part.names {
                let (more, surer) = names.entry(name).or_default();
                // A count is no lower than the least, and an error no higher: it was the least once.
                *more += count - part.least;
                *surer += part.least - error;
            }
        }
        let named = |(name, (more, surer)): (&str, (u64, u64))| Named {
            name: name.to_owned(),
            count: least + more,
            error: least - surer,
        };
        Self {
            total: parts.iter().map(|part| part.total).sum(),
            without: parts.iter().map(|part| part.without).sum(),
            least,
            names: names.into_iter().map(named).collect(),
        }
    }

    /// The names that came most often, the busiest first, and how many came that are not surely theirs.
    pub fn busiest(mut self, most: usize) -> (Vec<Named>, u64) {
        self.names.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.name.cmp(&other.name)));
        self.names.truncate(most);
        let sure: u64 = self.names.iter().map(|named| named.count - named.error).sum();
        (self.names, self.total - self.without - sure)
    }
}

#[cfg(test)]
mod tests;
