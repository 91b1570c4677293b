//! Checks one address, for every backend that is checked there in the same way: the dialogue runs once. Spread and
//! jittered while all is steady, faster while a state changes or after live traffic failed, slower while all are down.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::checks::{Check, ExpiryWatch, Target, Verdict};
use super::keeper::{Keeper, Pace};
use super::probes::First;
use crate::config::{CheckKind, HealthCheck};
use crate::decide::balance::next_random;
use crate::decide::hello::proxy::Version;
use crate::state::{Backend, Pool};

/// Shortest time between checks that live traffic asks for.
const FASTEST: Duration = Duration::from_millis(100);
/// Checks begin at multiples of this time, so that one wake-up of the thread begins several; of a shorter pause at multiples
/// of a small part of it.
const GRAIN: Duration = Duration::from_millis(20);
const GRAINS_OF_A_PAUSE: u32 = 32;

/// What the multiples are counted from.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What is checked, and how: one dialogue is enough for all who ask for the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The backend's address.
    address: SocketAddr,
    /// Its check.
    check: HealthCheck,
    /// The PROXY header that it expects.
    send_proxy: Option<Version>,
    /// Whose check it is, where the dialogue is told: programs see it in their environment.
    asker: Option<(Arc<str>, Arc<str>)>,
}

impl Subject {
    /// What is checked of a backend; `None` where nothing is.
    pub fn of(pool: &Pool, backend: &Backend) -> Option<Self> {
        let check = pool.config.health.clone()?;
        let asker = check.kind.is_told_who_asks().then(|| (Arc::clone(&backend.pool), Arc::clone(&backend.name)));
        Some(Self { address: backend.address, check, send_proxy: pool.config.send_proxy, asker })
    }
}

/// The checks of one subject.
pub struct Prober {
    subject: Subject,
    keepers: RefCell<Vec<Rc<Keeper>>>,
    permits: Rc<Semaphore>,
    last: RefCell<Option<Rc<Verdict>>>,
    hurry: Notify,
}

impl Prober {
    /// Checks `subject` within `permits`.
    pub fn new(subject: Subject, permits: Rc<Semaphore>) -> Rc<Self> {
        Rc::new(Self { subject, keepers: RefCell::default(), permits, last: RefCell::default(), hurry: Notify::new() })
    }

    /// Says for whom it checks. One that joins learns what is known.
    pub fn serve(self: &Rc<Self>, keepers: Vec<Rc<Keeper>>) {
        let last = self.last.borrow().clone();
        let before = self.keepers.replace(keepers.clone());
        for keeper in keepers {
            let joins = !before.iter().any(|known| Rc::ptr_eq(known, &keeper));
            keeper.checked_by(Rc::downgrade(self));
            if joins && let Some(last) = &last {
                keeper.take_verdict(last);
            }
        }
    }

    /// Brings the next check forward: live traffic has met something.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Runs until it is dropped.
    pub async fn run(self: Rc<Self>, mut first: First) {
        let check = Check::new(&self.subject.check.kind);
        let expiry = Cell::new(ExpiryWatch::default());
        let mut dice = Rc::as_ptr(&self) as u64 ^ u64::from(std::process::id());
        let mut spread = true;
        loop {
            self.check(&check, &expiry).await;
            first.answered();
            dice = next_random(dice);
            let share = (dice >> 11) as f64 / (1_u64 << 53) as f64;
            self.wait(share, std::mem::take(&mut spread)).await;
        }
    }

    async fn check(&self, check: &Check, expiry: &Cell<ExpiryWatch>) {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let Some(backend) = self.keepers.borrow().first().map(|keeper| Arc::clone(&keeper.backend)) else { return };
        let target = Target::new(&backend, &self.subject.check, self.subject.send_proxy);
        let verdict = Rc::new(check.run(&target).await);
        self.watch_expiry(&verdict, expiry);
        self.last.replace(Some(Rc::clone(&verdict)));
        let keepers = self.keepers.borrow().clone();
        for keeper in keepers {
            keeper.take_verdict(&verdict);
        }
    }

    /// Waits for the next check: its time, or live traffic that failed; then it keeps its distance from the last one.
    async fn wait(&self, share: f64, spread: bool) {
        let now = Instant::now();
        let pause = self.pause(share, spread);
        let mut at = next_multiple(now + pause, GRAIN.min(pause / GRAINS_OF_A_PAUSE));
        loop {
            let next_at = jiff::Timestamp::now().checked_add(at - Instant::now()).ok();
            for keeper in &*self.keepers.borrow() {
                keeper.backend.change(|vitals| vitals.check.next_at = next_at);
            }
            tokio::select! {
                () = sleep_until(at) => return,
                () = self.hurry.notified() => at = at.min(now + FASTEST),
            }
        }
    }

    /// Time to the next check, give or take a tenth, so that checks of many backends do not march in step. The first
    /// pause of a steady one is any part of it, for the same reason: they all begin at once.
    fn pause(&self, share: f64, spread: bool) -> Duration {
        let check = &self.subject.check;
        let pace = self.keepers.borrow().iter().map(|keeper| keeper.pace()).min().unwrap_or(Pace::Steady);
        let base = match pace {
            Pace::Fast => check.fast_interval,
            Pace::Down => check.down_interval,
            Pace::Steady => check.interval,
        };
        if spread && pace == Pace::Steady {
            return base.mul_f64(share).max(FASTEST.min(base));
        }
        base.mul_f64(0.9 + share * 0.2)
    }

    /// Warns of a certificate that is about to expire.
    fn watch_expiry(&self, verdict: &Verdict, expiry: &Cell<ExpiryWatch>) {
        let Some(certificate) = &verdict.certificate else { return };
        let mut watch = expiry.get();
        if let Some(days) = watch.due(certificate.not_after, jiff::Timestamp::now()) {
            let (expires, issuer) = (certificate.not_after, &*certificate.issuer);
            for keeper in &*self.keepers.borrow() {
                let (pool, backend) = (&*keeper.backend.pool, &*keeper.backend.name);
                tracing::warn!(pool, backend, days, %expires, issuer, "certificate of backend expires");
            }
        }
        expiry.set(watch);
    }
}

/// The first multiple of `grain` not before `at`.
fn next_multiple(at: Instant, grain: Duration) -> Instant {
    let past = at.duration_since(*BEGUN).as_nanos().checked_rem(grain.as_nanos()).unwrap_or(0);
    if past == 0 { at } else { at + grain - Duration::from_nanos(past as u64) }
}

impl CheckKind {
    /// Whether the dialogue is told whose check it is, so that it cannot be shared.
    const fn is_told_who_asks(&self) -> bool {
        matches!(self, Self::Exec(_))
    }

    /// Whether the server must speak for the check to succeed.
    pub const fn hears_the_server(&self) -> bool {
        // An agent speaks for the server, which is not the same.
        !matches!(self, Self::Tcp(_) | Self::Agent(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_begin_together_and_never_early() {
        let grain = Duration::from_millis(20);
        for after in [0, 1, 7_000_000, 19_999_999, 20_000_000, 20_000_001, 3_600_000_000_123] {
            let at = *BEGUN + Duration::from_nanos(after);
            let begins = next_multiple(at, grain);
            assert!(begins >= at && begins - at < grain, "{after}");
            assert_eq!((begins - *BEGUN).as_nanos() % grain.as_nanos(), 0, "{after}");
        }
        let at = *BEGUN + Duration::from_nanos(5);
        assert_eq!(next_multiple(at, Duration::ZERO), at);
    }
}
