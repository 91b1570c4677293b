//! The row of a server in `show stat`: one backend.

use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::check_words::{Health, check_status, status};
use super::rows::{Row, cells};
use crate::state::{Backend, ConnectError, Pool, Share};
use crate::sys::clock::coarse_ms;

/// Fills in the row of a member.
pub fn fill(row: &mut Row, pool: &Pool, member: usize) {
    let (backend, share, config) = (&pool.backends[member], pool.shares[member], &pool.config.backends[member]);
    let vitals = backend.vitals();
    let (total, errors) = (backend.sum(|shard| shard.total.get()), connect_errors(backend));
    let (active, backup) = (backend.active.count(), u32::from(config.tier.is_backup()));
    let ready = ready(backend);
    let shape = backend.trend.shape();
    let weight = weight(pool, backend, share);
    row.set_shape(&shape);
    row.set_last_session(&shape);
    row.set_times(&backend.timings());
    cells!(row, svname = &*backend.name, status = status(pool, member), addr = backend.address.to_string());
    cells!(row, weight = weight, uweight = share.weight, act = 1 - backup, bck = backup);
    cells!(row, qcur = 0_u32, qmax = 0_u32, scur = active, slim = share.max_connections, stot = total, lbtot = total);
    cells!(row, bin = backend.sum(|shard| shard.bytes_up.get()), bout = backend.sum(|shard| shard.bytes_down.get()));
    cells!(row, dresp = 0_u32, econ = errors, connect = total + errors);
    cells!(row, reuse = backend.sum(|shard| shard.ready_used.get()));
    cells!(row, srv_icur = ready, idle_conn_cur = ready, safe_conn_cur = ready, used_conn_cur = active);
    cells!(row, eint = backend.connect_errors(ConnectError::Local), lastchg = age(vitals.since));
    cells!(row, throttle = (weight < share.weight).then(|| u64::from(weight) * 100 / u64::from(share.weight)));
    if let Some(check) = &pool.config.health {
        let (code, description) = check_status(check, &vitals);
        let health = Health::of(check, &vitals);
        row.set_outages(&backend.trend);
        cells!(row, check_status = code.word, check_desc = description, last_chk = vitals.check.detail);
        cells!(row, check_duration = vitals.check.at.map(|_| vitals.check.took.as_millis() as u64));
        cells!(row, check_rise = health.rise, check_fall = health.fall, check_health = health.points);
        cells!(row, chkfail = vitals.checks_failed);
    }
}

/// Seconds since.
pub fn age(since: Timestamp) -> u64 {
    Timestamp::now().duration_since(since).as_secs().max(0) as u64
}

/// The weight that counts now, slow start considered; as for HAProxy it stays while the server takes nothing.
pub fn weight(pool: &Pool, backend: &Backend, share: Share) -> u32 {
    let ramp = pool.ramp(backend, coarse_ms).thousandths();
    (u64::from(share.weight) * ramp).div_ceil(1000) as u32
}

/// Failed attempts to connect.
pub fn connect_errors(backend: &Backend) -> u64 {
    ConnectError::ALL.iter().map(|reason| backend.connect_errors(*reason)).sum()
}

/// Established connections that wait for a session.
pub fn ready(backend: &Backend) -> i64 {
    backend.shards.iter().map(|shard| shard.ready.load(Ordering::Relaxed)).sum::<i64>().max(0)
}
