//! Which backend gets a connection: pool members, their load and a key in, one member at a time out.
//! Fourth stop of the spine. It counts nothing and connects nothing; load is asked for, random numbers are given.

mod maglev;
mod round_robin;
mod weighted;

use std::fmt;

pub use maglev::{Maglev, TableError, source_key};
pub use round_robin::Turns;
pub use weighted::WeightedDraw;

/// Most connection attempts for one client; bounds [`Tried`].
pub const MAX_TRIES: usize = 16;

/// Pools up to this size are scanned whole for the least loaded member; larger ones draw two.
/// Chosen: a scan of 32 counters stays in a few cache lines' time and gives the exact minimum.
const FULL_SCAN: usize = 32;

/// Position of a member in its pool.
pub type MemberId = usize;

/// How a pool chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Smallest (active + 1) / weight; ties at random.
    LeastConnections,
    /// Smooth weighted turns.
    RoundRobin,
    /// The less loaded of two members drawn by weight.
    RandomTwo,
    /// Maglev over the key.
    ConsistentHash,
}

impl Method {
    /// Name as written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastConnections => "least-connections",
            Self::RoundRobin => "round-robin",
            Self::RandomTwo => "random-two",
            Self::ConsistentHash => "consistent-hash",
        }
    }
}

/// One member as configured.
#[derive(Clone, Debug)]
pub struct Member {
    /// Stable name: the key of consistent hashing.
    pub name: Box<str>,
    /// 0 takes no new connections.
    pub weight: u32,
    /// Used only when no other member can take the connection.
    pub backup: bool,
}

/// Members already tried for one client.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    members: [u16; MAX_TRIES],
    count: u8,
}

impl Tried {
    /// Remembers a member; beyond [`MAX_TRIES`] nothing is remembered, which the limit of tries excludes.
    pub fn insert(&mut self, member: MemberId) {
        if let Some(slot) = self.members.get_mut(usize::from(self.count)) {
            *slot = member as u16;
            self.count += 1;
        }
    }

    /// Whether the member was tried.
    pub fn contains(&self, member: MemberId) -> bool {
        self.members[..usize::from(self.count)].contains(&(member as u16))
    }

    /// How many were tried.
    pub const fn count(&self) -> u8 {
        self.count
    }
}

/// Chooses members of one pool. Built off the data path; immutable.
pub struct Balancer {
    method: Method,
    /// Members that are no backups, then the backups.
    tiers: [Tier; 2],
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Balancer({:?}, {} members)", self.method, self.tiers[0].members.len() + self.tiers[1].members.len())
    }
}

struct Tier {
    members: Vec<MemberId>,
    weights: Vec<u32>,
    equal_weights: bool,
    draw: Option<WeightedDraw>,
    table: Option<Maglev>,
}

impl Balancer {
    /// Builds tables for the members.
    ///
    /// # Errors
    /// When the members are too many for the largest consistent-hash table.
    pub fn new(method: Method, members: &[Member]) -> Result<Self, TableError> {
        Ok(Self { method, tiers: [Tier::new(method, members, false)?, Tier::new(method, members, true)?] })
    }

    /// The next member for a connection, or `None` when no untried member takes it.
    ///
    /// `load` says how many connections are counted for a member, from the pick on; `None` when it takes no new ones.
    /// `key` is the hash of the affinity key, `random` a fresh random number, `turns` the worker's round-robin state.
    pub fn next(
        &self,
        load: &impl Fn(MemberId) -> Option<u32>,
        tried: &Tried,
        key: u64,
        random: u64,
        turns: &mut Turns,
    ) -> Option<MemberId> {
        self.tiers.iter().find_map(|tier| tier.next(self.method, load, tried, key, random, turns))
    }
}

impl Tier {
    fn new(method: Method, all: &[Member], backup: bool) -> Result<Self, TableError> {
        let of_tier = all.iter().enumerate().filter(|(_, member)| member.backup == backup && member.weight > 0);
        let members: Vec<MemberId> = of_tier.map(|(id, _)| id).collect();
        let weights: Vec<u32> = members.iter().map(|id| all[*id].weight).collect();
        let draws = matches!(method, Method::RandomTwo | Method::LeastConnections) && !members.is_empty();
        let table = if method == Method::ConsistentHash && !members.is_empty() {
            let named: Vec<(&str, u32)> = members.iter().map(|id| (&*all[*id].name, all[*id].weight)).collect();
            Some(Maglev::new(&named)?)
        } else {
            None
        };
        Ok(Self {
            draw: draws.then(|| WeightedDraw::new(&weights)),
            equal_weights: weights.windows(2).all(|pair| pair[0] == pair[1]),
            members,
            weights,
            table,
        })
    }

    fn next(
        &self,
        method: Method,
        load: &impl Fn(MemberId) -> Option<u32>,
        tried: &Tried,
        key: u64,
        random: u64,
        turns: &mut Turns,
    ) -> Option<MemberId> {
        let usable = |place: usize| {
            let member = self.members[place];
            if tried.contains(member) { None } else { load(member) }
        };
        let place = match method {
            Method::LeastConnections if self.members.len() <= FULL_SCAN => self.least_loaded(usable, random),
            Method::LeastConnections | Method::RandomTwo => self.lighter_of_two(usable, random),
            Method::RoundRobin if self.equal_weights => {
                turns.next_of_equals(self.members.len(), |place| usable(place).is_some())
            }
            Method::RoundRobin => turns.next(&self.members, &self.weights, |place| usable(place).is_some()),
            Method::ConsistentHash => self.table.as_ref()?.find(key, |place| usable(place).is_some()),
        }?;
        Some(self.members[place])
    }

    /// Smallest cost over all places; among equals one at random.
    fn least_loaded(&self, usable: impl Fn(usize) -> Option<u32>, random: u64) -> Option<usize> {
        let mut best: Option<(usize, u32)> = None;
        let mut equals: u64 = 0;
        let mut dice = random;
        for place in 0..self.members.len() {
            let Some(active) = usable(place) else { continue };
            match best {
                Some(found) if self.is_lighter(found, (place, active)) => {}
                Some(found) if self.is_lighter((place, active), found) => {
                    best = Some((place, active));
                    equals = 1;
                }
                Some(_) => {
                    // The n-th equal replaces the choice with probability 1/n: each is as likely in the end.
                    equals += 1;
                    dice = next_random(dice);
                    if dice.is_multiple_of(equals) {
                        best = Some((place, active));
                    }
                }
                None => {
                    best = Some((place, active));
                    equals = 1;
                }
            }
        }
        best.map(|(place, _)| place)
    }

    /// Whether (active + 1) / weight of `a` is smaller than that of `b`, without division.
    fn is_lighter(&self, a: (usize, u32), b: (usize, u32)) -> bool {
        let cost = |active: u32, other: usize| (u64::from(active) + 1) * u64::from(self.weights[other]);
        cost(a.1, b.0) < cost(b.1, a.0)
    }

    /// Draws two different usable places by weight and takes the lighter one.
    fn lighter_of_two(&self, usable: impl Fn(usize) -> Option<u32>, random: u64) -> Option<usize> {
        let draw = self.draw.as_ref()?;
        let mut dice = random;
        let mut first: Option<(usize, u32)> = None;
        // Bounded: with most members unusable the draws miss, and the scan below decides.
        for _ in 0..16 {
            dice = next_random(dice);
            let place = draw.draw(dice);
            let Some(active) = usable(place) else { continue };
            match first {
                None => first = Some((place, active)),
                Some((found, _)) if found == place => {}
                Some(found) => {
                    let second = (place, active);
                    return Some(if self.is_lighter(second, found) { second.0 } else { found.0 });
                }
            }
        }
        // Fewer than two, or unlucky draws: look at all of them.
        self.least_loaded(usable, dice)
    }
}

/// The next number of a splitmix64 sequence (Steele, Lea, Flood 2014): good bits from any state, no state of our own.
pub const fn next_random(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
