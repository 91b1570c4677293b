//! Operators' words about backends: drain, disable, enable, weight, reset. Each is logged with the peer that said it, kept
//! in the state file, and ends by itself where a time was given.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;

use super::failure::Failure;
use super::standing::{Change, follow};
use super::{Handle, renewal, report, state_file};
use crate::api::{Cause, Changed};
use crate::state::{Admin, Backend, Overrides, Pool, Snapshot, Standing, Word};

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
    let detail = format!("{what}{until_text}, by uid {uid} (pid {pid})");
    change(control, pool, backend, Cause::Operator, &detail, |words| match saying {
        Saying::State(Admin::Ready) if until.is_none() => words.admin.take_back(),
        Saying::State(said) => words.admin.say(Word { said, by_uid: uid, since: now, until }),
        Saying::Weight(said) => words.weight.say(Word { said, by_uid: uid, since: now, until }),
        Saying::Reset => *words = Overrides::default(),
    });
    let state = backend.standing().name();
    tracing::info!(backend = path, what, until = until_text.trim_start(), state, uid, pid, "operator changed backend");
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
    let moved = backend.change(|vitals| change(&mut vitals.overrides));
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

/// Ends words whose time is over; runs for ever.
pub async fn keep_time(control: Handle) {
    loop {
        let snapshot = control.snapshot();
        let next = snapshot.backends().filter_map(|(_, backend)| backend.vitals().overrides.next_end()).min();
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
    }
    if any {
        renewal::renew(control).await;
        // Said in the log when it fails.
        let _ = keep(control);
    }
}
