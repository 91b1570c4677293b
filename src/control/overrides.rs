//! Operators' words about backends: drain, disable, enable, weight, reset. Each is logged with the peer that said it, kept
//! in the state file, and ends by itself where a time was given.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::kill::{BATCH, check_rate, idle_first, pace};
use super::standing::{Change, follow};
use super::{Handle, renewal, report, state_file};
use crate::api::{Cause, Changed, DrainParams};
use crate::config::MOST_WEIGHT;
use crate::decide::close::CloseReason;
use crate::state::{Admin, Backend, DrainPlan, Operators, Overrides, Pool, Snapshot, Standing, Vitals, Word};
use crate::sys::privileges::denied;

/// Who is at the other end of the status socket (`SO_PEERCRED`, `unix(7)`).
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Process, when the kernel says.
    pub pid: Option<i32>,
}

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saying {
    /// Take connections or not. `Ready` without a time only takes back what was said before.
    State(Admin),
    /// Weight instead of the configured one.
    Weight(u32),
    /// Nothing any more: the configuration counts.
    Reset,
}

/// Longest time after which a word may undo itself. Chosen.
const LONGEST: Duration = Duration::from_hours(24 * 365);
/// Longest wait for the disk.
const SAVE_LIMIT: Duration = Duration::from_secs(10);
/// Longest sleep before the clock is looked at: it may have been set.
const LOOK: Duration = Duration::from_secs(30);

/// Carries out a word about `POOL/BACKEND`, for `limit` or for good. What it changes is in force when this returns.
///
/// # Errors
/// When there is no such backend, or the numbers are out of range; nothing has changed then.
pub async fn say(
    control: &Handle,
    path: &str,
    saying: Saying,
    limit: Option<Duration>,
    peer: Peer,
) -> Result<Changed, Failure> {
    carry_out(control, path, saying, limit, None, peer).await
}

/// Drains a backend, and has the sessions ended that are left after a while, if that is wished.
///
/// # Errors
/// As for [`say`].
pub async fn drain(control: &Handle, params: &DrainParams, peer: Peer) -> Result<Changed, Failure> {
    let DrainParams { backend, for_ms, kill_after_ms, rate } = params;
    let rate = check_rate(*rate)?;
    let plan = match (kill_after_ms.map(Duration::from_millis), rate) {
        (None, Some(_)) => return Err(Failure::new("bad_params", "`rate` needs `kill_after_ms`")),
        (Some(after), _) if after > LONGEST => {
            return Err(Failure::new("bad_params", "`kill_after_ms` is above a year"));
        }
        (after, rate) => after.and_then(|after| {
            let kill_at = Timestamp::now().checked_add(after).ok()?;
            Some(DrainPlan { kill_at, rate, has_begun: false })
        }),
    };
    let saying = Saying::State(Admin::Draining);
    carry_out(control, backend, saying, for_ms.map(Duration::from_millis), plan, peer).await
}

async fn carry_out(
    control: &Handle,
    path: &str,
    saying: Saying,
    limit: Option<Duration>,
    plan: Option<DrainPlan>,
    peer: Peer,
) -> Result<Changed, Failure> {
    control.refuse_late_words()?;
    let snapshot = control.snapshot();
    let (pool, backend) = find(&snapshot, path).ok_or_else(|| Failure::no_such_backend(path))?;
    if let Saying::Weight(weight) = saying
        && weight > MOST_WEIGHT
    {
        return Err(Failure::new("bad_params", format!("weight {weight} is above {MOST_WEIGHT}")));
    }
    if limit.is_some_and(|limit| limit.is_zero() || limit > LONGEST) {
        return Err(Failure::new("bad_params", "the time is zero or above a year"));
    }
    let now = Timestamp::now();
    let until = limit.and_then(|limit| now.checked_add(limit).ok());
    let (uid, pid) = (peer.uid, peer.pid.unwrap_or(0));
    let what = match saying {
        Saying::State(admin) => admin.name().to_owned(),
        Saying::Weight(weight) => format!("weight {weight}"),
        Saying::Reset => "reset".to_owned(),
    };
    let until_text = until.map(|until| format!(" until {until:.0}")).unwrap_or_default();
    let kill_at = plan.map(|plan| plan.kill_at.to_string());
    let detail = format!("{what}{until_text}, by uid {uid} (pid {pid})");
    change(control, pool, backend, Cause::Operator, &detail, |words| match saying {
        Saying::State(Admin::Ready) if until.is_none() => words.admin.take_back(),
        Saying::State(said) => words.admin.say(Word { said, by_uid: uid, since: now, until }),
        Saying::Weight(said) => words.weight.say(Word { said, by_uid: uid, since: now, until }),
        Saying::Reset => *words = Overrides::default(),
    });
    if plan.is_some() {
        backend.change(|vitals| vitals.drain = plan);
    }
    let state = backend.standing().name();
    let until = until_text.trim_start();
    tracing::info!(backend = path, what, until, kill_at, state, uid, pid, "operator changed backend");
    control.clock.notify_one();
    renewal::renew(control).await;
    let kept = keep(control).await;
    changed(control, path, kept)
}

/// How a backend stands after a change.
fn changed(control: &Handle, path: &str, kept: Option<bool>) -> Result<Changed, Failure> {
    let report = report::backend(control, path).ok_or_else(|| Failure::no_such_backend(path))?;
    Ok(Changed {
        backend: path.to_owned(),
        state: report.state,
        effective_weight: report.effective_weight,
        said: report.said,
        active: report.active,
        kept,
    })
}

/// A backend and its pool.
pub fn find<'a>(snapshot: &'a Snapshot, path: &str) -> Option<(&'a Arc<Pool>, &'a Arc<Backend>)> {
    let (pool, name) = path.split_once('/')?;
    snapshot.backends().find(|(_, backend)| *backend.pool == *pool && *backend.name == *name)
}

/// Changes what is said of a backend, with all that follows but its weight, which comes into force with the next renewal.
fn change(
    control: &Handle,
    pool: &Arc<Pool>,
    backend: &Arc<Backend>,
    by: Cause,
    detail: &str,
    change: impl FnOnce(&mut Overrides),
) {
    let before = backend.words();
    let moved = backend.change(|vitals| {
        change(&mut vitals.overrides);
        // Each word about the state is a new plan, or the end of one.
        vitals.drain = vitals.drain.filter(|_| vitals.overrides.admin == before.admin);
    });
    let after = backend.words();
    let weighs_else = before.weight.in_force().map(|word| word.said) != after.weight.in_force().map(|word| word.said);
    // A weight is an event too, though the state stays.
    let same: fn(Standing) -> (Standing, Standing) = |standing| (standing, standing);
    let states = moved.or_else(|| weighs_else.then(|| same(backend.standing())));
    if let Some(states) = states {
        let reason = if moved.is_some() { "operator" } else { "weight" };
        follow(control, pool, backend, Change { states, from: None, by, reason, detail, evidence: Vec::new() });
    }
}

/// Writes the state file, if there is one. `Some(false)`: it could not be written, and the log says why.
pub async fn keep(control: &Handle) -> Option<bool> {
    if control.succeeded.get() {
        return None;
    }
    let path = control.config().global.state_file.clone()?;
    let writing = {
        let (control, path) = (Handle::clone(control), path.clone());
        // A task of its own: it goes on in its turn although nobody waits for it any more.
        spawn_local(async move {
            let _turn = control.saving.lock().await;
            let text = state_file::text(&control.snapshot(), &control.operators.borrow())?;
            // A disk that hangs must not hold up the control plane.
            spawn_blocking(move || state_file::write(&path, &text)).await?
        })
    };
    let outcome = match timeout(SAVE_LIMIT, writing).await {
        Ok(written) => written.map_err(io::Error::other).flatten(),
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("the disk did not answer within {SAVE_LIMIT:?}")))
        }
    };
    if let Err(error) = &outcome {
        let (error, path) = (denied(&path, error), path.display());
        tracing::error!(%path, error, "cannot write the state file: the change will not survive a restart");
    }
    Some(outcome.is_ok())
}

/// Takes up what the state file says, before anything is in force: words about backends that are there are theirs from now
/// on.
pub fn restore(control: &Handle, snapshot: &Snapshot) {
    let Some(path) = &snapshot.config.global.state_file else { return };
    let operators = match state_file::load(path, Timestamp::now()) {
        Ok(operators) => operators,
        // Starting without them beats not starting.
        Err(error) => {
            // The next word would be written over it. What is no file cannot be written over.
            let aside = path.is_file().then(|| state_file::put_aside(path));
            let aside = aside.map(|moved| moved.map_or_else(|error| error.to_string(), |to| to.display().to_string()));
            tracing::error!(path = %path.display(), %error, aside, "cannot use the state file");
            return;
        }
    };
    let (overrides, added) = (operators.absent.len(), operators.added.values().map(BTreeMap::len).sum::<usize>());
    if overrides + added > 0 {
        tracing::info!(overrides, added, "restored from the state file");
    }
    take_up(control, snapshot, operators);
}

/// Takes up what operators said; of backends that are there it is theirs from now on.
pub fn take_up(control: &Handle, snapshot: &Snapshot, mut operators: Operators) {
    for (_, backend) in snapshot.backends() {
        if let Some(absent) = operators.absent.remove(&backend.path()) {
            backend.change(|vitals| vitals.overrides = absent.words);
        }
    }
    *control.operators.borrow_mut() = operators;
}

/// Ends words whose time is over, and sessions of backends that were drained for long enough; runs for ever.
pub async fn keep_time(control: Handle) {
    loop {
        let snapshot = control.snapshot();
        let next = snapshot.backends().filter_map(|(_, backend)| next_of(&backend.vitals())).min();
        match next {
            Some(next) => {
                let left = Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default();
                tokio::select! {
                    () = sleep(left.min(LOOK)) => {}
                    () = control.clock.notified() => {}
                }
            }
            None => control.clock.notified().await,
        }
        expire(&control).await;
    }
}

/// When something is to be done about a backend.
fn next_of(vitals: &Vitals) -> Option<Timestamp> {
    let kill_at = vitals.drain.filter(|plan| !plan.has_begun).map(|plan| plan.kill_at);
    [vitals.overrides.next_end(), kill_at].into_iter().flatten().min()
}

/// Ends the sessions of a drained backend, as long as the plan stands.
async fn end_drained(control: &Handle, backend: &Backend, plan: DrainPlan) {
    let path = backend.path();
    let stands = || backend.vitals().drain == Some(plan);
    let (sessions, rate) = (backend.active.count(), plan.rate);
    tracing::info!(backend = path, sessions, rate, "drained for long enough: its sessions end");
    while stands() && backend.active.count() > 0 {
        let left = idle_first(control, &path).await;
        pace(control, &RefCell::new(left.into()), plan.rate, CloseReason::Drained, stands).await;
        sleep(BATCH).await;
    }
}

async fn expire(control: &Handle) {
    let now = Timestamp::now();
    let snapshot = control.snapshot();
    let mut any = false;
    for (pool, backend) in snapshot.backends() {
        let due = backend.words().next_end().is_some_and(|end| end <= now);
        if due {
            any = true;
            change(control, pool, backend, Cause::Clock, "an operator's word is over", |words| _ = words.expire(now));
            let (pool, backend, state) = (&*backend.pool, &*backend.name, backend.standing().name());
            tracing::info!(pool, backend, state, "an operator's word is over");
        }
        if let Some(plan) = backend.vitals().drain.filter(|plan| !plan.has_begun && plan.kill_at <= now) {
            let plan = DrainPlan { has_begun: true, ..plan };
            backend.change(|vitals| vitals.drain = Some(plan));
            let (control, backend) = (Handle::clone(control), Arc::clone(backend));
            spawn_local(async move { end_drained(&control, &backend, plan).await });
        }
    }
    if any {
        renewal::renew(control).await;
        // Said in the log when it fails.
        let _ = keep(control).await;
    }
}
