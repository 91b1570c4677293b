//! One immutable generation of routes and pools. A reload builds the next one whole, carries over what stays, and
//! swaps; a session reads the one it began with.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::backend::{AgentOrders, Backend, HealthIgnored};
use super::counters::{ListenerState, PoolState};
use super::matching::Rules;
use super::names::Members;
use super::operators::Supplement;
use super::overrides::Overrides;
use crate::config::{self, CheckKind, Config, HealthCheck, PoolId, Reject, RouteTarget};
use crate::decide::balance::{Balancer, Load, Member, MemberId, Ramp, TableError, Tier, Totals};
use crate::decide::health::Health;
use crate::decide::hello::FirstBytes;
use crate::decide::route::{Miss, Question, RouteTable, RuleId};

/// A listener of one generation.
#[derive(Debug)]
pub struct Listener {
    /// Its configuration.
    pub config: config::Listener,
    /// Its rules, indexed.
    pub routes: RouteTable,
    /// Its counters.
    pub state: Arc<ListenerState>,
}

/// Where the rules of a listener send a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed {
    /// A rule sends it to a pool.
    ByRule(RuleId, PoolId),
    /// No rule takes it; the listener's own pool does.
    ByDefault(PoolId),
    /// A rule rejects it like this.
    Rejected(RuleId, Reject),
    /// No rule takes it, and the listener has no pool of its own.
    Missed(Miss),
}

impl Listener {
    /// Routes a connection.
    pub fn route(&self, question: &Question<'_>) -> Routed {
        match (self.routes.find(question), self.config.pool) {
            (Ok(rule), _) => match self.config.routes[rule as usize].target {
                RouteTarget::Pool(pool) => Routed::ByRule(rule, pool),
                RouteTarget::Reject(reject) => Routed::Rejected(rule, reject),
            },
            (Err(_), Some(pool)) => Routed::ByDefault(pool),
            (Err(miss), None) => Routed::Missed(miss),
        }
    }

    /// Where rules send what is not TLS; `None` when no rule wants it.
    pub fn route_first_bytes(&self, spoken: FirstBytes, source: IpAddr) -> Option<Routed> {
        let rule = self.routes.find_first_bytes(spoken, source)?;
        Some(match self.config.routes[rule as usize].target {
            RouteTarget::Pool(pool) => Routed::ByRule(rule, pool),
            RouteTarget::Reject(reject) => Routed::Rejected(rule, reject),
        })
    }

    /// Whether a TLS client from `source` could get anywhere, whatever its hello says.
    pub fn could_route_tls(&self, source: IpAddr) -> bool {
        let leads_there = |route: &config::Route| {
            let conditions = &route.conditions;
            conditions.first_bytes.is_empty()
                && conditions.takes_source(source)
                && matches!(route.target, RouteTarget::Pool(_))
        };
        self.config.pool.is_some() || self.config.routes.iter().any(leads_there)
    }

    /// Where a rule stands, as `file:line`.
    pub fn origin(&self, rule: RuleId) -> &str {
        &self.config.routes[rule as usize].origin
    }
}

/// A pool of one generation.
#[derive(Debug)]
pub struct Pool {
    /// Its configuration, with the members that names lead to in place of the names.
    pub config: config::Pool,
    /// Its tables.
    pub balancer: Balancer,
    /// Backends in the same order.
    pub backends: Vec<Arc<Backend>>,
    /// What each gets of the pool's connections, in the same order.
    pub shares: Vec<Share>,
    /// Those that are not of the first tier.
    later: Vec<(Tier, Arc<Backend>)>,
    /// Named backends without members, and why.
    pub unresolved: Vec<(Arc<str>, &'static str)>,
    /// Its counters.
    pub state: Arc<PoolState>,
}

/// What a backend gets of its pool's connections: as configured or as an operator said, and as its agent asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Weight; 0 takes no new connections.
    pub weight: u32,
    /// Connections at once.
    pub max_connections: Option<u32>,
}

impl Share {
    fn of(config: &config::Backend, agent: AgentOrders, overrides: &Overrides) -> Self {
        let whole = overrides.weight.in_force().map_or(config.weight, |word| word.said);
        let weight = match agent.weight {
            // As for HAProxy: a share above zero is never rounded down to none.
            Some(percent) => (u64::from(whole) * u64::from(percent)).div_ceil(100) as u32,
            None => whole,
        };
        let asked = agent.max_connections.filter(|most| *most > 0);
        let max_connections = [config.max_connections, asked].into_iter().flatten().min();
        Self { weight, max_connections }
    }
}

/// What a backend can do for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It takes it.
    Yes(Load),
    /// It has its `max-connections`.
    Full,
    /// It takes no new ones.
    Closed,
}

impl Pool {
    /// Whether these are its members.
    fn has(&self, members: &Members, shares: &[Share]) -> bool {
        self.config.backends == members.described
            && self.unresolved == members.unresolved
            && self.shares == shares
            && self.backends.iter().map(|backend| backend.address).eq(members.addresses.iter().copied())
    }

    /// What a member can do for a new connection. The clock is read only for one that is fresh.
    pub fn room(&self, member: MemberId, ignoring: HealthIgnored, now_ms: impl Fn() -> u64) -> Room {
        let backend = &self.backends[member];
        if !backend.takes(ignoring) {
            return Room::Closed;
        }
        if backend.active.is_full() {
            return Room::Full;
        }
        Room::Yes(Load { active: backend.active.count(), ramp: self.ramp(backend, now_ms) })
    }

    /// What bounded loads are bounded by in a tier, without `own` connections: those that are asked for and counted
    /// already. Sessions that stay at a backend which takes no new ones count as well, those of one that is gone in the
    /// first tier.
    pub fn totals(&self, tier: Tier, own: u64) -> Totals {
        let at = |counts: &dyn Fn(Tier) -> bool| -> u64 {
            self.later
                .iter()
                .filter(|(tier, _)| counts(*tier))
                .map(|(_, backend)| u64::from(backend.active.count()))
                .sum()
        };
        let places = &self.state.places;
        let active = if tier.is_backup() {
            at(&|other| other == tier)
        } else {
            u64::from(places.taken.count()).saturating_sub(at(&|_| true) + own)
        };
        Totals { active, weight: places.weights.of(tier) }
    }

    /// The share of its weight that a backend counts with now.
    pub fn ramp(&self, backend: &Backend, now_ms: impl Fn() -> u64) -> Ramp {
        match (self.config.slow_start, backend.back_since_ms()) {
            (Some(window), Some(since)) => Ramp::since(now_ms().saturating_sub(since), window.as_millis() as u64),
            _ => Ramp::FULL,
        }
    }
}

/// One generation.
#[derive(Debug)]
pub struct Snapshot {
    /// 1 at start, one more with every reload and upgrade; what names and operators change does not count.
    pub generation: u64,
    /// The configuration that it came from.
    pub config: Arc<Config>,
    /// Listeners in the order of the configuration.
    pub listeners: Vec<Arc<Listener>>,
    /// Pools in the order of [`Config::pools`].
    pub pools: Vec<Arc<Pool>>,
    /// Worker threads that accept connections.
    pub workers: usize,
}

impl Snapshot {
    /// The rules of all listeners.
    pub fn rules(&self) -> Rules {
        let of = |listener: &Arc<Listener>| {
            let own = listener.config.pool.map(|pool| self.config.pools[pool].own_route());
            let rules = listener.config.routes.iter().map(|route| route.identity).chain(own).collect();
            (Arc::clone(&listener.config.name), rules)
        };
        self.listeners.iter().map(of).collect()
    }

    /// Builds a generation; listeners, pools and backends that `previous` has too keep their state.
    ///
    /// # Errors
    /// When a pool is too large for its method, which the check of the configuration excludes.
    pub fn build(
        config: Arc<Config>,
        previous: Option<&Self>,
        supplement: &Supplement<'_>,
        workers: usize,
    ) -> Result<Self, TableError> {
        let mut kept = Kept::of(previous, supplement);
        let pool = |pool| kept.pool(pool, Members::of(pool, supplement), workers).map(Arc::new);
        let pools: Result<Vec<_>, _> = config.pools.iter().map(pool).collect();
        let listeners = config.listeners.iter().map(|listener| Arc::new(kept.listener(listener, workers))).collect();
        let generation = previous.map_or(1, |previous| previous.generation + 1);
        Ok(Self { generation, config, listeners, pools: pools?, workers })
    }

    /// The same generation with what names lead to and operators want now; `None` when that changes no pool. Pools that stay the same are
    /// the same.
    ///
    /// # Errors
    /// As for [`Snapshot::build`]; the limit of members excludes it.
    pub fn renewed(&self, supplement: &Supplement<'_>) -> Result<Option<Self>, TableError> {
        let mut kept = Kept::of(Some(self), supplement);
        let mut pools = self.pools.clone();
        let mut changed = false;
        for (pool, config) in pools.iter_mut().zip(&self.config.pools) {
            let members = Members::of(config, supplement);
            if !pool.has(&members, &kept.shares(config, &members)) {
                *pool = Arc::new(kept.pool(config, members, self.workers)?);
                changed = true;
            }
        }
        let (generation, config, listeners) = (self.generation, Arc::clone(&self.config), self.listeners.clone());
        Ok(changed.then_some(Self { generation, config, listeners, pools, workers: self.workers }))
    }

    /// Carries over what is known of backends whose check was switched on or off; to be called once the generation
    /// is sure to come into force. An unchecked backend served, so it counts as up until its check says otherwise.
    pub fn settle_health(&self) {
        for (pool, backend) in self.backends() {
            let is_checked = pool.config.health.is_some();
            backend.change(|vitals| {
                vitals.health = match (is_checked, vitals.health) {
                    (false, _) => Health::Unchecked,
                    (true, Health::Unchecked) => Health::Up,
                    (true, Health::Unknown) => untold(pool.config.health.as_ref()),
                    (true, known) => known,
                };
            });
        }
    }

    /// The listener called `name`.
    pub fn listener_named(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| *listener.config.name == *name)
    }

    /// Backends with their pools.
    pub fn backends(&self) -> impl Iterator<Item = (&Arc<Pool>, &Arc<Backend>)> {
        self.pools.iter().flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)))
    }

    /// The backend called `POOL/BACKEND`.
    pub fn backend_named(&self, path: &str) -> Option<&Arc<Backend>> {
        let (pool, name) = path.split_once('/')?;
        self.backends().map(|(_, backend)| backend).find(|backend| *backend.pool == *pool && *backend.name == *name)
    }
}

/// State of the previous generation, by identity.
struct Kept {
    listeners: HashMap<Arc<str>, Arc<ListenerState>>,
    pools: HashMap<Arc<str>, Arc<PoolState>>,
    backends: HashMap<(Arc<str>, Arc<str>, SocketAddr), Arc<Backend>>,
    /// What operators said, also of those that are away or will have another address, by `POOL/BACKEND`.
    words: HashMap<String, Overrides>,
}

impl Kept {
    fn of(previous: Option<&Snapshot>, supplement: &Supplement<'_>) -> Self {
        let listeners = previous.into_iter().flat_map(|snapshot| &snapshot.listeners);
        let pools = previous.into_iter().flat_map(|snapshot| &snapshot.pools);
        let backends = || previous.into_iter().flat_map(Snapshot::backends).map(|(_, backend)| backend);
        let absent = supplement.operators.absent.iter().map(|(path, absent)| (path.clone(), absent.words));
        let spoken_of =
            backends().map(|backend| (backend.path(), backend.words())).filter(|(_, said)| !said.is_empty());
        let identity = |backend: &Arc<Backend>| (Arc::clone(&backend.pool), Arc::clone(&backend.name), backend.address);
        Self {
            listeners: listeners.map(|l| (Arc::clone(&l.config.name), Arc::clone(&l.state))).collect(),
            pools: pools.map(|p| (Arc::clone(&p.config.name), Arc::clone(&p.state))).collect(),
            words: absent.chain(spoken_of).collect(),
            backends: backends().map(|backend| (identity(backend), Arc::clone(backend))).collect(),
        }
    }

    fn listener(&mut self, config: &config::Listener, workers: usize) -> Listener {
        let state = self.listeners.remove(&config.name);
        let state = state.unwrap_or_else(|| Arc::new(ListenerState::new(Arc::clone(&config.name), workers)));
        let routes = RouteTable::new(config.routes.iter().map(|route| route.conditions.clone()).collect());
        Listener { config: config.clone(), routes, state }
    }

    /// What each member gets, as far as operators and its agent have said something.
    fn shares(&self, config: &config::Pool, members: &Members) -> Vec<Share> {
        let share = |(backend, address): (&config::Backend, &SocketAddr)| {
            let identity = (Arc::clone(&config.name), Arc::clone(&backend.name), *address);
            let agent = self.backends.get(&identity).map(|kept| kept.vitals().agent);
            Share::of(backend, agent.unwrap_or_default(), &self.words_about(config, backend))
        };
        members.described.iter().zip(&members.addresses).map(share).collect()
    }

    fn words_about(&self, pool: &config::Pool, backend: &config::Backend) -> Overrides {
        self.words.get(&format!("{}/{}", pool.name, backend.name)).copied().unwrap_or_default()
    }

    fn pool(&mut self, config: &config::Pool, members: Members, workers: usize) -> Result<Pool, TableError> {
        let state = self.pools.remove(&config.name);
        let state = state.unwrap_or_else(|| Arc::new(PoolState::new(Arc::clone(&config.name), workers)));
        let fresh = untold(config.health.as_ref());
        let shares = self.shares(config, &members);
        let Members { described, addresses, unresolved } = members;
        let backends = described.iter().zip(addresses).map(|(backend, address)| {
            let words = self.words_about(config, backend);
            let identity = (Arc::clone(&config.name), Arc::clone(&backend.name), address);
            self.backends.remove(&identity).unwrap_or_else(|| {
                let (pool, name, address) = identity;
                let fresh = Backend::new(pool, name, address, fresh, workers);
                fresh.change(|vitals| vitals.overrides = words);
                Arc::new(fresh)
            })
        });
        let backends: Vec<Arc<Backend>> = backends.collect();
        let member = |(backend, share): (&config::Backend, &Share)| Member {
            name: (*backend.name).into(),
            weight: share.weight,
            tier: backend.tier,
        };
        let members: Vec<Member> = described.iter().zip(&shares).map(member).collect();
        let balancer = Balancer::new(config.method, &members)?;
        let config = config::Pool { backends: described, ..config.clone() };
        let later = config.backends.iter().zip(&backends).filter(|(backend, _)| backend.tier.is_backup());
        let later = later.map(|(config, backend)| (config.tier, Arc::clone(backend))).collect();
        Ok(Pool { config, balancer, backends, shares, later, unresolved, state })
    }
}

/// The health of a backend of which nothing is known yet. An agent that cannot be asked leaves a backend as it is, so one
/// that has an agent takes traffic until the agent says otherwise.
fn untold(check: Option<&HealthCheck>) -> Health {
    match check.map(|check| &check.kind) {
        None => Health::Unchecked,
        Some(CheckKind::Agent(_)) => Health::Up,
        Some(_) => Health::Unknown,
    }
}

#[cfg(test)]
mod tests;
