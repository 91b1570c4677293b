//! Consistent hashing: tables that depend on their members alone, keys that move only when they must, digests.

use std::cell::Cell;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::*;

const TABLES: [Table; 2] = [Table::Maglev, Table::Ring];

fn owners(members: Vec<Member>, table: Table, keys: u64) -> Vec<Box<str>> {
    let names: Vec<Box<str>> = members.iter().map(|member| member.name.clone()).collect();
    let mut pool = Pool::new(hashing(table, None), members, 1);
    (0..keys).map(|key| names[pool.pick(Some(next_random(key)))].clone()).collect()
}

#[test]
fn the_order_of_the_file_does_not_matter() {
    for table in TABLES {
        let mut all = members(&[100, 50, 30, 100, 7, 100, 100, 1]);
        all[2].tier = Tier::BACKUP;
        let digest =
            |all: &[Member]| Balancer::new(hashing(table, None), all).expect("small pool").digest().map(str::to_owned);
        let (before, digest_before) = (owners(all.clone(), table, 20_000), digest(&all));
        let mut dice = 99;
        for _ in 0..5 {
            for last in (1..all.len()).rev() {
                dice = next_random(dice);
                all.swap(last, (dice % (last as u64 + 1)) as usize);
            }
            assert_eq!(owners(all.clone(), table, 20_000), before, "{table:?}");
            assert_eq!(digest(&all), digest_before, "{table:?}");
        }
    }
}

#[test]
fn equal_multiples_of_weights_are_the_same_table() {
    for table in TABLES {
        let one = owners(members(&[1, 2, 3]), table, 10_000);
        assert_eq!(owners(members(&[100, 200, 300]), table, 10_000), one, "{table:?}");
    }
}

#[test]
fn digests_differ_with_whatever_tables_are_made_from() {
    let digest = |table, members: &[Member]| {
        let balancer = Balancer::new(hashing(table, None), members).expect("fits");
        balancer.digest().expect("hashed").to_owned()
    };
    let base = members(&[100, 100, 100]);
    let mut renamed = base.clone();
    renamed[1].name = "b1x".into();
    let mut backup = base.clone();
    backup[2].tier = Tier::BACKUP;
    let mut joined = base.clone();
    joined[0].name = "b".into();
    joined[1].name = "0b1".into();
    let variants: [&[Member]; 7] = [
        &base,
        &renamed,
        &backup,
        &joined,
        &members(&[100, 100, 99]),
        &members(&[100, 100]),
        // Large enough for the large table.
        &members(&[100; 656]),
    ];
    let mut digests: Vec<String> =
        TABLES.into_iter().flat_map(|table| variants.map(|members| digest(table, members))).collect();
    assert!(digests.iter().all(|digest| digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())));
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 14);
    let absent = members(&[100, 100, 100, 0]);
    assert_eq!(digest(Table::Maglev, &base), digest(Table::Maglev, &absent), "weight 0 is in no table");
    assert_eq!(Balancer::new(Method::RoundRobin, &base).expect("small pool").digest(), None);
}

/// A hash of the owners of many keys.
fn print_of(table: Table, weights: &[u32]) -> u64 {
    let mut hasher = SipHasher13::new();
    for owner in owners(members(weights), table, 50_000) {
        hasher.write(owner.as_bytes());
    }
    hasher.finish()
}

#[test]
fn tables_are_the_same_in_every_release_of_the_same_version() {
    // When this fails, keys get other owners after an upgrade, and instances of two releases disagree: raise VERSION
    // in hashed.rs, and say so to those who upgrade.
    assert_eq!(
        TABLES.map(|table| print_of(table, &[100, 50, 30, 7])),
        [10_949_780_379_150_100_843, 4_057_493_082_341_345_160]
    );
    let digest =
        |table| Balancer::new(hashing(table, None), &members(&[100, 50])).expect("fits").digest().map(str::to_owned);
    assert_eq!(TABLES.map(digest).map(Option::unwrap_or_default), ["c0c6dfcf6cae1d6e", "51c682b78601a4f4"]);
}

#[test]
fn a_member_that_is_down_moves_only_its_own_keys_and_gets_them_back() {
    for table in TABLES {
        let mut pool = Pool::new(hashing(table, None), members(&[100; 10]), 1);
        let keys: Vec<u64> = (0..20_000).map(next_random).collect();
        let before: Vec<MemberId> = keys.iter().map(|key| pool.pick(Some(*key))).collect();
        pool.takes[3] = false;
        let mut heirs = [0_u32; 10];
        for (key, owner) in keys.iter().zip(&before) {
            let without = pool.pick(Some(*key));
            if *owner == 3 {
                assert_ne!(without, 3);
                heirs[without] += 1;
            } else {
                assert_eq!(without, *owner, "{table:?}");
            }
        }
        assert!(heirs.iter().filter(|count| **count > 50).count() == 9, "{table:?}: all others inherit: {heirs:?}");
        pool.takes[3] = true;
        let after: Vec<MemberId> = keys.iter().map(|key| pool.pick(Some(*key))).collect();
        assert_eq!(before, after);
    }
}

#[test]
fn where_most_are_down_the_rest_share_by_weight_and_the_faithful_stay() {
    for table in TABLES {
        let mut pool = Pool::new(hashing(table, None), members(&vec![100; 600]), 1);
        pool.takes.fill(false);
        pool.takes[5..15].fill(true);
        let keys: Vec<u64> = (0..20_000).map(next_random).collect();
        let before: Vec<MemberId> = keys.iter().map(|key| pool.pick(Some(*key))).collect();
        for member in 5..15 {
            let share = before.iter().filter(|owner| **owner == member).count();
            assert!((1500..2500).contains(&share), "{table:?}: member {member} has {share} of 20000");
        }
        pool.takes[7] = false;
        for (key, owner) in keys.iter().zip(&before).filter(|(_, owner)| **owner != 7) {
            assert_eq!(pool.pick(Some(*key)), *owner, "{table:?}");
        }
    }
}

#[test]
fn a_member_too_light_for_any_slot_serves_when_it_is_the_last() {
    let mut weights = vec![1000; 600];
    weights[17] = 1;
    let slots = {
        let all = members(&weights);
        let mut named: Vec<(&str, u32)> = all.iter().map(|member| (&*member.name, member.weight)).collect();
        named.sort_unstable();
        let light = named.iter().position(|(name, _)| *name == "b17").expect("there");
        let table = Maglev::new(&named, 65_537);
        table.slots().iter().filter(|owner| usize::from(**owner) == light).count()
    };
    assert_eq!(slots, 0, "the premise");
    let mut pool = Pool::new(hashing(Table::Maglev, None), members(&weights), 1);
    pool.takes.fill(false);
    pool.takes[17] = true;
    assert_eq!(pool.pick(Some(12_345)), 17);
}

#[test]
fn a_dead_pool_is_not_searched_slot_by_slot() {
    for (table, count) in [(Table::Maglev, 600), (Table::Ring, 600), (Table::Maglev, 1), (Table::Ring, 1)] {
        let balancer = Balancer::new(hashing(table, None), &members(&vec![100; count])).expect("fits");
        let asked = Cell::new(0);
        let nobody = |_: MemberId| {
            asked.set(asked.get() + 1);
            None
        };
        let ask = Ask { tried: &Tried::default(), key: Some(12_345), random: 0, totals: &|_| Totals::default() };
        assert_eq!(balancer.next(&nobody, &ask, &mut balancer.turns(0)), None);
        assert!(asked.get() <= count + 64, "{table:?}, {count}: asked {} times", asked.get());
        let last = |id: MemberId| (id == count - 1).then_some(Load::warm(0));
        let found = balancer.next(&last, &ask, &mut balancer.turns(0)).map(|choice| choice.member);
        assert_eq!(found, Some(count - 1), "the only one is found however far away");
    }
}

#[test]
fn large_pools_get_the_large_table_and_huge_ones_are_refused_with_reasons() {
    assert_eq!([1, 655, 656, 6553].map(Maglev::size_for), [Ok(65_537), Ok(65_537), Ok(655_373), Ok(655_373)]);
    let refused = |table, count| {
        Balancer::new(hashing(table, None), &members(&vec![1; count])).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(
        refused(Table::Maglev, 6554).expect_err("too many"),
        "6554 backends are too many for consistent hashing: the largest table, 655373 slots, keeps shares within 1 % up to 6553"
    );
    assert_eq!(
        refused(Table::Ring, 6554).expect_err("too many"),
        "6554 backends are too many for consistent hashing: the largest ring, 1048576 points, keeps shares within a fifth up to 6553"
    );
    assert_eq!(refused(Table::Ring, 6553), Ok(()));
}

#[test]
fn points_of_a_ring_follow_weights_and_are_bounded_together() {
    assert_eq!(Ring::points_for(&[100, 100, 50]), Ok(vec![320, 320, 160]));
    assert_eq!(Ring::points_for(&[1000, 999]), Ok(vec![160_000, 159_840]));
    let weights: Vec<u32> = (0..1000).map(|id| 1000 - id % 3).collect();
    let points = Ring::points_for(&weights).expect("fits");
    let sum: u32 = points.iter().sum();
    assert!((1_047_000..=1_048_576).contains(&sum), "{sum}");
    assert!(weights.iter().zip(&points).all(|(weight, points)| {
        let exact = f64::from(*weight) * 1_048_576.0 / 999_001.0;
        (f64::from(*points) - exact).abs() < 2.0
    }));
    let light = Ring::points_for(&[&[u32::MAX; 10][..], &[1]].concat()).expect("fits");
    assert_eq!(light[10], 1, "at least one");
}
