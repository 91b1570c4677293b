//! Turns by weight: exact over every cycle, without bursts, whoever comes and goes.

use std::cell::Cell;

use super::*;

/// Of random pools.
const SEED: u64 = 20_261_124;

/// Weights of a random pool: up to `most` members of up to `heaviest`.
fn random_weights(dice: &mut u64, most: u64, heaviest: u64) -> Vec<u32> {
    let mut roll = |sides: u64| {
        *dice = next_random(*dice);
        *dice % sides
    };
    let count = 2 + roll(most - 1);
    (0..count).map(|_| 1 + roll(heaviest) as u32).collect()
}

/// The naive form of smooth weighted turns (nginx): each member gains its weight, the richest is chosen and pays the sum.
fn naive(weights: &[u32], count: usize) -> Vec<MemberId> {
    let sum: i64 = weights.iter().copied().map(i64::from).sum();
    let mut credit = vec![0; weights.len()];
    let mut turn = || {
        credit.iter_mut().zip(weights).for_each(|(credit, weight)| *credit += i64::from(*weight));
        let richest = (0..weights.len()).rev().max_by_key(|id| credit[*id]).expect("not empty");
        credit[richest] -= sum;
        richest
    };
    (0..count).map(|_| turn()).collect()
}

/// Most turns in a row of each member.
fn runs(order: &[MemberId], members: usize) -> Vec<usize> {
    let mut longest = vec![0; members];
    for run in order.chunk_by(|a, b| a == b) {
        longest[run[0]] = longest[run[0]].max(run.len());
    }
    longest
}

/// Farthest that any member ever is from its exact share, in turns.
fn farthest(order: &[MemberId], weights: &[u32]) -> f64 {
    let sum: f64 = weights.iter().copied().map(f64::from).sum();
    let mut counts = vec![0.0; weights.len()];
    let mut farthest = 0_f64;
    for (turn, member) in order.iter().enumerate() {
        counts[*member] += 1.0;
        for (count, weight) in counts.iter().zip(weights) {
            farthest = farthest.max((count - (turn + 1) as f64 * f64::from(*weight) / sum).abs());
        }
    }
    farthest
}

fn order(pool: &mut Pool, count: usize) -> Vec<MemberId> {
    (0..count).map(|_| pool.pick(None)).collect()
}

fn counts(order: &[MemberId], members: usize) -> Vec<u32> {
    let mut counts = vec![0; members];
    for member in order {
        counts[*member] += 1;
    }
    counts
}

#[test]
fn every_cycle_gives_each_member_exactly_its_weight() {
    let mut dice = SEED;
    for _ in 0..200 {
        let weights = random_weights(&mut dice, 40, 1000);
        let factor = 1 + (dice % 7) as u32;
        let scaled: Vec<u32> = weights.iter().map(|weight| weight * factor).collect();
        let lowest = in_lowest_terms(&weights);
        let mut pool = Pool::new(Method::RoundRobin, members(&scaled), 1);
        // A cycle may begin anywhere.
        order(&mut pool, (dice % 100) as usize);
        for cycle in 0..3 {
            let turns = order(&mut pool, lowest.iter().sum::<u32>() as usize);
            assert_eq!(counts(&turns, weights.len()), lowest, "seed {SEED}: weights {scaled:?}, cycle {cycle}");
        }
    }
}

#[test]
fn turns_come_in_no_bursts() {
    let mut dice = SEED + 1;
    let shapes = [(4, 10), (10, 10), (40, 100), (40, 5), (3, 1000), (200, 20)];
    let mut worst: (f64, f64) = (0.0, 0.0);
    for (most, heaviest) in shapes.into_iter().cycle().take(300) {
        let weights = random_weights(&mut dice, most, heaviest);
        let cycle = in_lowest_terms(&weights).iter().sum::<u32>() as usize;
        let ours = order(&mut Pool::new(Method::RoundRobin, members(&weights), 1), 2 * cycle);
        let naive = naive(&weights, 2 * cycle);
        for (id, (ours, naive)) in runs(&ours, weights.len()).iter().zip(runs(&naive, weights.len())).enumerate() {
            assert!(
                *ours <= naive + 1,
                "seed {SEED}: weights {weights:?}: member {id} has {ours} turns in a row, naively {naive}"
            );
        }
        worst = (worst.0.max(farthest(&ours, &weights)), worst.1.max(farthest(&naive, &weights)));
    }
    assert!(worst.0 < 1.0, "farthest from the exact share, in turns: ours and naively {worst:?}");
}

#[test]
fn a_heavy_member_alternates_with_a_crowd_of_light_ones() {
    let mut weights = vec![1; 1000];
    weights[0] = 1000;
    let mut pool = Pool::new(Method::RoundRobin, members(&weights), 1);
    let longest = runs(&order(&mut pool, 4000), 1000)[0];
    assert!(longest <= 3, "{longest} turns in a row at half of the weight");
}

#[test]
fn equal_weights_take_turns_and_pass_over_the_unusable() {
    let mut pool = Pool::new(Method::RoundRobin, members(&[100; 4]), 1);
    pool.turns = pool.balancer.turns(2);
    assert_eq!(order(&mut pool, 6), [2, 3, 0, 1, 2, 3]);
    pool.takes[1] = false;
    assert_eq!(order(&mut pool, 6), [0, 2, 3, 0, 2, 3]);
    pool.turns = pool.balancer.turns(9);
    assert_eq!(order(&mut pool, 2), [2, 3], "workers beyond the members start among them too");
}

#[test]
fn workers_begin_with_different_members() {
    for weights in [[100; 5], [100, 90, 80, 70, 60]] {
        let mut pool = Pool::new(Method::RoundRobin, members(&weights), 1);
        let mut firsts: Vec<MemberId> = (0..8)
            .map(|worker| {
                pool.turns = pool.balancer.turns(worker);
                pool.pick(None)
            })
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert!(firsts.len() >= 3, "{weights:?}: all begin with {firsts:?}");
    }
}

#[test]
fn the_rest_keep_their_proportions_while_members_are_down() {
    let weights = [7, 5, 3, 2, 900];
    let mut pool = Pool::new(Method::RoundRobin, members(&weights), 1);
    order(&mut pool, 100);
    pool.takes[4] = false;
    pool.takes[1] = false;
    let got = counts(&order(&mut pool, 12_000), 5);
    for (got, want) in got.iter().zip([7000_u32, 0, 3000, 2000, 0]) {
        assert!(got.abs_diff(want) <= 20, "{got} turns, not {want}");
    }
}

#[test]
fn who_returns_is_served_soon_and_not_in_a_burst() {
    for weights in [vec![100; 10], (0..10).map(|id| 50 + 10 * id).collect::<Vec<u32>>()] {
        let sum: u32 = weights.iter().sum();
        for away in [1_usize, 10, 1000, 20_000] {
            let mut pool = Pool::new(Method::RoundRobin, members(&weights), 1);
            order(&mut pool, 33);
            pool.takes[3] = false;
            assert!(!order(&mut pool, away).contains(&3));
            pool.takes[3] = true;
            let after = order(&mut pool, sum as usize);
            let first = after.iter().position(|member| *member == 3).expect("served");
            assert!(first <= 2 * (sum / weights[3]) as usize, "{weights:?}: away {away}: first turn {first}");
            assert_eq!(runs(&after, 10)[3], 1, "{weights:?}: away {away}");
            let got = counts(&after, 10)[3];
            assert!(got.abs_diff(weights[3]) <= 1, "{weights:?}: away {away}: {got} turns of {}", weights[3]);
        }
    }
}

#[test]
fn a_crowd_that_returns_at_once_does_not_move_together() {
    let mut weights = vec![1; 1000];
    weights[0] = 1000;
    let mut pool = Pool::new(Method::RoundRobin, members(&weights), 1);
    pool.takes[1..].fill(false);
    assert!(order(&mut pool, 5000).iter().all(|member| *member == 0));
    pool.takes.fill(true);
    let back = order(&mut pool, 2000);
    let longest = runs(&back, 1000)[0];
    assert!(longest <= 3, "{longest} turns in a row");
    assert!((999..=1001).contains(&counts(&back, 1000)[0]));
}

#[test]
fn a_pick_among_a_thousand_asks_one_member_and_a_dead_pool_each_a_few_times() {
    let weights: Vec<u32> = (0..1000).map(|id| 1 + id % 17).collect();
    let balancer = Balancer::new(Method::RoundRobin, &members(&weights)).expect("small pool");
    let mut turns = balancer.turns(0);
    let asked = Cell::new(0);
    let ask = Ask { tried: &Tried::default(), key: None, random: 0, totals: &|_| Totals::default() };
    let all = |_: MemberId| {
        asked.set(asked.get() + 1);
        Some(Load::warm(0))
    };
    (0..5000).for_each(|_| assert!(balancer.next(&all, &ask, &mut turns).is_some()));
    assert_eq!(asked.replace(0), 5000);
    let nobody = |_: MemberId| {
        asked.set(asked.get() + 1);
        None
    };
    (0..100).for_each(|_| assert_eq!(balancer.next(&nobody, &ask, &mut turns), None));
    assert!(asked.get() <= 100 * 1020, "asked {} times", asked.get());
    let one = |id: MemberId| (id == 500).then_some(Load::warm(0));
    (0..100).for_each(|_| assert_eq!(balancer.next(&one, &ask, &mut turns).map(|choice| choice.member), Some(500)));
}
