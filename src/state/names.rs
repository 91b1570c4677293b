//! Members of a pool while the process runs: what its names lead to and operators added. And what people are told of names.
//! Whoever asks the domain name system is elsewhere (`control::names`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::operators::Supplement;
use crate::api::NameReport;
use crate::config::{self, Address, Config};
use crate::decide::balance::Tier;
use crate::decide::names::{Found, Target};

/// A name adds members to a pool only while it has fewer. Chosen: far below what the largest consistent-hash table
/// takes, so that no answer can make a pool impossible; sixteen names with the most addresses that one may have.
pub const MOST_MEMBERS: usize = 4096;

/// What names lead to.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// Nobody is asked: a configuration is looked at, not run.
    Offline,
    /// The last good set of each name; none before the first answer.
    Sets(HashMap<Target, Arc<[Found]>>),
}

impl Resolution {
    fn set(&self, target: &Target) -> &[Found] {
        match self {
            Self::Offline => &[],
            Self::Sets(sets) => sets.get(target).map_or(&[], |set| set),
        }
    }

    const fn why_not(&self) -> &'static str {
        match self {
            Self::Offline => "unresolved: offline",
            Self::Sets(_) => "unresolved: no good answer yet",
        }
    }
}

/// A pool's members: what it has by address, what operators added, and what its names lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// As if each stood in the configuration; `address` still says which name a member comes from.
    pub described: Vec<config::Backend>,
    /// Their addresses, in the same order.
    pub addresses: Vec<SocketAddr>,
    /// Named backends that lead nowhere, and why.
    pub unresolved: Vec<(Arc<str>, &'static str)>,
}

impl Members {
    /// Those of `pool`. A member that a name leads to is called like its address, after `NAME@` where the backend has a
    /// name of its own. An address that is there already is not added again, nor one that no `source-address` fits.
    /// What is written comes first, then what operators added, then what names lead to.
    pub fn of(pool: &config::Pool, supplement: &Supplement<'_>) -> Self {
        let mut members = Self::default();
        // Those that are written as addresses come first, so that a name never takes one's place.
        for backend in &pool.backends {
            if let Address::Socket(address) = backend.address {
                members.described.push(backend.clone());
                members.addresses.push(address);
            }
        }
        let mut seen: HashSet<SocketAddr> = members.addresses.iter().copied().collect();
        let mut called: HashSet<Arc<str>> = members.described.iter().map(|member| Arc::clone(&member.name)).collect();
        let sources = &pool.source_addresses;
        let fits =
            |address: SocketAddr| sources.is_empty() || sources.iter().any(|from| from.is_ipv4() == address.is_ipv4());
        for (name, added) in supplement.operators.added_to(&pool.name) {
            let (name, address) = (Arc::clone(name), added.address);
            let full = members.described.len() >= MOST_MEMBERS;
            if full || !fits(address) || seen.contains(&address) || called.contains(&name) {
                continue;
            }
            seen.insert(address);
            called.insert(Arc::clone(&name));
            let (weight, address) = (added.weight, Address::Socket(address));
            members.described.push(config::Backend { name, address, weight, tier: Tier::FIRST, max_connections: None });
            members.addresses.push(added.address);
        }
        for backend in &pool.backends {
            let Address::Name(target) = &backend.address else { continue };
            let set = supplement.names.set(target);
            if set.is_empty() {
                members.unresolved.push((Arc::clone(&backend.name), supplement.names.why_not()));
            }
            for found in set {
                let address = found.address;
                let name: Arc<str> = member_name(backend, target, address).into();
                let full = members.described.len() >= MOST_MEMBERS;
                if full || !fits(address) || seen.contains(&address) || called.contains(&name) {
                    continue;
                }
                seen.insert(address);
                called.insert(Arc::clone(&name));
                members.described.push(config::Backend {
                    name,
                    weight: found.weight.unwrap_or(backend.weight),
                    tier: backend.tier.max(found.tier),
                    address: backend.address.clone(),
                    max_connections: backend.max_connections,
                });
                members.addresses.push(address);
            }
        }
        members
    }
}

/// `@` is in no name of the configuration, so that a member is never called like somebody else.
fn member_name(backend: &config::Backend, target: &Target, address: SocketAddr) -> String {
    if *backend.name == *target.to_string() { address.to_string() } else { format!("{}@{address}", backend.name) }
}

/// The names of a configuration, each once.
pub fn targets(config: &Config) -> HashSet<&Target> {
    config.pools.iter().flat_map(|pool| &pool.backends).filter_map(|backend| backend.address.target()).collect()
}

/// The reports of all names.
#[derive(Debug, Default)]
pub struct NameReports(Mutex<BTreeMap<Target, NameReport>>);

impl NameReports {
    /// Changes the report of a name, which may be new.
    pub fn change(&self, target: &Target, change: impl FnOnce(&mut NameReport)) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(
            reports.entry(target.clone()).or_insert_with(|| NameReport { name: target.to_string(), ..<_>::default() }),
        );
    }

    /// Takes the place of the report of the same name, if there is one.
    pub fn take_up(&self, report: NameReport) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = reports.values_mut().find(|own| own.name == report.name) {
            *own = report;
        }
    }

    /// Forgets a name.
    pub fn remove(&self, target: &Target) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(target);
    }

    /// All of them, in the order of their names.
    pub fn list(&self) -> Vec<NameReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
