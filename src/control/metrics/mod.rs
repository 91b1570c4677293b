//! `/metrics`: the counters of `state` in the OpenMetrics text format. The format, its types and its escaping are the
//! client library's; names and labels are the contract. Never a label with a server name or a client's address.

mod backends;
mod names;
mod pools;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::decide::close::CloseReason;
use crate::decide::hello::Refusal;
use crate::decide::hello::proxy::Version;
use crate::state::{CancelResult, Counter, HELLO_TRAITS, Listener, ListenerShard, Phase, Shared, Snapshot};
use crate::sys::socket::ACCEPT_ERRNOS;

/// Content type of what [`encode`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes all metrics.
pub fn encode(shared: &Arc<Shared>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("sluice");
    registry.register_collector(Box::new(All(Arc::clone(shared))));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct All(Arc<Shared>);

impl Collector for All {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        process(&self.0, &mut out)?;
        let Some(snapshot) = self.0.snapshot() else { return Ok(()) };
        listeners(&snapshot, &mut out)?;
        pools::pools(&snapshot, &mut out)?;
        backends::backends(&snapshot, &mut out)?;
        names::names(&self.0, &mut out)?;
        data_path(&self.0, &mut out)
    }
}

type Labels = Vec<(&'static str, String)>;

/// Writes families: a name, a help text, and rows of labels and values.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counters(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            if labels.is_empty() {
                family.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            } else {
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
        }
        Ok(())
    }

    fn gauges(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            if labels.is_empty() {
                family.encode_gauge(&value)?;
            } else {
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn histograms(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, Buckets)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, buckets) in rows {
            let Buckets { sum, count, counts } = buckets;
            if labels.is_empty() {
                family.encode_histogram::<NoLabelSet>(sum, count, &counts, None)?;
            } else {
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &counts, None)?;
            }
        }
        Ok(())
    }
}

/// A histogram as the encoder takes it: counts per bucket, the last without an upper bound.
struct Buckets {
    sum: f64,
    count: u64,
    counts: Vec<(f64, u64)>,
}

impl Buckets {
    /// From microseconds with two digits, so a value may sit one bucket off within 1 % of a bound.
    fn of_micros(histogram: &Histogram<u32>, bounds: &[f64]) -> Self {
        let mut counts: Vec<(f64, u64)> = bounds.iter().map(|bound| (*bound, 0)).collect();
        counts.push((f64::MAX, 0));
        let mut sum = 0.0;
        for step in histogram.iter_recorded() {
            let seconds = step.value_iterated_to() as f64 / 1e6;
            let here = u64::from(step.count_at_value());
            counts[bounds.partition_point(|bound| *bound < seconds)].1 += here;
            sum += seconds * here as f64;
        }
        Self { sum, count: histogram.len(), counts }
    }

    fn of_shards<const N: usize>(shards: &[&crate::state::Histogram<N>]) -> Self {
        let (mut sum, mut count) = (0.0, 0);
        let mut counts = vec![(0.0, 0); N];
        for shard in shards {
            shard.add_to(&mut sum, &mut count, &mut counts);
        }
        let inside: u64 = counts.iter().map(|(_, count)| count).sum();
        counts.push((f64::MAX, count - inside));
        Self { sum, count, counts }
    }
}

fn none() -> Labels {
    Labels::new()
}

fn seconds(time: jiff::Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

fn process(shared: &Shared, out: &mut Writer<'_>) -> fmt::Result {
    out.gauges(
        "build_info",
        "Version of this build; always 1",
        [(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)],
    )?;
    out.gauges("start_time_seconds", "When the process started, Unix time", [(none(), seconds(shared.started))])?;
    let generation = shared.snapshot().map_or(0, |snapshot| snapshot.generation);
    out.gauges("config_generation", "1 at start, one more with every reload", [(none(), generation as f64)])?;
    let reloads = shared.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (ok, at) = reloads.last.as_ref().map_or((true, shared.started), |last| (last.ok, last.at));
    out.gauges(
        "config_last_reload_successful",
        "Whether the last reload took effect",
        [(none(), f64::from(u8::from(ok)))],
    )?;
    out.gauges("config_last_reload_timestamp_seconds", "When it was, Unix time", [(none(), seconds(at))])?;
    let result = |name: &str| vec![("result", name.to_owned())];
    out.counters("reloads", "Reloads", [(result("ok"), reloads.succeeded), (result("failed"), reloads.failed)])?;
    let draining = matches!(shared.phase(), Phase::Leaving | Phase::Draining);
    out.gauges("draining", "Whether the process is stopping", [(none(), f64::from(u8::from(draining)))])
}

fn listeners(snapshot: &Snapshot, out: &mut Writer<'_>) -> fmt::Result {
    let all = &snapshot.listeners;
    let label = |name: &str| vec![("listener", name.to_owned())];
    let sum = |shards: &[crate::state::Padded<ListenerShard>], counter: &dyn Fn(&ListenerShard) -> u64| -> u64 {
        shards.iter().map(|shard| counter(shard)).sum()
    };
    let rows = all.iter().map(|l| (label(&l.config.name), sum(&l.state.shards, &|shard| shard.total.get())));
    out.counters("listener_connections", "Accepted connections", rows)?;
    let rows = all.iter().map(|l| (label(&l.config.name), l.state.active() as f64));
    out.gauges("listener_connections_active", "Open connections", rows)?;
    let rows = all.iter().flat_map(|l| {
        CloseReason::ALL.iter().filter(|reason| reason.is_refusal()).map(move |reason| {
            let labels = vec![("listener", l.config.name.to_string()), ("reason", reason.name().to_owned())];
            (labels, sum(&l.state.shards, &|shard| shard.rejected[reason.index()].get()))
        })
    });
    out.counters("listener_rejected", "Refused connections", rows)?;
    let rows = all.iter().flat_map(|l| {
        let ok = (
            vec![("listener", l.config.name.to_string()), ("result", "ok".to_owned())],
            sum(&l.state.shards, &|shard| shard.hello_ok.get()),
        );
        let failed = [
            CloseReason::ClientGone,
            CloseReason::HelloTimeout,
            CloseReason::HelloMalformed,
            CloseReason::HelloTooLarge,
            CloseReason::NotTls,
        ];
        let failed = failed.into_iter().map(move |reason| {
            let labels = vec![("listener", l.config.name.to_string()), ("result", reason.name().to_owned())];
            (labels, sum(&l.state.shards, &|shard| shard.hello_failed[reason.index()].get()))
        });
        std::iter::once(ok).chain(failed)
    });
    out.counters("tls_hello", "First bytes of TLS clients, by what became of them", rows)?;
    per_listener(all, out, "tls_hello_refused", "Refused first bytes, by what was wrong", "reason", |shard| {
        Refusal::NAMES.into_iter().zip(&shard.hello_refused).collect()
    })?;
    per_listener(
        all,
        out,
        "tls_hello_traits",
        "Valid hellos with traits that limits and middleboxes break",
        "trait",
        |shard| HELLO_TRAITS.into_iter().zip(&shard.hello_traits).collect(),
    )?;
    per_listener(all, out, "proxy_headers", "PROXY headers that were believed", "version", |shard| {
        [Version::V1, Version::V2].map(Version::name).into_iter().zip(&shard.proxy_headers).collect()
    })?;
    per_listener(
        all,
        out,
        "postgres_cancels",
        "Cancel requests in clear, by what became of them",
        "result",
        |shard| CancelResult::ALL.map(CancelResult::name).into_iter().zip(&shard.cancels).collect(),
    )?;
    let shards: Vec<&ListenerShard> = all.iter().flat_map(|l| l.state.shards.iter().map(|shard| &shard.0)).collect();
    let times: Vec<_> = shards.iter().map(|shard| &shard.hello_seconds).collect();
    out.histograms("tls_hello_seconds", "From accept to a whole hello", [(none(), Buckets::of_shards(&times))])?;
    let sizes: Vec<_> = shards.iter().map(|shard| &shard.hello_bytes).collect();
    out.histograms("tls_hello_bytes", "Raw bytes of whole hellos", [(none(), Buckets::of_shards(&sizes))])
}

/// A family of counters of listeners with one more label.
fn per_listener(
    all: &[Arc<Listener>],
    out: &mut Writer<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    counters: fn(&ListenerShard) -> Vec<(&'static str, &Counter)>,
) -> fmt::Result {
    let rows = all.iter().flat_map(|listener| {
        let mut sums: Vec<(&'static str, u64)> = Vec::new();
        for shard in &listener.state.shards {
            for (place, (value, counter)) in counters(shard).into_iter().enumerate() {
                match sums.get_mut(place) {
                    Some((_, sum)) => *sum += counter.get(),
                    None => sums.push((value, counter.get())),
                }
            }
        }
        let name = listener.config.name.to_string();
        sums.into_iter().map(move |(value, sum)| (vec![("listener", name.clone()), (label, value.to_owned())], sum))
    });
    out.counters(name, help, rows)
}

fn data_path(shared: &Shared, out: &mut Writer<'_>) -> fmt::Result {
    let workers = &shared.workers;
    let sum = |counter: &dyn Fn(&crate::state::WorkerCounters) -> &Counter| -> u64 {
        workers.iter().map(|worker| counter(worker).get()).sum()
    };
    let kinds = [("copy", "up"), ("copy", "down"), ("splice", "up"), ("splice", "down")];
    let rows = kinds.iter().enumerate().map(|(place, (path, direction))| {
        let labels = vec![("path", (*path).to_owned()), ("direction", (*direction).to_owned())];
        (labels, sum(&|worker| &worker.relayed[place]))
    });
    out.counters("relay_bytes", "Bytes delivered, by the path they took", rows)?;
    let reason = vec![("reason", "no_pipe".to_owned())];
    let fallbacks = sum(&|worker| &worker.pipe_fallbacks);
    out.counters(
        "relay_fallbacks",
        "Turns from splicing back to copying because something ran out",
        [(reason, fallbacks)],
    )?;
    let pipes: i64 = workers.iter().map(|worker| worker.pipes_in_use.load(Ordering::Relaxed)).sum();
    out.gauges("pipes_in_use", "Pipes with bytes on the way", [(none(), pipes as f64)])?;
    let rows = workers
        .iter()
        .enumerate()
        .map(|(id, worker)| (vec![("worker", id.to_string())], worker.connections.load(Ordering::Relaxed) as f64));
    out.gauges("worker_connections", "Open connections of each worker", rows)?;
    let rows = ACCEPT_ERRNOS
        .iter()
        .enumerate()
        .map(|(place, name)| (vec![("errno", (*name).to_owned())], sum(&|worker| &worker.accept_errors[place])));
    out.counters("listener_accept_errors", "Errors of accept(2)", rows)?;
    out.counters(
        "log_dropped",
        "Lines of the log dropped because the writer could not follow",
        [(none(), shared.log.dropped())],
    )
}
