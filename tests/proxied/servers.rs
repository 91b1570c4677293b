//! PROXY headers between sluice and real programs: nginx and HAProxy read what sluice sends, and sluice reads what they
//! send. curl says which address and port it had, so that the client's own word is compared.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::support::proxy::connect_from;
use crate::support::servers::configured::Configured;
use crate::support::servers::{Certificate, Nginx, answer, finish, free_port, free_ports, printed, program};
use crate::support::{Daemon, eventually, own_loopback};
use serde_json::Value;

/// Where curl connects from; proxies connect from 127.0.0.1.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[test]
fn haproxy_reads_what_is_sent() {
    let address = own_loopback();
    let certificate = Certificate::for_name("shop.test");
    let server = free_port(address);
    let haproxy = haproxy_receiver(server, &certificate);
    for version in ["v1", "v2"] {
        let (daemon, at) = in_front_of(address, server, version, "");
        daemon.wait_for_state(&server.to_string(), "up");
        for (count, protocol) in ["--http1.1", "--http2"].into_iter().enumerate() {
            let (told, client) = asked(curl(at, &certificate.path(), "shop.test").arg(protocol));
            let record = record(&daemon, count + 1);
            assert_eq!(record["client"], client, "{record}");
            let (authority, id) = match version {
                "v2" => ("shop.test", record["session"].as_str().unwrap()),
                _ => ("", ""),
            };
            assert_eq!(told, format!("{client} {at} authority={authority} id={id}"));
        }
    }
    // Health checks are no errors.
    assert_eq!(complaints(&haproxy, "PROXY"), 1, "{}", haproxy.said());
}

#[test]
fn nginx_reads_what_is_sent() {
    let address = own_loopback();
    let certificate = Certificate::for_name("shop.test");
    let [https, stream] = free_ports(address);
    let nginx = nginx_receiver(https, stream, &certificate);
    for version in ["v1", "v2"] {
        let (daemon, at) = in_front_of(address, https, version, "");
        daemon.wait_for_state(&https.to_string(), "up");
        let (told, client) = asked(&mut curl(at, &certificate.path(), "shop.test"));
        assert_eq!(told, format!("{client} {at}"), "{version}");
        assert_eq!(record(&daemon, 1)["client"], client);

        let (daemon, at) = in_front_of(address, stream, version, "protocol = \"tcp\"");
        let client = connect_from(CLIENT, at);
        let told = crate::support::proxy::finish(client);
        assert_eq!(told.1.unwrap(), format!("{} {at}", told.0).as_bytes(), "{version} over tcp");
        assert_eq!(record(&daemon, 1)["client"], told.0);
    }
    assert_eq!(complaints(&nginx, "broken header"), 2, "{}", nginx.said());
}

/// Before 1.23.3, nginx reads 108 bytes of a header and resets connections with longer ones; HAProxy does not mind. Names
/// of up to 50 characters keep the header of an IPv4 client within 107 bytes.
#[test]
fn long_server_names_are_read_or_found_too_large() {
    let address = own_loopback();
    let certificate = Certificate::for_name("shop.test");
    let [https, stream, proxied] = free_ports(address);
    let nginx = nginx_receiver(https, stream, &certificate);
    let _haproxy = haproxy_receiver(proxied, &certificate);
    let (_daemon, to_nginx) = in_front_of(address, https, "v2", "");
    let (_other, to_haproxy) = in_front_of(address, proxied, "v2", "");
    // --insecure: the certificate is for another name.
    let ask =
        |at, name: &str| finish(curl(at, &certificate.path(), name).args(["--insecure", "--http1.1", "--no-alpn"]));
    let mut refused = Vec::new();
    for length in [20, 40, 50, 51, 52, 60, 100, 175, 176, 253] {
        let mut name = "abcdefgh.".repeat(30)[..length].to_owned();
        if name.ends_with('.') {
            name.replace_range(length - 1.., "x");
        }
        let told = answer(&ask(to_haproxy, &name)).unwrap_or_else(|error| panic!("{length}: {error}"));
        // A name that does not fit into 232 bytes is not told.
        let authority = if length <= 175 { name.as_str() } else { "" };
        assert!(told.contains(&format!("authority={authority} id=")), "{length}: {told}");
        let before = complaints(&nginx, "header is too large");
        match answer(&ask(to_nginx, &name)) {
            Ok(_) => assert_eq!(complaints(&nginx, "header is too large"), before, "{length}"),
            Err(error) => {
                assert!((51..=175).contains(&length), "{length}: {error}");
                assert_eq!(complaints(&nginx, "header is too large"), before + 1, "{length}: {error}");
                refused.push(length);
            }
        }
    }
    eprintln!("lengths of names whose headers are too large for this nginx: {refused:?}");
}

#[test]
fn nginx_and_haproxy_tell_the_client() {
    let address = own_loopback();
    let certificate = Certificate::for_name("shop.test");
    let server = Nginx::start(free_port(address), "shop", &certificate);
    let at = free_port(address);
    let body = format!(
        "[[listener]]\nname = \"https\"\nbind = [\"{at}\"]\npool = \"shop\"\n\
        accept-proxy = [\"127.0.0.1/32\"]\ndeny = [\"127.0.0.3/32\"]\n\
        [pool.shop]\nbackends = [\"{}\"]\n",
        server.address
    );
    let daemon = Daemon::start_on(address, &body, "", |command| command);
    let [nginx, v1, v2] = free_ports(address);
    let _nginx = Configured::nginx(
        &format!("stream {{ server {{ listen {nginx}; proxy_protocol on; proxy_pass {at}; }} }}"),
        &[nginx],
    );
    let haproxy = Configured::haproxy(
        &format!(
            "frontend v1\n mode tcp\n bind {v1}\n default_backend v1
            backend v1\n mode tcp\n server s {at} send-proxy check
            frontend v2\n mode tcp\n bind {v2}\n unique-id-format haproxy-%pid-%rt\n default_backend v2
            backend v2\n mode tcp\n server s {at} send-proxy-v2 proxy-v2-options crc32c,unique-id check"
        ),
        &[v1, v2],
    );
    for (front, version) in [(nginx, "v1"), (v1, "v1"), (v2, "v2")] {
        let believed =
            || daemon.metric(&format!("sluice_proxy_headers_total{{listener=\"https\",version=\"{version}\"}}"));
        let before = believed();
        let (told, client) = asked(&mut curl_for(front, &certificate.path(), "shop.test", "/name"));
        assert_eq!(told, "shop HTTP/2.0");
        let record = record_of_client(&daemon, &client);
        assert_eq!(record["destination"], front.to_string(), "{record}");
        assert!(record["via"].as_str().unwrap().starts_with("127.0.0.1:"), "{record}");
        assert_eq!(record["via_id"].is_string(), front == v2, "{record}");
        assert_eq!((&record["sni"], &record["end"]), (&"shop.test".into(), &"done".into()), "{record}");
        assert!(believed() > before);
        // The source that is judged is the client's.
        let mut denied = curl_for(front, &certificate.path(), "shop.test", "/name");
        let output = finish(denied.args(["--interface", "127.0.0.3"]));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("access denied"), "{error}");
    }
    // The checks of HAProxy speak for themselves: LOCAL is whoever connects.
    let is_check = |record: &&Value| record["client"] == record["via"] && record["end"] == "client_gone";
    let check = eventually("a record of a check", || daemon.records().iter().find(is_check).cloned());
    assert_eq!(check["destination"], at.to_string(), "{check}");
    assert!(!haproxy.said().contains("DOWN"), "{}", haproxy.said());
}

#[test]
fn client_is_known_behind_a_chain_of_proxies() {
    let address = own_loopback();
    let certificate = Certificate::for_name("shop.test");
    let (server, front) = (free_port(address), free_port(own_loopback()));
    let _receiver = haproxy_receiver(server, &certificate);
    let (daemon, at) = in_front_of(address, server, "v2", "accept-proxy = [\"127.0.0.1/32\"]");
    let _sender =
        Configured::haproxy(&format!("listen front\n mode tcp\n bind {front}\n server s {at} send-proxy"), &[front]);
    let (told, client) = asked(&mut curl(front, &certificate.path(), "shop.test"));
    let record = record_of_client(&daemon, &client);
    let id = record["session"].as_str().unwrap();
    assert_eq!(told, format!("{client} {front} authority=shop.test id={id}"));
}

/// Lines of a server's log that complain of a header. The test's own connection to each address, which finds out
/// whether it listens, has none and must be the only one.
fn complaints(server: &Configured, what: &str) -> usize {
    server.said().lines().filter(|line| line.contains(what)).count()
}

/// HAProxy with TLS that answers what it knows of the client.
fn haproxy_receiver(at: SocketAddr, certificate: &Certificate) -> Configured {
    let pem = certificate.path().with_file_name("both.pem");
    let both = [certificate.path(), certificate.key()].map(|path| fs::read_to_string(path).unwrap()).concat();
    fs::write(&pem, both).unwrap();
    let answer = "%[src]:%[src_port] %[dst]:%[dst_port] authority=%[fc_pp_authority] id=%[fc_pp_unique_id]";
    Configured::haproxy(
        &format!(
            "frontend https\n mode http\n bind {at} accept-proxy ssl crt {} alpn h2,http/1.1
            http-request return status 200 content-type text/plain lf-string \"{answer}\"",
            pem.display()
        ),
        &[at],
    )
}

/// nginx that answers what it knows of the client, with TLS and at once.
fn nginx_receiver(https: SocketAddr, stream: SocketAddr, certificate: &Certificate) -> Configured {
    let answer = "$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port";
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|module| format!("{module}_temp_path {{dir}}/{module};\n"))
        .concat();
    Configured::nginx(
        &format!(
            "http {{
                access_log off; {temporary}
                server {{
                    listen {https} ssl http2 proxy_protocol;
                    ssl_certificate {}; ssl_certificate_key {};
                    location / {{ default_type text/plain; return 200 \"{answer}\"; }}
                }}
            }}
            stream {{ server {{ listen {stream} proxy_protocol; return \"{answer}\"; }} }}",
            certificate.path().display(),
            certificate.key().display()
        ),
        &[https, stream],
    )
}

/// A daemon in front of one server that wants headers, and where it listens.
#[track_caller]
fn in_front_of(address: Ipv4Addr, server: SocketAddr, version: &str, listener: &str) -> (Daemon, SocketAddr) {
    let at = free_port(address);
    let body = format!(
        "[[listener]]\nname = \"front\"\nbind = [\"{at}\"]\npool = \"p\"\n{listener}\n\
        [pool.p]\nbackends = [\"{server}\"]\nsend-proxy = \"{version}\"\n\
        [pool.p.health]\ncheck = \"tcp\"\ninterval = \"100ms\"\n"
    );
    (Daemon::start_on(address, &body, "", |command| command), at)
}

fn curl(at: SocketAddr, certificate: &Path, name: &str) -> Command {
    curl_for(at, certificate, name, "/")
}

fn curl_for(at: SocketAddr, certificate: &Path, name: &str, path: &str) -> Command {
    let mut curl = program("/usr/bin/curl");
    // -q: without the caller's own settings.
    curl.args(["-q", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "15"]);
    curl.args(["--interface", &CLIENT.to_string(), "--write-out", "\n%{local_ip}:%{local_port}"]);
    curl.arg("--resolve").arg(format!("{name}:{}:{}", at.port(), at.ip())).arg("--cacert").arg(certificate);
    curl.arg(format!("https://{name}:{}{path}", at.port()));
    curl
}

/// What curl was told, and who it was itself.
#[track_caller]
fn asked(curl: &mut Command) -> (String, String) {
    let printed = printed(curl);
    let (told, client) = printed.rsplit_once('\n').unwrap();
    (told.to_owned(), client.to_owned())
}

/// The record of the `count`th connection.
#[track_caller]
fn record(daemon: &Daemon, count: usize) -> Value {
    daemon.wait_for_records(count)[count - 1].clone()
}

#[track_caller]
fn record_of_client(daemon: &Daemon, client: &str) -> Value {
    eventually(&format!("a record of {client}"), || {
        daemon.records().into_iter().find(|record| record["client"] == client)
    })
}
