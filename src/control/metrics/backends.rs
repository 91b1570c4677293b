//! Metrics of backends. What stands behind a lock is looked at once for each backend.

use std::fmt;
use std::sync::atomic::Ordering;

use super::super::report::effective_weight;
use super::{Labels, Writer, flag, seconds};
use crate::decide::hello::FirstAnswer;
use crate::state::{
    Backend, BackendShard, Buckets, ConnectError, Counter, HealthIgnored, Histogram, Pool, SESSION_SECONDS,
    SHORT_SECONDS, Share, Snapshot, Standing, Vitals,
};

/// One backend and what was seen of it.
struct Row<'a> {
    pool: &'a Pool,
    backend: &'a Backend,
    share: Share,
    configured: u32,
    standing: Standing,
    checks: [(&'static str, u64); 3],
    check_took: Option<f64>,
    certificate_expires: Option<f64>,
    ejections: u64,
    since: f64,
    said: [(&'static str, bool); 2],
}

impl<'a> Row<'a> {
    fn all(pool: &'a Pool) -> impl Iterator<Item = Self> + 'a {
        let members = pool.backends.iter().zip(&pool.shares).zip(&pool.config.backends);
        members.map(move |((backend, share), config)| {
            backend.look(|vitals| Self::seen(pool, backend, *share, config.weight, vitals))
        })
    }

    fn seen(pool: &'a Pool, backend: &'a Backend, share: Share, configured: u32, vitals: &Vitals) -> Self {
        let (check, said) = (&vitals.check, &vitals.overrides);
        let expires = check.certificate.as_ref().map(|certificate| certificate.not_after.as_second() as f64);
        Self {
            pool,
            backend,
            share,
            configured,
            standing: backend.standing(),
            checks: [("ok", vitals.checks_ok), ("failed", vitals.checks_failed), ("void", vitals.checks_void)],
            check_took: check.at.map(|_| check.took.as_secs_f64()),
            certificate_expires: expires,
            ejections: vitals.ejections,
            since: seconds(vitals.since),
            said: [("state", said.admin.in_force().is_some()), ("weight", said.weight.in_force().is_some())],
        }
    }

    fn labels(&self) -> Labels<'a, 2> {
        [("pool", &self.backend.pool), ("backend", &self.backend.name)]
    }

    fn with<'l>(&self, key: &'static str, value: &'l str) -> Labels<'l, 3>
    where
        'a: 'l,
    {
        let [pool, backend] = self.labels();
        [pool, backend, (key, value)]
    }

    fn sum(&self, counter: impl Fn(&BackendShard) -> &Counter) -> u64 {
        self.backend.sum(|shard| counter(shard).get())
    }

    fn total<const N: usize>(
        &self,
        bounds: &'static [f64; N],
        histogram: impl Fn(&BackendShard) -> &Histogram<N>,
    ) -> Buckets {
        Histogram::total(bounds, self.backend.shards.iter().map(|shard| histogram(shard)))
    }
}

/// Writes the families of backends.
pub fn backends(snapshot: &Snapshot, out: &mut Writer<'_>) -> fmt::Result {
    let all: Vec<Row<'_>> = snapshot.pools.iter().flat_map(|pool| Row::all(pool)).collect();
    standings(&all, out)?;
    load(&all, out)?;
    connections(&all, out)?;
    checks(&all, out)
}

fn standings(all: &[Row<'_>], out: &mut Writer<'_>) -> fmt::Result {
    let rows = all.iter().map(|row| (row.labels(), flag(row.backend.takes(HealthIgnored::No))));
    out.gauges("backend_up", "Whether the backend takes new connections", rows)?;
    let rows = all.iter().flat_map(|row| {
        Standing::ALL.iter().map(move |state| (row.with("state", state.name()), flag(row.standing == *state)))
    });
    out.gauges("backend_state", "1 for the state that the backend is in", rows)?;
    let rows = all.iter().map(|row| (row.labels(), row.since));
    out.gauges("backend_last_state_change_timestamp_seconds", "When the state last changed, Unix time", rows)?;
    let rows = all.iter().map(|row| (row.labels(), f64::from(row.configured)));
    out.gauges("backend_weight", "Configured weight", rows)?;
    let rows =
        all.iter().map(|row| (row.labels(), f64::from(effective_weight(row.pool, row.backend, row.share.weight))));
    out.gauges("backend_effective_weight", "Weight that counts now; 0 takes no new connections", rows)?;
    let rows = all.iter().flat_map(|row| row.said.map(|(about, said)| (row.with("about", about), flag(said))));
    out.gauges("backend_override", "Whether an operator's word is in force", rows)?;
    let rows = all.iter().map(|row| (row.labels(), row.ejections));
    out.counters("backend_ejections", "Times that live traffic took the backend out for a while", rows)
}

fn load(all: &[Row<'_>], out: &mut Writer<'_>) -> fmt::Result {
    let rows = all.iter().map(|row| (row.labels(), f64::from(row.backend.active.count())));
    out.gauges("backend_connections_active", "Connections counted for the backend, from the pick on", rows)?;
    let rows = all.iter().filter_map(|row| Some((row.labels(), f64::from(row.share.max_connections?))));
    out.gauges("backend_max_connections", "Connections that the backend may have at once", rows)?;
    let rows = all.iter().map(|row| (row.labels(), row.sum(|shard| &shard.total)));
    out.counters("backend_connections", "Established connections", rows)?;
    let rows = all.iter().flat_map(|row| {
        let up = (row.with("direction", "up"), row.sum(|shard| &shard.bytes_up));
        [up, (row.with("direction", "down"), row.sum(|shard| &shard.bytes_down))]
    });
    out.counters("backend_bytes", "Bytes delivered, a second late at most", rows)?;
    let rows = all.iter().map(|row| (row.labels(), row.total(&SESSION_SECONDS, |shard| &shard.session_seconds)));
    out.histograms("backend_session_seconds", "From accept to the end", rows)
}

fn connections(all: &[Row<'_>], out: &mut Writer<'_>) -> fmt::Result {
    let rows = all.iter().flat_map(|row| {
        ConnectError::ALL.iter().map(|reason| (row.with("reason", reason.name()), row.backend.connect_errors(*reason)))
    });
    out.counters("backend_connect_errors", "Failed connection attempts", rows)?;
    let rows = all.iter().map(|row| (row.labels(), row.total(&SHORT_SECONDS, |shard| &shard.connect_seconds)));
    out.histograms("backend_connect_seconds", "Time to an established connection", rows)?;
    let rows = all.iter().map(|row| (row.labels(), row.total(&SHORT_SECONDS, |shard| &shard.first_byte_seconds)));
    out.histograms("backend_first_byte_seconds", "From the hello's departure to the first byte", rows)?;
    let rows = all.iter().flat_map(|row| {
        let answers = FirstAnswer::NAMES.iter().enumerate();
        answers.map(move |(place, name)| (row.with("answer", name), row.sum(|shard| &shard.first_answers[place])))
    });
    out.counters("backend_first_answers", "What came first after a ClientHello", rows)?;
    let rows = all.iter().map(|row| {
        let ready: i64 = row.backend.shards.iter().map(|shard| shard.ready.load(Ordering::Relaxed)).sum();
        (row.labels(), ready as f64)
    });
    out.gauges("backend_ready_connections", "Established connections that wait for a session", rows)?;
    let rows = all.iter().flat_map(|row| {
        let used = (row.with("result", "used"), row.sum(|shard| &shard.ready_used));
        [used, (row.with("result", "discarded"), row.sum(|shard| &shard.ready_discarded))]
    });
    out.counters("backend_ready", "Ready connections that were used, or closed unused", rows)
}

fn checks(all: &[Row<'_>], out: &mut Writer<'_>) -> fmt::Result {
    let rows = all.iter().flat_map(|row| row.checks.map(|(result, count)| (row.with("result", result), count)));
    out.counters("backend_checks", "Health checks", rows)?;
    let rows = all.iter().filter_map(|row| Some((row.labels(), row.check_took?)));
    out.gauges("backend_check_seconds", "How long the last check took", rows)?;
    let rows = all.iter().filter_map(|row| Some((row.labels(), row.certificate_expires?)));
    out.gauges("backend_certificate_expiry_timestamp_seconds", "When the certificate expires, Unix time", rows)
}
