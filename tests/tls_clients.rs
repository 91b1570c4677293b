//! Real TLS clients of many makes through sluice to real servers: what they send is what sluice must understand, and
//! what sluice refuses is what they must be able to tell their users. Every client verifies the server's certificate.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::servers::openssl::OpenSsl;
use support::servers::{Certificate, Nginx, Process, answer, finish, free_port, printed, program};
use support::{Backend, DEADLINE, Daemon, TempDir, eventually, own_loopback, tools};

/// More than a segment of an Ethernet holds, as every hello with a post-quantum key share is.
const ONE_SEGMENT: u64 = 1448;

/// A command that asks for `/name` at an address, under a name, trusting a certificate.
type Client = fn(SocketAddr, &str, &Certificate) -> Command;

#[test]
fn python_reaches_the_server_of_its_name() {
    for record in Street::start().visited_by(tools::python_client) {
        assert_eq!((&record["alpn"], &record["pq"]), (&Value::Null, &false.into()), "{record}");
    }
}

#[test]
fn gnutls_reaches_the_server_of_its_name() {
    for record in Street::start().visited_by(tools::gnutls_client) {
        assert_eq!((&record["alpn"], &record["pq"]), (&Value::Null, &false.into()), "{record}");
    }
}

#[test]
fn openssl_reaches_the_server_of_its_name() {
    for record in Street::start().visited_by(tools::openssl_client) {
        assert_eq!((&record["alpn"], &record["pq"]), (&Value::Null, &false.into()), "{record}");
    }
}

#[test]
fn java_reaches_the_server_of_its_name() {
    for record in Street::start().visited_by(tools::java_client) {
        assert_eq!((&record["alpn"], &record["pq"]), (&"http/1.1".into(), &false.into()), "{record}");
    }
}

#[test]
fn node_reaches_the_server_of_its_name_with_a_post_quantum_hello() {
    for record in Street::start().visited_by(tools::node_client) {
        assert_eq!((&record["alpn"], &record["pq"]), (&"http/1.1".into(), &true.into()), "{record}");
        assert!(record["hello_bytes"].as_u64() > Some(ONE_SEGMENT), "{record}");
    }
}

#[test]
fn chromium_reaches_the_server_of_its_name_with_or_without_the_dot() {
    let street = Street::start();
    for (name, server) in [("shop.test", "shop"), ("desk.test.", "desk")] {
        let (home, certificate) = (TempDir::new(), street.certificate(server));
        let page = printed(&mut tools::chromium_client(street.at, name, certificate, home.path()));
        assert!(page.contains(&format!(">{server} HTTP/2.0<")), "{name}: {page}");
    }
    // It opens more connections than it needs, and some end late, so that only the name tells whose they were.
    for server in ["shop", "desk"] {
        for record in street.records_of(&format!("{server}.test"), 1) {
            assert_eq!((&record["pool"], &record["tries"]), (&server.into(), &1.into()), "{record}");
            check_chromium(&record);
        }
    }
    let strangers = |record: &Value| record["sni"] != "shop.test" && record["sni"] != "desk.test";
    assert!(!street.daemon.records().iter().any(strangers), "{:?}", street.daemon.records());
    assert!(is_sent_by_chromium("desk.test.", b"\0\x0adesk.test."), "the dot is not on the wire any more");
}

/// Whether chromium's first bytes to the server of `name` contain `bytes`.
#[track_caller]
fn is_sent_by_chromium(name: &str, bytes: &[u8]) -> bool {
    let (hellos, seen) = mpsc::channel();
    let server = Backend::start(free_port(own_loopback()), move |mut stream| {
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut read = |length| {
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes).ok().map(|()| bytes)
        };
        // The extensions come in a new order each time, so that only the whole record is sure to hold the name.
        let hello = read(5).and_then(|head| read(u16::from_be_bytes([head[3], head[4]]).into()));
        // It tries again, but only the first hello is looked at.
        let _ = hello.map(|hello| hellos.send(hello));
    });
    let (home, certificate) = (TempDir::new(), Certificate::for_name("desk.test"));
    let mut chromium = tools::chromium_client(server.address, name, &certificate, home.path());
    let said = finish(&mut chromium);
    let hello = seen.recv_timeout(DEADLINE).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    hello.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn chromium_can_tell_that_nobody_knows_the_name() {
    let (street, home) = (Street::start(), TempDir::new());
    let certificate = street.certificate("shop");
    let output = finish(&mut tools::chromium_client(street.at, "nobody.test", certificate, home.path()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ERR_SSL_UNRECOGNIZED_NAME_ALERT"), "{said}");
    // It insists, and says so each time.
    let attempts = said.matches("handshake failed").count();
    assert!((1..=8).contains(&attempts), "{said}");
    for record in street.records_of("nobody.test", attempts) {
        assert_eq!((&record["end"], &record["backend"]), (&"no_route".into(), &Value::Null), "{record}");
        check_chromium(&record);
    }
}

/// What chromium sends in every hello.
#[track_caller]
fn check_chromium(record: &Value) {
    assert_eq!((&record["tls"], &record["alpn"]), (&"1.3".into(), &"h2,http/1.1".into()), "{record}");
    // ECH is GREASE here: nobody published a key for these names.
    assert_eq!((&record["pq"], &record["ech"]), (&true.into(), &true.into()), "{record}");
    assert!(record["hello_bytes"].as_u64() > Some(ONE_SEGMENT), "{record}");
    // The extensions, which come in a new order each time, change with versions; the ciphers have not for years.
    let ja4 = record["ja4"].as_str().expect("a fingerprint");
    assert!(ja4.starts_with("t13d15") && ja4.contains("h2_8daaf6152771_"), "{record}");
}

#[test]
fn clients_can_tell_that_nobody_knows_the_name() {
    let street = Street::start();
    let clients: [(Client, &str); 5] = [
        (tools::python_client, "unrecognized name"),
        (tools::gnutls_client, "[112]"),
        (tools::openssl_client, "unrecognized name"),
        (tools::java_client, "unrecognized_name"),
        (tools::node_client, "unrecognized name"),
    ];
    for (count, (client, told)) in clients.into_iter().enumerate() {
        let output = finish(&mut client(street.at, "nobody.test", street.certificate("shop")));
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && said.contains(told), "{said}");
        let record = street.record(count + 1);
        assert_eq!((&record["end"], &record["sni"]), (&"no_route".into(), &"nobody.test".into()), "{record}");
        assert_eq!((&record["backend"], &record["tries"]), (&Value::Null, &0.into()), "{record}");
    }
}

#[test]
fn openssl_tells_the_number_of_the_alert_in_every_version_of_tls() {
    let street = Street::start();
    for (count, (flag, version)) in [("-tls1_2", "1.2"), ("-tls1_3", "1.3")].into_iter().enumerate() {
        let mut client = tools::openssl_client(street.at, "nobody.test", street.certificate("shop"));
        let error = answer(&finish(client.arg(flag))).unwrap_err();
        assert!(error.contains("alert number 112"), "{error}");
        let record = street.record(count + 1);
        assert_eq!((&record["end"], &record["tls"]), (&"no_route".into(), &version.into()), "{record}");
    }
}

#[test]
fn name_in_any_case_and_with_a_dot_at_its_end_is_the_same_name() {
    let street = Street::start();
    for (count, sent) in ["desk.test.", "DESK.test", "Desk.Test."].into_iter().enumerate() {
        let mut client = tools::openssl_client(street.at, "desk.test", street.certificate("desk"));
        // Of two such options openssl takes the last.
        let got = printed(client.args(["-servername", sent]));
        assert!(got.contains("desk HTTP/1.1"), "{sent}: {got}");
        let record = street.record(count + 1);
        assert_eq!((&record["sni"], &record["pool"]), (&"desk.test".into(), &"desk".into()), "{record}");
    }
}

#[test]
fn hello_of_many_records_from_openssl_reaches_the_server_of_its_name() {
    let street = Street::start();
    // Long enough for several records; nginx wants one of the names to be its own.
    let names: Vec<String> = (0..200).map(|number| format!("a-protocol-{number}")).collect();
    let long = format!("{},http/1.1", names.join(","));
    let mut client = tools::openssl_client(street.at, "desk.test", street.certificate("desk"));
    let got = printed(client.args(["-max_send_frag", "512", "-alpn", &long]));
    assert!(got.contains("desk HTTP/1.1"), "{got}");
    let record = street.record(1);
    assert_eq!((&record["pool"], &record["end"]), (&"desk".into(), &"done".into()), "{record}");
    // Each record has a header of 5 bytes and at most 512 of the hello.
    let bytes = record["hello_bytes"].as_u64().expect("a number");
    assert_eq!(record["hello_records"].as_u64(), Some(bytes.div_ceil(5 + 512)), "{record}");
    assert!(record["hello_records"].as_u64() > Some(4), "{record}");
    assert!(record["alpn"].as_str().expect("a list").starts_with("a-protocol-0,a-protocol-1,"), "{record}");
}

#[test]
fn early_data_arrives_once_and_whole() {
    let lane = Lane::start(&["-tls1_3", "-early_data"]);
    let session = lane.session(&mut lane.client(&[]));
    // Less than the server reads and prints at once, more than sluice reads at once.
    let early = (0..800).map(|number| format!("early {number}\n")).collect::<Vec<_>>().concat();
    let file = lane.file("early", &early);

    let mut client = lane.client(&["-sess_in", &session, "-early_data", &file]);
    let printed = printed(client.stdin(Stdio::null()));
    assert!(printed.contains("Early data was accepted"), "{printed}");
    let said = eventually("all early data", || Some(lane.server.said()).filter(|said| said.contains("early 799\n")));
    assert_eq!(said.matches(&early).count(), 1, "{said}");
    assert_eq!(said.matches("early 0\n").count(), 1, "{said}");
    let record = record(&lane.daemon, 2);
    assert_eq!((&record["sni"], &record["tries"]), (&"shop.test".into(), &1.into()), "{record}");
    assert_eq!(record["end"], "done", "{record}");
    assert!(record["bytes_up"].as_u64() > Some(early.len() as u64), "{record}");
}

#[test]
fn second_hello_after_a_retry_request_is_only_relayed() {
    // The first key share is for a group that the server does not have.
    let lane = Lane::start(&["-tls1_3", "-groups", "P-256", "-www"]);
    let page = printed(&mut lane.client(&["-groups", "X25519:P-256", "-msg", "-ign_eof"]));
    assert_eq!(page.matches(">>> TLS 1.3, Handshake [length").count(), 3, "two hellos, Finished: {page}");
    assert_eq!(page.matches(", ClientHello").count(), 2, "{page}");
    lane.check_page(&page, "New, TLSv1.3");
    let record = record(&lane.daemon, 1);
    assert_eq!((&record["hello_records"], &record["end"]), (&1.into(), &"done".into()), "{record}");
    let bytes = [&record["hello_bytes"], &record["bytes_up"]].map(|bytes| bytes.as_u64().expect("a number"));
    assert!(bytes[1] > 2 * bytes[0], "both hellos went up: {record}");
}

#[test]
fn resumption_with_a_client_certificate_in_the_ticket_gets_through() {
    // Four primes are found ten times faster than two; the long list stands for what real authorities add.
    let lists: Vec<String> =
        (0..40).map(|number| format!("URI:http://revoked-{number}.client.test/list.crl")).collect();
    let lists = format!("crlDistributionPoints={}", lists.join(","));
    let own = Certificate::new("client.test", &["rsa:4096", "-pkeyopt", "rsa_keygen_primes:4", "-addext", &lists]);
    let [path, key] = [own.path(), own.key()].map(|path| path.display().to_string());
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let lane = Lane::start(&["-www", "-Verify", "1", "-verify_return_error", "-CAfile", &path]);
        let client = || lane.client(&[flag, "-cert", &path, "-key", &key]);
        let session = lane.session(&mut client());
        let page = printed(client().args(["-ign_eof", "-sess_in", &session]));
        lane.check_page(&page, &format!("Reused, {version}"));
        assert!(page.contains("Subject: CN=client.test"), "{page}");
        let record = record(&lane.daemon, 2);
        assert_eq!((&record["end"], &record["hello_records"]), (&"done".into(), &1.into()), "{record}");
        assert!(record["hello_bytes"].as_u64() > Some(3000), "{record}");
        let offers = format!("sluice_pool_resumption_offers_total{{pool={}}}", record["pool"]);
        assert!((lane.daemon.metric(&offers) - 1.0).abs() < 0.5, "{version}: the second of two hellos");
    }
}

/// Two real servers, one for each name, behind one listener.
struct Street {
    shop: (Nginx, Certificate),
    desk: (Nginx, Certificate),
    at: SocketAddr,
    daemon: Daemon,
}

impl Street {
    #[track_caller]
    fn start() -> Self {
        let address = own_loopback();
        let [shop, desk] = ["shop", "desk"].map(|name| {
            let certificate = Certificate::for_name(&format!("{name}.test"));
            (Nginx::start(free_port(address), name, &certificate), certificate)
        });
        let at = free_port(address);
        let daemon = listener(at, &[("shop", shop.0.address), ("desk", desk.0.address)]);
        Self { shop, desk, at, daemon }
    }

    fn certificate(&self, server: &str) -> &Certificate {
        if server == "shop" { &self.shop.1 } else { &self.desk.1 }
    }

    /// Both servers answer a client of this make; the records of that.
    #[track_caller]
    fn visited_by(&self, client: Client) -> Vec<Value> {
        let mut records = Vec::new();
        for server in ["shop", "desk"] {
            let name = format!("{server}.test");
            let got = printed(&mut client(self.at, &name, self.certificate(server)));
            assert!(got.contains(&format!("{server} HTTP/1.1")), "{name}: {got}");
            let record = self.record(records.len() + 1);
            assert_eq!((&record["sni"], &record["pool"]), (&name.into(), &server.into()), "{record}");
            assert_eq!((&record["tls"], &record["ech"]), (&"1.3".into(), &false.into()), "{record}");
            assert_eq!((&record["end"], &record["tries"]), (&"done".into(), &1.into()), "{record}");
            assert_eq!(record["hello_records"], 1, "{record}");
            assert!(record["bytes_up"].as_u64() > record["hello_bytes"].as_u64(), "{record}");
            assert!(record["ja4"].as_str().unwrap().starts_with("t13d"), "{record}");
            records.push(record);
        }
        records
    }

    #[track_caller]
    fn record(&self, count: usize) -> Value {
        record(&self.daemon, count)
    }

    /// At least `count` records with this name.
    #[track_caller]
    fn records_of(&self, name: &str, count: usize) -> Vec<Value> {
        let records = || self.daemon.records().into_iter().filter(|record| record["sni"] == name).collect::<Vec<_>>();
        eventually(&format!("{count} records of {name}"), || Some(records()).filter(|found| found.len() >= count))
    }
}

/// A real `openssl s_server` for one name behind a listener.
struct Lane {
    server: OpenSsl,
    certificate: Certificate,
    at: SocketAddr,
    daemon: Daemon,
}

impl Lane {
    /// Starts it, with these arguments for the server.
    #[track_caller]
    fn start(arguments: &[&str]) -> Self {
        let (address, certificate) = (own_loopback(), Certificate::for_name("shop.test"));
        let server = OpenSsl::start(free_port(address), &certificate, arguments);
        let at = free_port(address);
        let daemon = listener(at, &[("shop", server.address)]);
        Self { server, certificate, at, daemon }
    }

    /// `s_client` that verifies the server, with a request as its input and everything on its standard output.
    fn client(&self, arguments: &[&str]) -> Command {
        let mut openssl = program("/usr/bin/openssl");
        openssl.args(["s_client", "-connect", &self.at.to_string(), "-servername", "shop.test"]);
        openssl.args(["-verify_hostname", "shop.test", "-verify_return_error", "-CAfile"]);
        let request = self.file("request", "GET / HTTP/1.0\r\n\r\n");
        openssl.arg(self.certificate.path()).args(arguments).stdin(File::open(request).expect("a request"));
        openssl
    }

    /// The path of a file with this text.
    #[track_caller]
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.daemon.dir().join(name);
        fs::write(&path, text).expect("write a file");
        path.display().to_string()
    }

    /// Has this client shake hands, and keeps its session in a file.
    #[track_caller]
    fn session(&self, client: &mut Command) -> String {
        let path = self.daemon.dir().join("session");
        client.arg("-sess_out").arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn(client, Signal::SIGKILL);
        // Tickets of TLS 1.3 come when they like: the client stays until it has one.
        let whole = |text: &String| text.contains("END SSL SESSION");
        eventually("a session", || fs::read_to_string(&path).ok().filter(whole));
        process.child.stdin.take().expect("piped").write_all(b"Q\n").expect("tell it to leave");
        let status = eventually("the first client ends", || process.ended());
        assert!(status.success(), "{status}");
        let record = record(&self.daemon, 1);
        assert!(record["hello_bytes"].as_u64() < Some(1000), "no ticket yet: {record}");
        path.display().to_string()
    }

    /// The page is the server's own, and says this of the connection.
    #[track_caller]
    fn check_page(&self, page: &str, says: &str) {
        let server = format!("s_server -accept {} ", self.server.address);
        assert!(page.contains(&server) && page.contains(says), "{page}");
    }
}

/// A daemon that sends NAME.test to the server NAME.
#[track_caller]
fn listener(at: SocketAddr, servers: &[(&str, SocketAddr)]) -> Daemon {
    let IpAddr::V4(address) = at.ip() else { panic!("{at} is not of IPv4") };
    let route = |name| format!("[[listener.route]]\nsni = [\"{name}.test\"]\npool = \"{name}\"\n");
    let pool = |name, server| format!("[pool.{name}]\nbackends = [\"{server}\"]\n");
    let routes: Vec<String> = servers.iter().map(|&(name, _)| route(name)).collect();
    let pools: Vec<String> = servers.iter().map(|&(name, server)| pool(name, server)).collect();
    let bind = format!("[[listener]]\nname = \"tls\"\nprotocol = \"tls\"\nbind = [\"{at}\"]\n");
    let body = [bind, routes.concat(), pools.concat()].concat();
    Daemon::start_on(address, &body, "", |command| command)
}

/// The record of the `count`th connection, with no more than so many.
#[track_caller]
fn record(daemon: &Daemon, count: usize) -> Value {
    let mut records = daemon.wait_for_records(count);
    assert_eq!(records.len(), count);
    records.pop().expect("at least one")
}
