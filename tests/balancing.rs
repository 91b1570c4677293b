//! Balancing against published figures that take many tables: the disruption of Maglev (the paper's Fig. 12), its
//! shares, the errors of rings (the table of the jump hash paper), and what bounded loads move. Each cell is a test of
//! its own, so that they run side by side. `SLUICE_TEST_SEED` gives other names; the bands hold for any.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ops::RangeInclusive;

use sluice::decide::balance::{
    Ask, Balancer, Hashing, Load, LoadFactor, Maglev, Member, MemberId, Method, Ring, Seed, Table, Tier, Totals, Tried,
    next_random,
};

/// Trials of a cell, unless one says that it takes more.
const TRIALS: u64 = 50;

fn seed() -> u64 {
    let seed = std::env::var("SLUICE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_124);
    eprintln!("SLUICE_TEST_SEED={seed}");
    seed
}

/// Sorted names that no two trials share.
fn names(count: usize, trial: u64) -> Vec<String> {
    let mut names: Vec<String> =
        (0..count as u64).map(|id| format!("{:016x}", next_random(next_random(trial) ^ id))).collect();
    names.sort_unstable();
    names
}

fn alike(names: &[String]) -> Vec<(&str, u32)> {
    names.iter().map(|name| (name.as_str(), 1)).collect()
}

/// Positions of `removed` members drawn from `count`.
fn drawn(removed: usize, count: usize, trial: u64) -> Vec<usize> {
    let mut dice = !trial;
    let mut drawn: Vec<usize> = Vec::new();
    while drawn.len() < removed {
        dice = next_random(dice);
        let member = (dice % count as u64) as usize;
        if !drawn.contains(&member) {
            drawn.push(member);
        }
    }
    drawn
}

/// Share of slots whose owner is another one afterwards, in percent, where `kept` says which members remain.
fn changed(before: &Maglev, after: &Maglev, kept: &[usize]) -> f64 {
    let moved =
        before.slots().iter().zip(after.slots()).filter(|(old, new)| usize::from(**old) != kept[usize::from(**new)]);
    100.0 * moved.count() as f64 / before.slots().len() as f64
}

/// One cell of the paper's experiment: `members` in a table of `size`, and for each `(removed, percent)` the mean share
/// of slots that change, which may be off by six hundredths of it.
#[track_caller]
fn disruption(members: usize, size: usize, cells: &[(usize, f64)]) {
    let seed = seed();
    let mut sums = vec![0.0; cells.len()];
    for trial in seed..seed + TRIALS {
        let names = names(members, trial);
        let all = alike(&names);
        let before = Maglev::new(&all, size);
        for (sum, (removed, _)) in sums.iter_mut().zip(cells) {
            let gone = drawn(*removed, members, trial);
            let kept: Vec<usize> = (0..members).filter(|member| !gone.contains(member)).collect();
            let rest: Vec<(&str, u32)> = kept.iter().map(|member| all[*member]).collect();
            *sum += changed(&before, &Maglev::new(&rest, size), &kept);
        }
    }
    let means: Vec<f64> = sums.iter().map(|sum| sum / TRIALS as f64).collect();
    for (mean, (removed, want)) in means.iter().zip(cells) {
        eprintln!("{members} members, {size} slots, {removed} removed: {mean:.3} %, want {want} %");
    }
    for (mean, (removed, want)) in means.iter().zip(cells) {
        assert!((mean / want - 1.0).abs() < 0.06, "{removed} removed: {mean:.3} %, want {want} %");
    }
}

#[test]
fn disruption_of_1000_members_in_a_small_table() {
    disruption(1000, 65_537, &[(1, 0.68), (5, 2.31), (10, 3.39), (20, 4.65), (50, 8.26)]);
}

#[test]
fn disruption_of_1000_members_in_a_large_table() {
    disruption(1000, 655_373, &[(1, 0.42), (10, 1.57), (50, 5.91)]);
}

#[test]
fn disruption_of_600_members() {
    disruption(600, 65_537, &[(1, 1.00)]);
}

#[test]
fn disruption_of_160_members_in_16381_slots() {
    // Our document has 2.13, from fewer trials.
    disruption(160, 16_381, &[(1, 2.23)]);
}

#[test]
fn disruption_of_100_members() {
    disruption(100, 65_537, &[(1, 1.55), (5, 5.86)]);
}

#[test]
fn disruption_of_10_members() {
    disruption(10, 65_537, &[(1, 10.24), (2, 20.23)]);
}

#[test]
fn disruption_of_3_members() {
    disruption(3, 65_537, &[(1, 33.35)]);
}

fn shares(table: &Maglev, members: usize) -> Vec<u32> {
    let mut shares = vec![0; members];
    table.slots().iter().for_each(|owner| shares[usize::from(*owner)] += 1);
    shares
}

#[test]
fn equal_weights_differ_by_one_slot_at_most() {
    let seed = seed();
    let mut sizes: Vec<(usize, usize)> = (1..=655).step_by(6).map(|members| (members, 65_537)).collect();
    sizes.extend([(2, 16_381), (163, 16_381), (1000, 65_537), (656, 655_373), (1000, 655_373), (6553, 655_373)]);
    for (members, size) in sizes {
        let names = names(members, seed + members as u64);
        let shares = shares(&Maglev::new(&alike(&names), size), members);
        let (low, high) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        assert!(high - low <= 1, "{members} members, {size} slots: from {low} to {high}");
    }
}

#[test]
fn weights_give_the_shares_that_envoy_documents() {
    let seed = seed();
    for trial in seed..seed + TRIALS {
        let shares = |weights: &[u32]| {
            let names = names(weights.len(), trial);
            let weighted: Vec<(&str, u32)> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            shares(&Maglev::new(&weighted, 65_537), weights.len())
        };
        assert_eq!(shares(&[1, 2]), [21_846, 43_691]);
        assert_eq!(shares(&[100, 200]), [21_846, 43_691]);
        for (share, want) in shares(&[10, 20, 30, 40]).into_iter().zip([6554_u32, 13_107, 19_661, 26_215]) {
            assert!(share.abs_diff(want) <= 1, "{share}, not {want}");
        }
    }
}

#[test]
fn a_change_of_one_weight_moves_little_more_than_it_must() {
    let seed = seed();
    let mut sums = [0.0; 2];
    let cells: [(u32, f64); 2] = [(50, 4.93), (90, 1.01)];
    for trial in seed..seed + TRIALS {
        let names = names(10, trial);
        let table = |weight: u32| {
            let weights = (0..10).map(|member| if member == trial % 10 { weight } else { 100 });
            let weighted: Vec<(&str, u32)> = names.iter().map(String::as_str).zip(weights).collect();
            Maglev::new(&weighted, 65_537)
        };
        let kept: Vec<usize> = (0..10).collect();
        for (sum, (weight, _)) in sums.iter_mut().zip(cells) {
            *sum += changed(&table(100), &table(weight), &kept);
        }
    }
    for (sum, (weight, want)) in sums.iter().zip(cells) {
        let mean = sum / TRIALS as f64;
        eprintln!("one of ten from 100 to {weight}: {mean:.3} %, want {want} %");
        assert!((mean / want - 1.0).abs() < 0.1, "to {weight}: {mean:.3} %, want {want} %");
    }
}

/// Shares of the ring's members by keys, where 1 is the mean; `members` times `trials` of them, sorted.
fn ring_shares(points: u32, members: usize, keys: u64, trials: u64, seed: u64) -> Vec<f64> {
    let mut all = Vec::new();
    for trial in seed..seed + trials {
        let names = names(members, trial);
        let named: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), points)).collect();
        let ring = Ring::new(&named);
        let mut counts = vec![0.0; members];
        // Evenly spaced keys measure the arcs themselves, without noise of their own.
        let step = u64::MAX / keys;
        (0..keys).for_each(|key| counts[ring.owners(key * step).next().unwrap()] += 1.0);
        all.extend(counts.iter().map(|count| count * members as f64 / keys as f64));
    }
    all.sort_by(f64::total_cmp);
    all
}

/// One row of the table: standard error of shares and their 99 % interval for so many points each.
#[track_caller]
fn ring_errors(points: u32, keys: u64, error: f64, interval: (f64, f64)) {
    let shares = ring_shares(points, 1000, keys, TRIALS, seed());
    let variance = shares.iter().map(|share| (share - 1.0).powi(2)).sum::<f64>() / shares.len() as f64;
    let at = |part: f64| shares[(part * shares.len() as f64) as usize];
    let (found, low, high) = (variance.sqrt(), at(0.005), at(0.995));
    eprintln!("{points} points: error {found:.4}, want {error}; 99 % ({low:.3}, {high:.3}), want {interval:?}");
    assert!((found / error - 1.0).abs() < 0.05, "error {found}, want {error}");
    assert!(
        (low - interval.0).abs() < 0.02 && (high / interval.1 - 1.0).abs() < 0.05,
        "({low}, {high}), want {interval:?}"
    );
}

#[test]
fn ring_errors_with_1_point() {
    ring_errors(1, 1 << 20, 0.998, (0.005, 5.25));
}

#[test]
fn ring_errors_with_10_points() {
    ring_errors(10, 1 << 20, 0.315, (0.37, 1.98));
}

#[test]
fn ring_errors_with_100_points() {
    ring_errors(100, 1 << 21, 0.0997, (0.76, 1.28));
}

#[test]
fn ring_errors_with_160_points() {
    ring_errors(160, 1 << 21, 0.080, (0.81, 1.20));
}

#[test]
fn ring_errors_with_1000_points() {
    ring_errors(1000, 1 << 23, 0.0316, (0.92, 1.09));
}

#[test]
fn removing_a_member_of_a_ring_moves_exactly_its_keys() {
    let seed = seed();
    for trial in seed..seed + TRIALS {
        let names = names(40, trial);
        let points = |member: usize| 160 * (1 + member as u32 % 3);
        let named: Vec<(&str, u32)> =
            names.iter().enumerate().map(|(member, name)| (name.as_str(), points(member))).collect();
        let gone = (trial % 40) as usize;
        let mut rest = named.clone();
        rest.remove(gone);
        let (before, after) = (Ring::new(&named), Ring::new(&rest));
        for key in (0..5000).map(|number| next_random(trial ^ number << 32)) {
            let (old, new) = (before.owners(key).next().unwrap(), after.owners(key).next().unwrap());
            let new = if new < gone { new } else { new + 1 };
            assert!(
                old == new || old == gone,
                "trial {trial}: key {key} went from {old} to {new}, and {gone} was removed"
            );
            // Its heir is the next on the ring.
            assert!(old != gone || before.owners(key).find(|owner| *owner != gone) == Some(new), "trial {trial}");
        }
    }
}

/// Owners of ten thousand keys over a hundred members, one of which may be away, and the highest load. As in the paper
/// the bound is that of all keys from the first on: a bound that grows with them would make owners depend on who came
/// when, and a removal move several times as many.
fn placed(table: Table, factor: f64, trial: u64, away: Option<MemberId>) -> (Vec<MemberId>, u32) {
    let bounded_load = LoadFactor::new(factor);
    let member = |name: String| Member { name: name.into(), weight: 100, tier: Tier::FIRST };
    let members: Vec<Member> = names(100, trial).into_iter().map(member).collect();
    let balancer =
        Balancer::new(Method::ConsistentHash(Hashing { table, bounded_load, seed: Seed::default() }), &members)
            .unwrap();
    let mut turns = balancer.turns(0);
    let mut active = vec![0; 100];
    let weight = if away.is_some() { 9900 } else { 10_000 };
    let mut owners = Vec::new();
    for number in 0..10_000 {
        let key = next_random(next_random(!trial) ^ number);
        let totals = |_| Totals { active: 9999, weight };
        let ask = Ask { tried: &Tried::default(), key: Some(key), random: key, totals: &totals };
        let load = |member: MemberId| (Some(member) != away).then(|| Load::warm(active[member]));
        let choice = balancer.next(&load, &ask, &mut turns).unwrap();
        active[choice.member] += 1;
        owners.push(choice.member);
    }
    (owners, active.into_iter().max().unwrap())
}

/// One row of the simulation: the highest load in each trial, and how many keys a removal moves for each that must.
#[track_caller]
fn bounded(table: Table, factor: f64, most: RangeInclusive<u32>, moves: RangeInclusive<f64>) {
    let seed = seed();
    let (mut low, mut high, mut moved, mut must) = (u32::MAX, 0, 0, 0);
    for trial in seed..seed + TRIALS {
        let (before, found) = placed(table, factor, trial, None);
        (low, high) = (low.min(found), high.max(found));
        let gone = (trial % 100) as usize;
        let (after, _) = placed(table, factor, trial, Some(gone));
        moved += before.iter().zip(&after).filter(|(old, new)| old != new).count() as u32;
        must += before.iter().filter(|owner| **owner == gone).count() as u32;
    }
    let ratio = f64::from(moved) / f64::from(must);
    eprintln!("{table:?}, factor {factor}: most from {low} to {high}, {ratio:.3} moves for each that must");
    assert!(most.contains(&low) && most.contains(&high), "most from {low} to {high}");
    let bound = (factor * 100.0).round() as u32;
    assert!(factor > 1.25 || high == bound, "{high} is not the bound {bound}");
    assert!(moves.contains(&ratio), "{ratio} moves for each that must");
}

// Our document has 1.45, 1.08 and 1.00 moves, which is what a ring does. Maglev, whose shares are equal, does less. At
// 1.25 not every draw of keys has a member that reaches its bound.

#[test]
fn bounded_ring_at_1_1() {
    bounded(Table::Ring, 1.1, 110..=110, 1.33..=1.5);
}

#[test]
fn bounded_ring_at_1_25() {
    bounded(Table::Ring, 1.25, 118..=125, 1.02..=1.09);
}

#[test]
fn bounded_ring_at_1_5() {
    bounded(Table::Ring, 1.5, 118..=150, 1.0..=1.005);
}

#[test]
fn bounded_maglev_at_1_1() {
    bounded(Table::Maglev, 1.1, 110..=110, 1.15..=1.27);
}

#[test]
fn bounded_maglev_at_1_25() {
    bounded(Table::Maglev, 1.25, 115..=125, 1.0..=1.02);
}

#[test]
fn bounded_maglev_at_1_5() {
    bounded(Table::Maglev, 1.5, 115..=150, 1.0..=1.001);
}
