//! Watches the hearts of workers, which beat once a second: tells of one that has stopped, and feeds systemd's watchdog.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::lifecycle::tell_systemd;
use crate::state::{Phase, Shared};

/// How often hearts are looked at, which beat as often.
const LOOK: Duration = Duration::from_secs(1);
/// Looks in a row without a beat that make a stuck worker.
const STUCK: u32 = 5;

/// Watches them from now on.
pub fn watch(shared: &Arc<Shared>) {
    spawn_local(report(Arc::clone(shared)));
    feed_watchdog(shared);
}

/// Says in log and metrics when a worker's heart has stopped, and when it beats again.
async fn report(shared: Arc<Shared>) {
    let mut last: Vec<(u64, u32)> = Vec::new();
    loop {
        sleep(LOOK).await;
        last.resize(shared.workers.iter().count(), (0, 0));
        for (number, (worker, (beats, missed))) in shared.workers.iter().zip(&mut last).enumerate() {
            let now = worker.heartbeats.get();
            let was_stuck = worker.is_stuck.load(Ordering::Relaxed);
            if now != *beats {
                (*beats, *missed) = (now, 0);
                if was_stuck {
                    tracing::warn!(worker = number, "worker goes on");
                    worker.is_stuck.store(false, Ordering::Relaxed);
                }
            } else if shared.phase() != Phase::Draining {
                // Workers without sessions end while others drain. Looks are counted, not time: a process that was
                // stopped for a while had its workers stopped as well.
                *missed += 1;
                if !was_stuck && *missed == STUCK {
                    tracing::error!(worker = number, "worker is stuck: it has done nothing for {STUCK} s");
                    worker.is_stuck.store(true, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Feeds systemd's watchdog while every worker's heart beats: a stuck worker stops the feeding.
fn feed_watchdog(shared: &Arc<Shared>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let shared = Arc::clone(shared);
    spawn_local(async move {
        let mut last: Vec<u64> = Vec::new();
        let mut stale = Duration::ZERO;
        let pause = limit / 4;
        loop {
            let beats: Vec<u64> = shared.workers.iter().map(|worker| worker.heartbeats.get()).collect();
            last.resize(beats.len(), 0);
            let all_beat = beats.iter().zip(&last).all(|(now, before)| now > before);
            stale = if all_beat { Duration::ZERO } else { stale + pause };
            if all_beat {
                last = beats;
            }
            // Hearts beat once a second, so a shorter pause may see none in between.
            // Workers without sessions end while others drain; the time-out for stopping bounds that.
            let draining = shared.phase() == Phase::Draining;
            if draining || stale < Duration::from_secs(3).max(limit / 2) {
                tell_systemd(&[NotifyState::Watchdog]);
            }
            sleep(pause).await;
        }
    });
}
