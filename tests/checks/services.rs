//! The checks `smtp`, `ldap` and `expect` against aiosmtpd, slapd and Redis, and against servers that answer otherwise.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;

use crate::support::authority::Authority;
use crate::support::checked::{Checked, phases};
use crate::support::servers::directory::Directory;
use crate::support::servers::free_port;
use crate::support::servers::mail::Mail;
use crate::support::servers::redis::Redis;
use crate::support::{Backend, DEADLINE, own_loopback};

/// A backend that greets, and then answers each read with the next of these texts; it reads on at the end.
fn scripted(greeting: &'static str, answers: &'static [&'static str]) -> Backend {
    Backend::start(free_port(own_loopback()), move |mut stream| {
        let _ = stream.write_all(greeting.as_bytes());
        for answer in answers {
            if !stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) || stream.write_all(answer.as_bytes()).is_err()
            {
                return;
            }
        }
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    })
}

/// A backend that sends this again and again.
fn endless(bytes: &'static [u8]) -> Backend {
    Backend::start(free_port(own_loopback()), move |mut stream: TcpStream| while stream.write_all(bytes).is_ok() {})
}

#[track_caller]
fn checked(checks: &[(SocketAddr, String)]) -> Checked {
    let checks: Vec<(SocketAddr, &str)> = checks.iter().map(|(address, check)| (*address, check.as_str())).collect();
    Checked::start(own_loopback(), &checks)
}

#[test]
fn a_mail_server_greets_and_answers_ehlo() {
    let authority = Authority::new("authority");
    let certificate = authority.issue("mail.test", 100);
    let plain = Mail::start(free_port(own_loopback()), None);
    let tls = Mail::start(free_port(own_loopback()), Some(&certificate));
    let in_tls = format!("tls = \"require\"\nsni = \"mail.test\"\nca = \"{}\"", authority.path().display());
    let checked = checked(&[
        (plain.address, "check = \"smtp\"".to_owned()),
        (tls.address, format!("check = \"smtp\"\n{in_tls}")),
        (tls.address, "check = \"smtp\"\ntimeout = \"300ms\"".to_owned()),
    ]);
    let well = checked.expect(0, "ok", "ehlo", "answers EHLO with 250 ");
    assert_eq!(phases(&well), ["connect", "greeting", "ehlo", "quit"]);
    assert!(well["phases"][2]["evidence"].as_str().unwrap().contains("EHLO localhost"), "{well:#}");
    let well = checked.expect(1, "ok", "ehlo", "answers EHLO with 250 ");
    assert_eq!(phases(&well), ["connect", "handshake", "greeting", "ehlo", "quit"]);
    // In plain text on the port for TLS both sides wait for each other.
    checked.expect(2, "failed", "timeout", "greeting to ");
}

#[test]
fn a_mail_server_that_refuses_says_why() {
    let cases = [
        (scripted("554 no service\r\n", &[]), "refused_by_server", "answered 554 no service, not 220"),
        (scripted("421 too busy\r\n", &[]), "not_now", "answered 421 too busy"),
        (scripted("220-a\r\n220 b\r\n", &["421 shutting down\r\n"]), "not_now", "421 shutting down, not 250"),
        (scripted("220 a\r\n", &["550 who?\r\n"]), "refused_by_server", "550 who?"),
        (scripted("SSH-2.0-OpenSSH_9.2\r\n", &[]), "not_smtp", "SSH-2.0"),
        (endless(b"220-more\r\n"), "too_long", "over 16384 bytes"),
        (endless(b"2"), "not_smtp", ""),
    ];
    let checks: Vec<_> = cases.iter().map(|(backend, ..)| (backend.address, "check = \"smtp\"".to_owned())).collect();
    let checked = checked(&checks);
    for (at, (_, reason, detail)) in cases.iter().enumerate() {
        checked.expect(at, "failed", reason, detail);
    }
}

#[test]
fn our_name_is_what_ehlo_says_and_quit_ends_it() {
    let (heard, said) = mpsc::channel();
    let backend = Backend::start(free_port(own_loopback()), move |mut stream| {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ = stream.write_all(b"220 a\r\n");
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap_or(0);
        let _ = stream.write_all(b"250-a\r\n250 b\r\n");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let _ = heard.send([&bytes[..count], &rest].concat());
    });
    let _checked = checked(&[(backend.address, "check = \"smtp\"\nname = \"sluice.example\"".to_owned())]);
    let said = said.recv_timeout(DEADLINE).expect("a dialogue");
    assert_eq!(said.escape_ascii().to_string(), "EHLO sluice.example\\r\\nQUIT\\r\\n");
}

#[test]
fn a_directory_takes_a_bind_or_says_why_not() {
    let authority = Authority::new("authority");
    let certificate = authority.issue("ldap.test", 100);
    let start = |lines| Directory::start(free_port(own_loopback()), free_port(own_loopback()), &certificate, lines);
    let (open, strict) = (start(""), start("disallow bind_anon"));
    let in_tls = format!("tls = \"require\"\nsni = \"ldap.test\"\nca = \"{}\"", authority.path().display());
    let checked = checked(&[
        (open.plain, "check = \"ldap\"".to_owned()),
        (open.tls, format!("check = \"ldap\"\n{in_tls}")),
        (strict.plain, "check = \"ldap\"".to_owned()),
    ]);
    let well = checked.expect(0, "ok", "bound", "took the bind");
    assert_eq!(phases(&well), ["connect", "bind"]);
    let evidence = well["phases"][1]["evidence"].as_str().unwrap();
    assert!(evidence.contains("got 14 bytes 30 0c 02 01 01 61 07 0a 01 00"), "{evidence}");
    let well = checked.expect(1, "ok", "bound", "took the bind");
    assert_eq!(phases(&well), ["connect", "handshake", "bind"]);
    checked.expect(2, "ok", "refused_user", "takes no anonymous bind (result 48)");
}

#[test]
fn a_directory_that_is_busy_or_none_is_not_well() {
    let cases = [
        (scripted("", &["\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x33\x04\x00\x04\x00"]), "not_now", "result 51 (busy)"),
        (
            scripted("\x30\x0c\x02\x01\x00\x78\x07\x0a\x01\x34\x04\x00\x04\x00", &[]),
            "not_now",
            "result 52 (unavailable)",
        ),
        (
            scripted("", &["\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x02\x04\x00\x04\x00"]),
            "error",
            "result 2 (protocolError)",
        ),
        (scripted("", &["HTTP/1.1 400 Bad Request\r\n\r\n"]), "not_ldap", "answered with 28 bytes"),
        (endless(b"\x30\x7f\x7f\x7f"), "not_ldap", ""),
        // A message of 2 GiB.
        (endless(b"\x30\x84\x7f\x7f\x7f\x7f"), "too_long", "over 16384 bytes"),
    ];
    let checks: Vec<_> = cases.iter().map(|(backend, ..)| (backend.address, "check = \"ldap\"".to_owned())).collect();
    let checked = checked(&checks);
    for (at, (_, reason, detail)) in cases.iter().enumerate() {
        checked.expect(at, "failed", reason, detail);
    }
}

#[test]
fn steps_are_done_in_their_order() {
    let redis = Redis::start(free_port(own_loopback()), &[]);
    let mail = Mail::start(free_port(own_loopback()), None);
    let expect = |steps: &str| format!("check = \"expect\"\ntimeout = \"2s\"\nsteps = [{steps}]");
    let checked = checked(&[
        (redis.address, expect(r#"{ send = "PING\r\n" }, { expect = "+PONG" }"#)),
        (redis.address, expect(r#"{ send-hex = "50494e47 0D0a" }, { expect-hex = "2b 50 4f" }"#)),
        (mail.address, expect(r#"{ expect = "220 " }, { send = "QUIT\r\n" }, { expect = "221 " }"#)),
        // What a step expected is used up.
        (redis.address, expect(r#"{ send = "PING\r\n" }, { expect = "PONG" }, { expect = "PONG" }"#)),
        (redis.address, expect(r#"{ send = "PING\r\nPING\r\n" }, { expect = "PONG" }, { expect = "PONG" }"#)),
        (redis.address, expect(r#"{ send = "QUIT\r\n" }, { expect = "+OK" }, { expect = "more" }"#)),
        (mail.address, expect(r#"{ expect = "SSH-2.0" }"#)),
    ]);
    let well = checked.expect(0, "ok", "expected", "did as expected, steps: 2");
    assert_eq!(phases(&well), ["connect", "send", "expect"]);
    checked.expect(1, "ok", "expected", "steps: 2");
    checked.expect(2, "ok", "expected", "steps: 3");
    checked.expect(3, "failed", "timeout", "step 3 wants 4 bytes \"PONG\"");
    checked.expect(4, "ok", "expected", "steps: 3");
    checked.expect(5, "failed", "closed", "step 3 wants 4 bytes \"more\"");
    let verdict = checked.expect(6, "failed", "timeout", "timed out after 2000 ms");
    assert!(
        verdict["detail"].as_str().unwrap().contains("got ") && phases(&verdict) == ["connect", "expect"],
        "{verdict:#}"
    );
}

#[test]
fn text_is_looked_for_in_16_kib_and_no_further() {
    let late = Backend::start(free_port(own_loopback()), |mut stream| {
        let _ = stream.write_all(&[b'x'; 16 * 1024 - 5]);
        let _ = stream.write_all(b"ready");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let later = Backend::start(free_port(own_loopback()), |mut stream| {
        let _ = stream.write_all(&[b'x'; 16 * 1024 - 4]);
        let _ = stream.write_all(b"ready");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let expect = "check = \"expect\"\nsteps = [{ expect = \"ready\" }]".to_owned();
    let checked = checked(&[(late.address, expect.clone()), (later.address, expect)]);
    checked.expect(0, "ok", "expected", "steps: 1");
    checked.expect(1, "failed", "too_long", "over 16384 bytes");
}
