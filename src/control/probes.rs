//! Runs health checks: one task per checked backend, all at once at start, then spread by jitter; faster while the
//! state is changing; at once when live traffic fails. Feeds `decide::health` and carries out what it says.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep_until, timeout};

use super::checks::{Check, ExpiryWatch, Finding, Target, Verdict};
use super::{Control, Handle};
use crate::config::{HealthCheck, OnDown};
use crate::decide::balance::next_random;
use crate::decide::close::CloseReason;
use crate::decide::health::{Checker, Health};
use crate::decide::hello::proxy::Version;
use crate::state::{Backend, Pool, Snapshot, Standing};

/// Checks of one pool at once. Chosen: keeps 1 000 dead backends from holding 1 000 descriptors for their time-outs,
/// and a pool of dead backends from delaying the checks of another.
const AT_ONCE: usize = 256;
/// Longest wait for the first answers before clients are sent to new backends.
const FIRST_ANSWERS: Duration = Duration::from_secs(3);
/// Shortest time between checks while the state changes.
const FASTEST: Duration = Duration::from_millis(100);

/// The checks of all backends.
pub struct Probes {
    running: HashMap<usize, Running>,
    permits: HashMap<Arc<str>, Rc<Semaphore>>,
}

struct Running {
    plan: watch::Sender<Plan>,
    task: AbortHandle,
}

/// How a backend is checked now.
#[derive(Clone, Debug, PartialEq)]
struct Plan {
    check: HealthCheck,
    on_down: OnDown,
    send_proxy: Option<Version>,
}

impl Probes {
    /// No checks yet.
    pub fn new() -> Self {
        Self { running: HashMap::new(), permits: HashMap::new() }
    }
}

impl Probes {
    fn permits_of(&mut self, pool: &Pool) -> Rc<Semaphore> {
        let permits = self.permits.entry(Arc::clone(&pool.config.name));
        Rc::clone(permits.or_insert_with(|| Rc::new(Semaphore::new(AT_ONCE))))
    }
}

/// Starts checks of new backends, changes those that changed, stops those of backends that are gone, and waits for
/// the first answers, for a while: one that is late only delays traffic to its backend.
pub async fn apply_and_wait(control: &Handle, snapshot: &Snapshot) {
    let mut answers = apply(control, snapshot);
    let _ = timeout(FIRST_ANSWERS, answers.wait_for(|waiting| *waiting == 0)).await;
}

/// Returns how many answers of fresh backends are still to come.
fn apply(control: &Handle, snapshot: &Snapshot) -> watch::Receiver<usize> {
    let (waiting, answers) = watch::channel(0);
    let waiting = Rc::new(waiting);
    let mut probes = control.probes.borrow_mut();
    let mut old = std::mem::take(&mut probes.running);
    for (pool, backend) in snapshot.backends() {
        let Some(plan) = plan_of(pool) else { continue };
        // The same Arc is the same backend: its address in memory is its identity while it is held.
        let key = Arc::as_ptr(backend) as usize;
        let running = if let Some(running) = old.remove(&key) {
            running.plan.send_if_modified(|current| {
                let changed = *current != plan;
                *current = plan;
                changed
            });
            running
        } else {
            waiting.send_modify(|count| *count += 1);
            let (plan, changes) = watch::channel(plan);
            let first = First(Some(Rc::clone(&waiting)));
            let probe = Probe {
                control: Rc::downgrade(control),
                backend: Arc::clone(backend),
                permits: probes.permits_of(pool),
                checker: RefCell::new(Checker::new(backend.vitals().health)),
                expiry: Cell::default(),
            };
            let task = spawn_local(probe.run(changes, first)).abort_handle();
            Running { plan, task }
        };
        probes.running.insert(key, running);
    }
    for gone in old.values() {
        gone.task.abort();
    }
    answers
}

fn plan_of(pool: &Pool) -> Option<Plan> {
    let check = pool.config.health.clone()?;
    Some(Plan { check, on_down: pool.config.on_down, send_proxy: pool.config.send_proxy })
}

/// Counts down once the first answer is there, or the check is given up.
struct First(Option<Rc<watch::Sender<usize>>>);

impl First {
    fn answered(&mut self) {
        if let Some(waiting) = self.0.take() {
            waiting.send_modify(|count| *count -= 1);
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        self.answered();
    }
}

/// The check of one backend.
struct Probe {
    control: Weak<Control>,
    backend: Arc<Backend>,
    permits: Rc<Semaphore>,
    checker: RefCell<Checker>,
    expiry: Cell<ExpiryWatch>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.forget_certificate();
    }
}

impl Probe {
    async fn run(self, mut changes: watch::Receiver<Plan>, mut first: First) {
        let mut ready = Check::new(&changes.borrow().check.kind);
        let mut dice = Arc::as_ptr(&self.backend) as u64 ^ u64::from(std::process::id());
        loop {
            let plan = changes.borrow_and_update().clone();
            if !ready.is_for(&plan.check.kind) {
                ready = Check::new(&plan.check.kind);
                self.forget_certificate();
            }
            self.check(&plan, &ready).await;
            first.answered();
            dice = next_random(dice);
            if !self.wait(&plan, &mut changes, dice).await {
                return;
            }
        }
    }

    /// Waits for the next check: its time, a changed plan, or live traffic that failed. Failures are taken at once;
    /// the check that they bring forward keeps its distance from the last one. Returns false when nobody wants checks.
    async fn wait(&self, plan: &Plan, changes: &mut watch::Receiver<Plan>, dice: u64) -> bool {
        let now = tokio::time::Instant::now();
        let mut at = now + self.pause(&plan.check, dice);
        loop {
            let next_at = jiff::Timestamp::now().checked_add(at - tokio::time::Instant::now()).ok();
            self.backend.change(|vitals| vitals.check.next_at = next_at);
            tokio::select! {
                () = sleep_until(at) => return true,
                changed = changes.changed() => return changed.is_ok(),
                () = self.backend.failed.notified() => {
                    self.live_failure(plan);
                    at = at.min(now + FASTEST);
                }
            }
        }
    }

    /// Time to the next check, give or take a tenth, so that checks of many backends do not march in step.
    fn pause(&self, check: &HealthCheck, dice: u64) -> Duration {
        let fast = (check.interval / 4).max(FASTEST).min(check.interval);
        let base = if self.checker.borrow().is_changing() { fast } else { check.interval };
        base.mul_f64(0.9 + (dice >> 11) as f64 / (1_u64 << 53) as f64 * 0.2)
    }

    async fn check(&self, plan: &Plan, ready: &Check) {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let verdict = ready.run(&Target::new(&self.backend, &plan.check, plan.send_proxy)).await;
        self.watch_expiry(&verdict);
        self.take(plan, verdict);
    }

    /// A certificate is known while somebody looks at it.
    fn forget_certificate(&self) {
        self.backend.change(|vitals| vitals.check.certificate = None);
    }

    /// Warns of a certificate that is about to expire.
    fn watch_expiry(&self, verdict: &Verdict) {
        let Some(certificate) = &verdict.certificate else { return };
        let mut watch = self.expiry.get();
        if let Some(days) = watch.due(certificate.not_after, jiff::Timestamp::now()) {
            let (pool, backend) = (&*self.backend.pool, &*self.backend.name);
            let (expires, issuer) = (certificate.not_after, &*certificate.issuer);
            tracing::warn!(pool, backend, days, %expires, issuer, "certificate of backend expires");
        }
        self.expiry.set(watch);
    }

    fn take(&self, plan: &Plan, verdict: Verdict) {
        let mut checker = self.checker.borrow_mut();
        match verdict.finding {
            Finding::Well => _ = checker.success(plan.check.thresholds),
            Finding::Unwell => _ = checker.failure(1, plan.check.thresholds),
            Finding::Nothing => {}
        }
        let health = checker.health();
        drop(checker);
        let first = self.backend.vitals().check.ok.is_none();
        if health == Health::Up && verdict.finding == Finding::Well {
            self.backend.live_failures.store(0, Ordering::Relaxed);
        }
        let changed = self.backend.change(|vitals| {
            vitals.health = health;
            vitals.check.ok = Some(verdict.finding == Finding::Well);
            vitals.check.reason = verdict.reason;
            vitals.check.detail.clone_from(&verdict.detail);
            vitals.check.took = verdict.took;
            vitals.check.at = Some(jiff::Timestamp::now());
            vitals.check.phases = verdict.phases.into();
            vitals.check.certificate = verdict.certificate.or(vitals.check.certificate.take());
            if verdict.finding == Finding::Well { vitals.checks_ok += 1 } else { vitals.checks_failed += 1 }
        });
        self.announce(
            plan,
            changed.map(|(old, new)| (if first { "unknown" } else { old.name() }, new)),
            &verdict.detail,
        );
    }

    /// Connects of live traffic failed: enough in a row bring the backend down without waiting for a check.
    fn live_failure(&self, plan: &Plan) {
        let failures = self.backend.live_failures.swap(0, Ordering::Relaxed);
        if failures == 0 {
            return;
        }
        let mut checker = self.checker.borrow_mut();
        checker.failure(failures, plan.check.thresholds);
        let health = checker.health();
        drop(checker);
        let detail = format!("live traffic failed to connect, {failures} in a row");
        let changed = self.backend.change(|vitals| {
            if vitals.health != health {
                vitals.check.reason = "live";
                vitals.check.detail.clone_from(&detail);
            }
            vitals.health = health;
        });
        self.announce(plan, changed.map(|(old, new)| (old.name(), new)), &detail);
    }

    fn announce(&self, plan: &Plan, changed: Option<(&str, Standing)>, detail: &str) {
        let Some((old, new)) = changed else { return };
        let (pool, backend) = (&*self.backend.pool, &*self.backend.name);
        if new == Standing::Down {
            tracing::warn!(pool, backend, from = old, to = new.name(), detail, "backend changed");
        } else {
            tracing::info!(pool, backend, from = old, to = new.name(), detail, "backend changed");
        }
        if new == Standing::Down
            && plan.on_down == OnDown::Close
            && let Some(control) = self.control.upgrade()
        {
            control.plane.borrow().end_sessions(Some(&self.backend), CloseReason::BackendDown);
        }
    }
}
