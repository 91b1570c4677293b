//! The check `mysql` against MariaDB itself, which must never be led to lock us out, and against servers that answer as
//! MySQL does. Needs root: for connections from 127.0.0.1 MariaDB does not count.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::checked::{Checked, phases};
use crate::support::namespace::{NEAR, Namespace};
use crate::support::servers::free_port;
use crate::support::servers::mariadb::MariaDb;
use crate::support::{Backend, eventually, own_loopback};

const CHECKS: u64 = 1000;

/// Connections that ended early, as MariaDB counts them for each address.
const COUNTED: &str = "SELECT COALESCE(SUM(sum_connect_errors), 0), COALESCE(SUM(count_host_blocked_errors), 0) \
                       FROM performance_schema.host_cache";

#[test]
fn a_thousand_checks_are_no_reason_to_lock_us_out() {
    let space = Namespace::new();
    space.add_near();
    space.enter(|| {
        let server = MariaDb::start((NEAR, 3306).into(), &format!("{NEAR} sluice.test\n"), &["--max-connect-errors=3"]);
        server.ask("CREATE USER sluice@'%'; CREATE USER locked@'%' IDENTIFIED BY 'secret'");
        let at = server.address;
        let checks = [(at, "check = \"mysql\""), (at, "check = \"mysql\"\nuser = \"locked\""), (at, "check = \"tcp\"")];
        let (checks, bare) = (&checks[..2], &checks[2..]);
        let checked = Checked::start(Ipv4Addr::new(127, 7, 7, 7), checks);
        let before = server.status("Aborted_connects");
        for _ in 0..CHECKS {
            checked.expect(0, "ok", "login", "let user sluice in");
        }
        let well = checked.probe(0);
        assert_eq!(phases(&well), ["connect", "greeting", "login"]);
        assert!(well["phases"][1]["evidence"].as_str().unwrap().contains("MariaDB"), "{well:#}");
        assert_eq!(server.status("Aborted_connects"), before, "after {CHECKS} checks");
        assert_eq!(server.status("Aborted_clients"), 0);
        assert_eq!(server.ask(COUNTED), "0\t0");
        eprintln!("{CHECKS} checks: Aborted_connects {before} before and after, no errors in host_cache");

        // A user that needs a password: alive, and no reason to lock anybody out either.
        for _ in 0..10 {
            checked.expect(1, "ok", "refused_user", "error 1045: Access denied for user 'locked'");
        }
        assert_eq!(server.ask(COUNTED), "0\t0");

        // What bare connects would have done; a login in between would be their pardon.
        let tcp = Checked::start(Ipv4Addr::new(127, 7, 7, 8), bare);
        let before = server.status("Aborted_connects");
        for _ in 0..3 {
            tcp.expect(0, "ok", "connected", "connected");
        }
        eventually("MariaDB counts them", || (server.status("Aborted_connects") >= before + 3).then_some(()));
        checked.expect(0, "failed", "blocked", "error 1129: ");
        assert_ne!(server.ask(COUNTED), "0\t0", "the comparison above can fail");
    });
}

/// Whether a packet of the client came; its payload.
fn packet(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; usize::from(head[0])];
    stream.read_exact(&mut payload).ok()?;
    Some(payload)
}

/// Serves MySQL's side: a greeting, and then these packets, each for one of the client's. Keeps what the client sent.
fn scripted(packets: &'static [&'static [u8]]) -> (Backend, Arc<Mutex<Vec<Vec<u8>>>>) {
    let heard = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let kept = Arc::clone(&heard);
    let backend = Backend::start(free_port(own_loopback()), move |mut stream| {
        let mut number = 0;
        for payload in packets {
            let _ = stream.write_all(&[&[payload.len() as u8, 0, 0, number], *payload].concat());
            let Some(answer) = packet(&mut stream) else { return };
            kept.lock().unwrap().push(answer);
            number += 2;
        }
    });
    (backend, heard)
}

const GREETING: &[u8] = b"\x0a8.4.0\0\x01\0\0\0saltsalt\0\xff\xff\x2d\x02\0\xff\xdf\x15\0\0\0\0\0\0\0\0\0\0saltsaltsalt\0caching_sha2_password\0";
const SWITCH: &[u8] = b"\xfecaching_sha2_password\0saltsaltsaltsaltsalt\0";
const OK: &[u8] = b"\0\0\0\x02\0\0\0";

#[test]
fn mysql_may_ask_for_another_method() {
    let (backend, heard) = scripted(&[GREETING, SWITCH, OK]);
    let checked = Checked::start(own_loopback(), &[(backend.address, "check = \"mysql\"\nuser = \"probe\"")]);
    checked.expect(0, "ok", "login", "let user probe in");
    let heard = eventually("two checks are over", || Some(heard.lock().unwrap().clone()).filter(|all| all.len() >= 6));
    let (login, proof, goodbye) = (&heard[0], &heard[1], &heard[2]);
    assert!(login[32..].starts_with(b"probe\0\0mysql_native_password\0"), "{}", login.escape_ascii());
    assert_eq!((proof.as_slice(), goodbye.as_slice()), (&b"\0"[..], &b"\x01"[..]));
}

#[test]
fn errors_and_strangers_are_told_apart() {
    let cases: [(&'static [&'static [u8]], &str, &str, &str); 7] = [
        (&[b"\xff\x10\x04Too many connections"], "failed", "full", "error 1040: Too many connections"),
        (&[b"\xff\x69\x04Host is blocked"], "failed", "blocked", "error 1129: Host is blocked"),
        (&[b"\xff\x6a\x04Host is not allowed"], "failed", "error", "error 1130: Host is not allowed"),
        (&[GREETING, b"\xff\x15\x04#28000Access denied"], "ok", "refused_user", "error 1045: Access denied"),
        (&[GREETING, SWITCH, b"\x01\x04", b"\xff\x15\x04#28000Access denied"], "ok", "refused_user", "error 1045"),
        (&[GREETING, SWITCH, SWITCH, SWITCH, SWITCH, SWITCH], "failed", "error", "does not come to an end"),
        (&[b"\x0bHello"], "failed", "not_mysql", "answered with 6 bytes"),
    ];
    let backends: Vec<Backend> = cases.iter().map(|(packets, ..)| scripted(packets).0).collect();
    let checks: Vec<(SocketAddr, &str)> =
        backends.iter().map(|backend| (backend.address, "check = \"mysql\"")).collect();
    let checked = Checked::start(own_loopback(), &checks);
    for (at, (_, result, reason, detail)) in cases.iter().enumerate() {
        checked.expect(at, result, reason, detail);
    }
}

#[test]
fn a_packet_that_never_ends_is_bounded_in_bytes_and_time() {
    let endless = Backend::start(free_port(own_loopback()), |mut stream| {
        let _ = stream.write_all(b"\xff\xff\xff\0\x0a");
        while stream.write_all(&[b'8'; 4096]).is_ok() {}
    });
    let slow = Backend::start(free_port(own_loopback()), |mut stream| {
        let _ = stream.write_all(b"\x60\0\0\0\x0a8.");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let checks = [(endless.address, "check = \"mysql\""), (slow.address, "check = \"mysql\"\ntimeout = \"300ms\"")];
    let checked = Checked::start(own_loopback(), &checks);
    checked.expect(0, "failed", "too_long", "over 16384 bytes");
    checked.expect(1, "failed", "timeout", "greeting to ");
}
