//! Bounded loads: nobody above his share's bound at admission, whoever comes and goes, and no detour that is not needed.

use super::*;

/// Adds, removes, weights, arrivals, departures at random; every admission is within its bound.
fn random_life(table: Table, factor: f64, seed: u64) {
    let weights: Vec<u32> = (0..12).map(|id| if seed.is_multiple_of(2) { 100 } else { 1 + id * 13 % 90 }).collect();
    let mut pool = Pool::new(hashing(table, Some(factor)), members(&weights), seed);
    let exact = (factor * 1000.0).round() as u64;
    let mut guests: Vec<MemberId> = Vec::new();
    for step in 0..4000 {
        let roll = pool.random();
        match roll % 16 {
            0 => {
                let member = (roll >> 8) as usize % 12;
                pool.takes[member] = !pool.takes[member];
            }
            1..=5 if !guests.is_empty() => {
                let member = guests.swap_remove((roll >> 8) as usize % guests.len());
                pool.active[member] -= 1;
            }
            _ => {
                let totals = pool.totals()(Tier::FIRST);
                let key = Some(pool.random());
                let Some(choice) = pool.next(key.filter(|_| roll % 16 != 15)) else {
                    assert!(pool.takes.iter().all(|takes| !takes));
                    continue;
                };
                assert!(pool.takes[choice.member]);
                pool.active[choice.member] += 1;
                guests.push(choice.member);
                let weight = u64::from(weights[choice.member]);
                let cap = (exact * (totals.active + 1) * weight).div_ceil(1000 * totals.weight);
                assert_eq!(choice.cap.map(u64::from), Some(cap), "seed {seed}, step {step}");
                assert!(u64::from(pool.active[choice.member]) <= cap, "seed {seed}, step {step}: above {cap}");
            }
        }
    }
}

#[test]
fn nobody_is_ever_admitted_above_the_bound() {
    for seed in 0..30 {
        for table in [Table::Maglev, Table::Ring] {
            for factor in [1.0, 1.1, 1.25, 3.0] {
                random_life(table, factor, seed);
            }
        }
    }
}

#[test]
fn a_factor_of_one_keeps_all_equal() {
    for table in [Table::Maglev, Table::Ring] {
        for count in [7, 100] {
            let mut pool = Pool::new(hashing(table, Some(1.0)), members(&vec![100; count]), 5);
            for _ in 0..20 * count {
                let key = pool.random();
                pool.arrive(Some(key));
                let (low, high) = (pool.active.iter().min(), pool.active.iter().max());
                let gap = high.expect("members") - low.expect("members");
                assert!(gap <= 1, "{table:?}, {count}: {:?}", pool.active);
            }
        }
    }
}

#[test]
fn a_large_factor_is_plain_hashing() {
    for table in [Table::Maglev, Table::Ring] {
        let mut plain = Pool::new(hashing(table, None), members(&[100; 50]), 6);
        let mut bounded = Pool::new(hashing(table, Some(1000.0)), members(&[100; 50]), 6);
        for key in (0..20_000).map(next_random) {
            assert_eq!(bounded.arrive(Some(key)).member, plain.arrive(Some(key)).member, "{table:?}");
        }
    }
}

#[test]
fn bounds_are_exact_where_binary_fractions_are_not() {
    // 1.1 x 100 is 110.00000000000001 in doubles, which would round up to 111.
    let mut pool = Pool::new(hashing(Table::Maglev, Some(1.1)), members(&[100; 100]), 7);
    pool.active.fill(100);
    pool.active[0] = 99;
    let caps: Vec<Option<u32>> = (0..100).map(|step| pool.next(Some(next_random(step))).expect("takes").cap).collect();
    assert!(caps.iter().all(|cap| *cap == Some(110)), "{caps:?}");
    let factor = |factor| LoadFactor::new(factor).map(LoadFactor::as_f64);
    assert_eq!([1.0, 1.25, 1000.0].map(factor), [Some(1.0), Some(1.25), Some(1000.0)]);
    assert_eq!([0.99, 1000.1, f64::NAN, f64::INFINITY, -1.0].map(factor), [None; 5]);
}

#[test]
fn the_next_on_the_table_serves_while_the_owner_is_full() {
    for table in [Table::Maglev, Table::Ring] {
        let mut pool = Pool::new(hashing(table, Some(1.25)), members(&[100; 10]), 8);
        let owner = pool.pick(Some(42));
        pool.active.fill(10);
        pool.takes[owner] = false;
        let heir = pool.pick(Some(42));
        pool.takes[owner] = true;
        pool.active[owner] = 13;
        // 1.25 x 104 / 10 = 13: one more would be 14.
        assert_eq!(pool.next(Some(42)), Some(Choice { member: heir, cap: Some(13) }), "{table:?}: as when it is down");
        pool.active[owner] = 12;
        assert_eq!(pool.next(Some(42)), Some(Choice { member: owner, cap: Some(13) }), "{table:?}: and back");
    }
}

#[test]
fn when_the_untried_are_full_the_least_loaded_serves_without_a_cap() {
    let mut pool = Pool::new(hashing(Table::Maglev, Some(1.0)), members(&[100; 3]), 9);
    pool.active = vec![0, 30, 20];
    pool.tried.insert(0);
    for key in [Some(1), Some(2), Some(3), None] {
        assert_eq!(pool.next(key), Some(Choice { member: 2, cap: None }));
    }
}

#[test]
fn every_tier_has_a_bound_of_its_own() {
    let mut all = members(&[100; 4]);
    all[0].tier = Tier::at(1);
    all[2].tier = Tier::BACKUP;
    all[3].tier = Tier::BACKUP;
    let mut pool = Pool::new(hashing(Table::Ring, Some(1.0)), all, 10);
    pool.active = vec![1000, 2000, 3, 2];
    pool.takes[1] = false;
    assert_eq!(pool.next(Some(1)), Some(Choice { member: 0, cap: Some(1001) }), "alone in its tier");
    pool.takes[0] = false;
    assert_eq!(pool.next(Some(1)), Some(Choice { member: 3, cap: Some(3) }));
}

#[test]
fn sums_that_are_behind_refuse_nobody() {
    let balancer = Balancer::new(hashing(Table::Maglev, Some(1.25)), &members(&[100; 3])).expect("small pool");
    let load = |_: MemberId| Some(Load::warm(u32::MAX));
    for totals in [Totals::default(), Totals { active: 0, weight: 1 }, Totals { active: u64::MAX, weight: u64::MAX }] {
        let ask = Ask { tried: &Tried::default(), key: Some(1), random: 1, totals: &|_| totals };
        assert!(balancer.next(&load, &ask, &mut balancer.turns(0)).is_some(), "{totals:?}");
    }
}
