//! What becomes of totals over time: rates of the last second, the most so far, times of being down, and the last hour of
//! states. Fed once a second and at changes by the control plane; workers know nothing of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::backend::Standing;
use serde::{Deserialize, Serialize};

use super::heritage::{age, moment};
use crate::api::Rates;

/// Seconds between two samples that say something of rates.
const LEAST: f64 = 0.1;
/// Minutes that are kept.
pub const MINUTES: usize = 60;

/// Totals at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Connections so far.
    pub connections: u64,
    /// Open ones.
    pub active: u64,
    /// Bytes from clients so far.
    pub bytes_up: u64,
    /// Bytes to clients so far.
    pub bytes_down: u64,
    /// Connections that wait for a place.
    pub waiting: u64,
}

/// What the last samples come to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Shape {
    /// Over the time between the last two samples.
    pub rates: Rates,
    /// The most new connections in a second.
    pub most_connections: f64,
    /// The most open connections.
    pub most_active: u64,
    /// The most waiting connections.
    pub most_waiting: u64,
    /// Seconds since the last new connection; `None` before the first.
    pub quiet: Option<f64>,
}

/// When it was down.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outages {
    /// How often it went down.
    pub count: u64,
    /// How long it was down, the present outage included.
    pub length: Duration,
    /// When it last went down or came back.
    pub turned: Option<Instant>,
}

/// Totals over time.
#[derive(Debug, Default)]
pub struct Trend(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: Option<Sample>,
    shape: Shape,
    is_down: bool,
    outages: Outages,
    /// Counts that a reader takes off; what each is for is the reader's own affair.
    cleared: Option<Arc<[u64]>>,
    /// The worst state of each minute and the number of the last one, in minutes of Unix time.
    minutes: VecDeque<Standing>,
    minute: i64,
}

/// All of it on the way to another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrendCopy {
    last: Option<Sample>,
    shape: Shape,
    is_down: bool,
    outages: (u64, Duration, Option<Duration>),
    cleared: Option<Vec<u64>>,
    minutes: Vec<Standing>,
    minute: i64,
}

impl Trend {
    /// A copy.
    pub fn copy(&self) -> TrendCopy {
        let kept = self.lock();
        let Outages { count, length, turned } = kept.outages;
        TrendCopy {
            last: kept.last,
            shape: kept.shape,
            is_down: kept.is_down,
            outages: (count, length, age(turned)),
            cleared: kept.cleared.as_deref().map(<[u64]>::to_vec),
            minutes: kept.minutes.iter().copied().collect(),
            minute: kept.minute,
        }
    }

    /// Takes a copy's state.
    pub fn replace(&self, copy: &TrendCopy) {
        let (count, length, turned) = copy.outages;
        *self.lock() = Kept {
            last: copy.last,
            shape: copy.shape,
            is_down: copy.is_down,
            outages: Outages { count, length, turned: moment(turned) },
            cleared: copy.cleared.as_deref().map(Into::into),
            minutes: copy.minutes.iter().copied().collect(),
            minute: copy.minute,
        };
    }

    /// Takes a sample `seconds` after the one before.
    pub fn take(&self, sample: Sample, seconds: f64) {
        let kept = &mut *self.lock();
        let before = kept.last.replace(sample);
        // Right after an upgrade the sample before is another process's, of whose age the clock here knows nothing.
        if let Some(last) = before.filter(|_| seconds >= LEAST) {
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            kept.shape.rates = Rates {
                connections: rate(sample.connections, last.connections),
                bytes_up: rate(sample.bytes_up, last.bytes_up),
                bytes_down: rate(sample.bytes_down, last.bytes_down),
            };
        }
        let shape = &mut kept.shape;
        shape.most_connections = shape.most_connections.max(shape.rates.connections);
        shape.most_active = shape.most_active.max(sample.active);
        shape.most_waiting = shape.most_waiting.max(sample.waiting);
        let has_new = sample.connections > before.map_or(0, |last| last.connections);
        shape.quiet = if has_new { Some(0.0) } else { shape.quiet.map(|quiet| quiet + seconds) };
    }

    /// Forgets the most so far.
    pub fn forget_most(&self) {
        let shape = &mut self.lock().shape;
        (shape.most_connections, shape.most_active, shape.most_waiting) = (0.0, 0, 0);
    }

    /// Notes whether it is down from now on.
    pub fn turn(&self, down: bool, now: Instant) {
        let kept = &mut *self.lock();
        if kept.is_down == down {
            return;
        }
        if down {
            kept.outages.count += 1;
        } else {
            kept.outages.length = kept.outages_by(now).length;
        }
        kept.is_down = down;
        kept.outages.turned = Some(now);
    }

    /// When it was down.
    pub fn outages(&self, now: Instant) -> Outages {
        self.lock().outages_by(now)
    }

    /// Keeps counts for a reader that wants to see what was added since.
    pub fn set_cleared(&self, counts: Arc<[u64]>) {
        self.lock().cleared = Some(counts);
    }

    /// The counts that were kept.
    pub fn cleared(&self) -> Option<Arc<[u64]>> {
        self.lock().cleared.clone()
    }

    /// Notes the state in this minute of Unix time.
    pub fn note(&self, standing: Standing, minute: i64) {
        let kept = &mut *self.lock();
        let passed = (minute - kept.minute).clamp(0, MINUTES as i64) as usize;
        if kept.minutes.is_empty() {
            kept.minutes.push_back(standing);
        } else if passed > 0 {
            // A minute without a sample was as the one after it: the control plane was held up.
            kept.minutes.extend(std::iter::repeat_n(standing, passed));
        } else if let Some(last) = kept.minutes.back_mut() {
            *last = (*last).max(standing);
        }
        kept.minute = minute.max(kept.minute);
        let surplus = kept.minutes.len().saturating_sub(MINUTES);
        kept.minutes.drain(..surplus);
    }

    /// What the samples come to.
    pub fn shape(&self) -> Shape {
        self.lock().shape
    }

    /// The worst state of each minute, the oldest first, and the number of the last minute.
    pub fn minutes(&self) -> (Vec<Standing>, i64) {
        let kept = self.lock();
        (kept.minutes.iter().copied().collect(), kept.minute)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn outages_by(&self, now: Instant) -> Outages {
        let running = self.outages.turned.filter(|_| self.is_down).map(|since| now.saturating_duration_since(since));
        Outages { length: self.outages.length + running.unwrap_or_default(), ..self.outages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_the_last_samples_and_the_most_is_kept() {
        let trend = Trend::default();
        let sample =
            |connections, active| Sample { connections, active, bytes_up: connections * 10, ..Sample::default() };
        trend.take(sample(100, 5), 1.0);
        let is = |value: f64, wanted: f64| (value - wanted).abs() < 1e-9;
        assert!(is(trend.shape().rates.connections, 0.0), "one sample is no rate");
        trend.take(sample(100, 5), 0.001);
        let heir = Trend::default();
        heir.replace(&trend.copy());
        heir.take(sample(130, 5), 0.001);
        assert!(is(heir.shape().most_connections, 0.0), "nor is one right after another process's");
        heir.take(sample(140, 5), 1.0);
        assert!(is(heir.shape().rates.connections, 10.0), "{:?}", heir.shape());
        trend.take(sample(160, 9), 2.0);
        trend.take(sample(170, 1), 1.0);
        let shape = trend.shape();
        assert!(is(shape.rates.connections, 10.0) && is(shape.rates.bytes_up, 100.0), "{shape:?}");
        assert!(is(shape.most_connections, 30.0) && shape.most_active == 9, "{shape:?}");
        trend.take(sample(170, 2), 1.5);
        trend.take(sample(170, 2), 1.5);
        assert_eq!(trend.shape().quiet, Some(3.0));
        trend.forget_most();
        assert_eq!(trend.shape().most_active, 0);
        trend.take(sample(172, 3), 1.0);
        let shape = trend.shape();
        assert!(is(shape.most_connections, 2.0) && shape.most_active == 3 && shape.quiet == Some(0.0), "{shape:?}");
    }

    #[test]
    fn outages_are_counted_once_and_add_up() {
        let trend = Trend::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(trend.outages(at(0)).turned.is_none());
        for (down, seconds) in [(false, 1), (true, 10), (true, 12), (false, 15), (true, 20)] {
            trend.turn(down, at(seconds));
        }
        let outages = trend.outages(at(27));
        assert_eq!((outages.count, outages.length.as_secs(), outages.turned), (2, 12, Some(at(20))));
    }

    #[test]
    fn a_minute_has_its_worst_state_and_an_hour_is_kept() {
        let trend = Trend::default();
        for (standing, minute) in
            [(Standing::Up, 100), (Standing::Down, 100), (Standing::Up, 100), (Standing::Up, 101), (Standing::Up, 104)]
        {
            trend.note(standing, minute);
        }
        assert_eq!(
            trend.minutes(),
            (vec![Standing::Down, Standing::Up, Standing::Up, Standing::Up, Standing::Up], 104)
        );
        (105..300).for_each(|minute| trend.note(Standing::Up, minute));
        trend.note(Standing::Up, 90);
        assert_eq!(
            (trend.minutes().0.len(), trend.minutes().1),
            (MINUTES, 299),
            "a clock that is set back adds nothing"
        );
    }
}
