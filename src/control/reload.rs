//! Reload: read, check, build, bind, swap. Everything that can fail comes before the swap, so that a bad file or a
//! taken port changes nothing.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::overrides::keep;
use super::removals::{end_removed, end_unrouted};
use super::renewal::GATHER;
use super::{Handle, members, moves, names, probes, standing};
use crate::api::ReloadReport;
use crate::config::{Severity, Sources, check};
use crate::state::{Backend, Snapshot, Supplement, removed_rules};
use crate::sys::limits;

/// Longest wait for the workers.
const INSTALL_LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for the files.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// Why nothing comes into force any more.
const STOPPING: &str = "the process is stopping";

/// Reloads the configuration. Returns what was done, or why nothing was.
///
/// Those that are asked for while one runs become one: it begins after all of them were asked for.
pub async fn reload(control: &Handle) -> ReloadReport {
    let ticket = control.reloads.draw();
    in_turn(control, ticket).await
}

/// As [`reload`], for those who do not wait for the outcome: gathers those that are asked for at about the same time.
pub async fn reload_soon(control: &Handle) -> ReloadReport {
    let ticket = control.reloads.draw();
    sleep(GATHER).await;
    in_turn(control, ticket).await
}

async fn in_turn(control: &Handle, ticket: u64) -> ReloadReport {
    let _turn = control.reloading.lock().await;
    if let Some(report) = control.reloads.covered(ticket) {
        return report;
    }
    let covers = control.reloads.drawn();
    let report = reload_now(control).await;
    control.reloads.cover(covers, &report);
    report
}

async fn reload_now(control: &Handle) -> ReloadReport {
    let outcome = if control.is_stopping() { Err(STOPPING.to_owned()) } else { try_reload(control).await };
    let (ok, message) = match outcome {
        Ok(message) => (true, message),
        Err(message) => (false, message),
    };
    if ok {
        tracing::info!(message, "reloaded");
    } else {
        tracing::error!(message, "reload changed nothing");
    }
    let report = ReloadReport { ok, at: jiff::Timestamp::now(), message };
    let mut reloads = control.shared.reloads.lock().unwrap_or_else(PoisonError::into_inner);
    if ok {
        reloads.succeeded += 1;
    } else {
        reloads.failed += 1;
    }
    reloads.last = Some(report.clone());
    report
}

/// Who asked for a reload, and which of them were served.
#[derive(Debug, Default)]
pub struct Requests {
    drawn: Cell<u64>,
    served: RefCell<Option<(u64, ReloadReport)>>,
}

impl Requests {
    fn draw(&self) -> u64 {
        self.drawn.set(self.drawn.get() + 1);
        self.drawn.get()
    }

    fn drawn(&self) -> u64 {
        self.drawn.get()
    }

    /// The outcome of a reload that began after this one was asked for.
    fn covered(&self, ticket: u64) -> Option<ReloadReport> {
        self.served.borrow().as_ref().filter(|(covers, _)| *covers >= ticket).map(|(_, report)| report.clone())
    }

    fn cover(&self, covers: u64, report: &ReloadReport) {
        self.served.replace(Some((covers, report.clone())));
    }
}

/// Reads the files, and says what to look for where they cannot be read.
async fn read(control: &Handle) -> Result<Sources, String> {
    let source = control.source.clone();
    // A file on a dead mount, or a pipe, must not hold up the control plane.
    let reading = tokio::task::spawn_blocking(move || source.read());
    let Ok(Ok(outcome)) = timeout(READ_LIMIT, reading).await else {
        let hint = "is one of it a pipe that nobody writes to, or on a disk that does not answer?";
        return Err(format!("cannot read configuration {} within {READ_LIMIT:?}; {hint}", control.source));
    };
    outcome.map_err(|error| {
        // The system says so even to root, and although `sluice check` can read it.
        let is_closed = error.cause.kind() == ErrorKind::PermissionDenied && error.cause.raw_os_error().is_some();
        let hint = if is_closed { "; a reload may read only where files were at the start" } else { "" };
        format!("{error}{hint}")
    })
}

async fn try_reload(control: &Handle) -> Result<String, String> {
    let sources = read(control).await?;
    let (config, problems) = check(&sources);
    for problem in problems.iter().filter(|problem| problem.code.severity() == Severity::Error) {
        tracing::error!(code = problem.code.name(), at = sources.origin(&problem.place), "{}", problem.message);
    }
    let Some(mut config) = config else {
        let count = problems.count(Severity::Error);
        let first = problems.iter().find(|problem| problem.code.severity() == Severity::Error);
        let first = first
            .map_or_else(String::new, |problem| format!("{}: {}", sources.origin(&problem.place), problem.message));
        let errors = if count == 1 { "error" } else { "errors" };
        return Err(format!("{count} {errors} in the configuration, the first: {first}"));
    };
    let old = control.snapshot();
    if control.confined
        && old.config.program_of().is_none()
        && let Some(pool) = config.program_of()
    {
        warn_of_program(pool);
    }
    let moves = moves::prepare(control, &old.config, &mut config).await?;
    let resolution = names::add(control, &config).await;
    let built = {
        let workers = config.global.workers_on(limits::allowed_cpus().len());
        let operators = control.operators.borrow();
        let supplement = Supplement { names: &resolution, operators: &operators };
        Snapshot::build(Arc::new(config), Some(&old), &supplement, workers)
    };
    let outcome = match built {
        Ok(snapshot) => put_in_force(control, &old, Arc::new(snapshot)).await,
        Err(error) => Err(error.to_string()),
    };
    // Of whichever configuration is in force now.
    let snapshot = control.snapshot();
    names::keep_only(control, &snapshot.config);
    let removed = outcome?;
    moves.carry_out(control).await;
    let yields = members::yield_to_file(control, &snapshot);
    if yields {
        control.renewal.notify_one();
    }
    if yields || old.config.global.state_file != snapshot.config.global.state_file {
        // Said in the log when it fails.
        let _ = keep(control).await;
    }
    Ok(format!(
        "generation {}: {} listeners, {} pools, {} backends, {} removed",
        snapshot.generation,
        snapshot.listeners.len(),
        snapshot.pools.len(),
        snapshot.backends().count(),
        removed
    ))
}

/// Says what a program of a check does without when the process has closed most of the file system for itself.
pub fn warn_of_program(pool: &str) {
    tracing::warn!(
        pool,
        "the program of its `exec` check may use only files that the process could when it started, without such a check; a \
         restart lifts that"
    );
}

/// Binds what is new, has new backends checked, and swaps. Returns how many backends of `old` are gone.
///
/// # Errors
/// When a listener cannot be bound, or the process was told to stop meanwhile; what was in force stays then.
pub async fn put_in_force(control: &Handle, old: &Snapshot, snapshot: Arc<Snapshot>) -> Result<usize, String> {
    // Nobody would tell new workers to leave.
    if control.is_stopping() {
        return Err(STOPPING.to_owned());
    }
    control.plane.borrow_mut().prepare(&snapshot).map_err(|error| error.to_string())?;
    snapshot.settle_health();
    // New backends are asked before clients are sent to them; nobody would be, and some client would notice.
    probes::apply_and_wait(control, &snapshot).await;
    if control.is_stopping() {
        return Err(STOPPING.to_owned());
    }
    let taken = control.plane.borrow_mut().install(&snapshot);
    control.shared.set_snapshot(Arc::clone(&snapshot));
    // Whatever changed during the checks was summed up by the generation before.
    standing::sum_up_all(control, &snapshot);
    let removed = removed_backends(old, &snapshot);
    end_removed(control, &removed, &snapshot.config);
    end_unrouted(control, removed_rules(old.rules(), &snapshot.rules()), &snapshot.config);
    // Words may have come back with their backend, and some of their time may be over.
    control.clock.notify_one();
    if members::settle(control, &removed, &snapshot) {
        let control = Handle::clone(control);
        tokio::task::spawn_local(async move { keep(&control).await });
    }
    // Whoever asked for a change may rely on it. A worker that is ending does not answer.
    let all_taken = async {
        for worker in taken {
            let _ = worker.await;
        }
    };
    if timeout(INSTALL_LIMIT, all_taken).await.is_err() {
        tracing::warn!("a worker did not take the change within {INSTALL_LIMIT:?}, and still works as before");
    }
    Ok(removed.len())
}

fn removed_backends(old: &Snapshot, new: &Snapshot) -> Vec<Arc<Backend>> {
    let kept: HashSet<*const Backend> = new.backends().map(|(_, backend)| Arc::as_ptr(backend)).collect();
    let all = old.backends().map(|(_, backend)| backend);
    all.filter(|backend| !kept.contains(&Arc::as_ptr(backend))).cloned().collect()
}
