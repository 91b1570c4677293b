//! Histograms with fixed bounds, for metrics: exact, with a single writer each, and without a lock between it and readers.
//! The bounds of all of them stand here.

use super::counters::Counter;
use super::tally::{Label, See};

/// Bounds in seconds for the time to a whole hello.
pub const HELLO_SECONDS: [f64; 10] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Bounds in bytes for hellos: around the sizes that real clients send (one segment, post-quantum, large tickets).
pub const HELLO_BYTES: [f64; 9] = [256.0, 512.0, 1024.0, 1448.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0];
/// Bounds in seconds for connects and first bytes, which are short.
pub const SHORT_SECONDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Bounds in seconds for sessions.
pub const SESSION_SECONDS: [f64; 9] = [0.01, 0.1, 0.5, 1.0, 10.0, 60.0, 300.0, 3600.0, 86_400.0];

/// Histogram with fixed bounds and a single writer.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    /// One per bound.
    counts: [Counter; N],
    /// What is above all of them.
    above: Counter,
    /// Sum in millionths of the unit.
    sum_micro: Counter,
}

/// What histograms of all workers come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// Sum of all values.
    pub sum: f64,
    /// Number of all values.
    pub count: u64,
    /// Values up to each bound and above the one before; the last bound is infinite.
    pub counts: Vec<(f64, u64)>,
}

impl<const N: usize> Histogram<N> {
    /// An empty histogram with upper bounds in ascending order.
    pub fn new(bounds: &'static [f64; N]) -> Self {
        Self {
            bounds,
            counts: std::array::from_fn(|_| Counter::default()),
            above: Counter::default(),
            sum_micro: Counter::default(),
        }
    }

    /// Counts one value.
    pub fn observe(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts.get(place).unwrap_or(&self.above).add(1);
        self.sum_micro.add((value * 1e6) as u64);
    }

    /// Shows its counters.
    pub fn each(&self, kind: &'static str, see: &mut See<'_>) {
        for (bound, counter) in self.bounds.iter().zip(&self.counts) {
            see(kind, Label::Bound(*bound), counter);
        }
        see(kind, Label::Name("above"), &self.above);
        see(kind, Label::Name("sum_micro"), &self.sum_micro);
    }

    /// Sums up histograms with the same bounds.
    pub fn total<'h>(bounds: &'static [f64; N], all: impl IntoIterator<Item = &'h Self>) -> Buckets {
        let mut counts: Vec<(f64, u64)> = bounds.iter().map(|bound| (*bound, 0)).collect();
        counts.push((f64::INFINITY, 0));
        let mut sum_micro = 0;
        for histogram in all {
            sum_micro += histogram.sum_micro.get();
            let own = histogram.counts.iter().chain([&histogram.above]);
            counts.iter_mut().zip(own).for_each(|((_, total), own)| *total += own.get());
        }
        Buckets { sum: sum_micro as f64 / 1e6, count: counts.iter().map(|(_, count)| count).sum(), counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_up_to_its_bound_and_sums_are_over_workers() {
        static BOUNDS: [f64; 2] = [0.5, 1.0];
        let [one, two] = [Histogram::new(&BOUNDS), Histogram::new(&BOUNDS)];
        for value in [0.25, 0.5, 0.75] {
            one.observe(value);
        }
        for value in [1.0, 7.5] {
            two.observe(value);
        }
        let total = Histogram::total(&BOUNDS, [&one, &two]);
        assert_eq!(total, Buckets { sum: 10.0, count: 5, counts: vec![(0.5, 2), (1.0, 2), (f64::INFINITY, 1)] });
    }
}
