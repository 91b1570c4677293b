//! The balancing methods against their definitions and published figures. Figures that take many large tables are in
//! `tests/balancing.rs`.

mod bounded;
mod explained;
mod hashed;
mod keys;
mod least;
mod round_robin;
mod slow_start;

use super::*;

/// Members `b0`, `b1`, ... with these weights; none is a backup.
fn members(weights: &[u32]) -> Vec<Member> {
    let member =
        |(id, weight): (usize, &u32)| Member { name: format!("b{id}").into(), weight: *weight, tier: Tier::FIRST };
    weights.iter().enumerate().map(member).collect()
}

fn hashing(table: Table, factor: Option<f64>) -> Method {
    let bounded_load = factor.map(|factor| LoadFactor::new(factor).expect("a factor"));
    Method::ConsistentHash(Hashing { table, bounded_load, seed: Seed::default() })
}

fn all_methods() -> [Method; 7] {
    [
        Method::LeastConnections,
        Method::RoundRobin,
        Method::RandomTwo,
        hashing(Table::Maglev, None),
        hashing(Table::Ring, None),
        hashing(Table::Maglev, Some(1.25)),
        hashing(Table::Ring, Some(1.25)),
    ]
}

/// A pool whose connections are counted, as the data plane does it with one worker.
struct Pool {
    members: Vec<Member>,
    balancer: Balancer,
    turns: Turns,
    active: Vec<u32>,
    takes: Vec<bool>,
    ramps: Vec<Ramp>,
    tried: Tried,
    dice: u64,
}

impl Pool {
    fn new(method: Method, members: Vec<Member>, seed: u64) -> Self {
        let balancer = Balancer::new(method, &members).expect("small pool");
        let count = members.len();
        Self {
            turns: balancer.turns(0),
            balancer,
            active: vec![0; count],
            takes: vec![true; count],
            ramps: vec![Ramp::FULL; count],
            tried: Tried::default(),
            dice: seed,
            members,
        }
    }

    fn random(&mut self) -> u64 {
        self.dice = next_random(self.dice);
        self.dice
    }

    /// The sums over members that take connections.
    fn totals(&self) -> impl Fn(Tier) -> Totals + use<> {
        let member = |id: usize| (self.members[id].tier, self.active[id], self.members[id].weight);
        let takers: Vec<_> = (0..self.members.len()).filter(|id| self.takes[*id]).map(member).collect();
        move |wanted| {
            let of_tier = || takers.iter().filter(|(tier, ..)| *tier == wanted);
            Totals {
                active: of_tier().map(|(_, active, _)| u64::from(*active)).sum(),
                weight: of_tier().map(|(.., weight)| u64::from(*weight)).sum(),
            }
        }
    }

    fn next(&mut self, key: Option<u64>) -> Option<Choice> {
        let (random, totals) = (self.random(), self.totals());
        let ask = Ask { tried: &self.tried, key, random, totals: &totals };
        let load = |id: MemberId| self.takes[id].then(|| Load { active: self.active[id], ramp: self.ramps[id] });
        self.balancer.next(&load, &ask, &mut self.turns)
    }

    fn explain(&self, key: Option<u64>) -> Explained {
        let ask = Ask { tried: &self.tried, key, random: self.dice, totals: &self.totals() };
        let load = |id: MemberId| self.takes[id].then(|| Load { active: self.active[id], ramp: self.ramps[id] });
        self.balancer.explain(&load, &ask, &self.turns)
    }

    /// The next member's number, and nothing counted.
    fn pick(&mut self, key: Option<u64>) -> MemberId {
        self.next(key).expect("somebody takes it").member
    }

    /// One connection that stays.
    fn arrive(&mut self, key: Option<u64>) -> Choice {
        let choice = self.next(key).expect("somebody takes it");
        self.active[choice.member] += 1;
        choice
    }

    /// That many connections that stay, with random keys; the loads then.
    fn fill(mut self, count: usize) -> Vec<u32> {
        for _ in 0..count {
            let key = self.random();
            self.arrive(Some(key));
        }
        self.active
    }
}

#[test]
fn tried_unusable_and_weightless_members_are_passed_over_and_backups_come_last() {
    for method in all_methods() {
        for key in [Some(7), None] {
            let mut all = members(&[100, 100, 0, 100]);
            all[3].tier = Tier::BACKUP;
            let mut pool = Pool::new(method, all, 7);
            pool.takes[1] = false;
            for (number, want) in [Some(0), Some(3), None].into_iter().enumerate() {
                let member = pool.next(key).map(|choice| choice.member);
                assert_eq!(member, want, "{method:?}: the only usable one, then the backup, then nobody: {number}");
                if let Some(member) = member {
                    pool.tried.insert(member);
                }
            }
        }
    }
}

#[test]
fn tiers_serve_one_after_the_other_and_by_the_method_within_each() {
    for method in all_methods() {
        let mut all = members(&[100; 9]);
        // Not in the order of the members, and with tiers between them that have nobody.
        for (member, tier) in all.iter_mut().zip([3, 3, 7, 0, 0, 7, 64, 3, 64]) {
            member.tier = Tier::at(tier);
        }
        let mut pool = Pool::new(method, all, 8);
        for (number, want) in [vec![3, 4], vec![0, 1, 7], vec![2, 5], vec![6, 8]].into_iter().enumerate() {
            let mut seen: Vec<MemberId> = (0..200).map(|key| pool.pick(Some(next_random(key)))).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, want, "{method:?}: tier {number}");
            for member in want {
                pool.takes[member] = false;
            }
        }
        assert_eq!(pool.next(Some(1)), None, "{method:?}");
        pool.takes[5] = true;
        assert_eq!(pool.pick(Some(1)), 5, "{method:?}: back at once");
    }
    assert!(Tier::BACKUP > Tier::at(Tier::COUNT - 2) && Tier::at(500) == Tier::BACKUP && !Tier::FIRST.is_backup());
}

#[test]
fn a_pool_without_members_or_weights_has_nobody() {
    for method in all_methods() {
        for weights in [&[][..], &[0, 0]] {
            assert_eq!(Pool::new(method, members(weights), 1).next(Some(1)), None, "{method:?}");
        }
    }
}

#[test]
fn one_member_gets_everything() {
    for method in all_methods() {
        assert_eq!(Pool::new(method, members(&[3]), 1).fill(10), [10], "{method:?}");
    }
}

#[test]
fn names_are_those_of_the_configuration() {
    let names: Vec<&str> = all_methods()[..4].iter().map(|method| method.name()).collect();
    assert_eq!(names, ["least-connections", "round-robin", "random-two", "consistent-hash"]);
    assert_eq!([Table::Maglev, Table::Ring].map(Table::name), ["maglev", "ring"]);
    let parts = KeyPart::ALL.map(KeyPart::name);
    assert_eq!(parts, ["source", "source-prefix", "sni", "alpn", "destination"]);
}
