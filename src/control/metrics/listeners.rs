//! Metrics of listeners and of what clients send first.

use std::fmt;
use std::sync::Arc;

use super::{NONE, Writer};
use crate::decide::close::CloseReason;
use crate::decide::hello::Refusal;
use crate::decide::hello::proxy::Version;
use crate::state::{
    CancelResult, Counter, HELLO_BYTES, HELLO_SECONDS, HELLO_TRAITS, Histogram, Listener, ListenerShard, Snapshot,
};

/// How a hello may fail.
const FAILURES: [CloseReason; 5] = [
    CloseReason::ClientGone,
    CloseReason::HelloTimeout,
    CloseReason::HelloMalformed,
    CloseReason::HelloTooLarge,
    CloseReason::NotTls,
];

/// Writes the families of listeners.
pub fn listeners(snapshot: &Snapshot, out: &mut Writer<'_>) -> fmt::Result {
    let all = &snapshot.listeners;
    let rows = all.iter().map(|listener| (label(listener), sum(listener, |shard| &shard.total)));
    out.counters("listener_connections", "Accepted connections", rows)?;
    let rows = all.iter().map(|listener| (label(listener), listener.state.active() as f64));
    out.gauges("listener_connections_active", "Open connections", rows)?;
    let most = |listener: &Listener| listener.config.max_connections.map(f64::from);
    let rows = all.iter().filter_map(|listener| Some((label(listener), most(listener)?)));
    out.gauges("listener_max_connections", "Connections that the listener may have at once", rows)?;
    per_listener(all, out, "listener_bytes", "Bytes delivered, a second late at most", "direction", |shard| {
        vec![("up", &shard.bytes_up), ("down", &shard.bytes_down)]
    })?;
    per_listener(all, out, "listener_rejected", "Refused connections", "reason", |shard| {
        let refusals = CloseReason::ALL.iter().filter(|reason| reason.is_refusal());
        refusals.map(|reason| (reason.name(), &shard.rejected[reason.index()])).collect()
    })?;
    hellos(all, out)?;
    per_listener(all, out, "proxy_headers", "PROXY headers that were believed", "version", |shard| {
        [Version::V1, Version::V2].map(Version::name).into_iter().zip(&shard.proxy_headers).collect()
    })?;
    let help = "Cancel requests in clear, by what became of them";
    per_listener(all, out, "postgres_cancels", help, "result", |shard| {
        CancelResult::ALL.map(CancelResult::name).into_iter().zip(&shard.cancels).collect()
    })
}

fn hellos(all: &[Arc<Listener>], out: &mut Writer<'_>) -> fmt::Result {
    let help = "First bytes of TLS clients, by what became of them";
    per_listener(all, out, "tls_hello", help, "result", |shard| {
        let failed = FAILURES.iter().map(|reason| (reason.name(), &shard.hello_failed[reason.index()]));
        std::iter::once(("ok", &shard.hello_ok)).chain(failed).collect()
    })?;
    per_listener(all, out, "tls_hello_refused", "Refused first bytes, by what was wrong", "reason", |shard| {
        Refusal::NAMES.into_iter().zip(&shard.hello_refused).collect()
    })?;
    let help = "Valid hellos with traits that limits and middleboxes break";
    per_listener(all, out, "tls_hello_traits", help, "trait", |shard| {
        HELLO_TRAITS.into_iter().zip(&shard.hello_traits).collect()
    })?;
    let shards = || all.iter().flat_map(|listener| listener.state.shards.iter());
    let times = Histogram::total(&HELLO_SECONDS, shards().map(|shard| &shard.hello_seconds));
    out.histograms("tls_hello_seconds", "From accept to a whole hello", [(NONE, times)])?;
    let sizes = Histogram::total(&HELLO_BYTES, shards().map(|shard| &shard.hello_bytes));
    out.histograms("tls_hello_bytes", "Raw bytes of whole hellos", [(NONE, sizes)])
}

fn label(listener: &Listener) -> [(&'static str, &str); 1] {
    [("listener", &listener.config.name)]
}

fn sum(listener: &Listener, counter: impl Fn(&ListenerShard) -> &Counter) -> u64 {
    listener.state.shards.iter().map(|shard| counter(shard).get()).sum()
}

/// A family of counters of listeners with one more label.
fn per_listener(
    all: &[Arc<Listener>],
    out: &mut Writer<'_>,
    name: &str,
    help: &str,
    key: &'static str,
    counters: fn(&ListenerShard) -> Vec<(&'static str, &Counter)>,
) -> fmt::Result {
    let rows = all.iter().flat_map(|listener| {
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for shard in listener.state.shards.iter() {
            for (place, (value, counter)) in counters(shard).into_iter().enumerate() {
                match sums.get_mut(place) {
                    Some((_, sum)) => *sum += counter.get(),
                    None => sums.push((value, counter.get())),
                }
            }
        }
        let [name] = label(listener);
        sums.into_iter().map(move |(value, sum)| ([name, (key, value)], sum))
    });
    out.counters(name, help, rows)
}
