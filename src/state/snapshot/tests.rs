//! What a generation says of its pools.

use super::*;
use crate::config::{Sources, check};
use crate::state::{Operators, Resolution};

fn build(backups: [bool; 4], before: Option<&Snapshot>) -> Snapshot {
    let backend = |(number, backup): (usize, bool)| {
        format!("[[pool.p.backend]]\naddress = \"127.0.0.1:{}\"\nbackup = {backup}\n", 1 + number)
    };
    let backends: String = backups.into_iter().enumerate().map(backend).collect();
    let text = format!(
        "[[listener]]\nname = \"l\"\nbind = [\"127.0.0.1:443\"]\npool = \"p\"\n[pool.p]\n\
         balance = \"consistent-hash\"\n{backends}"
    );
    let config = check(&Sources::from_text("test", &text)).0.expect("a good configuration");
    let supplement = Supplement { names: &Resolution::Sets(HashMap::new()), operators: &Operators::default() };
    Snapshot::build(Arc::new(config), before, &supplement, 1).expect("a small pool")
}

#[test]
fn sums_of_a_tier_follow_members_that_change_theirs_with_sessions_open() {
    let first = build([false, false, true, true], None);
    let pool = &first.pools[0];
    for (backend, sessions) in pool.backends.iter().zip([5, 6, 70, 80]) {
        for _ in 0..sessions {
            backend.active.take_over();
            pool.state.places.taken.take_over();
        }
    }
    let active = |snapshot: &Snapshot, tier| snapshot.pools[0].totals(tier, 0).active;
    assert_eq!((active(&first, Tier::FIRST), active(&first, Tier::BACKUP)), (11, 150));
    assert_eq!(pool.totals(Tier::FIRST, 1).active, 10, "without the one that is asked for");
    assert_eq!(active(&first, Tier::at(1)), 0);
    let second = build([true, false, false, true], Some(&first));
    assert_eq!((active(&second, Tier::FIRST), active(&second, Tier::BACKUP)), (76, 85));
}
