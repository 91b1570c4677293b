//! The checks `tcp`, `tls-hello` and `tls` against real servers: OpenSSL with certificates of every fate, servers that
//! answer with alerts, with silence, or not at all.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use crate::support::authority::Authority;
use crate::support::checked::{Checked, config, phases};
use crate::support::servers::openssl::OpenSsl;
use crate::support::servers::{Certificate, free_port};
use crate::support::{Backend, DEADLINE, Daemon, TempDir, deaf, eventually, own_loopback, sluice};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use sluice::decide::hello::{ClientHello, joined};

/// A server with a certificate.
fn server(certificate: &Certificate, arguments: &[&str]) -> OpenSsl {
    OpenSsl::start(free_port(own_loopback()), certificate, &[&["-www"], arguments].concat())
}

/// A backend that reads what comes first and answers with `bytes`.
fn answering(bytes: &'static [u8]) -> Backend {
    Backend::start(free_port(own_loopback()), move |mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
            let _ = stream.write_all(bytes);
        }
    })
}

/// A backend that accepts, reads, and never says a word.
fn mute() -> Backend {
    Backend::start(free_port(own_loopback()), |mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    })
}

#[test]
fn tcp_is_a_connection_and_nothing_more() {
    let (address, mute) = (own_loopback(), mute());
    let refusing = free_port(own_loopback());
    let silent = free_port(own_loopback());
    let _deaf = deaf(silent);
    let short = "check = \"tcp\"\ntimeout = \"300ms\"";
    let checks = [(mute.address, "check = \"tcp\""), (refusing, "check = \"tcp\""), (silent, short)];
    let checked = Checked::start(address, &checks);
    let well = checked.expect(0, "ok", "connected", &mute.address.to_string());
    assert_eq!((phases(&well), &well["certificate"]), (vec!["connect"], &Value::Null));
    checked.expect(1, "failed", "refused", "refused");
    checked.expect(2, "failed", "timeout", &format!("connect to {silent} timed out after 300 ms"));
}

#[test]
fn hello_is_a_modern_one_with_the_configured_names() {
    let (hellos, seen) = mpsc::channel();
    let backend = Backend::start(free_port(own_loopback()), move |mut stream| {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut bytes = vec![0; 4096];
        let count = stream.read(&mut bytes).unwrap_or(0);
        bytes.truncate(count);
        let _ = hellos.send(bytes);
    });
    let check = "check = \"tls-hello\"\nsni = \"Bücher.example\"\nalpn = [\"h2\", \"http/1.1\"]";
    let _checked = Checked::start(own_loopback(), &[(backend.address, check)]);
    let bytes = seen.recv_timeout(DEADLINE).expect("a hello");
    let message = joined(&bytes);
    let hello = ClientHello::parse(&message).expect("a hello");
    let extension = |kind: u16| hello.extensions().find(|(found, _)| *found == kind).expect("an extension").1;
    // Types and values as in RFC 8446 4.2, RFC 6066 3 and RFC 7301 3.1.
    assert_eq!(extension(0), b"\0\x18\0\0\x15xn--bcher-kva.example");
    assert_eq!(extension(16), b"\0\x0c\x02h2\x08http/1.1");
    assert_eq!(extension(43), [4, 3, 4, 3, 3], "1.3 and 1.2");
    for group in [[0x00, 0x1d], [0x00, 0x17]] {
        assert!(extension(10)[2..].chunks(2).any(|one| one == group), "x25519 and secp256r1");
    }
}

#[test]
fn hello_is_answered_with_a_server_hello_or_the_reason_is_kept() {
    let authority = Authority::new("authority");
    let expired = authority.issue("shop.test", -1);
    let openssl = server(&expired, &[]);
    let old = server(&expired, &["-tls1_2"]);
    let unknown_name = answering(b"\x15\x03\x03\x00\x02\x02\x70");
    let http = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let gone = Backend::start(free_port(own_loopback()), drop);
    let mute = mute();
    let check = "check = \"tls-hello\"\nsni = \"shop.test\"";
    let short = "check = \"tls-hello\"\ntimeout = \"300ms\"";
    let checked = Checked::start(
        own_loopback(),
        &[
            (openssl.address, check),
            (old.address, check),
            (unknown_name.address, check),
            (http.address, check),
            (gone.address, check),
            (mute.address, short),
        ],
    );
    let well = checked.expect(0, "ok", "server_hello", "ServerHello");
    assert_eq!(phases(&well), ["connect", "hello", "close"]);
    checked.expect(1, "ok", "server_hello", "ServerHello");
    checked.expect(2, "failed", "alert", "TLS alert 112 (UnrecognisedName)");
    let http = checked.expect(3, "failed", "not_tls", "answered with something else: 28 bytes");
    assert!(http["phases"][1]["evidence"].as_str().unwrap().contains(r#"got 28 bytes "HTTP/1.1 400"#), "{http:#}");
    let gone = checked.probe(4);
    assert!(gone["reason"] == "closed" || gone["reason"] == "reset", "{gone:#}");
    let mute = checked.expect(5, "failed", "timeout", "hello to ");
    assert!(mute["detail"].as_str().unwrap().contains("timed out after 300 ms: sent "), "{mute:#}");
}

#[test]
fn hello_check_leaves_with_fin_and_not_with_a_reset() {
    let (ends, seen) = mpsc::channel();
    let backend = Backend::start(free_port(own_loopback()), move |mut stream| {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ = stream.read(&mut [0; 4096]);
        // A ServerHello, and as much again as certificates take.
        let _ = stream.write_all(&[&b"\x16\x03\x03\x10\0\x02"[..], &[0; 4095]].concat());
        let _ = ends.send(std::io::copy(&mut stream, &mut std::io::sink()).map_err(|error| error.kind()));
    });
    let _checked = Checked::start(own_loopback(), &[(backend.address, "check = \"tls-hello\"")]);
    assert_eq!(seen.recv_timeout(DEADLINE).expect("an end"), Ok(0));
}

#[test]
fn system_store_is_believed_and_a_missing_one_says_nothing_of_the_backend() {
    let authority = Authority::new("authority");
    let real = server(&authority.issue("shop.test", 100), &[]);
    let body = config(&[(real.address, "check = \"tls\"\nsni = \"shop.test\"")]);
    let dir = TempDir::new();
    let with = |store: PathBuf| {
        let daemon = Daemon::start_on(own_loopback(), &body, "", |command| {
            command.env("SSL_CERT_FILE", store).env("SSL_CERT_DIR", dir.path())
        });
        Checked { daemon }
    };
    with(authority.path()).expect(0, "ok", "handshake", "expires in 100 days");
    with(dir.path().join("none")).expect(0, "unknown", "local", "store of certificate authorities is empty");
}

#[test]
fn certificates_are_judged_and_the_reason_is_said() {
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    let [good, soon, expired] = [100, 10, -1].map(|days| authority.issue("shop.test", days));
    let early = authority.issue_between("shop.test", 1, 100);
    let [good, soon, expired, early] = [&good, &soon, &expired, &early].map(|certificate| server(certificate, &[]));
    let ca = |authority: &Authority| format!("ca = {:?}", authority.path());
    let check = |name: &str, trust: &str| format!("check = \"tls\"\nsni = \"{name}\"\n{trust}");
    let (right, wrong) = (check("shop.test", &ca(&authority)), check("shop.test", &ca(&other)));
    let (elsewhere, nameless) = (check("desk.test", &ca(&authority)), format!("check = \"tls\"\n{}", ca(&authority)));
    let (anything, system) = (check("desk.test", "verify = \"none\""), check("shop.test", "ca = \"system\""));
    let checked = Checked::start(
        own_loopback(),
        &[
            (good.address, &right),
            (soon.address, &right),
            (expired.address, &right),
            (early.address, &right),
            (good.address, &wrong),
            (good.address, &elsewhere),
            (good.address, &nameless),
            (expired.address, &anything),
            (good.address, &system),
        ],
    );
    let well =
        checked.expect(0, "ok", "handshake", "certificate CN=shop.test of issuer CN=authority expires in 100 days");
    assert_eq!(phases(&well), ["connect", "handshake", "close"]);
    let agreed = well["phases"][1]["evidence"].as_str().unwrap();
    assert!(agreed.starts_with("sent a ClientHello; TLS 1.3 TLS13_"), "{agreed}");
    assert_eq!(well["certificate"]["issuer"], "CN=authority");
    checked.expect(1, "ok", "handshake", "expires in 10 days");
    let expired = checked.expect(
        2,
        "failed",
        "certificate_expired",
        "certificate CN=shop.test of issuer CN=authority expired on 20",
    );
    assert!(expired["phases"][1]["evidence"].as_str().unwrap().contains("expired on 20"), "{expired:#}");
    checked.expect(3, "failed", "certificate_not_yet", "not valid yet");
    checked.expect(
        4,
        "failed",
        "certificate_issuer",
        "issuer is unknown: certificate CN=shop.test of issuer CN=authority",
    );
    checked.expect(5, "failed", "certificate_name", "shop.test");
    checked.expect(6, "failed", "certificate_name", "shop.test");
    checked.expect(7, "ok", "handshake", "expired on 20");
    let system = checked.probe(8);
    // A machine without a store cannot judge.
    assert!(system["reason"] == "certificate_issuer" || system["result"] == "unknown", "{system:#}");
    expiry_is_shown(&checked);
}

/// Status, metrics and log tell of the certificates of pools 0 (100 days), 1 (10 days) and 2 (expired).
fn expiry_is_shown(checked: &Checked) {
    let list = checked.daemon.json("/v1/backends");
    for (at, days) in [(0, 100.0), (1, 10.0), (2, -1.0)] {
        let row = list.as_array().unwrap().iter().find(|row| row["pool"] == format!("p{at}")).unwrap();
        assert_eq!(row["check"]["kind"], "tls");
        let metric = format!("sluice_backend_certificate_expiry_timestamp_seconds{{pool=\"p{at}\",backend=\"b\"}}");
        let expires = checked.daemon.metric(&metric);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let left = (expires - now) / 86_400.0;
        assert!((days..days + 0.1).contains(&left), "p{at}: {left} days");
        let shown = row["check"]["certificate_expires"].as_str().unwrap();
        assert_eq!(shown.parse::<jiff::Timestamp>().unwrap().as_second(), expires as i64);
    }
    let warnings: Vec<Value> = eventually("the log has them", || {
        let log = checked.daemon.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let warnings = lines.filter(|line| line.to_string().contains("certificate of backend expires"));
        Some(warnings.collect()).filter(|warnings: &Vec<Value>| warnings.len() >= 2)
    });
    let of = |pool: &str| warnings.iter().filter(|line| line.to_string().contains(pool)).count();
    assert_eq!((of("\"p0\""), of("\"p1\""), of("\"p2\"")), (0, 1, 1), "{warnings:?}");
}

#[test]
fn a_certificate_of_ours_is_shown_to_who_asks_for_one() {
    let authority = Authority::new("authority");
    let (certificate, ours) = (authority.issue("shop.test", 100), authority.issue("sluice", 100));
    let ca = authority.path().display().to_string();
    let asking: Vec<OpenSsl> = ["-tls1_2", "-tls1_3"]
        .iter()
        .map(|version| server(&certificate, &[version, "-Verify", "1", "-verify_return_error", "-CAfile", &ca]))
        .collect();
    let without = format!("check = \"tls\"\nsni = \"shop.test\"\nca = \"{ca}\"");
    let with = format!("{without}\ncertificate = {:?}\nkey = {:?}", ours.path(), ours.key());
    let (one, two) = (asking[0].address, asking[1].address);
    let checks = [(one, &*without), (two, &*without), (one, &*with), (two, &*with)];
    let checked = Checked::start(own_loopback(), &checks);
    checked.expect(0, "failed", "alert", "TLS alert");
    checked.expect(1, "failed", "alert", "TLS alert 116 (CertificateRequired)");
    checked.expect(2, "ok", "handshake", "expires in 100 days");
    checked.expect(3, "ok", "handshake", "expires in 100 days");
}

#[test]
fn a_certificate_of_ours_must_have_its_key() {
    let authority = Authority::new("authority");
    let (one, two) = (authority.issue("sluice", 100), authority.issue("sluice", 100));
    let dir = TempDir::new();
    let check = |key: PathBuf| {
        let check = format!("check = \"tls\"\ncertificate = {:?}\nkey = {key:?}", one.path());
        let body = config(&[("127.0.0.1:1".parse().unwrap(), &check)]).replace("{ip}", "127.0.0.1");
        fs::write(dir.path().join("a.toml"), body).unwrap();
        let output = sluice().args(["check", "--dump", "-c"]).arg(dir.path().join("a.toml")).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let secret = |key: PathBuf| fs::read_to_string(key).unwrap().lines().nth(1).unwrap().to_owned();
    let (code, told) = check(one.key());
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains(&format!("key = {:?}", one.key())) && !told.contains(&secret(one.key())), "{told}");
    let (code, told) = check(two.key());
    assert_eq!(code, Some(3));
    assert!(told.contains("error[E020]: `key` of [pool.p0.health] is not the key of `certificate`"), "{told}");
    assert!(!told.contains(&secret(two.key())), "{told}");
}

#[test]
fn a_server_that_is_silent_after_the_handshake_is_well() {
    let authority = Authority::new("authority");
    let certificate = authority.issue("shop.test", 100);
    let chain = CertificateDer::from_pem_file(certificate.path()).unwrap();
    let key = PrivateKeyDer::from_pem_file(certificate.key()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut server = builder.with_no_client_auth().with_single_cert(vec![chain], key).unwrap();
    server.send_tls13_tickets = 0;
    let server = Arc::new(server);
    let backend = Backend::start(free_port(own_loopback()), move |mut stream| {
        let mut session = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
        while session.is_handshaking() && session.complete_io(&mut stream).is_ok() {}
        // Neither an answer to the goodbye nor a FIN.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        std::thread::park_timeout(DEADLINE);
    });
    let check = format!("check = \"tls\"\nsni = \"shop.test\"\nca = {:?}\ntimeout = \"6s\"", authority.path());
    let checked = Checked::start(own_loopback(), &[(backend.address, &check)]);
    let well = checked.expect(0, "ok", "handshake", "expires in 100 days");
    let took = well["took_ms"].as_f64().unwrap();
    assert!((2000.0..5500.0).contains(&took), "half of what was left: {took} ms");
}

#[test]
fn a_handshake_that_is_cut_anywhere_fails_within_its_time() {
    let authority = Authority::new("authority");
    let real = server(&authority.issue("shop.test", 100), &[]);
    let check = format!("check = \"tls\"\nsni = \"shop.test\"\nca = {:?}", authority.path());
    let cuts = [0, 1, 4, 5, 6, 9, 60, 122, 126, 127, 132, 133, 138, 140, 200, 300, 400, 500];
    let cutters: Vec<Backend> = cuts.iter().map(|cut| cutter(real.address, *cut)).collect();
    let checks: Vec<(SocketAddr, &str)> = cutters.iter().map(|cutter| (cutter.address, &*check)).collect();
    let checked = Checked::start(own_loopback(), &checks);
    for (at, cut) in cuts.iter().enumerate() {
        let answer = checked.probe(at);
        let reason = answer["reason"].as_str().unwrap();
        assert!(answer["result"] == "failed" && ["closed", "reset"].contains(&reason), "{cut}: {answer:#}");
        assert_eq!(phases(&answer), ["connect", "handshake"], "{cut}");
    }
}

/// A backend that lets only so many bytes of the answer of `real` through.
fn cutter(real: SocketAddr, cut: u64) -> Backend {
    Backend::start(free_port(own_loopback()), move |mut client| {
        let mut server = std::net::TcpStream::connect(real).unwrap();
        let (mut up, mut from) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let mut first = [0; 4096];
        let count = from.read(&mut first).unwrap_or(0);
        let _ = up.write_all(&first[..count]);
        let _ = std::io::copy(&mut (&mut server).take(cut), &mut client);
    })
}

#[test]
fn a_reload_sees_that_a_file_has_other_contents() {
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    let real = server(&authority.issue("shop.test", 100), &[]);
    let check = "check = \"tls\"\nsni = \"shop.test\"\nca = \"{dir}/ca.pem\"\nfall = 1\nfast-interval = \"100ms\"";
    let file = crate::support::TempDir::new();
    let ca = file.path().join("ca.pem");
    let check = check.replace("{dir}", &file.path().display().to_string());
    fs::copy(authority.path(), &ca).unwrap();
    let checked = Checked::start(own_loopback(), &[(real.address, &check)]);
    checked.daemon.wait_for_state("b", "up");
    fs::copy(other.path(), &ca).unwrap();
    checked.daemon.reload();
    checked.daemon.wait_for_state("b", "down");
    let why = &checked.daemon.json("/v1/backends")[0]["check"];
    assert_eq!(why["reason"], "certificate_issuer", "{why:#}");
    // What cannot be used is refused before anything changes.
    fs::write(&ca, "no certificate").unwrap();
    let refused = checked.daemon.cli(&["reload", "--wait"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    // With another kind of check nothing is known of the certificate any more.
    checked.daemon.write_config(&config(&[(real.address, "check = \"tcp\"\nrise = 1")]), "");
    checked.daemon.reload();
    eventually("the certificate is forgotten", || {
        checked.daemon.json("/v1/backends")[0]["check"]["certificate_expires"].is_null().then_some(())
    });
}
