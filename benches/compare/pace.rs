//! A pace for requests that does not depend on the answers, so that a slow answer does not hide the ones after it.

use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::Outcome;

/// Requests become due evenly from `start` on.
pub struct Pace {
    timer: TimerFd,
    start: Instant,
    interval: Duration,
    begun: u32,
}

impl Pace {
    /// Begins now, with this many requests in a second.
    pub fn new(per_second: u32) -> Outcome<Self> {
        let interval = Duration::from_secs(1) / per_second;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        timer.set(Expiration::Interval(TimeSpec::from_duration(interval)), TimerSetTimeFlags::empty())?;
        Ok(Self { timer, start: Instant::now(), interval, begun: 0 })
    }

    /// What becomes readable each time a request is due.
    pub fn timer(&self) -> &TimerFd {
        &self.timer
    }

    /// Takes note of the timer.
    pub fn acknowledge(&self) -> Outcome<()> {
        match self.timer.wait() {
            Ok(()) | Err(nix::errno::Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// When the next request was due, and its number, if that is not in the future.
    pub fn next_due(&mut self) -> Option<(Instant, usize)> {
        let due = self.start + self.interval * self.begun;
        (due <= Instant::now()).then(|| {
            self.begun += 1;
            (due, self.begun as usize - 1)
        })
    }
}
