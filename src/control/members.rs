//! Backends that operators add to a pool and remove from it while the process runs. They come into force as a reload does it:
//! checked before clients are sent to them; what becomes of the sessions of those that go, `removed-sessions` says. What
//! is in the file, or comes from a name, is not changed here.

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::failure::Failure;
use super::overrides::{Peer, find, keep};
use super::{Handle, reload};
use crate::api::{AddParams, Added, Cause, Event, RemoveParams, Removed};
use crate::config::{DEFAULT_WEIGHT, MOST_WEIGHT, is_name};
use crate::state::{Addition, Backend, MOST_MEMBERS, Operators, Phase, Pool, Snapshot, Supplement};

/// What stands for "not there" in events.
const ABSENT: &str = "absent";

/// Adds a backend to a pool.
///
/// # Errors
/// When it contradicts the file or what is there already, or the pool cannot take it; nothing has changed then.
pub async fn add(control: &Handle, params: AddParams, peer: Peer) -> Result<Added, Failure> {
    let AddParams { pool: pool_name, address, name, weight } = params;
    let address = read_address(&address)?;
    let name: Arc<str> = name.unwrap_or_else(|| address.to_string()).into();
    if !is_name(&name) {
        return Err(Failure::new("bad_params", format!("`{name}` is not a name"))
            .hint("up to 64 letters, digits, and any of - _ . : [ ]"));
    }
    let weight = weight.unwrap_or(DEFAULT_WEIGHT);
    if weight > MOST_WEIGHT {
        return Err(Failure::new("bad_params", format!("weight {weight} is above {MOST_WEIGHT}")));
    }
    let _turn = control.reloading.lock().await;
    let snapshot = control.snapshot();
    let pool = snapshot.pools.iter().find(|pool| *pool.config.name == *pool_name);
    let pool = pool.ok_or_else(|| Failure::no_such_pool(&pool_name))?;
    refuse_contradiction(&snapshot, pool, &name, address)?;
    let mut wanted = control.operators.borrow().clone();
    let addition = Addition { address, weight, by_uid: peer.uid, at: Timestamp::now() };
    wanted.added.entry(Arc::clone(&pool.config.name)).or_default().insert(Arc::clone(&name), addition);
    bring_into_force(control, wanted).await?;
    let path = format!("{pool_name}/{name}");
    let state = control.snapshot().backend_named(&path).map(|backend| backend.standing().name());
    let state = state.ok_or_else(|| Failure::new("internal", format!("`{path}` did not come into force")))?;
    announce(control, &pool_name, &name, (ABSENT, state), "added", &format!("{address} added"), peer);
    let kept = keep(control).await;
    Ok(Added { backend: path, state: state.to_owned(), kept })
}

/// Removes a backend that was added.
///
/// # Errors
/// When there is none of this name, or it is in the file or comes from a name; nothing has changed then.
pub async fn remove(control: &Handle, params: &RemoveParams, peer: Peer) -> Result<Removed, Failure> {
    let path = &params.backend;
    let _turn = control.reloading.lock().await;
    let snapshot = control.snapshot();
    let (pool, backend) = find(&snapshot, path).ok_or_else(|| Failure::no_such_backend(path))?;
    let mut wanted = control.operators.borrow().clone();
    let added = wanted.added.get_mut(&backend.pool).and_then(|added| added.remove(&backend.name));
    if added.is_none() {
        return Err(why_not_removed(pool, backend));
    }
    wanted.added.retain(|_, added| !added.is_empty());
    let (state, active) = (backend.standing().name(), backend.active.count());
    bring_into_force(control, wanted).await?;
    // Who adds it again means another one.
    control.operators.borrow_mut().absent.remove(path);
    let detail = format!("{} removed with {active} connections", backend.address);
    announce(control, &backend.pool, &backend.name, (state, ABSENT), "removed", &detail, peer);
    let kept = keep(control).await;
    Ok(Removed { backend: path.clone(), active, kept })
}

fn read_address(text: &str) -> Result<SocketAddr, Failure> {
    let address: SocketAddr = text.parse().map_err(|_| {
        Failure::new("bad_params", format!("`{text}` is not an address with a port"))
            .hint("such as 10.0.0.11:443 or [2001:db8::1]:443; names are for the file")
    })?;
    if address.port() == 0 {
        return Err(Failure::new("bad_params", format!("backend {address} has port 0")));
    }
    Ok(address)
}

fn refuse_contradiction(snapshot: &Snapshot, pool: &Pool, name: &str, address: SocketAddr) -> Result<(), Failure> {
    let pool_name = &*pool.config.name;
    let written = snapshot.config.pools.iter().filter(|written| written.name == pool.config.name);
    let mut names = written.flat_map(|written| &written.backends).map(|backend| &backend.name);
    if names.any(|taken| **taken == *name) || pool.backends.iter().any(|backend| *backend.name == *name) {
        return Err(Failure::new("exists", format!("pool `{pool_name}` has a backend called `{name}` already")));
    }
    if let Some(there) = pool.backends.iter().find(|backend| backend.address == address) {
        let why = format!("pool `{pool_name}` has {address} already: it is `{}`", there.name);
        return Err(Failure::new("exists", why));
    }
    if pool.backends.len() >= MOST_MEMBERS {
        return Err(Failure::new("too_many", format!("pool `{pool_name}` has {MOST_MEMBERS} backends, the most")));
    }
    let sources = &pool.config.source_addresses;
    if !sources.is_empty() && !sources.iter().any(|from| from.is_ipv4() == address.is_ipv4()) {
        return Err(Failure::new("bad_params", format!("no source-address of pool `{pool_name}` fits {address}")));
    }
    Ok(())
}

fn why_not_removed(pool: &Pool, backend: &Backend) -> Failure {
    let described = pool.config.backends.iter().find(|described| described.name == backend.name);
    match described.and_then(|described| described.address.target()) {
        Some(target) => Failure::new("in_file", format!("`{}` comes from the name {target}", backend.path()))
            .hint("it goes when the name does not lead there any more; drain or disable it until then"),
        None => Failure::new("in_file", format!("`{}` is in the configuration", backend.path()))
            .hint("take it out of the file and reload; or drain or disable it"),
    }
}

/// Puts the pools in force as operators want them. To be called while no reload runs.
async fn bring_into_force(control: &Handle, wanted: Operators) -> Result<(), Failure> {
    if matches!(control.shared.phase(), Phase::Leaving | Phase::Draining) {
        return Err(Failure::new("stopping", "the process is stopping"));
    }
    let old = control.snapshot();
    let names = control.names.borrow().resolution();
    let supplement = Supplement { names: &names, operators: &wanted };
    let renewed = old.renewed(&supplement);
    if let Some(snapshot) = renewed.map_err(|error| Failure::new("too_many", error.to_string()))? {
        let put = reload::put_in_force(control, &old, Arc::new(snapshot)).await;
        put.map_err(|error| Failure::new("failed", error))?;
    }
    control.operators.borrow_mut().added = wanted.added;
    Ok(())
}

fn announce(control: &Handle, pool: &str, name: &str, (from, to): (&str, &str), reason: &str, what: &str, peer: Peer) {
    let (uid, pid) = (peer.uid, peer.pid.unwrap_or(0));
    tracing::info!(pool, backend = name, what, uid, pid, "operator changed pool");
    control.shared.events.add(Event {
        id: 0,
        time: Timestamp::now(),
        pool: pool.to_owned(),
        backend: Some(name.to_owned()),
        from: from.to_owned(),
        to: to.to_owned(),
        by: Cause::Operator,
        reason: reason.to_owned(),
        detail: format!("{what}, by uid {uid} (pid {pid})"),
        evidence: Vec::new(),
    });
}

/// Follows a snapshot that has come into force: keeps the words about backends that are gone, forgets those whose backends
/// are here again, and additions that the file has no place for any more. Says whether anything changed.
pub fn settle(control: &Handle, removed: &[Arc<Backend>], snapshot: &Snapshot) -> bool {
    let now = Timestamp::now();
    let mut operators = control.operators.borrow_mut();
    let mut changed = false;
    for backend in removed {
        let words = backend.words();
        if !words.is_empty() && snapshot.backend_named(&backend.path()).is_none() {
            operators.remember(backend.path(), words, now);
            changed = true;
        }
    }
    let before = operators.absent.len();
    if before > 0 {
        snapshot.backends().for_each(|(_, backend)| _ = operators.absent.remove(&backend.path()));
    }
    changed || operators.absent.len() != before
}

/// Forgets additions that a new configuration contradicts, or has no pool for. Says whether there were any.
pub fn yield_to_file(control: &Handle, snapshot: &Snapshot) -> bool {
    let mut any = false;
    control.operators.borrow_mut().added.retain(|pool, added| {
        let written = snapshot.config.pools.iter().find(|written| written.name == *pool);
        added.retain(|name, addition| {
            let why = match written {
                None => Some("its pool is gone"),
                Some(written) if written.backends.iter().any(|other| other.name == *name) => {
                    Some("the configuration has this name now")
                }
                Some(written) if written.backends.iter().any(|other| other.address.is(addition.address)) => {
                    Some("the configuration has this address now")
                }
                Some(_) if snapshot.backend_named(&format!("{pool}/{name}")).is_none() => {
                    Some("its pool has no place for it any more")
                }
                Some(_) => None,
            };
            if let Some(why) = why {
                any = true;
                let address = addition.address;
                tracing::warn!(pool = &**pool, backend = &**name, %address, why, "an added backend is forgotten");
            }
            why.is_none()
        });
        !added.is_empty()
    });
    any
}
