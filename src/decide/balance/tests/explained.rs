//! Explanations agree with what would be picked, give the reason of every other member, and change nothing.

use super::*;

#[test]
fn the_order_is_that_of_the_picks_as_each_fails() {
    for method in all_methods() {
        let mut all = members(&[100, 50, 100, 0, 100, 20]);
        all[4].tier = Tier::BACKUP;
        let mut pool = Pool::new(method, all, 21);
        pool.active = vec![4, 2, 3, 0, 0, 1];
        pool.takes[2] = false;
        let explained = pool.explain(Some(77));
        assert_eq!(explained, pool.explain(Some(77)), "{method:?}: nothing has changed");
        // As in the data plane, with the same random numbers.
        let mut random = pool.dice;
        for choice in &explained.order {
            let (tried, totals) = (pool.tried.clone(), pool.totals());
            let ask = Ask { tried: &tried, key: Some(77), random, totals: &totals };
            let load = |id: MemberId| pool.takes[id].then(|| Load::warm(pool.active[id]));
            assert_eq!(pool.balancer.next(&load, &ask, &mut pool.turns), Some(*choice), "{method:?}");
            pool.tried.insert(choice.member);
            random = next_random(random);
        }
        let mut order: Vec<MemberId> = explained.order.iter().map(|choice| choice.member).collect();
        assert_eq!(order[3], 4, "{method:?}: the backup last");
        order.sort_unstable();
        assert_eq!(order, [0, 1, 4, 5], "{method:?}");
    }
}

#[test]
fn every_other_member_has_its_reason() {
    let mut all = members(&[100, 100, 100, 100, 0, 100]);
    all[5].tier = Tier::BACKUP;
    let mut pool = Pool::new(hashing(Table::Maglev, Some(1.0)), all, 22);
    pool.takes[3] = false;
    let owner = pool.pick(Some(5));
    assert!(owner < 3);
    pool.active[owner] = 9;
    pool.tried.insert((owner + 1) % 3);
    let explained = pool.explain(Some(5));
    let third = (owner + 2) % 3;
    // 10 connections over three that take them: 4 each.
    assert_eq!(explained.order[0], Choice { member: third, cap: Some(4) });
    let mut want = vec![
        (owner, PassedOver::AboveBound { load: 9, cap: 4 }),
        ((owner + 1) % 3, PassedOver::Tried),
        (3, PassedOver::NotTaking),
        (4, PassedOver::WeightZero),
        (5, PassedOver::LaterTier(Tier::BACKUP)),
    ];
    want.sort_by_key(|(member, _)| *member);
    assert_eq!(explained.passed_over, want);
    // The owner is tried after all once the third has failed, without a cap, and then the backup.
    let order: Vec<(MemberId, bool)> =
        explained.order.iter().map(|choice| (choice.member, choice.cap.is_some())).collect();
    assert_eq!(order, [(third, true), (owner, false), (5, true)]);
}

#[test]
fn members_behind_the_first_come_later_and_those_of_later_tiers_say_so() {
    let mut all = members(&[100, 100, 100, 100]);
    all[2].tier = Tier::at(1);
    all[3].tier = Tier::BACKUP;
    let mut pool = Pool::new(Method::LeastConnections, all, 23);
    pool.active = vec![1, 0, 0, 5];
    assert_eq!(
        pool.explain(None).passed_over,
        [(0, PassedOver::Later), (2, PassedOver::LaterTier(Tier::at(1))), (3, PassedOver::LaterTier(Tier::BACKUP))]
    );
    pool.takes[0] = false;
    pool.takes[1] = false;
    let explained = pool.explain(None);
    assert_eq!(explained.order[0].member, 2);
    let backup = (3, PassedOver::LaterTier(Tier::BACKUP));
    assert_eq!(explained.passed_over, [(0, PassedOver::NotTaking), (1, PassedOver::NotTaking), backup]);
}

#[test]
fn large_pools_are_explained_as_far_as_tries_go() {
    let pool = Pool::new(hashing(Table::Ring, None), members(&[100; 50]), 24);
    let explained = pool.explain(Some(1));
    assert_eq!(explained.order.len(), MAX_TRIES);
    assert_eq!(explained.passed_over.len(), 49);
}
