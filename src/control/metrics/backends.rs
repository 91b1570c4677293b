//! Metrics of backends.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Buckets, Writer, seconds};
use crate::decide::hello::FirstAnswer;
use crate::state::{Backend, ConnectError, HealthIgnored, Snapshot, Standing, Timings};

/// Bounds in seconds for connects and first bytes, which are short.
const SHORT_SECONDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Bounds in seconds for sessions.
const LONG_SECONDS: [f64; 9] = [0.01, 0.1, 0.5, 1.0, 10.0, 60.0, 300.0, 3600.0, 86_400.0];

type Pick = fn(&Timings) -> Buckets;

/// Writes the families of backends.
pub fn backends(snapshot: &Snapshot, out: &mut Writer<'_>) -> fmt::Result {
    let all: Vec<(&Arc<Backend>, u32)> = snapshot
        .pools
        .iter()
        .flat_map(|pool| pool.backends.iter().zip(pool.config.backends.iter().map(|config| config.weight)))
        .collect();
    let label = |backend: &Backend| vec![("pool", backend.pool.to_string()), ("backend", backend.name.to_string())];
    let with = |backend: &Backend, key: &'static str, value: &str| {
        let mut labels = label(backend);
        labels.push((key, value.to_owned()));
        labels
    };
    let rows = all.iter().map(|(backend, _)| (label(backend), f64::from(u8::from(backend.takes(HealthIgnored::No)))));
    out.gauges("backend_up", "Whether the backend takes new connections", rows)?;
    let rows = all.iter().flat_map(|(backend, _)| {
        Standing::ALL.iter().map(move |standing| {
            (with(backend, "state", standing.name()), f64::from(u8::from(backend.standing() == *standing)))
        })
    });
    out.gauges("backend_state", "1 for the state that the backend is in", rows)?;
    out.gauges(
        "backend_weight",
        "Configured weight",
        all.iter().map(|(backend, weight)| (label(backend), f64::from(*weight))),
    )?;
    let rows = all.iter().map(|(backend, _)| (label(backend), f64::from(backend.active.count())));
    out.gauges("backend_connections_active", "Connections counted for the backend, from the pick on", rows)?;
    let rows = all.iter().map(|(backend, _)| (label(backend), backend.sum(|shard| shard.total.get())));
    out.counters("backend_connections", "Established connections", rows)?;
    let rows = all.iter().flat_map(|(backend, _)| {
        ConnectError::ALL
            .iter()
            .map(move |reason| (with(backend, "reason", reason.name()), backend.connect_errors(*reason)))
    });
    out.counters("backend_connect_errors", "Failed connection attempts", rows)?;
    let rows = all.iter().flat_map(|(backend, _)| {
        let up = (with(backend, "direction", "up"), backend.sum(|shard| shard.bytes_up.get()));
        [up, (with(backend, "direction", "down"), backend.sum(|shard| shard.bytes_down.get()))]
    });
    out.counters("backend_bytes", "Bytes delivered, a second late at most", rows)?;
    let ready = |backend: &Backend| backend.shards.iter().map(|shard| shard.ready.load(Ordering::Relaxed)).sum::<i64>();
    let rows = all.iter().map(|(backend, _)| (label(backend), ready(backend) as f64));
    out.gauges("backend_ready_connections", "Established connections that wait for a session", rows)?;
    let rows = all.iter().flat_map(|(backend, _)| {
        let used = (with(backend, "result", "used"), backend.sum(|shard| shard.ready_used.get()));
        [used, (with(backend, "result", "discarded"), backend.sum(|shard| shard.ready_discarded.get()))]
    });
    out.counters("backend_ready", "Ready connections that were used, or closed unused", rows)?;
    let rows = all.iter().map(|(backend, _)| (label(backend), backend.vitals().ejections));
    out.counters("backend_ejections", "Times that live traffic took the backend out for a while", rows)?;
    let rows = all.iter().flat_map(|(backend, _)| {
        FirstAnswer::NAMES.iter().enumerate().map(move |(place, name)| {
            (with(backend, "answer", name), backend.sum(|shard| shard.first_answers[place].get()))
        })
    });
    out.counters("backend_first_answers", "What came first after a ClientHello", rows)?;
    let rows = all.iter().flat_map(|(backend, _)| {
        let vitals = backend.vitals();
        let ok = (with(backend, "result", "ok"), vitals.checks_ok);
        let failed = (with(backend, "result", "failed"), vitals.checks_failed);
        [ok, failed, (with(backend, "result", "void"), vitals.checks_void)]
    });
    out.counters("backend_checks", "Health checks", rows)?;
    let rows = all.iter().filter_map(|(backend, _)| {
        let check = backend.vitals().check;
        check.at.is_some().then(|| (label(backend), check.took.as_secs_f64()))
    });
    out.gauges("backend_check_seconds", "How long the last check took", rows)?;
    let rows = all.iter().filter_map(|(backend, _)| {
        let certificate = backend.vitals().check.certificate?;
        Some((label(backend), certificate.not_after.as_second() as f64))
    });
    out.gauges("backend_certificate_expiry_timestamp_seconds", "When the certificate expires, Unix time", rows)?;
    let rows = all.iter().map(|(backend, _)| (label(backend), seconds(backend.vitals().since)));
    out.gauges("backend_last_state_change_timestamp_seconds", "When the state last changed, Unix time", rows)?;

    let timings: HashMap<*const Backend, Timings> =
        all.iter().map(|(backend, _)| (Arc::as_ptr(backend), backend.timings())).collect();
    let families: [(&str, &str, Pick); 3] = [
        ("backend_connect_seconds", "Time to an established connection", |t| {
            Buckets::of_micros(&t.connect, &SHORT_SECONDS)
        }),
        ("backend_first_byte_seconds", "From the hello's departure to the first byte", |t| {
            Buckets::of_micros(&t.first_byte, &SHORT_SECONDS)
        }),
        ("backend_session_seconds", "From accept to the end", |t| Buckets::of_micros(&t.session, &LONG_SECONDS)),
    ];
    for (name, help, buckets) in families {
        let rows = all.iter().filter_map(|(backend, _)| {
            timings.get(&Arc::as_ptr(backend)).map(|timings| (label(backend), buckets(timings)))
        });
        out.histograms(name, help, rows)?;
    }
    Ok(())
}
