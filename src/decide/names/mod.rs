//! Backends that are named instead of numbered: what an answer of the domain name system makes of the set that is
//! known, and when to ask again. It asks nobody; `control::names` does, and gives the time with the answer.

mod services;
mod target;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::decide::balance::Tier;
pub use services::{Branch, Service, branches};
pub use target::{Target, TargetError};

/// Most addresses of one name that are used, the lowest first. Chosen: the largest message holds about 4 000 of them,
/// and whoever answers may be hostile.
pub const MOST_ADDRESSES: usize = 256;
/// An answer is believed for at least so long: a time to live of 0 would have us ask without a pause.
const SHORTEST_MS: u64 = 1000;
/// And for at most so long, so that a mistake in a zone is not kept for a day.
const LONGEST_MS: u64 = 300_000;
/// Longest pause after failures; the first is [`SHORTEST_MS`], each further one twice the one before.
const LONGEST_RETRY_MS: u64 = 30_000;

/// One member that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Found {
    /// When it is used.
    pub tier: Tier,
    /// Where it listens.
    pub address: SocketAddr,
    /// The weight that the answer gives it, 1 to 1000; `None` where answers have none.
    pub weight: Option<u32>,
}

/// What came back for one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<T> {
    /// Records, and the shortest time to live among them, in seconds.
    Records(Vec<T>, u32),
    /// An answer that there are none: no such name, or none of this type; which, in words.
    Nothing(&'static str),
    /// No answer; why.
    Failed(String),
}

/// What came back for one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReply {
    /// `A`.
    pub v4: Reply<IpAddr>,
    /// `AAAA`.
    pub v6: Reply<IpAddr>,
}

/// Addresses of one host and family, as last heard.
type Heard = BTreeMap<(Arc<str>, Family), Vec<IpAddr>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

/// What is known of one name. The last good set stays whatever happens to those who answer.
#[derive(Clone, Debug, Default)]
pub struct Known {
    set: Arc<[Found]>,
    heard: Heard,
    /// Failures since the last good answer.
    failures: u32,
    stale_since_ms: Option<u64>,
}

/// What an answer led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What kind of answer it was.
    pub result: LookupResult,
    /// When to ask again, on the clock of the call.
    pub next_ms: u64,
    /// What was wrong, in words; also where only a part of the answer was.
    pub problem: Option<String>,
    /// Addresses beyond [`MOST_ADDRESSES`] that are not used.
    pub left_out: usize,
}

/// Kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// Addresses.
    Ok,
    /// An answer without any.
    Empty,
    /// No answer, or only a part of one.
    Failed,
}

impl LookupResult {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Empty, Self::Failed];

    /// Name as it stands in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Empty => "empty",
            Self::Failed => "failed",
        }
    }
}

impl Known {
    /// The members, those of the first tier first, then by address; empty before the first good answer.
    pub fn set(&self) -> &Arc<[Found]> {
        &self.set
    }

    /// Addresses as last heard: host, whether of version 4, and the addresses.
    pub fn heard(&self) -> impl Iterator<Item = (&Arc<str>, bool, &[IpAddr])> {
        self.heard.iter().map(|((host, family), addresses)| (host, *family == Family::V4, &**addresses))
    }

    /// What was known before: the set, and what was heard.
    pub fn remembered(set: Arc<[Found]>, heard: impl Iterator<Item = (Arc<str>, bool, Vec<IpAddr>)>) -> Self {
        let family = |is_v4: bool| if is_v4 { Family::V4 } else { Family::V6 };
        let heard = heard.map(|(host, is_v4, addresses)| ((host, family(is_v4)), addresses)).collect();
        Self { set, heard, ..Self::default() }
    }

    /// Since when the set, or a part of it, is older than it should be; `None` while it is fresh.
    pub const fn stale_since_ms(&self) -> Option<u64> {
        self.stale_since_ms
    }

    /// Takes a failure to learn even the branches: the set stays. `asked_ms` is the time.
    pub fn fail(&mut self, result: LookupResult, problem: String, asked_ms: u64) -> Outcome {
        self.failures += 1;
        self.stale_since_ms.get_or_insert(asked_ms);
        Outcome { result, next_ms: asked_ms + self.retry_ms(), problem: Some(problem), left_out: 0 }
    }

    /// Takes the answers for all `branches`, one of `replies` for each host in them. `ttl_s` is how long the branches
    /// themselves are good for. A family of a host that got no answer keeps what it had; an answer without any address
    /// changes nothing.
    pub fn take(
        &mut self,
        branches: &[Branch],
        replies: Vec<(Arc<str>, HostReply)>,
        ttl_s: u32,
        now_ms: u64,
    ) -> Outcome {
        let mut read = Read { heard: Heard::new(), ttl_s, kept: false, problem: None };
        for (host, reply) in replies {
            read.family(&self.heard, &host, Family::V4, reply.v4);
            read.family(&self.heard, &host, Family::V6, reply.v6);
        }
        let mut found = members(branches, &read.heard);
        if found.is_empty() {
            let result = if read.kept || read.failed() { LookupResult::Failed } else { LookupResult::Empty };
            let problem = read.problem.map_or_else(|| "no addresses".to_owned(), |(_, text)| text);
            return self.fail(result, problem, now_ms);
        }
        let left_out = found.len().saturating_sub(MOST_ADDRESSES);
        found.truncate(MOST_ADDRESSES);
        if *self.set != *found {
            self.set = found.into();
        }
        self.heard = read.heard;
        let problem = read.problem.filter(|(is_failure, _)| *is_failure).map(|(_, text)| text);
        if read.kept {
            return Outcome { left_out, ..self.fail(LookupResult::Failed, problem.unwrap_or_default(), now_ms) };
        }
        self.failures = 0;
        self.stale_since_ms = None;
        let next_ms = now_ms + (u64::from(read.ttl_s) * 1000).clamp(SHORTEST_MS, LONGEST_MS);
        Outcome { result: LookupResult::Ok, next_ms, problem, left_out }
    }

    fn retry_ms(&self) -> u64 {
        let doublings = self.failures.saturating_sub(1).min(16);
        (SHORTEST_MS << doublings).min(LONGEST_RETRY_MS)
    }
}

/// The replies while they are read.
struct Read {
    heard: Heard,
    ttl_s: u32,
    /// Whether a part is not from this answer but from an older one.
    kept: bool,
    /// The first failure, or the first answer without records before that; whether it is a failure.
    problem: Option<(bool, String)>,
}

impl Read {
    fn failed(&self) -> bool {
        self.problem.as_ref().is_some_and(|(is_failure, _)| *is_failure)
    }

    fn family(&mut self, before: &Heard, host: &Arc<str>, family: Family, reply: Reply<IpAddr>) {
        let key = (Arc::clone(host), family);
        match reply {
            Reply::Records(addresses, ttl_s) => {
                self.ttl_s = self.ttl_s.min(ttl_s);
                self.heard.insert(key, addresses);
            }
            Reply::Nothing(why) => {
                self.problem.get_or_insert_with(|| (false, format!("{host}: {why}")));
            }
            Reply::Failed(why) => {
                if !self.failed() {
                    self.problem = Some((true, format!("{host}: {why}")));
                }
                // A family that never had an answer is not missed: some servers never give one for AAAA.
                if let Some(addresses) = before.get(&key).filter(|addresses| !addresses.is_empty()) {
                    self.kept = true;
                    self.heard.insert(key, addresses.clone());
                }
            }
        }
    }
}

/// Sorted, each address once: where it comes twice, the better tier and then the first branch count.
fn members(branches: &[Branch], heard: &Heard) -> Vec<Found> {
    let mut by_address: BTreeMap<SocketAddr, Found> = BTreeMap::new();
    for branch in branches {
        for family in [Family::V4, Family::V6] {
            for ip in heard.get(&(Arc::clone(&branch.host), family)).into_iter().flatten() {
                let address = SocketAddr::new(ip.to_canonical(), branch.port);
                let found = Found { tier: branch.tier, address, weight: branch.weight };
                let place = by_address.entry(address).or_insert(found);
                if found.tier < place.tier {
                    *place = found;
                }
            }
        }
    }
    let mut found: Vec<Found> = by_address.into_values().collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests;
