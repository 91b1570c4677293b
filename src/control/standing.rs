//! What follows when a backend's state changes: the event, the log, the pool's sums and its panic, slow start, and the
//! sessions of a backend that went down. It decides nothing about states.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::Handle;
use crate::api::{Cause, Event, Evidence};
use crate::config::OnDown;
use crate::decide::balance::{Ramp, Tier};
use crate::decide::close::CloseReason;
use crate::decide::health::Health;
use crate::state::{Backend, HealthIgnored, Matching, Pool, Snapshot, Standing};
use crate::sys::clock::coarse_ms;

/// Sessions of a backend that went down that each worker resets at once, and the pause after them: about a thousand a
/// second, so that its clients do not all come back in the same moment. Chosen.
const RESET_AT_ONCE: usize = 50;
const RESET_PAUSE: Duration = Duration::from_millis(50);

/// A change and its reasons.
pub struct Change<'a> {
    /// The state before and after.
    pub states: (Standing, Standing),
    /// Name of the state before, where it says more than the state.
    pub from: Option<&'a str>,
    /// What brought it about.
    pub by: Cause,
    /// Why, in a word.
    pub reason: &'a str,
    /// Why, in a sentence.
    pub detail: &'a str,
    /// How the check went.
    pub evidence: Vec<Evidence>,
}

/// Carries out what follows from a change.
pub fn follow(control: &Handle, pool: &Pool, backend: &Arc<Backend>, change: Change<'_>) {
    let Change { states: (old, new), from, by, reason, detail, evidence } = change;
    let (pool_name, name) = (&*backend.pool, &*backend.name);
    let from = from.unwrap_or(old.name());
    let (to, seen) = (new.name(), phases(&evidence));
    // The level of an event is fixed where it stands.
    macro_rules! tell {
        ($level:ident) => {
            tracing::$level!(
                pool = pool_name,
                backend = name,
                from,
                to,
                by = by.name(),
                reason,
                detail,
                seen,
                "backend changed"
            )
        };
    }
    if matches!(new, Standing::Down | Standing::Ejected) {
        tell!(warn);
    } else {
        tell!(info);
    }
    control.shared.events.add(Event {
        id: 0,
        time: jiff::Timestamp::now(),
        pool: pool_name.to_owned(),
        backend: Some(name.to_owned()),
        from: from.to_owned(),
        to: new.name().to_owned(),
        by,
        reason: reason.to_owned(),
        detail: detail.to_owned(),
        evidence,
    });
    backend.trend.turn(matches!(new, Standing::Down | Standing::Ejected), Instant::now());
    let took = |standing: Standing| standing <= Standing::Up;
    if took(new) && !took(old) {
        backend.set_back_since(has_settled_others(pool, backend).then(coarse_ms));
    }
    sum_up(control, pool);
    if took(old) && !took(new) {
        // It may have been the last one besides those that are ejected.
        control.probes.borrow().look_at(pool);
    }
    if new == Standing::Down && pool.config.on_down == OnDown::Close {
        let (control, backend) = (Handle::clone(control), Arc::clone(backend));
        spawn_local(async move { reset_sessions(&control, &backend).await });
    }
}

/// The phases of a check in one line: each with its time, and what was seen.
fn phases(evidence: &[Evidence]) -> Option<String> {
    let phase = |Evidence { phase, took_ms, seen }: &Evidence| {
        let seen = if seen.is_empty() { String::new() } else { format!(" ({seen})") };
        format!("{phase} {took_ms:.1} ms{seen}")
    };
    let list: Vec<String> = evidence.iter().map(phase).collect();
    (!list.is_empty()).then(|| list.join(", "))
}

/// Whether another backend of the pool has taken connections for as long as a slow start takes: without any, all are
/// new, and none needs to be spared.
fn has_settled_others(pool: &Pool, backend: &Arc<Backend>) -> bool {
    let Some(window) = pool.config.slow_start else { return false };
    let now = jiff::Timestamp::now();
    pool.backends.iter().filter(|other| !Arc::ptr_eq(other, backend)).any(|other| {
        let since = other.vitals().since;
        other.takes(HealthIgnored::No)
            && pool.ramp(other, coarse_ms) == Ramp::FULL
            && now.duration_since(since).unsigned_abs() >= window
    })
}

/// Goes on with what another process had begun: sessions of backends that are down, where they are to end.
pub fn go_on_closing(control: &Handle, snapshot: &Snapshot) {
    for (pool, backend) in snapshot.backends() {
        if pool.config.on_down == OnDown::Close && backend.standing() == Standing::Down {
            let (control, backend) = (Handle::clone(control), Arc::clone(backend));
            spawn_local(async move { reset_sessions(&control, &backend).await });
        }
    }
}

/// Resets the sessions of a backend little by little, as long as it is down; not while it is only full, and serves them.
async fn reset_sessions(control: &Handle, backend: &Arc<Backend>) {
    let matching = Matching::Backend(Arc::clone(backend));
    while backend.standing() == Standing::Down && backend.active.count() > 0 {
        if backend.look(|vitals| vitals.full == 0) {
            control.plane.borrow().end_sessions(&matching, CloseReason::BackendDown, RESET_AT_ONCE);
        }
        sleep(RESET_PAUSE).await;
    }
}

/// Sums up every pool of a snapshot.
pub fn sum_up_all(control: &Handle, snapshot: &Snapshot) {
    for pool in &snapshot.pools {
        sum_up(control, pool);
    }
}

/// Works out what the data plane is told of a pool as a whole, and calls those who wait: a place may be there now.
pub fn sum_up(control: &Handle, pool: &Pool) {
    let places = &pool.state.places;
    let members = || pool.backends.iter().zip(&pool.shares).zip(&pool.config.backends);
    places.taken.set_limit(pool.config.max_connections);
    members().for_each(|((backend, share), _)| backend.active.set_limit(share.max_connections));
    // What an operator has taken away is not ill.
    let can_serve = |backend: &Backend| backend.takes(HealthIgnored::Yes);
    let sum = |counts: &dyn Fn(&Backend) -> bool| -> u64 {
        members()
            .filter(|((backend, _), config)| config.tier == Tier::FIRST && counts(backend))
            .map(|((_, share), _)| u64::from(share.weight))
            .sum()
    };
    // What was not asked yet is not ill: otherwise every start would begin in panic.
    let may_be_well = |backend: &Backend| backend.takes(HealthIgnored::No) || backend.health() == Health::Unknown;
    let healthy = sum(&|backend| can_serve(backend) && may_be_well(backend));
    let all = sum(&can_serve);
    // Where nobody of the first tier is well, but somebody of a later one, there is no need to send clients to the ill.
    let others_serve = healthy == 0
        && members().any(|((backend, share), config)| {
            config.tier.is_backup() && share.weight > 0 && backend.takes(HealthIgnored::No)
        });
    let panics = all > 0 && (healthy as f64) < pool.config.panic_threshold * all as f64 && !others_serve;
    let ignoring = if panics { HealthIgnored::Yes } else { HealthIgnored::No };
    let mut weights = [0; Tier::COUNT];
    for ((_, share), config) in members().filter(|((backend, _), _)| backend.takes(ignoring)) {
        weights[config.tier.position()] += u64::from(share.weight);
    }
    places.weights.set(&weights);
    let may_serve = |backend: &Backend| backend.takes(ignoring) || backend.health() == Health::Unknown;
    let nobody = !members().any(|((backend, share), _)| share.weight > 0 && may_serve(backend));
    pool.state.trend.turn(nobody, Instant::now());
    if places.panic.swap(panics, Ordering::Relaxed) != panics {
        tell_of_panic(control, pool, panics, healthy as f64 / all.max(1) as f64);
    }
    places.call();
}

fn tell_of_panic(control: &Handle, pool: &Pool, panics: bool, share: f64) {
    let threshold = pool.config.panic_threshold;
    let (from, to) = if panics { ("normal", "panic") } else { ("panic", "normal") };
    let detail =
        format!("{:.0} % of the weight is healthy, panic-threshold is {:.0} %", share * 100.0, threshold * 100.0);
    let name = &*pool.config.name;
    if panics {
        tracing::warn!(pool = name, detail, "health is ignored");
    } else {
        tracing::info!(pool = name, detail, "health counts again");
    }
    control.shared.events.add(Event {
        id: 0,
        time: jiff::Timestamp::now(),
        pool: name.to_owned(),
        backend: None,
        from: from.to_owned(),
        to: to.to_owned(),
        by: Cause::Check,
        reason: "panic".to_owned(),
        detail,
        evidence: Vec::new(),
    });
}
