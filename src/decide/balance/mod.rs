//! Which backend gets a connection: pool members, their load and a key in, one member at a time out.
//! Fourth stop of the spine. It counts nothing and connects nothing; load is asked for, random numbers are given.

mod bound;
mod explain;
mod hashed;
mod key;
mod least;
mod maglev;
mod members;
mod ramp;
mod ring;
mod round_robin;
mod tier;
mod weighted;

use std::collections::BTreeSet;
use std::fmt;

pub use bound::{LoadFactor, Totals};
pub use explain::{Explained, PassedOver};
pub use hashed::{Table, TableError};
pub use key::{KeyFacts, KeyPart, Seed, hash_key};
pub use maglev::Maglev;
pub use members::{MAX_TRIES, Member, MemberId, Tier, Tried};
pub use ramp::{Load, Ramp};
pub use ring::Ring;
pub use round_robin::Turns;
use tier::Members;
pub use weighted::WeightedDraw;

/// How a pool chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Smallest (active + 1) / (weight x ramp); ties at random.
    LeastConnections,
    /// Turns by weight, without bursts.
    RoundRobin,
    /// The less loaded of two different members drawn by weight.
    RandomTwo,
    /// The owner of the key.
    ConsistentHash(Hashing),
}

impl Method {
    /// Name as written in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastConnections => "least-connections",
            Self::RoundRobin => "round-robin",
            Self::RandomTwo => "random-two",
            Self::ConsistentHash(_) => "consistent-hash",
        }
    }
}

/// How a hashed pool finds owners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hashing {
    /// The kind of table.
    pub table: Table,
    /// How far above its share a member may be; `None` for as far as its keys bring it.
    pub bounded_load: Option<LoadFactor>,
    /// Of the keys.
    pub seed: Seed,
}

/// What is asked on behalf of one connection.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Members that are out of the question.
    pub tried: &'a Tried,
    /// From [`hash_key`]; only hashed pools read it, and choose by least connections where it is `None`.
    pub key: Option<u64>,
    /// A fresh random number.
    pub random: u64,
    /// Of the members of a tier; only pools with a bounded load ask for them.
    pub totals: &'a dyn Fn(Tier) -> Totals,
}

/// A member for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The member.
    pub member: MemberId,
    /// Most connections that it may have with this one, where loads are bounded. The load that was asked for may
    /// have changed since; whoever counts the connection must do so only up to here, and ask again when he cannot.
    /// `None` also when every member is above its bound or was tried: then the least loaded is chosen.
    pub cap: Option<u32>,
}

/// Chooses members of one pool. Built off the data path; immutable.
pub struct Balancer {
    method: Method,
    /// Those that have members, the first first.
    tiers: Vec<Members>,
    /// All members, with those of weight 0.
    members: usize,
    digest: Option<Box<str>>,
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Balancer({:?}, {} members)", self.method, self.members)
    }
}

impl Balancer {
    /// Builds tables for the members.
    ///
    /// # Errors
    /// When the members are too many for the largest consistent-hash table.
    pub fn new(method: Method, members: &[Member]) -> Result<Self, TableError> {
        let tiers: BTreeSet<Tier> =
            members.iter().filter(|member| member.weight > 0).map(|member| member.tier).collect();
        let tiers: Result<Vec<_>, _> = tiers.into_iter().map(|tier| Members::of(tier, method, members)).collect();
        let tiers = tiers?;
        let digest = match method {
            Method::ConsistentHash(hashing) => {
                let named = |tier: &'_ Members| -> Vec<(&str, u32)> { tier.named(members).collect() };
                let made_from = tiers.iter().filter_map(|tier| Some((tier.hashed()?, named(tier).into_iter())));
                Some(hashed::digest(hashing.table, hashing.seed, made_from))
            }
            _ => None,
        };
        Ok(Self { method, tiers, members: members.len(), digest })
    }

    /// Fresh turns of one worker; `start`, usually its number, keeps workers from all beginning with the same member.
    pub fn turns(&self, start: usize) -> Turns {
        Turns { tiers: self.tiers.iter().map(|tier| tier.order(start)).collect() }
    }

    /// What the tables of a hashed pool are made from, and the seed, as 16 hexadecimal digits: the same in two instances when
    /// those are. It says nothing of bounded loads or of what the key is made of.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The next member for a connection, or `None` when no untried member takes it.
    ///
    /// `load` says `None` of a member that takes no new connections. `turns` are the worker's, made by
    /// [`turns`](Self::turns) of this balancer.
    pub fn next(&self, load: &impl Fn(MemberId) -> Option<Load>, ask: &Ask<'_>, turns: &mut Turns) -> Option<Choice> {
        let mut tiers = self.tiers.iter().zip(&mut turns.tiers);
        tiers.find_map(|(tier, order)| tier.next(self.method, load, ask, order))
    }
}

/// The next number of a splitmix64 sequence (Steele, Lea, Flood 2014): good bits from any state, no state of our own.
pub const fn next_random(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Weights divided by their greatest common divisor.
fn in_lowest_terms(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
    weights.iter().map(|weight| weight / divisor).collect()
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
