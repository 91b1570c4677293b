//! Counts held against exact ones: what is promised of every stream, random, skewed, or made to push names out.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::*;
use crate::decide::balance::next_random;

type Fixed = BuildHasherDefault<DefaultHasher>;

/// What a stream comes to when everything is remembered.
#[derive(Default)]
struct Exact {
    total: u64,
    without: u64,
    counts: HashMap<String, u64>,
}

#[derive(Default)]
struct Both {
    sketch: Busiest<Fixed>,
    exact: Exact,
}

impl Both {
    fn count(&mut self, name: Option<&str>) {
        self.sketch.count(name);
        self.exact.total += 1;
        match name {
            Some(name) => *self.exact.counts.entry(name.to_owned()).or_default() += 1,
            None => self.exact.without += 1,
        }
    }
}

#[track_caller]
fn check(summary: &Summary, exact: &Exact) {
    assert_eq!((summary.total, summary.without), (exact.total, exact.without));
    let named = exact.total - exact.without;
    let listed: HashMap<&str, &Named> = summary.names.iter().map(|named| (named.name.as_str(), named)).collect();
    assert_eq!(listed.len(), summary.names.len(), "each name is listed once");
    assert!(summary.least <= named / MOST as u64, "least {} of {named}", summary.least);
    for (name, count) in &exact.counts {
        match listed.get(name.as_str()) {
            Some(Named { count: most, error, .. }) => {
                assert!(most - error <= *count && count <= most, "{name}: {count} in {most} - {error}");
                assert!(*error <= named / MOST as u64, "{name}: error {error} of {named}");
            }
            None => assert!(*count <= summary.least, "{name} came {count} times and is not listed"),
        }
    }
    assert!(summary.names.iter().all(|named| exact.counts.contains_key(&named.name)), "no name is made up");
}

/// A number below `bound`, small ones more often the higher `skew` is.
fn skewed(random: &mut u64, bound: u64, skew: u32) -> u64 {
    *random = next_random(*random);
    let unit = (*random >> 11) as f64 / (1_u64 << 53) as f64;
    (unit.powi(skew as i32) * bound as f64) as u64
}

#[test]
fn few_names_are_counted_exactly() {
    let mut both = Both::default();
    let mut random = 1;
    for _ in 0..10_000 {
        let number = skewed(&mut random, MOST as u64, 2);
        both.count((number > 3).then(|| format!("{number}.test")).as_deref());
    }
    let summary = both.sketch.summary();
    check(&summary, &both.exact);
    assert_eq!(summary.least, 0);
    assert!(summary.names.iter().all(|named| named.error == 0));
    let (names, other) = summary.clone().busiest(5);
    let mut exact: Vec<u64> = both.exact.counts.values().copied().collect();
    exact.sort_unstable_by(|one, other| other.cmp(one));
    assert_eq!(names.iter().map(|named| named.count).collect::<Vec<_>>(), exact[..5]);
    assert_eq!(other, exact[5..].iter().sum::<u64>());
    assert_eq!(summary.busiest(MOST).1, 0);
}

#[test]
fn bounds_hold_for_streams_of_every_skew() {
    for (seed, skew) in (1..).zip([1, 2, 3, 5, 8, 13]) {
        for names in [50, 101, 1000, 100_000] {
            let mut both = Both::default();
            let mut random = seed;
            for _ in 0..20_000 {
                both.count(Some(&skewed(&mut random, names, skew).to_string()));
            }
            check(&both.sketch.summary(), &both.exact);
        }
    }
}

#[test]
fn a_name_that_never_comes_again_does_not_push_out_a_busy_one() {
    let mut both = Both::default();
    for number in 0..100_000 {
        both.count(Some(&format!("{number}.attack.test")));
        // Each has three times its share of one in MOST.
        if number % 8 == 0 {
            both.count(Some(["one.test", "two.test", "three.test"][number / 8 % 3]));
        }
    }
    let summary = both.sketch.summary();
    check(&summary, &both.exact);
    let (names, other) = summary.busiest(3);
    let mut first: Vec<&str> = names.iter().map(|named| &*named.name).collect();
    first.sort_unstable();
    assert_eq!(first, ["one.test", "three.test", "two.test"]);
    assert!((100_000..103_500).contains(&other), "{other} are of others, or not surely of these");
}

#[test]
fn names_that_wait_for_their_turn_to_be_pushed_out_are_listed_when_they_are_many() {
    // Each in turn, so that each new one replaces the one that was just not yet counted again.
    let mut both = Both::default();
    for round in 0..500 {
        for number in 0..=MOST {
            both.count(Some(&format!("{number}.test")));
        }
        if round % 100 == 0 {
            check(&both.sketch.summary(), &both.exact);
        }
    }
    check(&both.sketch.summary(), &both.exact);
}

#[test]
fn what_workers_counted_apart_adds_up() {
    let mut parts: Vec<Both> = (0..4).map(|_| Both::default()).collect();
    let mut random = 7;
    for number in 0..60_000_u64 {
        let name = skewed(&mut random, 3000, 4);
        // The first gets few names, the last has no more than a sketch holds.
        let (part, name) = match name % 7 {
            0 => (0, name % 500),
            1 => (3, name % 90),
            _ => (1 + (number % 2) as usize, name),
        };
        parts[part].count((number % 11 != 0).then(|| name.to_string()).as_deref());
    }
    let mut exact = Exact::default();
    for part in &parts {
        exact.total += part.exact.total;
        exact.without += part.exact.without;
        for (name, count) in &part.exact.counts {
            *exact.counts.entry(name.clone()).or_default() += count;
        }
    }
    let summaries: Vec<Summary> = parts.iter().map(|part| part.sketch.summary()).collect();
    check(&Summary::add_up(&summaries), &exact);
    let mut alone = Summary::add_up(&summaries[..1]);
    let mut first = summaries[0].clone();
    for summary in [&mut alone, &mut first] {
        summary.names.sort_by(|one, other| one.name.cmp(&other.name));
    }
    assert_eq!(alone, first, "one alone adds up to itself");
}

#[test]
fn memory_is_bounded_however_long_names_are() {
    let mut sketch = Busiest::<Fixed>::default();
    for number in 0..10_000 {
        sketch.count(Some(&format!("{number:0>width$}", width = 1 + number * 7 % 1000)));
    }
    assert_eq!(sketch.slots.len(), MOST);
    let bytes: usize = sketch.slots.iter().map(|slot| slot.name.capacity()).sum();
    assert!(bytes <= MOST * 2 * LONGEST, "{bytes} bytes of names");
    assert_eq!(sketch.table.len(), MOST);
    let long = "ä".repeat(200);
    sketch.count(Some(&long));
    assert!(sketch.slots.iter().any(|slot| slot.name == long[..LONGEST - 1]), "cut between characters");
}

/// Each worker's counts go on in another process, one after the other into one table.
#[test]
fn what_was_counted_elsewhere_is_taken_with_what_is_promised_of_it() {
    for seed in 0..20 {
        let (mut random, mut sum) = (seed, Exact::default());
        let mut heir = Busiest::<Fixed>::default();
        for part in 0..3 {
            let mut both = Both::default();
            for _ in 0..3000 {
                let name = format!("name-{}", skewed(&mut random, 400 + part * 100, 3));
                both.count(if random % 7 == 0 { None } else { Some(&name) });
            }
            heir.take(&both.sketch.summary());
            sum.total += both.exact.total;
            sum.without += both.exact.without;
            for (name, count) in both.exact.counts {
                *sum.counts.entry(name).or_default() += count;
            }
            check(&heir.summary(), &sum);
        }
        // And it goes on counting.
        let mut both = Both { sketch: heir, exact: sum };
        for _ in 0..3000 {
            let name = format!("name-{}", skewed(&mut random, 300, 2));
            both.count(Some(&name));
        }
        check(&both.sketch.summary(), &both.exact);
    }
}
