//! Operators' words about backends: drain, disable, enable, weight, reset. Each is logged with the peer that said it, kept
//! in the state file, and ends by itself where a time was given.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::failure::Failure;
use super::kill::{BATCH, check_rate, idle_first, pace};
use super::standing::{Change, follow};
use super::{Handle, renewal, report, state_file};
use crate::api::{Cause, Changed, DrainParams};
use crate::decide::close::CloseReason;
use crate::state::{Admin, Backend, DrainPlan, Overrides, Pool, Snapshot, Standing, Vitals, Word};

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
/// Most weight, as in the configuration.
const MOST_WEIGHT: u32 = 1000;
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
    let kept = keep(control);
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
    let before = backend.vitals().overrides;
    let moved = backend.change(|vitals| {
        change(&mut vitals.overrides);
        // Each word about the state is a new plan, or the end of one.
        vitals.drain = vitals.drain.filter(|_| vitals.overrides.admin == before.admin);
    });
    let after = backend.vitals().overrides;
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
pub fn keep(control: &Handle) -> Option<bool> {
    let snapshot = control.snapshot();
    let path = snapshot.config.global.state_file.as_ref()?;
    match state_file::save(path, &snapshot) {
        Ok(()) => Some(true),
        Err(error) => {
            let path = path.display();
            tracing::error!(%path, %error, "cannot write the state file: the change will not survive a restart");
            Some(false)
        }
    }
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
    let path = format!("{}/{}", backend.pool, backend.name);
    let stands = || backend.vitals().drain == Some(plan);
    let (sessions, rate) = (backend.active.count(), plan.rate);
    tracing::info!(backend = path, sessions, rate, "drained for long enough: its sessions end");
    while stands() && backend.active.count() > 0 {
        let left = idle_first(control, &path).await;
        pace(control, left, plan.rate, CloseReason::Drained, stands).await;
        sleep(BATCH).await;
    }
}

async fn expire(control: &Handle) {
    let now = Timestamp::now();
    let snapshot = control.snapshot();
    let mut any = false;
    for (pool, backend) in snapshot.backends() {
        let due = backend.vitals().overrides.next_end().is_some_and(|end| end <= now);
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
        let _ = keep(control);
    }
}
