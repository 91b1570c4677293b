//! The check `postgres` against PostgreSQL itself, in every state that it can be in, and against servers that are none.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::support::authority::Authority;
use crate::support::checked::{Checked, phases};
use crate::support::servers::postgres::{Postgres, psql};
use crate::support::servers::{free_port, printed};
use crate::support::{Backend, Daemon, connect, eventually, own_loopback};

/// A check with these keys.
fn postgres(keys: &str) -> String {
    format!("check = \"postgres\"\n{keys}")
}

/// A backend that answers what comes first with `bytes`, and reads on.
fn answering(bytes: &'static [u8]) -> Backend {
    Backend::start(free_port(own_loopback()), move |mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) && stream.write_all(bytes).is_ok() {
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    })
}

#[track_caller]
fn sql(server: &Postgres, statement: &str) {
    printed(&mut psql(server.address, "disable", statement));
}

#[test]
fn a_server_is_judged_by_what_it_says_to_a_start_up_packet() {
    let server = Postgres::start(free_port(own_loopback()), "one");
    sql(&server, "CREATE ROLE sluice LOGIN");
    sql(&server, "CREATE ROLE full LOGIN CONNECTION LIMIT 0");
    sql(&server, "CREATE ROLE locked LOGIN PASSWORD 'secret'");
    let authority = Authority::new("authority");
    server.use_certificate(&authority.issue("db.test", 100));
    server.ask_password_of("locked");
    eventually("the server has taken both settings", || {
        (server.said().matches("reloading").count() == 2).then_some(())
    });
    let trusted = format!("ca = \"{}\"\nsni = \"db.test\"\n", authority.path().display());
    let in_tls = |keys: &str| postgres(&format!("tls = \"require\"\ndatabase = \"postgres\"\n{keys}"));
    let checks = [
        postgres("database = \"postgres\""),
        postgres("user = \"locked\""),
        in_tls(&trusted),
        in_tls("verify = \"none\"\nuser = \"locked\""),
        // From here on each one is a line in the server's log.
        postgres("user = \"nobody\""),
        postgres(""),
        postgres("user = \"full\"\ndatabase = \"postgres\""),
        in_tls(""),
    ];
    let checks: Vec<(SocketAddr, &str)> = checks.iter().map(|check| (server.address, check.as_str())).collect();

    let quiet = Checked::start(own_loopback(), &checks[..4]);
    let before = server.said();
    let well = quiet.expect(0, "ok", "ready", "started a session of user sluice");
    assert_eq!(phases(&well), ["connect", "start-up"]);
    let evidence = well["phases"][1]["evidence"].as_str().unwrap();
    assert!(evidence.contains("sent 39 bytes") && evidence.contains("got "), "{evidence}");
    quiet.expect(1, "ok", "asks_password", "(method 10)");
    let well = quiet.expect(2, "ok", "ready", "started a session");
    assert_eq!(phases(&well), ["connect", "ssl-request", "handshake", "start-up"]);
    assert!(well["certificate"]["expires"].is_string(), "{well:#}");
    quiet.expect(3, "ok", "asks_password", "(method 10)");
    assert_eq!(server.said(), before, "checks of a server that is well leave nothing in its log");

    let noisy = Checked::start(own_loopback(), &checks[4..]);
    noisy.expect(0, "ok", "refused_user", "nobody\\\" does not exist (SQLSTATE 28000)");
    noisy.expect(1, "ok", "refused_user", "sluice\\\" does not exist (SQLSTATE 3D000)");
    noisy.expect(2, "failed", "full", "(SQLSTATE 53300)");
    noisy.expect(3, "failed", "certificate_issuer", "issuer is unknown");
    assert_ne!(server.said(), before, "the comparison above can fail");
}

#[test]
fn a_server_that_recovers_or_is_gone_is_not_well() {
    let mut server = Postgres::start(free_port(own_loopback()), "one");
    let check = postgres("user = \"postgres\"");
    let in_tls = postgres("user = \"postgres\"\ntls = \"require\"\nverify = \"none\"");
    let tcp = "check = \"tcp\"".to_owned();
    let checks: Vec<(SocketAddr, &str)> =
        [&check, &in_tls, &tcp].iter().map(|check| (server.address, check.as_str())).collect();
    let checked = Checked::start(own_loopback(), &checks);
    for at in [0, 1] {
        checked.expect(at, "ok", "ready", "started a session");
    }
    server.kill();
    for at in [0, 1] {
        checked.expect(at, "failed", "refused", "connect to ");
    }
    server.start_recovering();
    for at in [0, 1] {
        checked.expect(at, "failed", "not_now", "(SQLSTATE 57P03)");
    }
    // What a bare connect makes of the same server.
    checked.expect(2, "ok", "connected", "connected");
}

#[test]
fn what_is_not_a_server_with_tls_is_told() {
    let answers: [(&[u8], &str, &str); 5] = [
        (b"N", "no_tls", "answered SSLRequest with N"),
        (b"S\x16\x03", "surplus", "2 bytes in plain text"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not_postgres", "answered SSLRequest with 28 bytes"),
        (b"E\0\0\0\x18SFATAL\0C53300\0Mfull\0\0", "full", "full (SQLSTATE 53300)"),
        (b"Ecould not fork\0", "error", "could not fork"),
    ];
    let backends: Vec<Backend> = answers.iter().map(|(bytes, ..)| answering(bytes)).collect();
    let check = postgres("tls = \"require\"");
    let checks: Vec<(SocketAddr, &str)> = backends.iter().map(|backend| (backend.address, check.as_str())).collect();
    let checked = Checked::start(own_loopback(), &checks);
    for (at, (_, reason, detail)) in answers.iter().enumerate() {
        let verdict = checked.expect(at, "failed", reason, detail);
        assert_eq!(phases(&verdict), ["connect", "ssl-request"]);
    }
}

#[test]
fn sessions_of_a_server_that_is_only_full_are_left_alone() {
    const PASSWORD: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    const FULL: &[u8] = b"E\0\0\0\x18SFATAL\0C53300\0Mfull\0\0";
    const BROKEN: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    let address = own_loopback();
    let says = Arc::new(Mutex::new(PASSWORD));
    let said = Arc::clone(&says);
    let _checked = Backend::start((address, 1002), move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(*said.lock().unwrap());
    });
    let _server = Backend::echo((address, 1001));
    let body = format!(
        "[[listener]]\nname = \"l\"\nprotocol = \"tcp\"\nbind = [\"{{ip}}:443\"]\npool = \"p\"\n[pool.p]\non-down = \"close\"\n\
         [[pool.p.backend]]\nname = \"b\"\naddress = \"{{ip}}:1001\"\n[pool.p.health]\nport = 1002\ninterval = \"50ms\"\n\
         fast-interval = \"50ms\"\ndown-interval = \"50ms\"\nfall = 1\nrise = 100\n{}\n",
        postgres("")
    );
    let daemon = Daemon::start_on(address, &body, "", |command| command);
    daemon.wait_for_state("b", "up");
    let mut session = connect(daemon.at(443));
    let mut echoes = || session.write_all(b"here").and_then(|()| session.read_exact(&mut [0; 4]));
    echoes().unwrap();
    *says.lock().unwrap() = FULL;
    daemon.wait_for_state("b", "down");
    let failed = || daemon.metric("sluice_backend_checks_total{pool=\"p\",backend=\"b\",result=\"failed\"}");
    let well = || daemon.metric("sluice_backend_checks_total{pool=\"p\",backend=\"b\",result=\"ok\"}");
    let before = failed();
    eventually("many more checks find it full", || (failed() >= before + 20.0).then_some(()));
    echoes().unwrap();
    // About to be well, and full again: it was never worse than full.
    for _ in 0..3 {
        *says.lock().unwrap() = PASSWORD;
        let before = well();
        eventually("one finds a place", || (well() > before).then_some(()));
        *says.lock().unwrap() = FULL;
        let before = failed();
        eventually("none does", || (failed() > before).then_some(()));
    }
    echoes().unwrap();
    // Down already, and now for a reason that concerns the session.
    *says.lock().unwrap() = BROKEN;
    eventually("it is reset", || echoes().err());
    assert_eq!(daemon.wait_for_records(1)[0]["end"], "backend_down");
}

#[test]
fn hostile_answers_are_bounded() {
    let answers: [(&[u8], &str); 3] = [
        (b"HTTP/1.1 400\r\n\r\n", "not_postgres"),
        (b"R\xff\xff\xff\xff", "not_postgres"),
        (b"R\0\0\0\x08\0\0", "timeout"),
    ];
    let mut backends: Vec<Backend> = answers.iter().map(|(bytes, _)| answering(bytes)).collect();
    backends.push(Backend::start(free_port(own_loopback()), |mut stream| {
        // Letting in, and then parameters without end.
        let _ = stream.write_all(b"R\0\0\0\x08\0\0\0\0");
        while stream.write_all(&b"S\0\0\0\x08a\0b\0".repeat(100)).is_ok() {}
    }));
    let check = postgres("timeout = \"2s\"");
    let checks: Vec<(SocketAddr, &str)> = backends.iter().map(|backend| (backend.address, check.as_str())).collect();
    let checked = Checked::start(own_loopback(), &checks);
    for (at, (_, reason)) in answers.iter().enumerate() {
        checked.expect(at, "failed", reason, "");
    }
    checked.expect(3, "failed", "too_long", "over 16384 bytes");
}
