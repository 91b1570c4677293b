//! Ends sessions at an operator's word: one of them, those of a backend or those of a whole pool, at once or at a rate with
//! jitter, idle ones first. Who says when a drained backend's sessions end is in `overrides.rs`.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use super::failure::Failure;
use super::overrides::{Peer, find};
use super::{Handle, report};
use crate::api::{KillParams, Killed, SessionsParams, SortBy};
use crate::decide::balance::next_random;
use crate::decide::close::CloseReason;
use crate::state::Matching;
use crate::sys::clock::coarse_ms;

/// Rates that make sense: from one in a quarter of an hour to all of a large pool at once.
const RATES: RangeInclusive<f64> = 0.001..=100_000.0;
/// Sessions that are due within this time are told together: each telling has every worker look through its sessions.
pub const BATCH: Duration = Duration::from_millis(100);
/// Longest sleep before somebody looks whether to go on.
const LOOK: Duration = Duration::from_secs(1);
/// How long workers may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Kills that go on at a rate, by what they are about: another one of the same takes its place.
pub type Kills = HashMap<String, Kill>;

/// A kill that goes on at a rate.
#[derive(Debug)]
pub struct Kill {
    rate: f64,
    /// Sessions that were not told yet, in their order.
    left: Rc<RefCell<VecDeque<u64>>>,
    work: AbortHandle,
}

/// The same for another process.
#[derive(Debug, Serialize, Deserialize)]
pub struct KillCopy {
    path: String,
    rate: f64,
    left: Vec<u64>,
}

impl Kill {
    /// Ends it; sessions that were not told yet run on.
    pub fn stop(&self) {
        self.work.abort();
    }

    fn begin(control: &Handle, path: &str, rate: f64, sessions: Vec<u64>) {
        let left = Rc::new(RefCell::new(VecDeque::from(sessions)));
        let work = {
            let (control, left) = (Handle::clone(control), Rc::clone(&left));
            async move { pace(&control, &left, Some(rate), CloseReason::Killed, || true).await }
        };
        let kill = Self { rate, left, work: spawn_local(work).abort_handle() };
        let mut kills = control.kills.borrow_mut();
        kills.retain(|_, kill| !kill.work.is_finished());
        kills.insert(path.to_owned(), kill);
    }
}

impl KillCopy {
    /// Copies it.
    pub fn of((path, kill): (&String, &Kill)) -> Self {
        Self { path: path.clone(), rate: kill.rate, left: kill.left.borrow().iter().copied().collect() }
    }

    /// Goes on with it here.
    pub fn resume(self, control: &Handle) {
        if !self.left.is_empty() {
            Kill::begin(control, &self.path, self.rate, self.left);
        }
    }
}

/// Ends one session, or those that a backend or a pool has now. With a rate that goes on after this has returned.
///
/// # Errors
/// When there is no such session, backend or pool, or the rate makes no sense.
pub async fn kill(control: &Handle, params: &KillParams, peer: Peer) -> Result<Killed, Failure> {
    control.refuse_late_words()?;
    let rate = check_rate(params.rate)?;
    match (&params.session, &params.backend) {
        (Some(_), None) if rate.is_some() => Err(Failure::new("bad_params", "`rate` is for those of a backend")),
        (Some(session), None) => kill_one(control, session, peer).await,
        (None, Some(path)) => kill_those_of(control, path, rate, peer).await,
        _ => Err(Failure::new("bad_params", "one of `session` and `backend` is needed")),
    }
}

/// A rate that can be kept.
pub fn check_rate(rate: Option<f64>) -> Result<Option<f64>, Failure> {
    match rate.filter(|rate| !RATES.contains(rate)) {
        Some(rate) => {
            let (least, most) = (RATES.start(), RATES.end());
            Err(Failure::new("bad_params", format!("a rate of {rate} a second is not within {least} to {most}")))
        }
        None => Ok(rate),
    }
}

async fn kill_one(control: &Handle, session: &str, peer: Peer) -> Result<Killed, Failure> {
    let id = (session.len() == 16).then(|| u64::from_str_radix(session, 16).ok()).flatten();
    let told = match id {
        Some(id) => tell(control, HashSet::from([id]), CloseReason::Killed).await,
        None => 0,
    };
    if told == 0 {
        return Err(Failure::new("no_such_session", format!("no session is called `{session}`"))
            .hint("16 hexadecimal digits, as `sluice sessions` shows them"));
    }
    // A field `session` would make it look like a record.
    tracing::info!(of = session, uid = peer.uid, pid = peer.pid.unwrap_or(0), "operator ended session");
    Ok(Killed { sessions: told, rate: None })
}

async fn kill_those_of(control: &Handle, path: &str, rate: Option<f64>, peer: Peer) -> Result<Killed, Failure> {
    let ids = idle_first(control, path).await;
    // Another process may have taken over meanwhile.
    control.refuse_late_words()?;
    // One that was removed may still have some.
    if ids.is_empty() {
        exists(control, path)?;
    }
    let (sessions, uid, pid) = (ids.len() as u64, peer.uid, peer.pid.unwrap_or(0));
    tracing::info!(of = path, sessions, rate, uid, pid, "operator ends sessions");
    if let Some(old) = control.kills.borrow_mut().remove(path) {
        old.stop();
    }
    let Some(rate) = rate else {
        let sessions = tell(control, ids.into_iter().collect(), CloseReason::Killed).await;
        return Ok(Killed { sessions, rate: None });
    };
    Kill::begin(control, path, rate, ids);
    Ok(Killed { sessions, rate: Some(rate) })
}

fn exists(control: &Handle, path: &str) -> Result<(), Failure> {
    let snapshot = control.snapshot();
    match path.contains('/') {
        true if find(&snapshot, path).is_none() => Err(Failure::no_such_backend(path)),
        false if !snapshot.pools.iter().any(|pool| *pool.config.name == *path) => Err(Failure::no_such_pool(path)),
        _ => Ok(()),
    }
}

/// The sessions of a `POOL/BACKEND`, or of a pool, those first that were silent for the longest time.
pub async fn idle_first(control: &Handle, path: &str) -> Vec<u64> {
    let wanted = SessionsParams { backend: Some(path.to_owned()), sort: SortBy::Idle, ..<_>::default() };
    report::ids(&report::sessions(control, wanted).await)
}

/// Ends sessions in this order, at most so many a second with jitter, as long as `go_on` says so; those that have ended by
/// themselves do not count.
pub async fn pace(
    control: &Handle,
    left: &RefCell<VecDeque<u64>>,
    rate: Option<f64>,
    reason: CloseReason,
    go_on: impl Fn() -> bool,
) {
    let Some(rate) = rate else {
        let all = left.borrow_mut().drain(..).collect();
        tell(control, all, reason).await;
        return;
    };
    let mut dice = coarse_ms() ^ u64::from(std::process::id()) << 32;
    let mut due = Instant::now();
    while go_on() && !left.borrow().is_empty() {
        let now = Instant::now();
        let mut batch = HashSet::new();
        while due <= now
            && let Some(id) = left.borrow_mut().pop_front()
        {
            batch.insert(id);
            dice = next_random(dice);
            let share = (dice >> 11) as f64 / (1_u64 << 53) as f64;
            due += Duration::from_secs_f64((0.5 + share) / rate);
        }
        if !batch.is_empty() {
            let chosen = batch.len() as u64;
            let gone = chosen - tell(control, batch, reason).await.min(chosen);
            due = due.checked_sub(Duration::from_secs_f64(gone as f64 / rate)).unwrap_or(due);
        }
        sleep_until(due.clamp(now + BATCH, now + LOOK)).await;
    }
}

/// Returns how many were there, and were not told before.
async fn tell(control: &Handle, ids: HashSet<u64>, reason: CloseReason) -> u64 {
    let answers = control.plane.borrow().end_sessions(&Matching::Ids(Arc::new(ids)), reason, usize::MAX);
    let mut told = 0;
    for answer in answers {
        // A worker that is ending does not answer.
        told += timeout(ANSWER_LIMIT, answer).await.ok().and_then(Result::ok).unwrap_or(0);
    }
    told
}
