//! The check `redis` against Redis itself: with and without a password, inside TLS, and while it does not serve.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::net::SocketAddr;

use crate::support::authority::Authority;
use crate::support::checked::{Checked, phases};
use crate::support::servers::free_port;
use crate::support::servers::redis::Redis;
use crate::support::{TempDir, eventually, own_loopback};

#[test]
fn passwords_are_told_apart_and_never_shown() {
    let dir = TempDir::new();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        format!("password-file = \"{}\"", path.display())
    };
    let (right, wrong) = (file("right", "s3cret\n"), file("wrong", "other"));
    let open = Redis::start(free_port(own_loopback()), &[]);
    let locked = Redis::start(free_port(own_loopback()), &["--requirepass", "s3cret"]);
    for command in
        [&["ACL", "SETUSER", "checker", "on", ">s3cret", "+ping"][..], &["ACL", "SETUSER", "mute", "on", ">s3cret"]]
    {
        assert_eq!(locked.ask(&[&["-a", "s3cret", "--no-auth-warning"], command].concat()), "OK");
    }
    let checks = [
        (open.address, String::new()),
        (locked.address, String::new()),
        (locked.address, right.clone()),
        (locked.address, wrong),
        (locked.address, format!("user = \"checker\"\n{right}")),
        (locked.address, format!("user = \"mute\"\n{right}")),
        (open.address, right),
    ];
    let checks: Vec<(SocketAddr, String)> =
        checks.into_iter().map(|(address, keys)| (address, format!("check = \"redis\"\n{keys}"))).collect();
    let checks: Vec<(SocketAddr, &str)> = checks.iter().map(|(address, check)| (*address, check.as_str())).collect();
    let checked = Checked::start(own_loopback(), &checks);
    let well = checked.expect(0, "ok", "pong", "answered +PONG");
    assert_eq!(phases(&well), ["connect", "ping"]);
    checked.expect(1, "ok", "noauth", "NOAUTH Authentication required");
    let well = checked.expect(2, "ok", "pong", "answered +PONG");
    assert_eq!(phases(&well), ["connect", "auth", "ping"]);
    let evidence = well["phases"][1]["evidence"].as_str().unwrap();
    assert!(evidence.starts_with("sent AUTH (password not shown); got 5 bytes"), "{evidence}");
    checked.expect(3, "failed", "wrongpass", "WRONGPASS");
    checked.expect(4, "ok", "pong", "answered +PONG");
    checked.expect(5, "ok", "noperm", "NOPERM");
    checked.expect(6, "failed", "error", "without any password configured");
    let dump = checked.daemon.get("/v1/config").map(|(_, body)| body).unwrap_or_default();
    for shown in [checked.daemon.log(), checked.daemon.stderr(), dump] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[test]
fn a_server_inside_tls_is_reached_with_its_certificate() {
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    let certificate = authority.issue("redis.test", 100);
    let client = authority.issue("sluice.test", 100);
    let start = |clients: &str| {
        let address = free_port(own_loopback());
        let files = [certificate.path(), certificate.key(), authority.path()].map(|path| path.display().to_string());
        let port = address.port().to_string();
        let arguments = [
            ["--port", "0"],
            ["--tls-port", &port],
            ["--tls-cert-file", &files[0]],
            ["--tls-key-file", &files[1]],
            ["--tls-ca-cert-file", &files[2]],
            ["--tls-auth-clients", clients],
        ];
        Redis::start(address, &arguments.concat())
    };
    let (open, strict) = (start("no"), start("yes"));
    let check = |authority: &Authority, keys: &str| {
        let ca = authority.path();
        format!("check = \"redis\"\ntls = \"require\"\nsni = \"redis.test\"\nca = \"{}\"\n{keys}", ca.display())
    };
    let shown = format!("certificate = \"{}\"\nkey = \"{}\"", client.path().display(), client.key().display());
    let checks = [
        (open.address, check(&authority, "")),
        (open.address, check(&other, "")),
        (strict.address, check(&authority, &shown)),
        (strict.address, check(&authority, "")),
        (open.address, "check = \"redis\"".to_owned()),
    ];
    let checks: Vec<(SocketAddr, &str)> = checks.iter().map(|(address, check)| (*address, check.as_str())).collect();
    let checked = Checked::start(own_loopback(), &checks);
    let well = checked.expect(0, "ok", "pong", "answered +PONG");
    assert_eq!(phases(&well), ["connect", "handshake", "ping"]);
    assert!(well["certificate"]["expires"].is_string(), "{well:#}");
    checked.expect(1, "failed", "certificate_issuer", "issuer is unknown");
    checked.expect(2, "ok", "pong", "answered +PONG");
    checked.expect(3, "failed", "alert", "TLS alert 116");
    // In plain text on the port for TLS.
    let plain = checked.probe(4);
    assert!(["reset", "closed"].contains(&plain["reason"].as_str().unwrap()), "{plain:#}");
}

#[test]
fn a_server_that_does_not_serve_is_not_well() {
    let nobody = free_port(own_loopback());
    let (host, port) = (nobody.ip().to_string(), nobody.port().to_string());
    let orphan = Redis::start(
        free_port(own_loopback()),
        &["--replicaof", &format!("{host} {port}"), "--replica-serve-stale-data", "no"],
    );
    let mut loading = Redis::start(free_port(own_loopback()), &["--enable-debug-command", "yes"]);
    assert_eq!(loading.ask(&["DEBUG", "POPULATE", "20000"]), "OK");
    assert_eq!(loading.ask(&["SAVE"]), "OK");
    loading.stop();
    // Half a second at least for what it saved, and a look at its connections now and then.
    let slow = ["--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024"];
    let checks = [(orphan.address, "check = \"redis\""), (loading.address, "check = \"redis\"")];
    let checked = Checked::start(own_loopback(), &checks);
    checked.expect(0, "failed", "masterdown", "MASTERDOWN");
    checked.expect(1, "failed", "refused", "connect to ");
    loading.start_again(&slow);
    checked.expect(1, "failed", "loading", "LOADING");
    eventually("Redis has loaded what it saved", || (checked.probe(1)["result"] == "ok").then_some(()));
    checked.expect(1, "ok", "pong", "answered +PONG");
}
