//! Real HTTPS: nginx behind sluice, with curl and openssl in front of it. TLS is end to end, so a certificate that
//! verifies proves that the right server answered.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Instant;

use serde_json::Value;
use sha2::{Digest, Sha256};
use support::servers::{Attempt, Certificate, Clients, Nginx, answer, finish, free_port, printed, program};
use support::{Backend, Daemon, own_loopback};

const MIB: u64 = 1 << 20;

#[test]
fn every_name_reaches_the_server_with_its_certificate() {
    let shops = Shops::start();
    // (name that is asked for, certificate that must verify, nginx that must answer)
    let cases = [
        ("shop.test", &shops.shop.certificate, "shop"),
        ("SHOP.test", &shops.shop.certificate, "shop"),
        ("v1.api.test", &shops.api.certificate, "api"),
        ("v2.api.test", &shops.api.certificate, "api"),
        ("beta.api.test", &shops.beta.certificate, "beta"),
    ];
    let mut asked = 0;
    for (name, certificate, server) in cases {
        for (version, protocol) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2.0")] {
            let got = printed(curl(shops.at, certificate, name, "/name").arg(version));
            assert_eq!(got, format!("{server} {protocol}"), "{name} {version}");
            asked += 1;
            let record = record(&shops.daemon, asked);
            assert_eq!((&record["sni"], &record["pool"]), (&name.to_lowercase().into(), &server.into()), "{record}");
            assert_eq!((&record["end"], &record["tries"]), (&"done".into(), &1.into()), "{record}");
        }
    }
}

#[test]
fn another_servers_certificate_does_not_verify() {
    let shops = Shops::start();
    let error = answer(&finish(&mut curl(shops.at, &shops.api.certificate, "shop.test", "/name"))).unwrap_err();
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn unknown_name_is_told_unrecognized_name() {
    let shops = Shops::start();
    for (count, name) in ["other.test", "api.test", "a.v1.api.test"].into_iter().enumerate() {
        let error = answer(&finish(&mut curl(shops.at, &shops.shop.certificate, name, "/name"))).unwrap_err();
        assert!(error.contains("unrecognized name"), "{name}: {error}");
        let record = record(&shops.daemon, count + 1);
        assert_eq!((&record["end"], &record["sni"]), (&"no_route".into(), &name.into()), "{record}");
        assert_eq!((&record["backend"], &record["bytes_up"]), (&Value::Null, &0.into()), "{record}");
    }
}

#[test]
fn openssl_sees_the_certificate_of_the_name_in_every_version_of_tls() {
    let shops = Shops::start();
    // Longer than fragments of 512 bytes; nginx wants one of the names to be its own.
    let names: Vec<String> = (0..150).map(|number| format!("a-protocol-{number}")).collect();
    let long = format!("{},http/1.1", names.join(","));
    let mut asked = 0;
    for (flag, version) in [("-tls1_2", "1.2"), ("-tls1_3", "1.3")] {
        for (name, subject) in [("shop.test", "shop.test"), ("v7.api.test", "*.api.test")] {
            for extra in [&[][..], &["-max_send_frag", "512", "-alpn", &long]] {
                let printed = printed(s_client(shops.at, name).arg(flag).args(extra)).replace(' ', "");
                assert!(printed.contains(&format!("subject=CN={subject}\n")), "{name} {flag} {extra:?}: {printed}");
                asked += 1;
                let record = record(&shops.daemon, asked);
                assert_eq!((&record["sni"], &record["tls"]), (&name.into(), &version.into()), "{record}");
                assert_eq!(record["alpn"].is_string(), !extra.is_empty(), "{record}");
            }
        }
    }
    assert_eq!(first_record_length(&long), 512, "openssl splits this hello over several records");
}

/// The length of the first record that openssl sends with these protocols and small fragments.
fn first_record_length(alpn: &str) -> u16 {
    let (heads, seen) = mpsc::channel();
    let server = Backend::start(free_port(own_loopback()), move |mut stream| {
        let mut head = [0; 5];
        stream.read_exact(&mut head).expect("a record");
        heads.send(u16::from_be_bytes([head[3], head[4]])).expect("somebody waits");
    });
    let mut client = s_client(server.address, "shop.test");
    assert!(!finish(client.args(["-max_send_frag", "512", "-alpn", alpn])).status.success(), "nobody answered");
    seen.recv_timeout(support::DEADLINE).expect("a record")
}

#[test]
fn large_download_arrives_whole_and_is_spliced() {
    let shops = Shops::start();
    let (source, arrived) = (shops.shop.nginx.file("large"), shops.daemon.dir().join("arrived"));
    write_random(&source, 64 * MIB);
    printed(curl(shops.at, &shops.shop.certificate, "shop.test", "/files/large").arg("-o").arg(&arrived));
    assert_eq!(sha256(&source), sha256(&arrived));
    let record = record(&shops.daemon, 1);
    assert!(matches!(record["path_down"].as_str(), Some("splice" | "mixed")), "{record}");
    assert!(record["bytes_down"].as_u64().unwrap() > 64 * MIB, "{record}");
    assert_eq!(record["end"], "done", "{record}");
}

#[test]
fn upload_arrives_whole() {
    let shops = Shops::start();
    let source = shops.daemon.dir().join("source");
    write_random(&source, 16 * MIB);
    printed(curl(shops.at, &shops.shop.certificate, "shop.test", "/files/upload").arg("-T").arg(&source));
    assert_eq!(sha256(&source), sha256(&shops.shop.nginx.file("upload")));
    let record = record(&shops.daemon, 1);
    assert!(record["bytes_up"].as_u64().unwrap() > 16 * MIB, "{record}");
    assert_eq!(record["end"], "done", "{record}");
}

#[test]
fn killed_backend_is_not_noticed_by_new_clients() {
    let mut farm = Farm::start();
    let clients = farm.clients(4);
    let begun = Instant::now();
    clients.wait_for(10, begun, "one");
    clients.wait_for(10, begun, "two");

    let killing = Instant::now();
    farm.one.kill();
    let killed = Instant::now();
    clients.wait_for(40, killed, "two");
    farm.daemon.wait_for_state("one", "down");

    let starting = Instant::now();
    farm.one.start_again();
    farm.daemon.wait_for_state("one", "up");
    clients.wait_for(10, starting, "one");

    let attempts = clients.stop();
    let failed: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.answer.is_err()).collect();
    let unexplained: Vec<_> = failed.iter().filter(|lost| lost.begun > killed || lost.ended < killing).collect();
    assert!(unexplained.is_empty(), "failed without being on the killed server: {unexplained:?}");
    assert!(failed.len() <= 4, "more than one for each client were in flight: {failed:?}");
    let of_the_dead = |attempt: &&Attempt| attempt.begun > killed && attempt.ended < starting && attempt.is_from("one");
    assert_eq!(attempts.iter().filter(of_the_dead).count(), 0);
    let records = farm.daemon.records();
    assert!(records.iter().any(|record| record["tries"] == 2), "no client was handed on after a refused connect");
}

#[test]
fn backend_added_by_reload_gets_traffic_and_no_request_fails() {
    let farm = Farm::start();
    let clients = farm.clients(4);
    let begun = Instant::now();
    clients.wait_for(10, begun, "one");
    clients.wait_for(10, begun, "two");

    let three = Nginx::start(free_port(farm.daemon.address), "three", &farm.certificate);
    let servers = [("one", farm.one.address), ("two", farm.two.address), ("three", three.address)];
    farm.daemon.write_config(&Farm::config(farm.at, &servers), "");
    let reloading = Instant::now();
    farm.daemon.reload();
    for name in ["one", "two", "three"] {
        clients.wait_for(10, reloading, name);
    }

    let attempts = clients.stop();
    let failed: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.answer.is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let early = attempts.iter().any(|attempt| attempt.ended < reloading && attempt.is_from("three"));
    assert!(!early, "answered before it was added");
}

/// An nginx with a certificate of its own.
struct Shop {
    nginx: Nginx,
    certificate: Certificate,
}

/// Three servers, each for other names, behind one listener.
struct Shops {
    shop: Shop,
    api: Shop,
    beta: Shop,
    at: SocketAddr,
    daemon: Daemon,
}

impl Shops {
    #[track_caller]
    fn start() -> Self {
        let address = own_loopback();
        let [shop, api, beta] = [("shop", "shop.test"), ("api", "*.api.test"), ("beta", "beta.api.test")];
        let [shop, api, beta] = [shop, api, beta].map(|(name, host)| {
            let certificate = Certificate::for_name(host);
            Shop { nginx: Nginx::start(free_port(address), name, &certificate), certificate }
        });
        let at = free_port(address);
        let body = format!(
            "[[listener]]\nname = \"https\"\nprotocol = \"tls\"\nbind = [\"{at}\"]\n\
            [[listener.route]]\nsni = [\"*.api.test\"]\npool = \"api\"\n\
            [[listener.route]]\nsni = [\"shop.test\"]\npool = \"shop\"\n\
            [[listener.route]]\nsni = [\"beta.api.test\"]\npool = \"beta\"\n\
            [pool.shop]\nbackends = [\"{}\"]\n\
            [pool.api]\nbackends = [\"{}\"]\n\
            [pool.beta]\nbackends = [\"{}\"]\n",
            shop.nginx.address, api.nginx.address, beta.nginx.address
        );
        let daemon = Daemon::start_on(address, &body, "", |command| command);
        Self { shop, api, beta, at, daemon }
    }
}

/// Two servers for one name.
struct Farm {
    one: Nginx,
    two: Nginx,
    certificate: Certificate,
    at: SocketAddr,
    daemon: Daemon,
}

impl Farm {
    #[track_caller]
    fn start() -> Self {
        let (address, certificate) = (own_loopback(), Certificate::for_name("shop.test"));
        let [one, two] = ["one", "two"].map(|name| Nginx::start(free_port(address), name, &certificate));
        let at = free_port(address);
        let body = Self::config(at, &[("one", one.address), ("two", two.address)]);
        let daemon = Daemon::start_on(address, &body, "", |command| command);
        for name in ["one", "two"] {
            daemon.wait_for_state(name, "up");
        }
        Self { one, two, certificate, at, daemon }
    }

    /// The configuration with these backends.
    fn config(at: SocketAddr, backends: &[(&str, SocketAddr)]) -> String {
        let table =
            |(name, address): &(_, _)| format!("[[pool.shop.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        format!(
            "[[listener]]\nname = \"https\"\nprotocol = \"tls\"\nbind = [\"{at}\"]\n\
            [[listener.route]]\nsni = [\"shop.test\"]\npool = \"shop\"\n\
            [pool.shop]\nbalance = \"round-robin\"\n\
            [pool.shop.health]\ncheck = \"tcp\"\ninterval = \"200ms\"\ntimeout = \"1s\"\nrise = 2\nfall = 3\n{}",
            backends.iter().map(table).collect::<String>()
        )
    }

    /// Clients that make short requests, a connection for each.
    fn clients(&self, count: usize) -> Clients {
        let (at, certificate) = (self.at, self.certificate.path());
        Clients::start(count, move || answer(&finish(&mut curl_trusting(&certificate, at, "shop.test", "/name"))))
    }
}

fn curl(at: SocketAddr, certificate: &Certificate, name: &str, path: &str) -> Command {
    curl_trusting(&certificate.path(), at, name, path)
}

/// curl that goes to `at` for `name` and trusts one certificate only.
fn curl_trusting(certificate: &Path, at: SocketAddr, name: &str, path: &str) -> Command {
    let mut curl = program("/usr/bin/curl");
    // -q: without the caller's own settings.
    curl.args(["-q", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "15"]);
    curl.arg("--resolve").arg(format!("{name}:{}:{}", at.port(), at.ip())).arg("--cacert").arg(certificate);
    curl.arg(format!("https://{name}:{}{path}", at.port()));
    curl
}

/// openssl that shakes hands, prints the certificate and leaves.
fn s_client(at: SocketAddr, name: &str) -> Command {
    let mut openssl = program("/usr/bin/openssl");
    openssl.args(["s_client", "-connect", &at.to_string(), "-servername", name]);
    openssl
}

/// The record of the `count`th connection, with no more than so many.
#[track_caller]
fn record(daemon: &Daemon, count: usize) -> Value {
    let mut records = daemon.wait_for_records(count);
    assert_eq!(records.len(), count);
    records.pop().expect("at least one")
}

fn write_random(path: &Path, length: u64) {
    let mut random = File::open("/dev/urandom").unwrap().take(length);
    io::copy(&mut random, &mut File::create(path).unwrap()).unwrap();
}

fn sha256(path: &Path) -> Vec<u8> {
    Sha256::digest(fs::read(path).unwrap()).to_vec()
}
