//! The checks `http` and `https` against nginx, and against peers that answer with whatever they like: wrong, cut short,
//! endless, slow. And what `sluice probe` shows.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::authority::Authority;
use crate::support::checked::{Checked, phases};
use crate::support::servers::configured::Configured;
use crate::support::servers::free_port;
use crate::support::servers::openssl::OpenSsl;
use crate::support::{Backend, own_loopback};

/// nginx with pages in plain text, behind TLS and behind a PROXY header.
struct Pages {
    authority: Authority,
    plain: SocketAddr,
    tls: SocketAddr,
    proxied: SocketAddr,
    nginx: Configured,
}

impl Pages {
    #[track_caller]
    fn start() -> Self {
        let authority = Authority::new("authority");
        let certificate = authority.issue("shop.test", 100);
        let [plain, tls, proxied] = [(); 3].map(|()| free_port(own_loopback()));
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|module| format!("{module}_temp_path {{dir}}/{module};\n"))
            .concat();
        let nginx = Configured::nginx(
            &format!(
                "http {{
                    access_log /dev/stderr; {temporary}
                    server {{
                        listen {plain}; listen {tls} ssl; listen {proxied} proxy_protocol;
                        ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {}; ssl_certificate_key {};
                        location = /ready {{ return 200 \"all is ready\"; }}
                        location = /name {{ return 200 \"$host $proxy_protocol_addr\"; }}
                        location = /moved {{ return 302 /ready; }}
                        location = /broken {{ return 503; }}
                    }}
                }}",
                certificate.path().display(),
                certificate.key().display(),
            ),
            &[plain, tls],
        );
        Self { authority, plain, tls, proxied, nginx }
    }
}

#[test]
fn answers_are_held_to_status_and_text() {
    let pages = Pages::start();
    let ca = format!("sni = \"shop.test\"\nca = {:?}", pages.authority.path());
    let http = |keys: &str| format!("check = \"http\"\n{keys}");
    let https = |keys: &str| format!("check = \"https\"\n{ca}\n{keys}");
    let checks = [
        (pages.plain, http("path = \"/ready\"")),
        (pages.plain, http("path = \"/ready\"\ntext = \"is ready\"")),
        (pages.plain, http("path = \"/ready\"\ntext = \"not there\"")),
        (pages.plain, http("path = \"/broken\"")),
        (pages.plain, http("path = \"/broken\"\nstatus = [\"200\", \"500-503\"]")),
        (pages.plain, http("path = \"/moved\"")),
        (pages.plain, http("path = \"/moved\"\nstatus = [\"200\"]")),
        (pages.plain, http("path = \"/name\"\ntext = \"desk.test\"\nhost = \"desk.test\"")),
        (pages.tls, https("path = \"/ready\"\ntext = \"is ready\"")),
        (pages.tls, https("path = \"/name\"\ntext = \"shop.test\"")),
        (pages.tls, http("status = [\"400\"]\ntext = \"HTTPS port\"")),
        (pages.plain, https("")),
    ];
    let checks: Vec<(SocketAddr, &str)> = checks.iter().map(|(address, check)| (*address, &**check)).collect();
    let checked = Checked::start(own_loopback(), &checks);
    let well = checked.expect(0, "ok", "status", "answered with status 200 OK");
    assert_eq!(phases(&well), ["connect", "request"]);
    checked.expect(1, "ok", "text", "status 200 OK, and the text is there");
    let other = checked.expect(2, "failed", "text", "the text is not in the first 12 bytes");
    assert_eq!(other["phases"][2]["evidence"], r#"got 12 bytes "all is ready""#);
    checked.expect(3, "failed", "status", "status 503 Service Unavailable");
    checked.expect(4, "ok", "status", "503");
    checked.expect(5, "ok", "status", "302");
    checked.expect(6, "failed", "status", "302");
    checked.expect(7, "ok", "text", "200");
    let inside = checked.expect(8, "ok", "text", "200");
    assert_eq!(phases(&inside), ["connect", "handshake", "request", "body"]);
    assert_eq!(inside["certificate"]["subject"], "CN=shop.test");
    checked.expect(9, "ok", "text", "200");
    checked.expect(10, "ok", "text", "400");
    checked.expect(11, "failed", "not_tls", "answer is not TLS");
}

#[test]
fn a_backend_that_expects_a_proxy_header_gets_a_local_one() {
    let pages = Pages::start();
    let address = own_loopback();
    let body = format!(
        "[[listener]]\nname = \"l\"\nprotocol = \"tcp\"\nbind = [\"{{ip}}:1\"]\npool = \"p0\"\n[pool.p0]\nsend-proxy = \"v2\"\n\
         [[pool.p0.backend]]\naddress = \"{}\"\nname = \"b\"\n[pool.p0.health]\ncheck = \"http\"\npath = \"/name\"\n\
         text = \"{}\"\n",
        pages.proxied,
        pages.proxied.ip(),
    );
    let daemon = crate::support::Daemon::start_on(address, &body, "", |command| command);
    let checked = Checked { daemon };
    let well = checked.expect(0, "ok", "text", "200");
    assert_eq!(well["phases"][0]["evidence"], "sent PROXY v2 LOCAL");
    assert!(!pages.nginx.said().contains("broken header"), "{}", pages.nginx.said());
}

#[test]
fn who_wants_a_certificate_and_gets_none_says_so_instead_of_an_answer() {
    let authority = Authority::new("authority");
    let certificate = authority.issue("shop.test", 100);
    let ca = authority.path().display().to_string();
    let asking = ["-www", "-tls1_3", "-Verify", "1", "-verify_return_error", "-CAfile", &ca];
    let server = OpenSsl::start(free_port(own_loopback()), &certificate, &asking);
    let check = format!("check = \"https\"\nsni = \"shop.test\"\nca = \"{ca}\"");
    let checked = Checked::start(own_loopback(), &[(server.address, &check)]);
    checked.expect(0, "failed", "alert", "TLS alert 116 (CertificateRequired)");
}

/// A backend that answers a request by `answer`.
fn peer(answer: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Backend {
    Backend::start(free_port(own_loopback()), move |mut stream| {
        if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
            let _ = answer(&mut stream);
        }
    })
}

#[test]
fn hostile_answers_are_bounded() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";
    let chunked = peer(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nis r\r\n4\r\neady\r\n0\r\n\r\n")
    });
    let garbage = peer(|stream| stream.write_all(b"\x16\x03\x01\0\x05hello, this is not a status line\r\n\r\n"));
    let banner = peer(|stream| stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"));
    let cut = peer(|stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nis r"));
    let fields = peer(|stream| {
        stream.write_all(OK)?;
        loop {
            stream.write_all(b"X-More: and more\r\n")?;
        }
    });
    let line = peer(|stream| {
        stream.write_all(b"HTTP/1.1 200 ")?;
        loop {
            stream.write_all(&[b'O'; 4096])?;
        }
    });
    let endless = peer(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            stream.write_all(&[b'x'; 4096])?;
        }
    });
    let drip = peer(|stream| {
        stream.write_all(OK)?;
        loop {
            stream.write_all(b"a")?;
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let interim = peer(|stream| {
        loop {
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")?;
        }
    });
    let check = "check = \"http\"\ntext = \"is ready\"\ntimeout = \"2s\"";
    let peers = [&chunked, &garbage, &banner, &cut, &fields, &line, &endless, &drip, &interim];
    let checks = peers.map(|peer| (peer.address, check));
    let checked = Checked::start(own_loopback(), &checks);
    checked.expect(0, "ok", "text", "200");
    checked.expect(1, "failed", "not_http", "something else than HTTP");
    checked.expect(2, "failed", "not_http", "something else than HTTP");
    let cut = checked.probe(3);
    assert_eq!(cut["result"], "failed", "{cut:#}");
    checked.expect(4, "failed", "not_http", "something else than HTTP");
    checked.expect(5, "failed", "not_http", "something else than HTTP");
    let before = checked.daemon.private_memory();
    let endless = checked.expect(6, "failed", "text", "not in the first 16384 bytes");
    assert_eq!(endless["phases"][2]["phase"], "body");
    let begun = Instant::now();
    checked.expect(7, "failed", "timeout", "request to ");
    checked.expect(8, "failed", "timeout", "request to ");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let grown = checked.daemon.private_memory().saturating_sub(before);
    assert!(grown < 2 << 20, "grew by {grown} bytes");
}

#[test]
fn every_prefix_of_an_answer_gets_a_sane_verdict() {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nis ready";
    let peers: Vec<Backend> =
        (0..=ANSWER.len()).map(|cut| peer(move |stream| stream.write_all(&ANSWER[..cut]))).collect();
    let checks: Vec<(SocketAddr, &str)> =
        peers.iter().map(|peer| (peer.address, "check = \"http\"\ntext = \"is ready\"")).collect();
    let checked = Checked::start(own_loopback(), &checks);
    for cut in 0..ANSWER.len() {
        let answer = checked.probe(cut);
        let reason = answer["reason"].as_str().unwrap();
        // The kernel resets when a request was not read to its end.
        assert!(["closed", "reset"].contains(&reason), "{cut}: {answer:#}");
        assert_eq!(answer["result"], "failed", "{cut}");
    }
    checked.expect(ANSWER.len(), "ok", "text", "200");
}

#[test]
fn probe_shows_each_phase_and_changes_nothing() {
    let pages = Pages::start();
    let check = format!(
        "check = \"https\"\npath = \"/ready\"\ntext = \"is ready\"\nsni = \"shop.test\"\nca = {:?}",
        pages.authority.path()
    );
    let broken = check.replace("/ready", "/broken");
    let off = "check = \"off\"";
    let checked = Checked::start(own_loopback(), &[(pages.tls, &check), (pages.tls, &broken), (pages.tls, off)]);
    let run = |arguments: &[&str]| {
        let output = checked.daemon.cli(&[&["probe"], arguments].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let without_times = |text: String| {
        let lines = text.lines().map(|line| {
            let mut cells: Vec<&str> = line.split('\t').collect();
            assert!(cells[1] == "ms" || cells[1].parse::<f64>().is_ok_and(|ms| ms < 2000.0), "{line}");
            cells.remove(1);
            cells.join(" | ")
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let checks = || {
        let ok = checked.daemon.metric("sluice_backend_checks_total{pool=\"p1\",backend=\"b\",result=\"ok\"}");
        (ok + checked.daemon.metric("sluice_backend_checks_total{pool=\"p1\",backend=\"b\",result=\"failed\"}")) as u64
    };
    let before = checks();
    let (code, shown, _) = run(&["p0/b"]);
    assert_eq!(
        (code, &*without_times(shown)),
        (
            Some(0),
            "phase | evidence\n\
             connect | \n\
             handshake | sent a ClientHello; TLS 1.3 TLS13_AES_256_GCM_SHA384, ALPN http/1.1; certificate CN=shop.test of issuer CN=authority expires in 100 days\n\
             request | sent GET /ready; got HTTP/1.1 200 OK\n\
             body | found the text in the first 12 bytes\n\
             ok | status 200 OK, and the text is there"
        )
    );
    let (code, shown, _) = run(&["p1/b"]);
    assert_eq!(code, Some(1), "{shown}");
    let detail = format!("failed | {} answered with status 503 Service Unavailable", pages.tls);
    assert_eq!(without_times(shown).lines().last(), Some(&*detail));
    let (code, shown, _) = run(&["p1/b", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, &answer["reason"], &answer["check"]), (Some(1), &"status".into(), &"https".into()));
    let (code, _, told) = run(&["p2/b"]);
    assert_eq!(code, Some(6));
    assert_eq!(told, "pool `p2` has no health check\nhint: add [pool.p2.health] with check = \"tcp\"\n");
    let (code, _, told) = run(&["p0/nobody"]);
    assert_eq!((code, &*told), (Some(6), "no backend is called `p0/nobody`\nhint: write POOL/BACKEND\n"));
    assert_eq!(checks(), before, "it does not count");
}
