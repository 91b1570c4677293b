//! Tests of named backends: names as written, services as branches, and what answers make of a set.

use super::*;

#[track_caller]
fn target(text: &str, want: Result<&str, TargetError>) {
    assert_eq!(Target::parse(text).map(|target| target.to_string()), want.map(str::to_owned), "{text}");
}

#[test]
fn names_are_read_and_normalised() {
    target("Shop.Example.TEST:443", Ok("shop.example.test:443"));
    target("redis:6379", Ok("redis:6379"));
    target("shop.example.test.:443", Ok("shop.example.test.:443"));
    target("bücher.test:443", Ok("xn--bcher-kva.test:443"));
    target("my_service:80", Ok("my_service:80"));
    target("_odd.test:80", Ok("_odd.test:80"));
    target("srv:_https._tcp.Shop.test", Ok("srv:_https._tcp.shop.test"));
    target("srv:_web._primary.service.consul", Ok("srv:_web._primary.service.consul"));
    target("srv:_https._tcp.bücher.test", Ok("srv:_https._tcp.xn--bcher-kva.test"));
}

#[test]
fn what_names_nothing_is_refused_with_the_reason() {
    let name = |why: &str| Err(TargetError::Name(why.into()));
    target("shop.test", Err(TargetError::Form));
    target("10.0.0.256:443", Err(TargetError::Form));
    target("10.0.0.1:99999", Err(TargetError::Form));
    target("::1:443", Err(TargetError::Form));
    target("2001:db8::beef:443", Err(TargetError::Form));
    target("http://shop.test:443", Err(TargetError::Form));
    target(":443", Err(TargetError::Form));
    target("shop.test:0", Err(TargetError::Port));
    target("shop.test:65536", Err(TargetError::Port));
    target("shop.test:https", Err(TargetError::Port));
    target("shop..test:443", name("has an empty label"));
    target("shop test:443", name("has a control character or a space"));
    target("*.shop.test:443", name("has a character that no host name has"));
    target("_https._tcp.shop.test:443", Err(TargetError::Prefix));
    target("srv:shop.test", Err(TargetError::Service));
    target("srv:_https.tcp.shop.test", Err(TargetError::Service));
    target("srv:_https._tcp", Err(TargetError::Service));
    target("srv:_._tcp.shop.test", Err(TargetError::Service));
    target("srv:_https._tcp.shop.test:443", Err(TargetError::ServicePort));
}

fn service(priority: u16, weight: u16, host: &str) -> Service {
    Service { priority, weight, port: 443, host: host.into() }
}

#[track_caller]
fn weights(given: &[u16], want: &[Option<u32>]) {
    let services = given.iter().enumerate().map(|(place, weight)| service(0, *weight, &format!("h{place:02}.test")));
    let (mut branches, left_out) = branches(services.collect());
    branches.sort_by(|a, b| a.host.cmp(&b.host));
    assert_eq!(branches.iter().map(|branch| branch.weight).collect::<Vec<_>>(), want, "{given:?}");
    assert_eq!(left_out, 0);
}

#[test]
fn weights_of_services_keep_their_ratios() {
    weights(&[0, 0], &[None, None]);
    weights(&[10, 60, 30], &[Some(10), Some(60), Some(30)]);
    weights(&[1000, 1], &[Some(1000), Some(1)]);
    // 0 is hardly any, not none and not as much as 1.
    weights(&[0, 1], &[Some(1), Some(1000)]);
    weights(&[0, 10, 30], &[Some(1), Some(330), Some(990)]);
    weights(&[65535, 32768, 1], &[Some(1000), Some(500), Some(1)]);
    weights(&[0, 65535], &[Some(1), Some(1000)]);
}

#[test]
fn each_priority_is_a_tier_the_lowest_the_first() {
    let (branches, _) = branches(vec![service(20, 1, "c.test"), service(10, 5, "a.test"), service(30, 0, "d.test")]);
    let tiers: Vec<(&str, Tier, Option<u32>)> = branches.iter().map(|b| (&*b.host, b.tier, b.weight)).collect();
    assert_eq!(
        tiers,
        [("a.test", Tier::FIRST, Some(5)), ("c.test", Tier::at(1), Some(1)), ("d.test", Tier::at(2), None)]
    );
}

#[test]
fn services_that_are_none_and_services_beyond_the_limit_are_left_out() {
    assert_eq!(branches(vec![service(0, 0, ".")]), (Vec::new(), 0));
    assert_eq!(branches(vec![Service { port: 0, ..service(0, 0, "a.test") }]), (Vec::new(), 0));
    let twice = branches(vec![service(0, 7, "a.test"), service(0, 9, "a.test")]);
    assert_eq!(twice.0.len(), 1, "the heavier one stays");
    assert_eq!(twice.0[0].weight, Some(9));
    let many = (0..10_000).map(|number| service(number / 40, number % 7, &format!("h{number}.test"))).collect();
    let (used, left_out) = branches(many);
    assert_eq!((used.len(), left_out), (services::MOST_SERVICES, 10_000 - services::MOST_SERVICES));
    assert_eq!(used.iter().filter(|branch| branch.tier == Tier::FIRST).count(), 40, "the best are kept");
}

fn host() -> Vec<Branch> {
    vec![Branch::of_host("a.test".into(), 443)]
}

fn records(addresses: &[&str], ttl_s: u32) -> Reply<IpAddr> {
    Reply::Records(addresses.iter().map(|address| address.parse().expect("an address")).collect(), ttl_s)
}

fn nothing() -> Reply<IpAddr> {
    Reply::Nothing("no such name")
}

fn failed() -> Reply<IpAddr> {
    Reply::Failed("timed out".into())
}

fn take(known: &mut Known, v4: Reply<IpAddr>, v6: Reply<IpAddr>, now_ms: u64) -> Outcome {
    known.take(&host(), vec![("a.test".into(), HostReply { v4, v6 })], u32::MAX, now_ms)
}

#[track_caller]
fn holds(known: &Known, want: &[&str]) {
    let addresses: Vec<String> = known.set().iter().map(|found| found.address.to_string()).collect();
    assert_eq!(addresses, want);
}

#[test]
fn a_name_is_asked_again_after_its_time_to_live_within_bounds() {
    for (v4_s, v6_s, wait_ms) in [
        (30, 60, 30_000),
        (60, 30, 30_000),
        (0, 9, 1000),
        (86_400, 900, 300_000),
        (1, 1, 1000),
        (u32::MAX, 300, 300_000),
    ] {
        let mut known = Known::default();
        let outcome = take(&mut known, records(&["10.0.0.1"], v4_s), records(&["2001:db8::1"], v6_s), 5000);
        assert_eq!(outcome.next_ms, 5000 + wait_ms, "{v4_s} {v6_s}");
        assert_eq!((outcome.result, outcome.problem, known.stale_since_ms()), (LookupResult::Ok, None, None));
    }
}

#[test]
fn both_families_are_one_set_in_order_each_address_once() {
    let mut known = Known::default();
    let v6 = records(&["2001:db8::2", "::ffff:10.0.0.1"], 9);
    take(&mut known, records(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], 9), v6, 0);
    holds(&known, &["10.0.0.1:443", "10.0.0.2:443", "[2001:db8::2]:443"]);
}

#[test]
fn failures_and_empty_answers_keep_the_last_good_set() {
    for (v4, v6, result) in [
        (nothing(), nothing(), LookupResult::Empty),
        (failed(), failed(), LookupResult::Failed),
        (nothing(), failed(), LookupResult::Failed),
        (failed(), nothing(), LookupResult::Failed),
        (records(&[], 9), records(&[], 9), LookupResult::Empty),
    ] {
        let mut known = Known::default();
        take(&mut known, records(&["10.0.0.1"], 9), nothing(), 0);
        let outcome = take(&mut known, v4.clone(), v6.clone(), 9000);
        holds(&known, &["10.0.0.1:443"]);
        assert_eq!((outcome.result, known.stale_since_ms()), (result, Some(9000)), "{v4:?} {v6:?}");
        assert!(outcome.problem.is_some(), "{v4:?} {v6:?}");
        // And again later: since when it is stale does not move.
        take(&mut known, v4, v6, 20_000);
        assert_eq!(known.stale_since_ms(), Some(9000));
        let outcome = take(&mut known, records(&["10.0.0.9"], 9), nothing(), 30_000);
        holds(&known, &["10.0.0.9:443"]);
        assert_eq!((outcome.problem, known.stale_since_ms()), (None, None));
    }
}

#[test]
fn retries_back_off_within_bounds_and_begin_anew_after_an_answer() {
    let mut known = Known::default();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        pauses.push(take(&mut known, failed(), failed(), 100).next_ms - 100);
    }
    assert_eq!(pauses, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    take(&mut known, records(&["10.0.0.1"], 60), nothing(), 100);
    assert_eq!(take(&mut known, failed(), failed(), 100).next_ms, 1100);
    known.failures = u32::MAX - 1;
    assert_eq!(take(&mut known, failed(), failed(), 100).next_ms, 30_100);
}

#[test]
fn a_family_without_an_answer_keeps_its_part_of_the_set() {
    let mut known = Known::default();
    take(&mut known, records(&["10.0.0.1"], 60), records(&["2001:db8::1"], 60), 0);
    let outcome = take(&mut known, records(&["10.0.0.2"], 60), failed(), 60_000);
    holds(&known, &["10.0.0.2:443", "[2001:db8::1]:443"]);
    assert_eq!((outcome.result, outcome.next_ms), (LookupResult::Failed, 61_000));
    assert_eq!(known.stale_since_ms(), Some(60_000), "a part of the set is old");
    // An answer that there are none does remove it.
    take(&mut known, records(&["10.0.0.2"], 60), nothing(), 61_000);
    holds(&known, &["10.0.0.2:443"]);
}

#[test]
fn a_family_that_never_had_an_answer_is_not_missed() {
    let mut known = Known::default();
    let outcome = take(&mut known, records(&["10.0.0.1"], 60), failed(), 0);
    holds(&known, &["10.0.0.1:443"]);
    assert_eq!((outcome.result, outcome.next_ms, known.stale_since_ms()), (LookupResult::Ok, 60_000, None));
    assert_eq!(outcome.problem.as_deref(), Some("a.test: timed out"), "it is said all the same");
}

#[test]
fn hosts_of_a_service_fail_one_by_one() {
    let (branches, _) = branches(vec![service(1, 60, "a.test"), service(1, 40, "b.test"), service(2, 0, "c.test")]);
    let reply = |host: &str, v4| (Arc::from(host), HostReply { v4, v6: nothing() });
    let mut known = Known::default();
    let first = vec![
        reply("a.test", records(&["10.0.0.1"], 60)),
        reply("b.test", records(&["10.0.0.2", "10.0.0.3"], 60)),
        // The same address as a backup, too: it is a primary one.
        reply("c.test", records(&["10.0.0.9", "10.0.0.1"], 60)),
    ];
    let outcome = known.take(&branches, first, 10, 0);
    assert_eq!(outcome.next_ms, 10_000, "the service's own time to live counts");
    let set: Vec<(String, Tier, Option<u32>)> =
        known.set().iter().map(|found| (found.address.ip().to_string(), found.tier, found.weight)).collect();
    let want = [
        ("10.0.0.1".to_owned(), Tier::FIRST, Some(60)),
        ("10.0.0.2".to_owned(), Tier::FIRST, Some(40)),
        ("10.0.0.3".to_owned(), Tier::FIRST, Some(40)),
        ("10.0.0.9".to_owned(), Tier::at(1), None),
    ];
    assert_eq!(set, want);
    let second = vec![
        reply("a.test", failed()),
        reply("b.test", records(&["10.0.0.2"], 60)),
        reply("c.test", records(&["10.0.0.9"], 60)),
    ];
    known.take(&branches, second, 10, 10_000);
    holds(&known, &["10.0.0.1:443", "10.0.0.2:443", "10.0.0.9:443"]);
    let outcome = known.fail(LookupResult::Empty, "no such name".into(), 20_000);
    holds(&known, &["10.0.0.1:443", "10.0.0.2:443", "10.0.0.9:443"]);
    assert_eq!((outcome.next_ms, known.stale_since_ms()), (22_000, Some(10_000)));
}

#[test]
fn addresses_beyond_the_limit_are_left_out_and_counted() {
    let many: Vec<IpAddr> = (0..10_000_u32).rev().map(|number| IpAddr::from(number.to_be_bytes())).collect();
    let mut known = Known::default();
    let outcome = take(&mut known, Reply::Records(many, 60), nothing(), 0);
    assert_eq!((known.set().len(), outcome.left_out), (MOST_ADDRESSES, 10_000 - MOST_ADDRESSES));
    assert_eq!(known.set()[255].address.ip(), IpAddr::from([0, 0, 0, 255]), "the lowest, so that they stay the same");
}

#[test]
fn an_unchanged_answer_is_the_same_set() {
    let mut known = Known::default();
    take(&mut known, records(&["10.0.0.1", "10.0.0.2"], 60), nothing(), 0);
    let before = Arc::clone(known.set());
    take(&mut known, records(&["10.0.0.2", "10.0.0.1"], 30), nothing(), 60_000);
    assert!(Arc::ptr_eq(&before, known.set()));
}
