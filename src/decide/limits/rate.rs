//! Token buckets: one by itself, and one for each source in a table of bounded size.

use std::collections::HashMap;
use std::net::IpAddr;

/// A token bucket. Starts full; a token costs a thousand of its parts, so that slow rates lose nothing to rounding.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    parts: u64,
    at_ms: u64,
}

const PARTS: u64 = 1000;

impl Bucket {
    /// A full bucket.
    pub const fn full(burst: u32, now_ms: u64) -> Self {
        Self { parts: burst as u64 * PARTS, at_ms: now_ms }
    }

    /// Takes a token, if there is one. `per_second` tokens come back each second, up to `burst`.
    pub fn take(&mut self, per_second: u32, burst: u32, now_ms: u64) -> bool {
        self.refill(per_second, burst, now_ms);
        let there = self.parts >= PARTS;
        if there {
            self.parts -= PARTS;
        }
        there
    }

    fn refill(&mut self, per_second: u32, burst: u32, now_ms: u64) {
        let fresh = now_ms.saturating_sub(self.at_ms).saturating_mul(u64::from(per_second));
        self.parts = self.parts.saturating_add(fresh).min(u64::from(burst) * PARTS);
        self.at_ms = self.at_ms.max(now_ms);
    }
}

/// A bucket for each source: an IPv4 address, or an IPv6 /64, which one host has to itself.
#[derive(Debug)]
pub struct SourceRates {
    per_second: u32,
    burst: u32,
    most_sources: usize,
    buckets: HashMap<IpAddr, Bucket>,
}

impl SourceRates {
    /// An empty table. Beyond `most_sources`, sources that are still using up their rate, unknown ones are refused.
    pub fn new(per_second: u32, burst: u32, most_sources: usize) -> Self {
        Self { per_second, burst, most_sources, buckets: HashMap::new() }
    }

    /// Whether the source may do one more.
    pub fn take(&mut self, source: IpAddr, now_ms: u64) -> bool {
        let source = group(source);
        let (per_second, burst) = (self.per_second, self.burst);
        if !self.buckets.contains_key(&source) && self.buckets.len() >= self.most_sources {
            // A full bucket says nothing that a new one would not.
            self.buckets.retain(|_, bucket| {
                bucket.refill(per_second, burst, now_ms);
                bucket.parts < u64::from(burst) * PARTS
            });
            if self.buckets.len() >= self.most_sources {
                return false;
            }
        }
        self.buckets.entry(source).or_insert(Bucket::full(burst, now_ms)).take(per_second, burst, now_ms)
    }
}

fn group(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => std::net::Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::full(3, 1000);
        let mut take = |now| bucket.take(10, 3, now);
        assert_eq!([1000, 1000, 1000, 1000].map(&mut take), [true, true, true, false]);
        assert_eq!([1099, 1100, 1150, 1200].map(&mut take), [false, true, false, true]);
        // Time that stands still or goes back gives nothing.
        assert_eq!([1200, 900].map(&mut take), [false, false]);
        assert_eq!([9999, 9999, 9999, 9999].map(&mut take), [true, true, true, false]);
    }

    #[test]
    fn sources_do_not_use_up_each_others_rate_and_the_table_is_bounded() {
        let mut rates = SourceRates::new(1, 1, 2);
        let address = |text: &str| text.parse::<IpAddr>().expect("address");
        assert!(rates.take(address("192.0.2.1"), 0));
        assert!(!rates.take(address("::ffff:192.0.2.1"), 0), "the same source");
        assert!(rates.take(address("2001:db8::1"), 0));
        assert!(!rates.take(address("2001:db8::2"), 0), "the same /64");
        assert!(!rates.take(address("192.0.2.3"), 0), "the table is full");
        assert!(rates.take(address("192.0.2.3"), 1000), "the others are idle by now");
        assert_eq!(rates.buckets.len(), 1);
    }
}
