//! A worker's view of a snapshot: the same routes and pools behind `Rc`, so that taking them for a session costs no
//! locked instruction, and only what the record needs outlives the set-up of a session.

pub mod carry;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::ready::Ready;
use crate::config::{Access, Limit, PoolId, Protocol, Reject, RelayNumbers, RelayPath, Route};
use crate::decide::balance::Turns;
use crate::decide::hello::FirstBytes::Silence;
use crate::decide::hello::proxy::Version;
use crate::state::{
    Backend, BackendShard, Listener, ListenerShard, ListenerState, Pool, PoolShard, PoolState, Snapshot,
};
use crate::sys::socket::FirstSpeaker;

/// What a session keeps of its listener.
#[derive(Debug)]
pub struct ListenerBrief {
    /// Name and counters.
    pub state: Arc<ListenerState>,
    /// No byte either way for this long ends the session.
    pub idle_ms: Option<u64>,
    /// The same after one side finished.
    pub half_close_ms: Option<u64>,
    /// How a client is told that it is refused.
    pub reject: Reject,
    /// For the client's leg, instead of the pool's: `user_timeout`.
    pub user_timeout: Option<Limit>,
    /// The same: `keepalive`.
    pub keepalive: Option<Limit>,
    worker: usize,
}

impl ListenerBrief {
    /// How the client's leg is watched, where the backend's leg is watched like this.
    pub fn client_leg(&self, pool: Leg) -> Leg {
        Leg {
            user_timeout: self.user_timeout.map_or(pool.user_timeout, Limit::time),
            keepalive: self.keepalive.map_or(pool.keepalive, Limit::time),
        }
    }
}

impl ListenerBrief {
    /// This worker's counters.
    pub fn shard(&self) -> &ListenerShard {
        &self.state.shards[self.worker]
    }
}

/// What a session keeps of its pool.
#[derive(Debug)]
pub struct PoolBrief {
    /// Name and counters.
    pub state: Arc<PoolState>,
    /// PROXY header for its backends.
    pub send_proxy: Option<Version>,
    /// Time for one connection attempt.
    pub connect_timeout: Duration,
    /// Which way bytes take.
    pub relay: RelayPlan,
    /// Silence after a hello that counts as a failure.
    pub first_byte_ms: Option<u64>,
    /// How its legs are watched.
    pub leg: Leg,
    worker: usize,
}

/// Which way bytes take, and when they take another.
#[derive(Clone, Copy, Debug)]
pub struct RelayPlan {
    /// The way.
    pub path: RelayPath,
    /// When it changes.
    pub numbers: RelayNumbers,
}

/// How one leg of a session is watched for a peer that is gone.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    /// Data that nobody acknowledges for this long ends the session.
    pub user_timeout: Option<Duration>,
    /// First keepalive probe.
    pub keepalive: Option<Duration>,
}

impl PoolBrief {
    /// This worker's counters.
    pub fn shard(&self) -> &PoolShard {
        &self.state.shards[self.worker]
    }
}

/// What a session keeps of its backend.
#[derive(Debug)]
pub struct BackendBrief {
    /// Its live state.
    pub backend: Arc<Backend>,
    /// Its pool's.
    pub pool: Arc<PoolState>,
    worker: usize,
}

impl BackendBrief {
    /// This worker's counters.
    pub fn shard(&self) -> &BackendShard {
        &self.backend.shards[self.worker]
    }
}

/// What a session keeps of the rule that routed it.
#[derive(Debug)]
pub struct RouteBrief {
    /// Where it stands, as `file:line`, or `default`; for records.
    pub origin: Box<str>,
    /// Which one it is, in every generation that has it: [`Route::identity`](crate::config::Route::identity), or 0.
    pub identity: u64,
}

/// A listener as one worker sees it.
#[derive(Debug)]
pub struct ListenerView {
    /// Configuration and routes.
    pub listener: Arc<Listener>,
    /// What sessions keep.
    pub brief: Rc<ListenerBrief>,
    /// Pools of the same generation, in the order of the configuration.
    pub pools: Pools,
    /// What sessions keep of each rule.
    pub routes: Vec<Rc<RouteBrief>>,
    /// The same for the listener's own pool.
    pub default_route: Rc<RouteBrief>,
    /// Where every connection of a PostgreSQL listener goes, when there is only one place.
    pub relay: Option<PoolId>,
}

impl ListenerView {
    /// Whether `peer` must send a PROXY header.
    pub fn expects_proxy_header(&self, peer: SocketAddr) -> bool {
        self.listener.config.accept_proxy.as_ref().is_some_and(|from| from.longest(peer.ip()).is_some())
    }

    /// Who speaks first here, for the kernel's sake.
    pub fn first_speaker(&self) -> FirstSpeaker {
        let silence = self.listener.config.routes.iter().any(|route| route.conditions.first_bytes.contains(&Silence));
        match self.listener.config.protocol {
            Protocol::Tls | Protocol::Postgres if !silence => FirstSpeaker::Client,
            _ => FirstSpeaker::Server,
        }
    }

    /// Whether it matters what speaks when it is not TLS: a rule may want it, or it may be a forged PROXY header.
    pub fn looks_at_first_bytes(&self) -> bool {
        self.listener.routes.wants_first_bytes() || self.listener.config.accept_proxy.is_some()
    }

    /// Whether `allow` and `deny` let the source in.
    pub fn admits(&self, source: SocketAddr) -> bool {
        self.listener.config.access.longest(source.ip()) == Some(Access::Allow)
    }
}

/// A pool as one worker sees it.
#[derive(Debug)]
pub struct PoolView {
    /// Configuration and tables.
    pub pool: Arc<Pool>,
    /// What sessions keep.
    pub brief: Rc<PoolBrief>,
    /// Backends in the order of the configuration.
    pub backends: Vec<Rc<BackendBrief>>,
    /// Connections that are ready for use.
    pub ready: Ready,
    /// Whose turn it is.
    pub turns: RefCell<Turns>,
}

impl PoolView {
    fn new(pool: &Arc<Pool>, numbers: RelayNumbers, worker: usize) -> Self {
        let brief = |backend: &Arc<Backend>| {
            let (backend, pool) = (Arc::clone(backend), Arc::clone(&pool.state));
            Rc::new(BackendBrief { backend, pool, worker })
        };
        Self {
            pool: Arc::clone(pool),
            brief: Rc::new(PoolBrief {
                state: Arc::clone(&pool.state),
                send_proxy: pool.config.send_proxy,
                connect_timeout: pool.config.connect_timeout,
                relay: RelayPlan { path: pool.config.relay, numbers },
                first_byte_ms: pool.config.first_byte_timeout.map(|limit| limit.as_millis() as u64),
                leg: Leg { user_timeout: pool.config.user_timeout, keepalive: pool.config.keepalive },
                worker,
            }),
            ready: Ready::new(if pool.config.preconnect > 0 { pool.backends.len() } else { 0 }),
            backends: pool.backends.iter().map(brief).collect(),
            turns: RefCell::new(pool.balancer.turns(worker)),
        }
    }
}

/// All pools of a generation, in the order of the configuration.
pub type Pools = Rc<[Rc<PoolView>]>;

/// Pools and listeners of a snapshot as one worker sees them. A pool that `before` has too, the very same, stays with
/// its turns and ready connections.
pub fn listeners(snapshot: &Snapshot, before: &Pools, worker: usize) -> (Pools, Vec<Rc<ListenerView>>) {
    let numbers = snapshot.config.global.relay;
    let pool = |pool| match before.iter().find(|view| Arc::ptr_eq(&view.pool, pool)) {
        Some(view) => Rc::clone(view),
        None => Rc::new(PoolView::new(pool, numbers, worker)),
    };
    let pools: Pools = snapshot.pools.iter().map(pool).collect();
    let millis = |time: std::time::Duration| time.as_millis() as u64;
    let route = |route: &Route| Rc::new(RouteBrief { origin: (*route.origin).into(), identity: route.identity });
    let view = |listener: &Arc<Listener>| {
        let brief = ListenerBrief {
            state: Arc::clone(&listener.state),
            idle_ms: listener.config.idle_timeout.map(millis),
            half_close_ms: listener.config.half_close_timeout.map(millis),
            reject: listener.config.reject,
            user_timeout: listener.config.user_timeout,
            keepalive: listener.config.keepalive,
            worker,
        };
        Rc::new(ListenerView {
            listener: Arc::clone(listener),
            brief: Rc::new(brief),
            pools: Rc::clone(&pools),
            routes: listener.config.routes.iter().map(route).collect(),
            default_route: Rc::new(RouteBrief {
                origin: "default".into(),
                identity: listener.config.pool.map_or(0, |pool| snapshot.config.pools[pool].own_route()),
            }),
            relay: listener.config.only_pool(),
        })
    };
    let listeners = snapshot.listeners.iter().map(view).collect();
    (pools, listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_listener_win_over_those_of_the_pool_for_its_clients() {
        let after = Duration::from_secs;
        let pool = Leg { user_timeout: Some(after(30)), keepalive: None };
        let leg = |user_timeout, keepalive| {
            let state = Arc::new(ListenerState::new("l".into(), 1));
            let brief = ListenerBrief {
                state,
                idle_ms: None,
                half_close_ms: None,
                reject: Reject::Alert,
                user_timeout,
                keepalive,
                worker: 0,
            };
            let Leg { user_timeout, keepalive } = brief.client_leg(pool);
            (user_timeout, keepalive)
        };
        assert_eq!(leg(None, None), (Some(after(30)), None), "as the pool says");
        assert_eq!(leg(Some(Limit::Off), Some(Limit::After(after(5)))), (None, Some(after(5))));
        assert_eq!(leg(Some(Limit::After(after(7))), None), (Some(after(7)), None));
    }
}
