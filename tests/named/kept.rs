//! Backends by name, with a real DNS server (Knot): what members a name has, and what becomes of them when the server
//! says nothing or dies. How changes come into force is in `names_in_force.rs`; answers of a server that means harm in
//! `names_hostile.rs`; decisions by themselves in `src/decide/names`.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use crate::support::named::{POOL, answers, hello, members, name, start, start_alone, wait_for_members};
use crate::support::servers::knot::Knot;
use crate::support::{Backend, Daemon, eventually, exchange, own_loopback};
use serde_json::{Value, json};

#[test]
fn all_addresses_of_both_families_are_members() {
    let [dns, a, b] = [(); 3].map(|()| own_loopback());
    let v6 = Backend::naming(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0)), "six");
    let port = v6.address.port();
    let _backends = [Backend::naming((a, port), "a"), Backend::naming((b, port), "b")];
    let knot = Knot::start(dns, &format!("web A {a}\nweb A {b}\nweb AAAA ::1"));
    let daemon = start_alone(&knot, &POOL.replace("1001", &port.to_string()));
    wait_for_members(&daemon, &[&format!("{a}:{port}"), &format!("{b}:{port}"), &format!("[::1]:{port}")]);
    let want: BTreeMap<String, u32> = [("a", 4), ("b", 4), ("six", 4)].map(|(k, v)| (k.to_owned(), v)).into();
    assert_eq!(answers(&daemon), want);
    let name = name(&daemon, &format!("web.shop.test:{port}"));
    assert_eq!(name["addresses"].as_array().unwrap().len(), 3, "{name}");
    assert!(name["resolved_at"].is_string() && name["next_at"].is_string(), "{name}");
    assert!(name["stale_since"].is_null() && name["error"].is_null(), "{name}");
    let row = &daemon.json("/v1/backends")[0];
    assert_eq!((row["resolved_from"].as_str(), &row["stale_since"]), (name["name"].as_str(), &Value::Null));
    assert_eq!(daemon.metric(&format!("sluice_name_addresses{{name=\"web.shop.test:{port}\"}}")), 3.0);
    assert_eq!(daemon.metric(&format!("sluice_name_stale{{name=\"web.shop.test:{port}\"}}")), 0.0);
}

#[test]
fn a_dead_server_and_answers_without_addresses_leave_the_last_good_set() {
    let [dns, a, b] = [(); 3].map(|()| own_loopback());
    let _backends = [Backend::naming((a, 1001), "a"), Backend::naming((b, 1001), "b")];
    let mut knot = Knot::start(dns, &format!("web A {a}"));
    let daemon = start(&knot, POOL);
    let both = "web.shop.test:1001";
    let stale = |daemon: &Daemon, why: &str| {
        eventually(&format!("stale: {why}"), || {
            let name = name(daemon, both);
            let is_stale = name["stale_since"].is_string() && name["error"].as_str()?.contains(why);
            is_stale.then_some(name)
        })
    };
    let fresh = |daemon: &Daemon| {
        eventually("fresh again", || name(daemon, both)["stale_since"].is_null().then_some(()));
    };
    // No such name, then no records of these types.
    for (records, why) in [("other A 127.0.0.1", "no such name"), ("web TXT empty", "no records of this type")] {
        knot.serve(records);
        let name = stale(&daemon, why);
        assert_eq!(name["addresses"], json!([format!("{a}:1001")]));
        assert_eq!(answers(&daemon).into_keys().collect::<Vec<_>>(), ["a"]);
        knot.serve(&format!("web A {a}"));
        fresh(&daemon);
    }
    knot.kill();
    let name = stale(&daemon, "");
    assert_eq!(name["addresses"], json!([format!("{a}:1001")]));
    assert_eq!(answers(&daemon).into_keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(daemon.metric(&format!("sluice_name_stale{{name=\"{both}\"}}")), 1.0);
    let lookups = |result| daemon.metric(&format!("sluice_name_lookups_total{{name=\"{both}\",result=\"{result}\"}}"));
    assert!(lookups("ok") >= 1.0 && lookups("empty") >= 2.0 && lookups("failed") >= 1.0);
    for (command, want) in [("status", "\tstale_since\t"), ("backends", " stale since ")] {
        let shown = String::from_utf8(daemon.cli(&[command]).stdout).unwrap();
        assert!(shown.contains(want), "{command}:\n{shown}");
    }
    daemon.wait_for_log("name cannot be resolved, its last good addresses stay");
    // A reload while nobody answers changes nothing of it.
    daemon.reload();
    assert_eq!(answers(&daemon).into_keys().collect::<Vec<_>>(), ["a"]);
    let _knot = knot.revive(&format!("web A {b}"));
    wait_for_members(&daemon, &[&format!("{b}:1001")]);
    fresh(&daemon);
}

#[test]
fn a_name_may_appear_after_the_start() {
    let [dns, a] = [(); 2].map(|()| own_loopback());
    let _backend = Backend::naming((a, 1001), "a");
    let knot = Knot::start(dns, "");
    let daemon = start(&knot, POOL);
    wait_for_members(&daemon, &[]);
    let name = name(&daemon, "web.shop.test:1001");
    assert!(name["resolved_at"].is_null() && name["error"] == "web.shop.test: no such name", "{name}");
    exchange(daemon.at(443), &hello()).expect("a refusal");
    assert_eq!(daemon.wait_for_records(1)[0]["end"], "no_backend");
    let explained = daemon.ask("route", &json!({ "listener": "tls" }));
    assert_eq!(
        explained["result"]["others"],
        json!([{ "backend": "web.shop.test:1001", "why": "unresolved: no good answer yet" }])
    );
    knot.serve(&format!("web A {a}"));
    wait_for_members(&daemon, &[&format!("{a}:1001")]);
    assert_eq!(answers(&daemon).into_keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn without_a_resolver_the_daemon_starts_within_its_bound() {
    let dns = own_loopback();
    // Bound and silent: nobody answers, and nobody refuses either.
    let _silent = std::net::UdpSocket::bind((dns, 5353)).unwrap();
    let begun = Instant::now();
    let daemon = Daemon::start_with(POOL, &format!("resolvers = [\"{dns}:5353\"]\n"), |command| command);
    assert!(begun.elapsed().as_secs_f64() < 6.0, "3 s for names: {:?}", begun.elapsed());
    assert!(name(&daemon, "web.shop.test:1001")["resolved_at"].is_null());
}

#[test]
fn services_have_priorities_and_weights() {
    let [dns, a, b, c] = [(); 4].map(|()| own_loopback());
    let [one, _two, _three] = [("a", a, 1001), ("b", b, 1002), ("c", c, 1003)]
        .map(|(name, address, port)| Backend::naming((address, port), name));
    let zone = format!(
        "_https._tcp SRV 10 30 1001 a\n_https._tcp SRV 10 10 1002 b\n_https._tcp SRV 20 0 1003 c\n\
         a A {a}\nb A {b}\nc A {c}"
    );
    let knot = Knot::start(dns, &zone);
    let body = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "shop"
[pool.shop]
balance = "round-robin"
connect-tries = 3
[[pool.shop.backend]]
address = "srv:_https._tcp.shop.test"
name = "shop"
"#;
    let daemon = start_alone(&knot, body);
    let want = [(format!("shop@{a}:1001"), 30), (format!("shop@{b}:1002"), 10), (format!("shop@{c}:1003"), 100)];
    assert_eq!(members(&daemon), want.clone().into());
    let shares: BTreeMap<String, u32> = [("a".to_owned(), 9), ("b".to_owned(), 3)].into();
    assert_eq!(answers(&daemon), shares, "three to one, and no backup");
    // Names of members are good for commands.
    let drained = daemon.cli(&["drain", &format!("shop/shop@{b}:1002")]);
    assert!(drained.status.success(), "{drained:?}");
    drop(one);
    assert_eq!(answers(&daemon), [("c".to_owned(), 12)].into(), "the backup, once no primary is left");
    // The record of a moves to another port, and its weight and b's priority change.
    knot.serve(&format!("_https._tcp SRV 5 0 1004 a\n_https._tcp SRV 6 7 1002 b\na A {a}\nb A {b}"));
    wait_for_members(&daemon, &[&format!("shop@{a}:1004"), &format!("shop@{b}:1002")]);
    daemon.wait_for_state(&format!("shop@{b}:1002"), "draining");
    let _moved = Backend::naming((a, 1004), "a");
    assert_eq!(answers(&daemon), [("a".to_owned(), 12)].into());
}

#[test]
fn priorities_are_used_in_their_order_and_the_configured_backup_last() {
    let [dns, a, b, c, spare] = [(); 5].map(|()| own_loopback());
    let mut servers: Vec<Option<Backend>> = [("a", a, 1001), ("b", b, 1002), ("c", c, 1003), ("spare", spare, 1004)]
        .map(|(name, address, port)| Some(Backend::naming((address, port), name)))
        .into();
    let records = |a_priority: u16| {
        format!(
            "_https._tcp SRV {a_priority} 1 1001 a\n_https._tcp SRV 20 0 1002 b\n_https._tcp SRV 300 0 1003 c\n\
             a A {a}\nb A {b}\nc A {c}"
        )
    };
    let knot = Knot::start(dns, &records(1));
    let body = format!(
        "[[listener]]\nname = \"tls\"\nbind = [\"{{ip}}:443\"]\npool = \"shop\"\n[pool.shop]\nconnect-tries = 4\n\
         balance = \"consistent-hash\"\nhash.bounded-load = 1.25\n\
         [[pool.shop.backend]]\nname = \"spare\"\naddress = \"{spare}:1004\"\nbackup = true\n\
         [[pool.shop.backend]]\nname = \"site\"\naddress = \"srv:_https._tcp.shop.test\"\n"
    );
    let daemon = start_alone(&knot, &body);
    let tiers = || {
        let rows = daemon.json("/v1/backends");
        let tier = |row: &Value| (row["backend"].as_str().unwrap().to_owned(), row["tier"].as_u64().unwrap());
        rows.as_array().unwrap().iter().map(tier).collect::<BTreeMap<_, _>>()
    };
    let [at_a, at_b, at_c] = [(a, 1001), (b, 1002), (c, 1003)].map(|(ip, port)| format!("site@{ip}:{port}"));
    let all = |tiers: [u64; 3]| {
        let named = [&at_a, &at_b, &at_c].into_iter().cloned().zip(tiers);
        named.chain([("spare".to_owned(), 64)]).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(tiers(), all([0, 1, 2]));
    let route = String::from_utf8(daemon.cli(&["route", "--listener", "tls"]).stdout).unwrap();
    for why in [format!("{at_b}: tier 1: one of an earlier tier serves"), format!("{at_c}: tier 2: one of")] {
        assert!(route.contains(&why), "{route}");
    }
    assert!(route.contains("spare: backup"), "{route}");
    assert_eq!(answers(&daemon).into_keys().collect::<Vec<_>>(), ["a"]);
    // A priority that changes takes effect without a new member.
    knot.serve(&records(40));
    eventually("a behind b", || (tiers() == all([1, 0, 2])).then_some(()));
    // The fall of each is noticed by nobody.
    for name in ["b", "a", "c", "spare"] {
        assert_eq!(answers(&daemon), [(name.to_owned(), 12)].into(), "those before are gone");
        let place = ["a", "b", "c", "spare"].iter().position(|known| *known == name).unwrap();
        servers[place] = None;
    }
}

#[test]
fn two_names_with_one_address_are_one_member() {
    let [dns, a, b] = [(); 3].map(|()| own_loopback());
    let knot = Knot::start(dns, &format!("web A {a}\nother A {a}\nother A {b}\nalias CNAME web"));
    let body = format!(
        "{}\n[[pool.shop.backend]]\nname = \"fixed\"\naddress = \"{b}:1001\"\nweight = 7\n",
        POOL.replace(
            "\"web.shop.test:1001\"",
            "\"web.shop.test:1001\", \"other.shop.test:1001\", \"alias.shop.test.:1001\""
        )
    );
    let daemon = start(&knot, &body);
    assert_eq!(members(&daemon), [(format!("{a}:1001"), 100), ("fixed".to_owned(), 7)].into());
}

#[test]
fn names_and_hosts_of_the_system_are_used_without_resolvers() {
    // Everywhere in /etc/hosts or known without it (RFC 6761 6.3): no server is asked.
    let local = Backend::naming((Ipv4Addr::LOCALHOST, 0), "localhost");
    let port = local.address.port();
    let daemon = Daemon::start(&POOL.replace("web.shop.test:1001", &format!("localhost:{port}")));
    assert!(members(&daemon).contains_key(&format!("127.0.0.1:{port}")), "{:?}", members(&daemon));
}

#[test]
fn addresses_without_a_source_of_their_family_are_left_out() {
    let [dns, a] = [(); 2].map(|()| own_loopback());
    let knot = Knot::start(dns, &format!("web A {a}\nweb AAAA ::1"));
    let daemon = start(&knot, &format!("{POOL}source-address = \"127.0.0.1\"\n"));
    assert_eq!(members(&daemon).into_keys().collect::<Vec<_>>(), [format!("{a}:1001")]);
}

#[test]
fn routes_on_a_file_name_what_only_a_daemon_can_resolve() {
    let dir = crate::support::TempDir::new();
    let path = dir.path().join("a.toml");
    std::fs::write(&path, POOL.replace("{ip}", "127.0.0.1").replace("\"web", "\"127.0.0.1:1001\", \"web")).unwrap();
    let output = crate::support::sluice().args(["route", "--listener", "tls", "-c"]).arg(&path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("backend   127.0.0.1:1001"), "{text}");
    assert!(text.contains("not       web.shop.test:1001: unresolved: offline"), "{text}");
}

#[test]
fn the_quick_start_takes_names() {
    let backend = Backend::naming((Ipv4Addr::LOCALHOST, 0), "q");
    let listener = SocketAddr::from((own_loopback(), 443));
    let dir = crate::support::TempDir::new();
    let mut command = crate::support::sluice();
    command.arg("--socket").arg(dir.path().join("s.sock")).args(["run", "--listen", &listener.to_string()]);
    command.args(["--to", &format!("localhost:{}", backend.address.port())]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let _daemon = crate::support::servers::Process::spawn(&mut command, nix::sys::signal::Signal::SIGTERM);
    let answer = eventually("an answer", || exchange(listener, &hello()).ok().filter(|answer| !answer.is_empty()));
    assert_eq!(answer, b"q");
}
