//! Keeps what is known of one backend: takes verdicts of checks and signs of live traffic, feeds `decide::health` with
//! them, and carries out what it says. It makes no checks.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::checks::{FULL, Finding, Verdict};
use super::prober::Prober;
use super::standing::{Change, follow};
use super::{Control, Handle};
use crate::api::{Cause, Evidence};
use crate::config::CheckKind;
use crate::decide::health::agent::AgentWords;
use crate::decide::health::{Checker, Ejection, Ejector, Ground, Health, Sign, Spare, Thresholds};
use crate::state::{AgentOrders, Backend, EjectionReport, HealthIgnored, Pool, Standing};
use crate::sys::clock::coarse_ms;

/// One backend.
pub struct Keeper {
    control: Weak<Control>,
    /// The backend.
    pub backend: Arc<Backend>,
    /// Its pool, as the generation in force has it.
    pool: RefCell<Arc<Pool>>,
    checker: RefCell<Checker>,
    /// What live traffic shows.
    pub ejector: RefCell<Ejector>,
    /// Checks that spoke for it in a row while it was ejected.
    well_while_ejected: Cell<u32>,
    /// Who checks it.
    prober: RefCell<Weak<Prober>>,
    /// Rung when a deadline may have changed.
    look: Notify,
}

/// How soon the next check is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// The state is changing.
    Fast,
    /// Down.
    Down,
    /// Steady.
    Steady,
}

impl Keeper {
    /// Begins with what is known of the backend.
    pub fn new(control: &Handle, pool: &Arc<Pool>, backend: &Arc<Backend>) -> Rc<Self> {
        Rc::new(Self {
            control: Rc::downgrade(control),
            backend: Arc::clone(backend),
            pool: RefCell::new(Arc::clone(pool)),
            checker: RefCell::new(Checker::new(backend.vitals().health)),
            ejector: RefCell::default(),
            well_while_ejected: Cell::new(0),
            prober: RefCell::default(),
            look: Notify::new(),
        })
    }

    /// Goes on with what another process knew; the backend has its vitals already.
    pub fn resume(&self, ejector: Ejector) {
        let (health, streak) = self.backend.look(|vitals| (vitals.health, vitals.streak));
        self.checker.replace(Checker::resumed(health, streak));
        // The next success may end a row of failures, or say that an ejection was a mistake.
        self.backend.live.listen_for_success();
        self.ejector.replace(ejector);
        self.look.notify_one();
    }

    /// Goes on under a new generation. A check that changed starts over from what is known.
    pub fn go_on(&self, pool: &Arc<Pool>) {
        let old = self.pool.replace(Arc::clone(pool));
        if old.config.health != pool.config.health {
            *self.checker.borrow_mut() = Checker::new(self.backend.vitals().health);
            // Another check may not show one, nor speak for the backend.
            self.backend.change(|vitals| vitals.check.certificate = None);
            self.follow_agent(self.backend.vitals().agent, AgentOrders::default(), "its check has changed");
        }
        self.look.notify_one();
    }

    /// Says who checks it from now on.
    pub fn checked_by(&self, prober: Weak<Prober>) {
        *self.prober.borrow_mut() = prober;
    }

    /// Watches live traffic and the end of ejections; runs until it is dropped.
    pub async fn watch(self: Rc<Self>) {
        loop {
            let ejection = self.ejector.borrow().ejection();
            let over = async {
                match ejection {
                    // The coarse clock lags by some milliseconds.
                    Some(Ejection { until_ms, .. }) => {
                        sleep(Duration::from_millis(until_ms.saturating_sub(coarse_ms()) + 4)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.backend.live.news() => self.take_signs(),
                () = over => {
                    let over = self.ejector.borrow_mut().tick(coarse_ms());
                    self.return_from(over, Cause::Clock, "the ejection is over");
                }
                () = self.look.notified() => self.reconsider(),
            }
        }
    }

    /// Asks it to look whether its pool can still do without it.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Ends an ejection that the pool cannot afford any more, or that its configuration does not know.
    fn reconsider(&self) {
        let pool = Arc::clone(&self.pool.borrow());
        let why = match self.ejector.borrow().ejection() {
            None => return,
            Some(_) if pool.config.patience.failures == 0 => "nothing is ejected any more: failures is 0",
            Some(_) if self.others_remain(&pool) => return,
            Some(_) => "no other backend takes connections",
        };
        let over = self.ejector.borrow_mut().end(coarse_ms());
        self.return_from(over, Cause::Clock, why);
    }

    /// How soon it wants to be checked again.
    pub fn pace(&self) -> Pace {
        let checker = self.checker.borrow();
        if checker.is_changing() {
            Pace::Fast
        } else if checker.health() == Health::Down {
            Pace::Down
        } else {
            Pace::Steady
        }
    }

    /// Takes what a check found.
    pub fn take_verdict(&self, verdict: &Verdict) {
        let pool = Arc::clone(&self.pool.borrow());
        let Some(check) = &pool.config.health else { return };
        let mut checker = self.checker.borrow_mut();
        match verdict.finding {
            Finding::Well => _ = checker.success(check.thresholds),
            Finding::Unwell => _ = checker.failure(1, check.thresholds),
            Finding::Nothing => {}
        }
        let (health, streak) = (checker.health(), checker.streak());
        drop(checker);
        let first = self.backend.vitals().check.ok.is_none();
        let changed = self.backend.change(|vitals| {
            (vitals.health, vitals.streak) = (health, streak);
            match verdict.finding {
                Finding::Well => vitals.checks_ok += 1,
                Finding::Unwell => vitals.checks_failed += 1,
                Finding::Nothing => vitals.checks_void += 1,
            }
            // One that is about to have places again, or that nothing can be said of, is no worse than before.
            if verdict.finding == Finding::Unwell {
                let fall = check.thresholds.fall;
                vitals.full = if verdict.reason == FULL { fall } else { vitals.full.saturating_sub(1) };
            }
            let report = &mut vitals.check;
            if verdict.finding != Finding::Nothing {
                report.ok = Some(verdict.finding == Finding::Well);
            }
            report.reason = verdict.reason.into();
            report.detail.clone_from(&verdict.detail);
            report.took = verdict.took;
            report.at = Some(jiff::Timestamp::now());
            report.phases = verdict.phases.clone().into();
            if let Some(certificate) = &verdict.certificate {
                report.certificate = Some(certificate.clone());
            }
        });
        // To be found ill at first is a change as well, though both take no connections.
        let found_ill = (first && health == Health::Down).then_some((Standing::Down, Standing::Down));
        if let Some(states) = changed.or(found_ill.filter(|_| self.backend.standing() == Standing::Down)) {
            let evidence = verdict.phases.iter().map(|phase| Evidence {
                phase: phase.name.clone(),
                took_ms: phase.took.as_micros() as f64 / 1000.0,
                seen: phase.evidence.clone(),
            });
            self.announce(Change {
                states,
                from: first.then_some("unknown"),
                by: Cause::Check,
                reason: verdict.reason,
                detail: &verdict.detail,
                evidence: evidence.collect(),
            });
        }
        if let Some(words) = &verdict.agent {
            self.take_agent(words, &verdict.detail);
        }
        self.weigh_ejection(&check.kind, verdict.finding, check.thresholds.rise);
    }

    /// Carries out what an agent asked for. What it does not mention stays as it is.
    fn take_agent(&self, words: &AgentWords, detail: &str) {
        let before = self.backend.vitals().agent;
        let orders = AgentOrders {
            weight: words.weight.or(before.weight),
            max_connections: words.max_connections.or(before.max_connections),
            operation: words.operation.or(before.operation),
        };
        self.follow_agent(before, orders, detail);
    }

    fn follow_agent(&self, before: AgentOrders, orders: AgentOrders, detail: &str) {
        if before == orders {
            return;
        }
        let changed = self.backend.change(|vitals| vitals.agent = orders);
        let Some(control) = self.control.upgrade() else { return };
        if let Some(states) = changed {
            let by = Cause::Agent;
            self.announce(Change { states, from: None, by, reason: "agent", detail, evidence: Vec::new() });
        }
        if (before.weight, before.max_connections) != (orders.weight, orders.max_connections) {
            let (pool, backend) = (&*self.backend.pool, &*self.backend.name);
            tracing::info!(pool, backend, detail, "agent changed the backend's share");
            control.renewal.notify_one();
        }
    }

    /// Ends an ejection before its time when checks that hear the server speak find it well. That a connection is
    /// accepted says nothing against what live traffic saw.
    fn weigh_ejection(&self, kind: &CheckKind, finding: Finding, rise: u32) {
        let proves = kind.hears_the_server();
        let well = if finding == Finding::Well { self.well_while_ejected.get() + 1 } else { 0 };
        self.well_while_ejected.set(well);
        if proves && well >= rise && self.ejector.borrow().ejection().is_some() {
            let over = self.ejector.borrow_mut().disprove(coarse_ms());
            self.return_from(over, Cause::Check, &format!("{well} checks in a row found it well"));
        }
    }

    /// Takes what live traffic shows. Failures count like those of checks, and bring the next check forward.
    fn take_signs(&self) {
        let pool = Arc::clone(&self.pool.borrow());
        let mut doubtful = false;
        for seen in self.backend.live.take() {
            doubtful |= seen.sign != Sign::Well;
            if let (Sign::Failure, Some(check)) = (seen.sign, &pool.config.health) {
                self.count_failure(check.thresholds, &seen.detail);
            }
            let (spare, now) = (self.spare(&pool), coarse_ms());
            let ejection = self.ejector.borrow_mut().take(seen.sign, now, pool.config.patience, spare);
            if let Some(ejection) = ejection {
                self.eject(ejection, now, &seen.detail);
            }
        }
        if doubtful && let Some(prober) = self.prober.borrow().upgrade() {
            prober.hurry();
        }
    }

    fn count_failure(&self, thresholds: Thresholds, seen: &str) {
        let mut checker = self.checker.borrow_mut();
        let turned = checker.failure(1, thresholds);
        let streak = checker.streak();
        drop(checker);
        let Some(health) = turned else {
            self.backend.change(|vitals| vitals.streak = streak);
            return;
        };
        let detail = format!("live traffic: {seen}; {} failures in a row", thresholds.fall);
        let changed = self.backend.change(|vitals| {
            (vitals.health, vitals.streak) = (health, streak);
            vitals.check.reason = "live".into();
            vitals.check.detail.clone_from(&detail);
        });
        self.announce_live(changed, "live", &detail);
    }

    /// Whether the pool can do without it: another one takes connections, and not too many are ejected.
    fn spare(&self, pool: &Pool) -> Spare {
        let others = pool.backends.iter().filter(|other| !Arc::ptr_eq(other, &self.backend));
        let ejected = others.filter(|other| other.standing() == Standing::Ejected).count();
        let most = (pool.config.max_ejected * pool.backends.len() as f64).floor().max(1.0) as usize;
        if self.others_remain(pool) && ejected < most { Spare::Yes } else { Spare::No }
    }

    /// Whether another backend of the pool takes connections: one of weight 0 never does.
    fn others_remain(&self, pool: &Pool) -> bool {
        let others = pool.backends.iter().zip(&pool.shares);
        let mut others = others.filter(|(other, _)| !Arc::ptr_eq(other, &self.backend));
        others.any(|(other, share)| share.weight > 0 && other.takes(HealthIgnored::No))
    }

    fn eject(&self, ejection: Ejection, now_ms: u64, seen: &str) {
        self.well_while_ejected.set(0);
        let length = Duration::from_millis(ejection.until_ms - now_ms);
        let why = match ejection.ground {
            Ground::Failures => "failures in a row",
            Ground::RefusedHellos => "hellos of different clients were refused",
        };
        let detail =
            format!("{why}, the last: {seen}; for {} s, ejection {} in a row", length.as_secs_f64(), ejection.in_a_row);
        let until = jiff::Timestamp::now().checked_add(length).unwrap_or(jiff::Timestamp::MAX);
        let changed = self.backend.change(|vitals| {
            vitals.ejections += 1;
            vitals.ejection = Some(EjectionReport { until, in_a_row: ejection.in_a_row, detail: detail.clone() });
        });
        self.announce_live(changed, "ejected", &detail);
    }

    fn return_from(&self, over: Option<Ejection>, by: Cause, detail: &str) {
        let Some(over) = over else { return };
        if over.ground == Ground::RefusedHellos {
            // If it serves now, the ejection was a mistake.
            self.backend.live.listen_for_success();
        }
        self.look.notify_one();
        if let Some(states) = self.backend.change(|vitals| vitals.ejection = None) {
            self.announce(Change { states, from: None, by, reason: "returned", detail, evidence: Vec::new() });
        }
    }

    fn announce_live(&self, changed: Option<(Standing, Standing)>, reason: &str, detail: &str) {
        if let Some(states) = changed {
            self.announce(Change { states, from: None, by: Cause::Live, reason, detail, evidence: Vec::new() });
        }
    }

    fn announce(&self, change: Change<'_>) {
        if let Some(control) = self.control.upgrade() {
            let pool = Arc::clone(&self.pool.borrow());
            follow(&control, &pool, &self.backend, change);
        }
    }
}
