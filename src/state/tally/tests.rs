//! Counts that go to another process arrive, each at its own counter.

use super::*;

/// Every counter of a shard has something else.
fn filled<C: Counted + Default>() -> C {
    let shard = C::default();
    let mut next = 0;
    shard.each(&mut |_, _, counter| {
        next += 1;
        counter.add(next);
    });
    shard
}

fn values(shard: &impl Counted) -> Vec<u64> {
    let mut values = Vec::new();
    shard.each(&mut |_, _, counter| values.push(counter.get()));
    values
}

/// As if it went to another process.
fn sent(tally: &Tally) -> Tally {
    serde_json::from_slice(&serde_json::to_vec(tally).expect("JSON")).expect("the same")
}

fn every_counter_arrives<C: Counted + Default>() {
    let here = filled::<C>();
    let tally = sent(&Tally::of([&here]));
    assert_eq!(tally.0.len(), values(&here).len(), "no two counters have one name");
    let there = C::default();
    tally.add_to(&there);
    assert_eq!(values(&there), values(&here));
    tally.add_to(&there);
    assert_eq!(values(&there), values(&here).iter().map(|value| value * 2).collect::<Vec<_>>());
    assert_eq!(Tally::of([&there]).since(&tally), tally);
    assert_eq!(tally.since(&tally), Tally::default());
}

#[test]
fn every_counter_of_every_kind_of_shard_arrives_and_differences_are_exact() {
    every_counter_arrives::<ListenerShard>();
    every_counter_arrives::<PoolShard>();
    every_counter_arrives::<BackendShard>();
    every_counter_arrives::<WorkerCounters>();
}

#[test]
fn counts_of_other_versions_are_left_out_and_missing_ones_are_zero() {
    let there = PoolShard::default();
    let text = br#"{"total":3,"closed.idle_timeout":2,"closed.of_another_version":9,"new":1}"#;
    serde_json::from_slice::<Tally>(text).expect("a tally").add_to(&there);
    let total: u64 = values(&there).iter().sum();
    assert_eq!((there.total.get(), total), (3, 5));
}

#[test]
fn times_arrive_within_their_two_digits() {
    let mut here = Timings::default();
    for micros in [1, 99, 12_345, 12_346, 900_000_000] {
        let time = std::time::Duration::from_micros(micros);
        here.add(time, Some(time), None);
    }
    let tally = TimesTally::of(&here);
    let mut there = Timings::default();
    tally.add_to(&mut there);
    assert_eq!((there.session.len(), there.connect.len(), there.first_byte.len()), (5, 5, 0));
    assert_eq!(there.session.value_at_quantile(0.5), here.session.value_at_quantile(0.5));
    assert_eq!(TimesTally::of(&there).since(&tally), TimesTally::default());
}
