//! Fills in what is said of backends.

use std::collections::HashMap;
use std::sync::Arc;

use hdrhistogram::Histogram;
use jiff::Timestamp;

use super::super::Control;
use crate::api::{
    AddedReport, AgentReport, BackendReport, CheckState, DrainReport, EjectionState, History, HistoryReport,
    OverrideReport, Quantiles, WordReport,
};
use crate::config;
use crate::decide::health::agent::Operation;
use crate::decide::hello::FirstAnswer;
use crate::state::{AgentOrders, Backend, ConnectError, Overrides, Pool, Share, Snapshot, Standing, Vitals, Word};
use crate::sys::clock::coarse_ms;

/// Backends of all pools or one; `None` when that one does not exist.
pub fn backends(control: &Control, pool: Option<&str>) -> Option<Vec<BackendReport>> {
    let snapshot = control.snapshot();
    let operators = control.operators.borrow();
    let stale: HashMap<String, Timestamp> =
        control.shared.names.list().into_iter().filter_map(|name| Some((name.name, name.stale_since?))).collect();
    let list = chosen(&snapshot, pool)?.flat_map(|pool| {
        let members = pool.backends.iter().zip(&pool.shares).zip(&pool.config.backends);
        members.map(|((backend, share), config)| {
            let addition = operators.addition(&backend.pool, &backend.name);
            let added = addition.map(|addition| AddedReport { by_uid: addition.by_uid, at: addition.at });
            BackendReport { added, ..report(pool, backend, *share, config, &stale) }
        })
    });
    Some(list.collect())
}

/// One of them.
pub fn backend(control: &Control, path: &str) -> Option<BackendReport> {
    let (pool, name) = path.split_once('/')?;
    backends(control, Some(pool))?.into_iter().find(|report| report.backend == name)
}

fn chosen<'a>(snapshot: &'a Snapshot, pool: Option<&'a str>) -> Option<impl Iterator<Item = &'a Arc<Pool>>> {
    let meant = move |candidate: &&Arc<Pool>| pool.is_none_or(|name| *candidate.config.name == *name);
    let exists = pool.is_none() || snapshot.pools.iter().any(|pool| meant(&pool));
    exists.then(|| snapshot.pools.iter().filter(meant))
}

fn report(
    pool: &Pool,
    backend: &Arc<Backend>,
    share: Share,
    config: &config::Backend,
    stale: &HashMap<String, Timestamp>,
) -> BackendReport {
    let resolved_from = config.address.target().map(ToString::to_string);
    let vitals = backend.vitals();
    let timings = backend.timings();
    let first_answers = FirstAnswer::NAMES.iter().enumerate();
    BackendReport {
        pool: backend.pool.to_string(),
        backend: backend.name.to_string(),
        address: backend.address,
        stale_since: resolved_from.as_ref().and_then(|name| stale.get(name).copied()),
        resolved_from,
        state: backend.standing().name().to_owned(),
        since: vitals.since,
        weight: config.weight,
        effective_weight: effective_weight(pool, backend, share.weight),
        backup: config.tier.is_backup(),
        tier: config.tier.position(),
        max_connections: share.max_connections,
        added: None,
        agent: agent(vitals.agent),
        active: backend.active.count(),
        total: backend.sum(|shard| shard.total.get()),
        connect_errors: ConnectError::ALL.iter().map(|reason| backend.connect_errors(*reason)).sum(),
        bytes_up: backend.sum(|shard| shard.bytes_up.get()),
        bytes_down: backend.sum(|shard| shard.bytes_down.get()),
        rates: backend.trend.shape().rates,
        check: pool.config.health.as_ref().map(|check| check_state(check, &vitals)),
        ejection: vitals.ejection.map(|ejection| EjectionState {
            until: ejection.until,
            in_a_row: ejection.in_a_row,
            detail: ejection.detail,
        }),
        ejections: vitals.ejections,
        first_answers: first_answers
            .map(|(place, name)| ((*name).to_owned(), backend.sum(|shard| shard.first_answers[place].get())))
            .collect(),
        said: override_report(&vitals.overrides),
        drain: vitals.drain.map(|plan| DrainReport { kill_at: plan.kill_at, rate: plan.rate }),
        connect_ms: quantiles(&timings.connect),
        session_ms: quantiles(&timings.session),
        first_byte_ms: quantiles(&timings.first_byte),
    }
}

fn check_state(check: &config::HealthCheck, vitals: &Vitals) -> CheckState {
    let last = &vitals.check;
    CheckState {
        kind: check.kind.word().to_owned(),
        last: last.ok.map(|ok| if ok { "ok" } else { "failed" }.to_owned()),
        reason: last.reason.to_string(),
        detail: last.detail.clone(),
        took_ms: last.took.as_micros() as f64 / 1000.0,
        at: last.at,
        next_at: last.next_at,
        rise: check.thresholds.rise,
        fall: check.thresholds.fall,
        certificate_expires: last.certificate.as_ref().map(|certificate| certificate.not_after),
    }
}

fn agent(orders: AgentOrders) -> Option<AgentReport> {
    (orders != AgentOrders::default()).then(|| AgentReport {
        weight_percent: orders.weight,
        max_connections: orders.max_connections,
        operation: orders.operation.map(|operation| Operation::word(operation).to_owned()),
    })
}

/// What operators said; `None` when nothing is in force.
fn override_report(overrides: &Overrides) -> Option<OverrideReport> {
    let admin = overrides.admin.in_force();
    let weight = overrides.weight.in_force();
    let word = |about: &str, said: String, by_uid, since, until| WordReport {
        about: about.to_owned(),
        said,
        by_uid,
        since,
        until,
    };
    let of_state =
        admin.map(|Word { said, by_uid, since, until }| word("state", said.name().to_owned(), by_uid, since, until));
    let of_weight =
        weight.map(|Word { said, by_uid, since, until }| word("weight", said.to_string(), by_uid, since, until));
    let words: Vec<WordReport> = of_state.into_iter().chain(of_weight).collect();
    let last = words.iter().max_by_key(|word| word.since)?;
    Some(OverrideReport {
        state: admin.map(|word| word.said.name().to_owned()),
        weight: weight.map(|word| word.said),
        by_uid: last.by_uid,
        since: last.since,
        until: last.until,
        words,
    })
}

/// The weight that counts now, slow start considered; a fresh backend has some of it from the beginning.
pub fn effective_weight(pool: &Pool, backend: &Backend, weight: u32) -> u32 {
    if !backend.takes(pool.state.places.health_ignored()) {
        return 0;
    }
    let share = pool.ramp(backend, coarse_ms).thousandths();
    (u64::from(weight) * share).div_ceil(1000) as u32
}

/// Quantiles in milliseconds of a histogram of microseconds; `None` without values.
fn quantiles(histogram: &Histogram<u32>) -> Option<Quantiles> {
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    (!histogram.is_empty()).then(|| Quantiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: histogram.max() as f64 / 1000.0,
    })
}

/// The last hour of all backends, or of one pool's; `None` when that one does not exist.
pub fn history(control: &Control, pool: Option<&str>) -> Option<HistoryReport> {
    let snapshot = control.snapshot();
    let backends = chosen(&snapshot, pool)?.flat_map(|pool| &pool.backends).map(|backend| {
        let (minutes, last) = backend.trend.minutes();
        History {
            pool: backend.pool.to_string(),
            backend: backend.name.to_string(),
            last_minute: Timestamp::from_second(last * 60).unwrap_or(Timestamp::UNIX_EPOCH),
            minutes: minutes.into_iter().map(|state: Standing| Some(state.name().to_owned())).collect(),
        }
    });
    Some(HistoryReport { backends: backends.collect() })
}
