//! What clients alone cannot bring about: a backend that turns hellos away, as servers do with clients of their own kind,
//! is not ejected for it, whatever one client tries. With scripted and with real servers.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

mod support;

use std::net::SocketAddr;

use serde_json::json;
use support::scripted::Client;
use support::servers::openssl::OpenSsl;
use support::servers::{Certificate, Nginx, finish, program};
use support::speaker::{SERVER_HELLO, Says, Speaker, TWO, ask, ask_from, backend, events, hello, wait_for_answers};
use support::{Daemon, eventually, own_loopback};

/// Connections that real servers refuse.
const COUNT: u64 = 15;

#[test]
fn one_source_never_ejects_and_several_do_once_at_most() {
    let address = own_loopback();
    let (a, _b) = (Speaker::start((address, 1001), Says::Hello), Speaker::start((address, 1002), Says::Hello));
    // Nobody is silent here: a moment without an answer is the machine's.
    let body = format!("{}eject = \"150ms\"\n", TWO.replace("60ms", "3s"));
    let daemon = Daemon::start_on(address, &body, "", |command| command);
    let refusals = [
        Says::Alert(40),
        Says::Alert(70),
        Says::Alert(80),
        Says::Alert(112),
        Says::Alert(120),
        Says::Closes,
        Says::Resets,
    ];
    let counted = || {
        let answers = backend(&daemon, "a")["first_answers"].clone();
        ["alert", "closed", "reset"].iter().map(|answer| answers[answer].as_u64().unwrap()).sum::<u64>()
    };
    for says in refusals {
        a.tell(says);
        for last in 0..=142 {
            // One network: the sources differ in their last byte.
            let _ = ask_from([127, 100, 1, 1 + last % 5], daemon.at(443), &hello());
        }
    }
    eventually("all are counted", || (counted() == 7 * 143).then_some(()));
    assert_eq!(backend(&daemon, "a")["ejections"], 0);
    assert_eq!(a.accepted(), 7 * 143, "all went there");

    // Another network, and a third.
    a.tell(Says::Alert(112));
    ask(&daemon, 2);
    eventually("it is counted", || (counted() == 7 * 143 + 1).then_some(()));
    assert_eq!(backend(&daemon, "a")["ejections"], 0);
    ask(&daemon, 3);
    let ejected = eventually("ejected", || events(&daemon, "ejected").into_iter().next());
    let detail = ejected["detail"].as_str().unwrap();
    let want = "hellos of different clients were refused, the last: alert unrecognized_name (112) instead of a ServerHello after ";
    assert!(detail.starts_with(want), "{detail}");

    // It proves well: that was a mistake, and it is not made again.
    a.tell(Says::Hello);
    eventually("returned", || events(&daemon, "returned").into_iter().next());
    let before = a.accepted();
    assert_eq!(ask(&daemon, 4).unwrap(), SERVER_HELLO);
    assert_eq!(a.accepted(), before + 1);
    wait_for_answers(&daemon, "a", "server_hello", 1);
    a.tell(Says::Alert(40));
    let before = counted();
    for network in 0..40 {
        ask(&daemon, network);
    }
    eventually("all are counted", || (counted() == before + 40).then_some(()));
    assert_eq!(backend(&daemon, "a")["ejections"], 1);
    // What no client can bring about counts as before.
    a.tell(Says::Nothing);
    let mut waiting: Vec<Client> = (0..3).map(|_| Client::from([127, 100, 1, 1], daemon.at(443))).collect();
    for client in &mut waiting {
        client.say(&hello());
    }
    eventually("ejected again", || (backend(&daemon, "a")["ejections"] == 2).then_some(()));
}

#[test]
fn clients_that_real_servers_refuse_do_not_eject_them() {
    let address = own_loopback();
    let certificate = Certificate::for_name("a.test");
    let nginx = Nginx::start((address, 1001).into(), "one", &certificate);
    let (path, key) = (certificate.path().display().to_string(), certificate.key().display().to_string());
    let strict = ["-servername", "a.test", "-servername_fatal", "-cert2", &path, "-key2", &key, "-www"];
    let openssl = OpenSsl::start((address, 1003).into(), &certificate, &strict);
    let pool = |name: &str, at: SocketAddr| {
        format!(
            "[pool.{name}]\n[[pool.{name}.backend]]\nname = \"{name}\"\naddress = \"{at}\"\n[[pool.{name}.backend]]\n\
             name = \"{name}-other\"\naddress = \"{{ip}}:1002\"\nbackup = true\n[pool.{name}.passive]\nfailures = 3\n"
        )
    };
    let body = format!(
        "[[listener]]\nname = \"nginx\"\nbind = [\"{{ip}}:443\"]\npool = \"nginx\"\n\
         [[listener]]\nname = \"openssl\"\nbind = [\"{{ip}}:444\"]\npool = \"openssl\"\n{}{}",
        pool("nginx", nginx.address),
        pool("openssl", openssl.address)
    );
    let _other = Speaker::start((address, 1002), Says::Hello);
    let daemon = Daemon::start_on(address, &body, "", |command| command);
    let connect = |port: u16, arguments: &[&str]| {
        let mut client = program("/usr/bin/openssl");
        client.args(["s_client", "-connect", &daemon.at(port).to_string()]).args(arguments);
        let output = finish(&mut client);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    for _ in 0..COUNT {
        let (well, said) = connect(443, &["-tls1", "-cipher", "DEFAULT@SECLEVEL=0", "-servername", "a.test"]);
        assert!(!well && said.contains("alert protocol version"), "{said}");
        let (well, said) = connect(444, &["-servername", "other.test"]);
        assert!(!well && said.contains("unrecognized name"), "{said}");
    }
    for name in ["nginx", "openssl"] {
        wait_for_answers(&daemon, name, "alert", COUNT);
        let row = backend(&daemon, name);
        assert_eq!((&row["ejections"], &row["state"]), (&json!(0), &json!("unchecked")), "{name}");
    }
    for (port, name) in [(443, "nginx"), (444, "openssl")] {
        let (well, said) = connect(port, &["-servername", "a.test"]);
        assert!(well, "{said}");
        wait_for_answers(&daemon, name, "server_hello", 1);
    }
}
