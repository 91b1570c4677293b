//! Metrics of the process: configuration, commands, workers, the data path, the log.

use std::fmt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::{NONE, Writer, flag, seconds};
use crate::state::{Counter, Phase, Shared, WorkerCounters};
use crate::sys::socket::ACCEPT_ERRNOS;

/// Writes the families of the process as a whole.
pub fn process(shared: &Shared, out: &mut Writer<'_>) -> fmt::Result {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    out.gauges("build_info", "Version of this build; always 1", [(version, 1.0)])?;
    out.gauges("start_time_seconds", "When the process started, Unix time", [(NONE, seconds(shared.started))])?;
    let snapshot = shared.snapshot();
    let generation = snapshot.as_ref().map_or(0, |snapshot| snapshot.generation);
    out.gauges("config_generation", "1 at start, one more with every reload and upgrade", [(NONE, generation as f64)])?;
    let reloads = shared.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (ok, at) = reloads.last.as_ref().map_or((true, shared.started), |last| (last.ok, last.at));
    out.gauges("config_last_reload_successful", "Whether the last reload took effect", [(NONE, flag(ok))])?;
    out.gauges("config_last_reload_timestamp_seconds", "When it was, Unix time", [(NONE, seconds(at))])?;
    let rows = [([("result", "ok")], reloads.succeeded), ([("result", "failed")], reloads.failed)];
    out.counters("reloads", "Reloads", rows)?;
    let draining = matches!(shared.phase(), Phase::Leaving | Phase::Draining);
    out.gauges("draining", "Whether the process is stopping", [(NONE, flag(draining))])?;
    let active = shared.active.load(Ordering::Relaxed);
    out.gauges("connections_active", "Open connections", [(NONE, f64::from(active))])?;
    let most = snapshot.as_ref().map_or(0, |snapshot| snapshot.config.global.max_connections);
    out.gauges("max_connections", "Connections at once; further ones wait in the backlog", [(NONE, f64::from(most))])?;
    let commands = shared.commands.list();
    let rows =
        commands.iter().map(|((command, result), count)| ([("command", &**command), ("result", &**result)], *count));
    out.counters("control_commands", "Commands of the status socket", rows)
}

/// Writes the families of workers, of what moves bytes, and of the log.
pub fn data_path(shared: &Shared, out: &mut Writer<'_>) -> fmt::Result {
    let workers = &shared.workers;
    let sum = |counter: &dyn Fn(&WorkerCounters) -> &Counter| -> u64 {
        workers.iter().map(|worker| counter(worker).get()).sum()
    };
    let kinds = [("copy", "up"), ("copy", "down"), ("splice", "up"), ("splice", "down")];
    let rows = kinds.iter().enumerate().map(|(place, (path, direction))| {
        ([("path", *path), ("direction", *direction)], sum(&|worker| &worker.relayed[place]))
    });
    out.counters("relay_bytes", "Bytes delivered, by the path they took", rows)?;
    let fallbacks = [([("reason", "no_pipe")], sum(&|worker| &worker.pipe_fallbacks))];
    out.counters("relay_fallbacks", "Turns from splicing back to copying because something ran out", fallbacks)?;
    let pipes: i64 = workers.iter().map(|worker| worker.pipes_in_use.load(Ordering::Relaxed)).sum();
    out.gauges("pipes_in_use", "Pipes with bytes on the way", [(NONE, pipes as f64)])?;
    let numbers: Vec<String> = workers.iter().enumerate().map(|(number, _)| number.to_string()).collect();
    let of_workers = || numbers.iter().map(|number| [("worker", number.as_str())]).zip(workers.iter());
    let rows = of_workers().map(|(labels, worker)| (labels, worker.connections.load(Ordering::Relaxed) as f64));
    out.gauges("worker_connections", "Open connections of each worker", rows)?;
    let rows = of_workers().map(|(labels, worker)| (labels, worker.cpu_micros.load(Ordering::Relaxed) as f64 / 1e6));
    out.counters("worker_cpu_seconds", "Processor time of each worker, a second late at most", rows)?;
    let rows = of_workers().map(|(labels, worker)| (labels, f64::from(worker.is_stuck.load(Ordering::Relaxed))));
    out.gauges("worker_stuck", "Whether a worker has done nothing for five seconds or more", rows)?;
    let rows = of_workers().map(|(labels, worker)| (labels, worker.faults.get()));
    out.counters("worker_faults", "Sessions that ended by a fault of sluice itself", rows)?;
    let errors = ACCEPT_ERRNOS.iter().enumerate();
    let rows = errors.map(|(place, name)| ([("errno", *name)], sum(&|worker| &worker.accept_errors[place])));
    out.counters("listener_accept_errors", "Errors of accept(2)", rows)?;
    let dropped = [(NONE, shared.log.dropped())];
    out.counters("log_dropped", "Lines of the log that are missing: not written, or a flood of refusals", dropped)?;
    let sampled_out = [(NONE, sum(&|worker| &worker.sampled_out))];
    out.counters("log_sampled_out", "Records of ordinary sessions that sample left out", sampled_out)
}
