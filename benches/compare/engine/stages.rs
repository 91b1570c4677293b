//! The stages of a load: opening every flow, working for a while, asking idle ones again, ending.

use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::{Engine, PACE_TOKEN};
use crate::Outcome;
use crate::flow::{Flow, Work};
use crate::pace::Pace;
use crate::usage::{Counts, Findings, Processes, Reading};

/// Opening all flows, or letting all end, may take this long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Flows that connect at the same time.
const OPENING_AT_ONCE: usize = 64;
/// What a proxy does after the last answer, such as closing, is done after this long.
const REST: Duration = Duration::from_millis(300);

impl Engine<'_> {
    /// Opens every flow and waits until each has seen something of the server.
    pub fn open(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut next = 0;
        while self.unopened > 0 {
            let opening = next - (self.flows.len() - self.unopened);
            let batch = OPENING_AT_ONCE.saturating_sub(opening).min(self.flows.len() - next);
            for index in next..next + batch {
                self.connect(index)?;
            }
            next += batch;
            self.turn(Duration::from_millis(100))?;
            if Instant::now() > deadline {
                return Err(format!("{} of {} flows did not open in time", self.unopened, self.flows.len()).into());
            }
        }
        Ok(())
    }

    /// Warms up, measures for a while, and lets all flows end.
    pub fn run(mut self, processes: &Processes, warm_up: Duration, window: Duration) -> Outcome<Findings> {
        self.open()?;
        let paced = |flow: &Flow| match flow.work {
            Work::Paced(per_second) => Some(per_second),
            _ => None,
        };
        if let Some(per_second) = self.flows.first().and_then(paced) {
            let pace = Pace::new(per_second)?;
            self.epoll.add(pace.timer(), EpollEvent::new(EpollFlags::EPOLLIN, PACE_TOKEN))?;
            self.pace = Some(pace);
        }
        self.run_until(Instant::now() + warm_up)?;
        self.latency.reset();
        let counts_before = self.counts;
        let before = Reading::take(processes)?;
        self.run_until(Instant::now() + window)?;
        let usage = Reading::take(processes)?.since(&before);
        let counts = self.counts.since(counts_before);
        self.finish()?;
        Ok(Findings { counts, usage, connections: self.connections, latency: self.latency })
    }

    /// Warms up, and works while a watcher counts: from complete rest to complete rest, so that all that was counted here was done
    /// by the proxy before its eyes, and nothing else. `is_enough` may prolong the time.
    pub fn run_watched<W, R>(
        mut self,
        times: [Duration; 2],
        is_enough: impl Fn(&Counts) -> bool,
        begin: impl FnOnce() -> Outcome<W>,
        end: impl FnOnce(W) -> Outcome<R>,
    ) -> Outcome<(Counts, R)> {
        let [warm_up, window] = times;
        self.open()?;
        self.run_until(Instant::now() + warm_up)?;
        self.come_to_rest()?;
        let watcher = begin()?;
        let before = self.counts;
        self.go_on_after_rest()?;
        let deadline = Instant::now() + PATIENCE;
        self.run_until(Instant::now() + window)?;
        while !is_enough(&self.counts.since(before)) && Instant::now() < deadline {
            self.turn(Duration::from_millis(100))?;
        }
        self.come_to_rest()?;
        let found = end(watcher)?;
        let counts = self.counts.since(before);
        self.finish()?;
        Ok((counts, found))
    }

    /// Asks for nothing more, takes every answer that is under way, and gives the proxy time for what nobody waits for.
    fn come_to_rest(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        self.resting = true;
        while self.flows.iter().any(|flow| flow.answered < flow.issued) {
            self.turn(Duration::from_millis(100))?;
            if Instant::now() > deadline {
                return Err("answers did not come in time".into());
            }
        }
        std::thread::sleep(REST);
        Ok(())
    }

    fn go_on_after_rest(&mut self) -> Outcome<()> {
        self.resting = false;
        self.last_event = Instant::now();
        for index in 0..self.flows.len() {
            if self.flows[index].socket.is_some() {
                self.pump(index)?;
            } else {
                self.connect(index)?;
            }
        }
        Ok(())
    }

    /// Asks once more on every idle flow, a few at a time: all of them must still work.
    pub fn ask_again(&mut self) -> Outcome<()> {
        self.last_event = Instant::now();
        let deadline = Instant::now() + PATIENCE;
        let already = self.counts.exchanges;
        for index in 0..self.flows.len() {
            self.issue(index);
            self.pump(index)?;
            while already + (index as u64) >= self.counts.exchanges + OPENING_AT_ONCE as u64 {
                self.turn(Duration::from_millis(100))?;
            }
        }
        while self.counts.exchanges < already + self.flows.len() as u64 {
            self.turn(Duration::from_millis(100))?;
            if Instant::now() > deadline {
                return Err("idle sessions did not answer in time".into());
            }
        }
        Ok(())
    }

    /// Lets every flow complete what it asked for, and closes it.
    pub fn finish(&mut self) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        self.stopping = true;
        self.pace = None;
        self.last_event = Instant::now();
        // Idle flows go last: closing thousands takes a while, in which the last exchanges of the others would wait.
        for idle in [false, true] {
            for index in 0..self.flows.len() {
                if (self.flows[index].work == Work::Idle) == idle {
                    self.close_if_done(index)?;
                }
            }
            while self.flows.iter().any(|flow| flow.socket.is_some() && (flow.work == Work::Idle) == idle) {
                self.turn(Duration::from_millis(100))?;
                if Instant::now() > deadline {
                    return Err(format!("{} flows did not end in time", self.open).into());
                }
            }
        }
        Ok(())
    }

    fn run_until(&mut self, deadline: Instant) -> Outcome<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left.min(Duration::from_millis(100)))?;
        }
    }
}
