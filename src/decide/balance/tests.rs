//! The balancing methods against their definitions and published figures (shared design, balancing.md).

use std::cell::RefCell;

use super::*;

fn members(weights: &[u32]) -> Vec<Member> {
    let member = |(id, weight): (usize, &u32)| Member { name: format!("b{id}").into(), weight: *weight, backup: false };
    weights.iter().enumerate().map(member).collect()
}

/// Picks `count` times, counting each pick as an active connection that stays.
fn fill(method: Method, weights: &[u32], count: u64, seed: u64) -> Vec<u32> {
    let members = members(weights);
    let balancer = Balancer::new(method, &members).expect("small pool");
    let active = RefCell::new(vec![0_u32; weights.len()]);
    let mut turns = Turns::new(weights.len(), 0);
    let load = |member: MemberId| Some(active.borrow()[member]);
    for step in 0..count {
        let random = next_random(seed ^ step.wrapping_mul(0x1234_5678_9abc_def1));
        let pick = balancer.next(&load, &Tried::default(), random, random, &mut turns).expect("all usable");
        active.borrow_mut()[pick] += 1;
    }
    active.into_inner()
}

#[test]
fn least_connections_follows_weights_exactly() {
    assert_eq!(fill(Method::LeastConnections, &[1, 2, 3], 600, 1), [100, 200, 300]);
    let equal = fill(Method::LeastConnections, &[100; 8], 1000, 2);
    assert!(equal.iter().all(|count| *count == 125), "{equal:?}");
}

#[test]
fn least_connections_breaks_ties_at_random() {
    let members = members(&[100; 4]);
    let balancer = Balancer::new(Method::LeastConnections, &members).expect("small pool");
    let mut counts = [0; 4];
    for step in 0..4000 {
        let random = next_random(step);
        let pick = balancer.next(&|_| Some(0), &Tried::default(), 0, random, &mut Turns::default());
        counts[pick.expect("usable")] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn round_robin_spreads_turns_smoothly() {
    let members = members(&[5, 1, 1]);
    let balancer = Balancer::new(Method::RoundRobin, &members).expect("small pool");
    let mut turns = Turns::new(3, 0);
    let order: Vec<MemberId> =
        (0..7).filter_map(|_| balancer.next(&|_| Some(0), &Tried::default(), 0, 0, &mut turns)).collect();
    // nginx's own example of the algorithm: a a b a c a a.
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn round_robin_of_equals_takes_them_in_turn_and_passes_over_the_unusable() {
    let members = members(&[100; 4]);
    let balancer = Balancer::new(Method::RoundRobin, &members).expect("small pool");
    let mut turns = Turns::new(4, 2);
    let mut order = |usable: fn(MemberId) -> Option<u32>| -> Vec<MemberId> {
        (0..6).filter_map(|_| balancer.next(&usable, &Tried::default(), 0, 0, &mut turns)).collect()
    };
    assert_eq!(order(|_| Some(0)), [2, 3, 0, 1, 2, 3]);
    assert_eq!(order(|member| (member != 1).then_some(0)), [0, 2, 3, 0, 2, 3]);
}

#[test]
fn two_choices_keep_the_gap_small() {
    for seed in 0..20 {
        let loads = fill(Method::RandomTwo, &[100; 100], 100_000, seed);
        let gap = loads.iter().max().expect("not empty") - 1000;
        assert!(gap <= 3, "seed {seed}: gap {gap}");
    }
}

#[test]
fn weighted_draw_follows_weights() {
    let weights = [10, 20, 30, 40];
    let draw = WeightedDraw::new(&weights);
    let mut counts = [0_f64; 4];
    for step in 0..100_000 {
        counts[draw.draw(next_random(step))] += 1.0;
    }
    for (count, weight) in counts.iter().zip(weights) {
        let share = count / 100_000.0;
        assert!((share - f64::from(weight) / 100.0).abs() < 0.01, "weight {weight}: share {share}");
    }
}

#[test]
fn tried_unusable_and_weightless_members_are_passed_over() {
    let mut all = members(&[100, 100, 0, 100]);
    all[3].backup = true;
    for method in [Method::LeastConnections, Method::RoundRobin, Method::RandomTwo, Method::ConsistentHash] {
        let balancer = Balancer::new(method, &all).expect("small pool");
        let mut turns = Turns::new(4, 0);
        let mut tried = Tried::default();
        let load = |member: MemberId| (member != 1).then_some(5);
        assert_eq!(balancer.next(&load, &tried, 7, 7, &mut turns), Some(0), "{method:?}: the only usable one");
        tried.insert(0);
        assert_eq!(balancer.next(&load, &tried, 7, 7, &mut turns), Some(3), "{method:?}: then the backup");
        tried.insert(3);
        assert_eq!(balancer.next(&load, &tried, 7, 7, &mut turns), None, "{method:?}: then nobody");
    }
}

#[test]
fn maglev_shares_are_equal_to_one_slot_and_follow_weights() {
    let counts = |weights: &[u32], size| {
        let names: Vec<String> = (0..weights.len()).map(|id| format!("10.0.0.{id}:443")).collect();
        let named: Vec<(&str, u32)> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
        let mut counts = vec![0; weights.len()];
        for owner in Maglev::with_size(&named, size).slots() {
            counts[usize::from(*owner)] += 1;
        }
        counts
    };
    let equal = counts(&[100; 10], 65_537);
    assert!(equal.iter().all(|count| (6553..=6554).contains(count)), "{equal:?}");
    assert_eq!(counts(&[1, 2], 65_537), [21_846, 43_691]);
    let weighted = counts(&[10, 20, 30, 40], 65_537);
    for (count, want) in weighted.iter().zip([6554_i32, 13_107, 19_661, 26_215]) {
        assert!((count - want).abs() <= 2, "{weighted:?}");
    }
}

#[test]
fn maglev_does_not_depend_on_the_order_of_members() {
    let one = Maglev::with_size(&[("a", 1), ("b", 2), ("c", 3)], 65_537);
    let other = Maglev::with_size(&[("c", 3), ("a", 1), ("b", 2)], 65_537);
    let renamed: Vec<u16> = other.slots().iter().map(|owner| [2, 0, 1][usize::from(*owner)]).collect();
    assert_eq!(one.slots(), renamed);
}

/// The paper's Fig. 12 experiment: share of slots that change owner beyond the unavoidable, mean over trials.
#[track_caller]
fn disruption(members: usize, size: usize, removed: usize, want_percent: f64) {
    let trials: usize = 12;
    let mut changed = 0.0;
    for trial in 0..trials {
        let names: Vec<String> = (0..members).map(|id| format!("t{trial}-{id}")).collect();
        let before: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let after = &before[removed..];
        let (old, new) = (Maglev::with_size(&before, size), Maglev::with_size(after, size));
        let moved = old.slots().iter().zip(new.slots()).filter(|(a, b)| usize::from(**a) != usize::from(**b) + removed);
        changed += 100.0 * moved.count() as f64 / size as f64;
    }
    let mean = changed / trials as f64;
    let band = want_percent * 0.8..want_percent * 1.2;
    assert!(band.contains(&mean), "{members} members, {removed} removed: {mean:.2} %, want {want_percent} %");
}

#[test]
fn maglev_disruption_is_that_of_the_paper() {
    disruption(1000, 65_537, 1, 0.68);
    disruption(1000, 65_537, 10, 3.39);
    disruption(160, 16_381, 1, 2.13);
    disruption(100, 65_537, 5, 5.86);
    disruption(10, 65_537, 1, 10.24);
    disruption(3, 65_537, 1, 33.35);
}

#[test]
fn an_unusable_member_moves_only_its_own_keys() {
    let names: Vec<String> = (0..10).map(|id| format!("b{id}")).collect();
    let named: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 100)).collect();
    let table = Maglev::new(&named).expect("small pool");
    for step in 0..20_000 {
        let key = next_random(step);
        let owner = table.find(key, |_| true).expect("all usable");
        let without_three = table.find(key, |place| place != 3).expect("nine usable");
        if owner == 3 { assert_ne!(without_three, 3) } else { assert_eq!(without_three, owner) }
    }
    assert_eq!(table.find(1, |_| false), None);
}

#[test]
fn a_dead_pool_is_not_searched_slot_by_slot() {
    let names: Vec<String> = (0..600).map(|id| format!("b{id}")).collect();
    let named: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 100)).collect();
    let table = Maglev::new(&named).expect("fits");
    let asked = std::cell::Cell::new(0);
    let nobody = |_: usize| {
        asked.set(asked.get() + 1);
        false
    };
    assert_eq!(table.find(12_345, nobody), None);
    assert!(asked.get() <= 700, "asked {} times", asked.get());
    assert_eq!(table.find(12_345, |place| place == 599), Some(599), "the only one is found however far away");
}

#[test]
fn large_pools_get_the_large_table_and_huge_ones_are_refused() {
    let names: Vec<String> = (0..6554).map(|id| format!("b{id}")).collect();
    let named: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    assert_eq!(Maglev::new(&named[..1000]).expect("fits").slots().len(), 655_373);
    assert_eq!(Maglev::new(&named).expect_err("too many").members, 6554);
}
