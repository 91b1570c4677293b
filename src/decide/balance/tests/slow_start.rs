//! Slow start: the ramp itself, and that a fresh member gets about a tenth of its share under every method that ramps.

use super::*;

#[test]
fn the_ramp_is_linear_from_a_tenth_to_the_whole() {
    let at = |up_ms| Ramp::since(up_ms, 10_000).thousandths();
    assert_eq!([0, 1, 2500, 5000, 9999, 10_000, 20_000].map(at), [100, 100, 325, 550, 999, 1000, 1000]);
    assert_eq!(Ramp::since(0, 0), Ramp::FULL, "no window, no ramp");
    assert_eq!(Ramp::since(u64::MAX - 1, u64::MAX).thousandths(), 999);
    assert!((0..12_000).all(|up_ms| Ramp::since(up_ms, 10_000) <= Ramp::since(up_ms + 1, 10_000)));
}

#[test]
fn turns_are_taken_as_the_share_says_evenly() {
    for share in [100, 325, 550, 999, 1000] {
        let ramp = (0..=10_000).map(|up| Ramp::since(up, 10_000)).find(|ramp| ramp.thousandths() >= share);
        let ramp = ramp.expect("it ends with the whole");
        let turns: Vec<u64> = (0..3000).filter(|turn| ramp.takes_turn(*turn)).collect();
        assert_eq!(turns.len() as u64, 3 * ramp.thousandths());
        let most = turns.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(most <= Some(1000_u64.div_ceil(ramp.thousandths())), "{ramp:?}: gaps of {most:?}");
    }
}

/// Loads of a pool of which member 0 is as fresh as can be, after `count` connections that stay, relative to those
/// that the others have on average for their weight.
fn fresh_share(method: Method, weights: &[u32], count: usize) -> f64 {
    let mut pool = Pool::new(method, members(weights), 11);
    pool.ramps[0] = Ramp::since(0, 1000);
    let loads = pool.fill(count);
    let rest: u32 = loads[1..].iter().sum();
    let rest_weight: u32 = weights[1..].iter().sum();
    (f64::from(loads[0]) / f64::from(weights[0])) / (f64::from(rest) / f64::from(rest_weight))
}

#[test]
fn a_fresh_member_gets_about_a_tenth_of_its_share() {
    let unequal = |count: u32| -> Vec<u32> { (0..count).map(|id| 50 + 10 * (id % 7)).collect() };
    for method in [Method::LeastConnections, Method::RandomTwo, Method::RoundRobin] {
        for weights in [vec![100; 10], unequal(10), vec![100; 100], unequal(100)] {
            let share = fresh_share(method, &weights, 1000 * weights.len());
            assert!((0.09..=0.11).contains(&share), "{method:?}, {} members: {share}", weights.len());
        }
    }
}

#[test]
fn a_fresh_and_idle_member_does_not_take_every_arrival() {
    for count in [10, 100] {
        let mut pool = Pool::new(Method::LeastConnections, members(&vec![100; count]), 12);
        pool.active = vec![50; count];
        pool.active[0] = 0;
        pool.ramps[0] = Ramp::since(0, 1000);
        let taken = (0..20 * count).filter(|_| pool.arrive(None).member == 0).count();
        // Seven connections weigh as much as seventy of the others.
        assert!((1..=8).contains(&taken), "{count} members: {taken} of {}", 20 * count);
    }
}

#[test]
fn when_all_are_fresh_shares_are_equal() {
    for method in [Method::LeastConnections, Method::RandomTwo, Method::RoundRobin] {
        for weights in [vec![100; 10], vec![100; 40], vec![100, 200, 300]] {
            let mut pool = Pool::new(method, members(&weights), 13);
            pool.ramps.fill(Ramp::since(0, 1000));
            let sum: u32 = weights.iter().sum();
            let loads = pool.fill(20 * sum as usize);
            for (load, weight) in loads.iter().zip(&weights) {
                let share = f64::from(*load) / f64::from(20 * weight);
                assert!((0.99..=1.01).contains(&share), "{method:?}, weight {weight}: {share}");
            }
        }
    }
}

#[test]
fn hashed_pools_do_not_ramp() {
    for key in [Some(5), None] {
        let mut pool = Pool::new(hashing(Table::Maglev, None), members(&[100; 4]), 14);
        pool.active = vec![10, 11, 11, 11];
        let warm: Vec<MemberId> = (0..100).map(|step| pool.pick(key.map(|key: u64| key + next_random(step)))).collect();
        pool.ramps.fill(Ramp::since(0, 1000));
        pool.ramps[1] = Ramp::FULL;
        let fresh: Vec<MemberId> =
            (0..100).map(|step| pool.pick(key.map(|key: u64| key + next_random(step)))).collect();
        assert_eq!(warm, fresh, "key {key:?}");
    }
}
