//! Names that lead elsewhere, with a real DNS server (Knot): the change comes into force like a reload, without one.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::Instant;

use crate::support::named::{POOL, answers, global, hello, start, wait_for_members};
use crate::support::servers::Clients;
use crate::support::servers::knot::Knot;
use crate::support::{Backend, Daemon, connect, eventually, exchange, own_loopback};
use serde_json::json;

#[test]
fn changes_are_taken_when_the_time_to_live_ends_and_sessions_run_on() {
    let [dns, a, b] = [(); 3].map(|()| own_loopback());
    let _backends = [Backend::echo((a, 1001)), Backend::echo((b, 1001))];
    let knot = Knot::start(dns, &format!("web A {a}"));
    let daemon = start(&knot, POOL);
    let mut session = connect(daemon.at(443));
    let mut echo = vec![0; hello().len()];
    session.write_all(&hello()).unwrap();
    session.read_exact(&mut echo).unwrap();

    knot.serve(&format!("web A {a}\nweb A {b}"));
    let (first, second) = (format!("{a}:1001"), format!("{b}:1001"));
    wait_for_members(&daemon, &[&first, &second]);
    let kept = daemon.json("/v1/backends");
    let row = kept.as_array().unwrap().iter().find(|row| row["backend"] == *first).unwrap();
    assert_eq!((&row["active"], &row["total"]), (&json!(1), &json!(1)), "a member that stays keeps its counts");

    knot.serve(&format!("web A {b}"));
    wait_for_members(&daemon, &[&second]);
    session.write_all(&hello()).unwrap();
    session.read_exact(&mut echo).expect("removed-sessions is keep");
    assert_eq!(daemon.metric("sluice_config_generation"), 1.0, "a name that leads elsewhere is no reload");
    assert_eq!(daemon.metric("sluice_reloads_total{result=\"ok\"}"), 0.0);
}

#[test]
fn sessions_of_a_removed_address_end_where_the_configuration_says_so() {
    let [dns, a, b] = [(); 3].map(|()| own_loopback());
    let _backends = [Backend::echo((a, 1001)), Backend::echo((b, 1001))];
    let knot = Knot::start(dns, &format!("web A {a}"));
    let global = format!("{}removed-sessions = \"close\"\n", global(&knot));
    let daemon = Daemon::start_with(POOL, &global, |command| command);
    let mut session = connect(daemon.at(443));
    let mut echo = vec![0; hello().len()];
    session.write_all(&hello()).unwrap();
    session.read_exact(&mut echo).unwrap();
    knot.serve(&format!("web A {b}"));
    assert!(session.read(&mut echo).is_err(), "it is reset");
    assert_eq!(daemon.wait_for_records(1)[0]["end"], "drained");
}

#[test]
fn no_connection_fails_while_the_set_changes() {
    let dns = own_loopback();
    let addresses: Vec<Ipv4Addr> = (0..4).map(|_| own_loopback()).collect();
    let names = ["a", "b", "c", "d"];
    let _backends: Vec<Backend> =
        addresses.iter().zip(names).map(|(address, name)| Backend::naming((*address, 1001), name)).collect();
    let zone = |present: &[usize]| {
        let records = present.iter().map(|which| format!("web A {}", addresses[*which]));
        records.collect::<Vec<_>>().join("\n")
    };
    let knot = Knot::start(dns, &zone(&[0]));
    let body = format!("{POOL}[pool.shop.health]\ncheck = \"tcp\"\ninterval = \"200ms\"\n");
    let daemon = start(&knot, &body);
    let listener = daemon.at(443);
    let clients = Clients::start(4, move || match exchange(listener, &hello()) {
        Ok(answer) if answer.len() == 1 => Ok(String::from_utf8_lossy(&answer).into_owned()),
        Ok(answer) => Err(format!("answer {}", answer.escape_ascii())),
        Err(error) => Err(error.to_string()),
    });
    for present in [&[0, 1][..], &[1, 2, 3], &[3], &[0, 1, 2, 3], &[2]] {
        knot.serve(&zone(present));
        let want: Vec<String> = present.iter().map(|which| format!("{}:1001", addresses[*which])).collect();
        wait_for_members(&daemon, &want.iter().map(String::as_str).collect::<Vec<_>>());
        let since = Instant::now();
        for which in present {
            clients.wait_for(5, since, names[*which]);
        }
    }
    let attempts = clients.stop();
    let failed: Vec<&String> = attempts.iter().filter_map(|attempt| attempt.answer.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), attempts.len(), failed.first());
    assert!(attempts.len() > 80, "{} connections while the set changed five times", attempts.len());
}

#[test]
fn names_of_a_reload_are_resolved_before_it_is_in_force() {
    let [dns, a, b] = [(); 3].map(|()| own_loopback());
    let _backends = [Backend::naming((a, 1001), "a"), Backend::naming((b, 1001), "b")];
    let knot = Knot::start(dns, &format!("web A {a}\nnew A {b}"));
    let daemon = start(&knot, POOL);
    daemon.write_config(&POOL.replace("web.shop", "new.shop"), &global(&knot));
    daemon.reload();
    assert_eq!(answers(&daemon).into_keys().collect::<Vec<_>>(), ["b"], "at once, without a moment of no backend");
    let names = daemon.json("/v1/status")["names"].clone();
    assert_eq!(names.as_array().unwrap().len(), 1, "the old name is forgotten: {names}");
    // A reload that fails forgets its new names, and keeps the old ones.
    let bad =
        format!("{POOL}\n[[listener]]\nname = \"bad\"\nprotocol = \"tcp\"\nbind = [\"{a}:1001\"]\npool = \"shop\"");
    daemon.write_config(&bad, &global(&knot));
    assert_eq!(daemon.cli(&["reload", "--wait"]).status.code(), Some(1));
    assert_eq!(daemon.json("/v1/status")["names"][0]["name"], "new.shop.test:1001");
    assert_eq!(daemon.json("/v1/status")["names"].as_array().unwrap().len(), 1);
}

#[test]
fn names_that_change_together_are_one_change() {
    let [dns, a, b] = [(); 3].map(|()| own_loopback());
    let zone = |to: Ipv4Addr| (0..60).map(|number| format!("n{number} A {to}")).collect::<Vec<_>>().join("\n");
    let knot = Knot::start(dns, &zone(a));
    // A pool each, so that every name has a member of its own.
    let pools: Vec<String> =
        (0..60).map(|number| format!("[pool.p{number}]\nbackends = [\"n{number}.shop.test:1001\"]")).collect();
    let body = format!("[[listener]]\nname = \"tls\"\nbind = [\"{{ip}}:443\"]\npool = \"p0\"\n{}", pools.join("\n"));
    let daemon = start(&knot, &body);
    knot.serve(&zone(b));
    let moved = format!("{b}:1001");
    eventually("all have moved", || {
        let list = daemon.json("/v1/backends");
        list.as_array()?.iter().all(|row| row["backend"] == *moved).then_some(())
    });
    let changes = || daemon.log().matches("\"pools renewed\"").count();
    let changes = eventually("the change is in the log", || Some(changes()).filter(|count| *count > 0));
    assert!(changes <= 6, "{changes} changes for 60 names");
}

#[test]
fn pools_whose_members_stay_keep_their_ready_connections() {
    let [dns, a, b, c] = [(); 4].map(|()| own_loopback());
    let _backends = [Backend::naming((a, 1001), "a"), Backend::naming((b, 1001), "b")];
    let other = Backend::naming((c, 1001), "c");
    let knot = Knot::start(dns, &format!("web A {a}"));
    let body = format!(
        "{POOL}[[listener]]\nname = \"other\"\nbind = [\"{{ip}}:444\"]\npool = \"other\"\n\
         [pool.other]\nbackends = [\"{c}:1001\"]\npreconnect = 1\npreconnect-idle = \"10m\"\n"
    );
    let daemon = start(&knot, &body);
    let ready = format!("sluice_backend_ready_connections{{pool=\"other\",backend=\"{c}:1001\"}}");
    let workers = eventually("ready connections", || Some(daemon.metric(&ready)).filter(|count| *count >= 1.0));
    let before = other.accepted();
    knot.serve(&format!("web A {b}"));
    wait_for_members(&daemon, &[&format!("{b}:1001"), &format!("{c}:1001")]);
    assert_eq!(answers(&daemon).into_keys().collect::<Vec<_>>(), ["b"], "every worker has the new pools");
    assert!(daemon.metric(&ready) >= workers);
    assert_eq!(
        daemon
            .metric(&format!("sluice_backend_ready_total{{pool=\"other\",backend=\"{c}:1001\",result=\"discarded\"}}")),
        0.0
    );
    assert!(other.accepted() <= before.max(2), "no new ones were needed");
}
