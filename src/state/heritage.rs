//! What a process leaves to the one that takes its place besides counts and sessions: health and its history, what operators
//! said, events, how reloads went. What the heir does not know any more is left out.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backend::{Backend, Vitals};
use super::counters::{ListenerState, PoolState};
use super::matching::{Rules, removed_rules};
use super::refused::RefusedHello;
use super::snapshot::Snapshot;
use super::trend::TrendCopy;
use super::{Reloads, Shared};
use crate::api::{Event, NameReport, ReloadReport};
use crate::decide::health::Health;

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Heritage {
    /// Number of the last generation.
    pub generation: u64,
    events: Vec<Event>,
    last_event: u64,
    reloads: (u64, u64, Option<ReloadReport>),
    commands: Vec<(String, String, u64)>,
    trend: TrendCopy,
    names: Vec<NameReport>,
    listeners: BTreeMap<String, ListenerCopy>,
    pools: BTreeMap<String, PoolCopy>,
    backends: Vec<BackendCopy>,
    #[serde(default)]
    rules: Rules,
}

#[derive(Debug, Serialize, Deserialize)]
struct ListenerCopy {
    trend: TrendCopy,
    refused: Vec<RefusedHello>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PoolCopy {
    trend: TrendCopy,
    panic: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct BackendCopy {
    pool: Arc<str>,
    name: Arc<str>,
    address: SocketAddr,
    vitals: Vitals,
    back_since_ms: Option<u64>,
    trend: TrendCopy,
}

impl Heritage {
    /// What there is now.
    pub fn of(shared: &Shared, snapshot: &Snapshot) -> Self {
        let reloads = shared.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let commands = shared.commands.list().into_iter();
        let listener = |listener: &Arc<super::Listener>| {
            let state = &listener.state;
            let refused = state.refused.list().iter().map(|refused| RefusedHello::clone(refused)).collect();
            (state.name.to_string(), ListenerCopy { trend: state.trend.copy(), refused })
        };
        let pool = |pool: &Arc<super::Pool>| {
            let panic = pool.state.places.panic.load(Ordering::Relaxed);
            (pool.state.name.to_string(), PoolCopy { trend: pool.state.trend.copy(), panic })
        };
        let backend = |(_, backend): (&Arc<super::Pool>, &Arc<Backend>)| BackendCopy {
            pool: Arc::clone(&backend.pool),
            name: Arc::clone(&backend.name),
            address: backend.address,
            vitals: backend.vitals(),
            back_since_ms: backend.back_since_ms(),
            trend: backend.trend.copy(),
        };
        Self {
            generation: snapshot.generation,
            events: shared.events.since(0, None, usize::MAX),
            last_event: shared.events.last(),
            reloads: (reloads.succeeded, reloads.failed, reloads.last),
            commands: commands.map(|((command, result), count)| (command.into(), result.into(), count)).collect(),
            trend: shared.trend.copy(),
            names: shared.names.list(),
            listeners: snapshot.listeners.iter().map(listener).collect(),
            pools: snapshot.pools.iter().map(pool).collect(),
            backends: snapshot.backends().map(backend).collect(),
            rules: snapshot.rules(),
        }
    }

    /// Takes it up. May be done again, with a later one.
    pub fn take_up(self, shared: &Shared, snapshot: &Snapshot) {
        shared.events.replace(self.events, self.last_event);
        let (succeeded, failed, last) = self.reloads;
        *shared.reloads.lock().unwrap_or_else(PoisonError::into_inner) = Reloads { succeeded, failed, last };
        shared.commands.replace(self.commands);
        shared.trend.replace(&self.trend);
        for report in self.names {
            shared.names.take_up(report);
        }
        for listener in &snapshot.listeners {
            if let Some(copy) = self.listeners.get(&*listener.state.name) {
                listener.state.trend.replace(&copy.trend);
                listener.state.refused.replace(&copy.refused);
            }
        }
        for pool in &snapshot.pools {
            if let Some(copy) = self.pools.get(&*pool.state.name) {
                pool.state.trend.replace(&copy.trend);
                pool.state.places.panic.store(copy.panic, Ordering::Relaxed);
            }
        }
        let here: HashMap<Identity, _> =
            snapshot.backends().map(|(pool, backend)| (identity(backend), (pool, backend))).collect();
        for copy in self.backends {
            if let Some((pool, backend)) = here.get(&(copy.pool, copy.name, copy.address)) {
                backend.take_up(copy.vitals, pool.config.health.is_some());
                backend.set_back_since(copy.back_since_ms);
                backend.trend.replace(&copy.trend);
            }
        }
    }

    /// Where sessions find what they belong to: in `snapshot`, or among what it does not have any more, or what was `removed`
    /// long before.
    pub fn heirs(&self, snapshot: &Snapshot, removed: impl Iterator<Item = Identity>) -> Heirs {
        let mut heirs = Heirs {
            workers: snapshot.workers,
            listeners: snapshot.listeners.iter().map(|l| (Arc::clone(&l.state.name), Arc::clone(&l.state))).collect(),
            pools: snapshot.pools.iter().map(|p| (Arc::clone(&p.state.name), Arc::clone(&p.state))).collect(),
            backends: snapshot.backends().map(|(_, backend)| (identity(backend), Arc::clone(backend))).collect(),
            gone: Vec::new(),
            gone_rules: removed_rules(self.rules.clone(), &snapshot.rules()),
        };
        for copy in &self.backends {
            let identity = (Arc::clone(&copy.pool), Arc::clone(&copy.name), copy.address);
            if !heirs.backends.contains_key(&identity) {
                let gone = heirs.backend(identity.clone());
                heirs.gone.push(Arc::clone(&gone));
                heirs.backends.insert(identity, gone);
            }
        }
        for identity in removed {
            let known = heirs.backend(identity.clone());
            heirs.backends.entry(identity).or_insert(known);
        }
        heirs
    }
}

/// Pool, name and address of a backend.
pub type Identity = (Arc<str>, Arc<str>, SocketAddr);

/// What it is known by over generations and processes.
pub fn identity(backend: &Backend) -> Identity {
    (Arc::clone(&backend.pool), Arc::clone(&backend.name), backend.address)
}

/// What sessions that come from another process belong to here, by name.
#[derive(Debug)]
pub struct Heirs {
    workers: usize,
    listeners: HashMap<Arc<str>, Arc<ListenerState>>,
    pools: HashMap<Arc<str>, Arc<PoolState>>,
    backends: HashMap<Identity, Arc<Backend>>,
    gone: Vec<Arc<Backend>>,
    gone_rules: Rules,
}

impl Heirs {
    /// A listener; one that is not there any more counts for itself.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerState> {
        let known = self.listeners.get(name).cloned();
        known.unwrap_or_else(|| Arc::new(ListenerState::new(Arc::clone(name), self.workers)))
    }

    /// A pool; likewise.
    pub fn pool(&self, name: &Arc<str>) -> Arc<PoolState> {
        let known = self.pools.get(name).cloned();
        known.unwrap_or_else(|| Arc::new(PoolState::new(Arc::clone(name), self.workers)))
    }

    /// A backend; likewise.
    pub fn backend(&self, identity: Identity) -> Arc<Backend> {
        let known = self.backends.get(&identity).cloned();
        known.unwrap_or_else(|| {
            let (pool, name, address) = identity;
            Arc::new(Backend::new(pool, name, address, Health::Unchecked, self.workers))
        })
    }

    /// Rules that were in force there and are not here.
    pub fn gone_rules(&self) -> &Rules {
        &self.gone_rules
    }

    /// Backends that were in force there and are not here.
    pub fn gone(&self) -> &[Arc<Backend>] {
        &self.gone
    }
}

/// A moment as the time that has passed since, for types that know only their own process's clock.
pub(super) fn age(since: Option<std::time::Instant>) -> Option<Duration> {
    since.map(|since| since.elapsed())
}

/// The same back.
pub(super) fn moment(age: Option<Duration>) -> Option<std::time::Instant> {
    age.and_then(|age| std::time::Instant::now().checked_sub(age))
}

/// Health by name.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Health", rename_all = "lowercase")]
pub(super) enum HealthShape {
    Unchecked,
    Unknown,
    Up,
    Down,
}

/// Reasons by name.
pub(super) mod reason {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::decide::close::CloseReason;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde wants")]
    pub fn serialize<S: Serializer>(reason: &CloseReason, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(reason.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<CloseReason, D::Error> {
        let name = String::deserialize(from)?;
        CloseReason::named(&name).ok_or_else(|| D::Error::custom(format!("no reason is called `{name}`")))
    }
}

/// What an agent asks for, by name.
pub(super) mod operation {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::decide::health::agent::Operation;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Shape {
        Ready,
        Drain,
        Maintenance,
    }

    #[expect(clippy::trivially_copy_pass_by_ref, clippy::ref_option, reason = "the form that serde wants")]
    pub fn serialize<S: Serializer>(operation: &Option<Operation>, to: S) -> Result<S::Ok, S::Error> {
        let shape = operation.map(|operation| match operation {
            Operation::Ready => Shape::Ready,
            Operation::Drain => Shape::Drain,
            Operation::Maintenance => Shape::Maintenance,
        });
        shape.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Operation>, D::Error> {
        let shape = Option::<Shape>::deserialize(from)?;
        Ok(shape.map(|shape| match shape {
            Shape::Ready => Operation::Ready,
            Shape::Drain => Operation::Drain,
            Shape::Maintenance => Operation::Maintenance,
        }))
    }
}

/// Fields of `then` that `now` does not have, whatever is in them: what a reader of an older version would miss.
#[cfg(test)]
pub fn missing_fields(now: &serde_json::Value, then: &serde_json::Value) -> Vec<String> {
    use serde_json::Value;
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            let field = |(name, then): (&String, &Value)| {
                now.get(name).map_or_else(|| vec![name.clone()], |now| missing_fields(now, then))
            };
            then.iter().flat_map(field).collect()
        }
        (Value::Array(now), Value::Array(then)) => {
            now.iter().zip(then).flat_map(|(now, then)| missing_fields(now, then)).collect()
        }
        _ => Vec::new(),
    }
}
