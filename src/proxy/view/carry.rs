//! What sessions share, on its way to another process, and how that finds its own of it: by name, among what is in force,
//! then among what a new configuration does not have any more; whatever is nowhere is made for the sessions that need it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BackendBrief, Leg, ListenerBrief, PoolBrief, RelayPlan};
use crate::config::{Limit, Reject, RelayNumbers, RelayPath};
use crate::state::Heirs;

/// What a session keeps of its listener.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListenerCopy {
    name: Arc<str>,
    idle_ms: Option<u64>,
    half_close_ms: Option<u64>,
    /// Not in format 1, where nobody goes over who could be refused.
    reject: Option<Reject>,
    user_timeout: Option<Limit>,
    keepalive: Option<Limit>,
}

/// What it keeps of its pool, as far as it matters once bytes flow.
#[derive(Debug, Serialize, Deserialize)]
pub struct PoolCopy {
    name: Arc<str>,
    path: RelayPath,
    numbers: RelayNumbers,
    first_byte_ms: Option<u64>,
    user_timeout: Option<Duration>,
    keepalive: Option<Duration>,
}

/// What it keeps of its backend.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackendCopy {
    pool: Arc<str>,
    name: Arc<str>,
    address: SocketAddr,
    /// Of format 1, which counted connections at backups apart; never set by now.
    #[serde(default)]
    is_backup: bool,
}

impl ListenerCopy {
    /// Copies it.
    pub fn of(brief: &ListenerBrief) -> Self {
        let ListenerBrief { idle_ms, half_close_ms, reject, user_timeout, keepalive, .. } = *brief;
        let (name, reject) = (Arc::clone(&brief.state.name), Some(reject));
        Self { name, idle_ms, half_close_ms, reject, user_timeout, keepalive }
    }

    /// Finds it here.
    pub fn find(&self, heirs: &Heirs, worker: usize) -> Rc<ListenerBrief> {
        let Self { idle_ms, half_close_ms, user_timeout, keepalive, .. } = *self;
        let (state, reject) = (heirs.listener(&self.name), self.reject.unwrap_or(Reject::Alert));
        Rc::new(ListenerBrief { state, idle_ms, half_close_ms, reject, user_timeout, keepalive, worker })
    }
}

impl PoolCopy {
    /// Copies it.
    pub fn of(brief: &PoolBrief) -> Self {
        Self {
            name: Arc::clone(&brief.state.name),
            path: brief.relay.path,
            numbers: brief.relay.numbers,
            first_byte_ms: brief.first_byte_ms,
            user_timeout: brief.leg.user_timeout,
            keepalive: brief.leg.keepalive,
        }
    }

    /// Finds it here. What is for setting up sessions is not needed any more.
    pub fn find(&self, heirs: &Heirs, worker: usize) -> Rc<PoolBrief> {
        Rc::new(PoolBrief {
            state: heirs.pool(&self.name),
            send_proxy: None,
            connect_timeout: Duration::ZERO,
            relay: RelayPlan { path: self.path, numbers: self.numbers },
            first_byte_ms: self.first_byte_ms,
            leg: Leg { user_timeout: self.user_timeout, keepalive: self.keepalive },
            worker,
        })
    }
}

impl BackendCopy {
    /// Copies it.
    pub fn of(brief: &BackendBrief) -> Self {
        let backend = &brief.backend;
        Self {
            pool: Arc::clone(&backend.pool),
            name: Arc::clone(&backend.name),
            address: backend.address,
            is_backup: false,
        }
    }

    /// Finds it here.
    pub fn find(&self, heirs: &Heirs, worker: usize) -> Rc<BackendBrief> {
        let backend = heirs.backend((Arc::clone(&self.pool), Arc::clone(&self.name), self.address));
        Rc::new(BackendBrief { backend, pool: heirs.pool(&self.pool), worker })
    }
}
