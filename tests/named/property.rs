//! Named backends by random answers: what must hold whatever a resolver says. `SLUICE_TEST_SEED` repeats a run; cases one
//! by one are in `src/decide/names/tests.rs`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use sluice::decide::balance::next_random;
use sluice::decide::names::{Branch, HostReply, Known, LookupResult, Reply};

/// Whatever comes back: a set that was there is never empty again, it holds only addresses that were once given, the
/// next question is 1 s to 5 min away, and staleness is exactly "not all of it is from the last answer".
#[test]
fn whatever_comes_back_a_set_never_becomes_empty() {
    let seed = std::env::var("SLUICE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_124_u64);
    println!("SLUICE_TEST_SEED={seed}");
    let mut dice = seed;
    let branches = [Branch::of_host("a.test".into(), 443)];
    let mut roll = |sides: u64| {
        dice = next_random(dice);
        (dice >> 33) % sides
    };
    for _ in 0..2000 {
        let (mut known, mut now_ms, mut given, mut fresh) = (Known::default(), 0, BTreeSet::new(), 0);
        for _ in 0..20 {
            let mut reply = |third: u8| match roll(4) {
                0 => Reply::Nothing("no such name"),
                1 => Reply::Failed("timed out".into()),
                _ => {
                    let addresses = (0..roll(4)).map(|_| IpAddr::from([10, 0, third, roll(5) as u8])).collect();
                    Reply::Records(addresses, roll(1000) as u32)
                }
            };
            let (v4, v6) = (reply(4), reply(6));
            let mut came = BTreeSet::new();
            for reply in [&v4, &v6] {
                if let Reply::Records(addresses, _) = reply {
                    came.extend(addresses.iter().copied());
                }
            }
            given.extend(came.iter().copied());
            let had = known.set().len();
            let outcome = known.take(&branches, vec![("a.test".into(), HostReply { v4, v6 })], u32::MAX, now_ms);
            let set: BTreeSet<IpAddr> = known.set().iter().map(|found| found.address.ip()).collect();
            assert_eq!(set.len(), known.set().len(), "each once");
            assert!(had == 0 || !set.is_empty());
            assert!(set.is_subset(&given) && came.is_subset(&set));
            assert!((1000..=300_000).contains(&(outcome.next_ms - now_ms)));
            assert_eq!(known.stale_since_ms().is_none(), outcome.result == LookupResult::Ok);
            if known.stale_since_ms().is_none() {
                assert_eq!(set, came, "fresh means: all of it, and nothing else, came just now");
                fresh += 1;
            }
            now_ms = outcome.next_ms;
        }
        assert!(fresh > 0 || given.len() < 5, "{given:?}");
    }
}
