//! `sluice hello`: what an operator reads about a captured hello, and what scripts get.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;
use sluice::decide::hello::postgres::SSL_REQUEST;
use support::hello::{client_hello, message, padded_hello, records};
use support::{Backend, Daemon, own_loopback, sluice};

fn captured(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/hello").join(name)
}

/// Decodes bytes from standard input.
fn decode(bytes: &[u8], arguments: &[&str]) -> Output {
    let mut command = sluice();
    command.arg("hello").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    child.wait_with_output().unwrap()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(&decode(bytes, &["--json"]).stdout).unwrap()
}

#[track_caller]
fn verdict(bytes: &[u8], want: &str) {
    let output = decode(bytes, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("verdict       ")).unwrap_or_default();
    assert_eq!(line, want, "{text}");
    let valid = want.starts_with("valid");
    assert_eq!(output.status.code(), Some(if valid { 0 } else { 6 }), "{want}");
}

#[test]
fn a_captured_hello_is_shown_field_by_field() {
    let output = sluice().arg("hello").arg(captured("deno.bin")).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let want = "\
bytes         265
record        handshake, version 0x0301, 260 bytes
verdict       valid: complete, every length exact: forwarded as it came
sni           app.example.test
sni as sent   app.example.test
tls           1.3
ja4           t13d1011h2_61a7ad8aa9b6_f9531d972513
alpn          h2,http/1.1
ech           false
post-quantum  false
handshake     260 bytes, 0 behind it
legacy        0x0303, session id of 32 bytes
extension     43 supported_versions, 5 bytes: 0x0304 0x0303
extension     51 key_share, 38 bytes: x25519:32
extension     16 application_layer_protocol_negotiation, 14 bytes
extension     0 server_name, 21 bytes
extension     35 session_ticket, 0 bytes
extension     23 extended_main_secret, 0 bytes
extension     5 status_request, 5 bytes
extension     45 psk_key_exchange_modes, 2 bytes
extension     13 signature_algorithms, 22 bytes
extension     11 ec_point_formats, 2 bytes
extension     10 supported_groups, 10 bytes: x25519 secp256r1 secp384r1 X25519MLKEM768
cipher        0x1302 TLS_AES_256_GCM_SHA384
";
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(want), "{text}");
}

#[test]
fn every_captured_hello_is_valid_and_has_no_unknown_extension() {
    let mut decoded = 0;
    for entry in std::fs::read_dir(captured("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "bin") {
            continue;
        }
        let output = sluice().args(["hello", "--json"]).arg(&path).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["verdict"]["outcome"], "valid", "{}", path.display());
        for list in ["extensions", "cipher_suites", "signature_algorithms"] {
            for one in report["hello"][list].as_array().unwrap() {
                assert_ne!(one["name"], "unknown", "{one} in {}", path.display());
            }
        }
        decoded += 1;
    }
    assert!(decoded >= 28, "{decoded}");
}

#[test]
fn the_three_outcomes_are_told_apart() {
    let hello = client_hello(Some("a.test"), &[]);
    let whole = hello.len() - 5;
    verdict(&hello, "valid: complete, every length exact: forwarded as it came");
    let so_far = format!("incomplete: 45 of {whole} handshake bytes so far: sluice waits until hello-timeout");
    verdict(&hello[..50], &so_far);
    verdict(&hello[..7], "incomplete: 2 handshake bytes so far: sluice waits until hello-timeout");
    verdict(&[], "incomplete: 0 handshake bytes so far: sluice waits until hello-timeout");
    verdict(b"GET / HTTP/1.1\r\n", "refused: first bytes are http, not TLS");
    verdict(&[0x16, 3, 1, 0x40, 1], "refused: record of 16385 bytes, more than 16384 (alert 22 record_overflow)");
    verdict(
        &padded_hello("a.test", 65_500),
        "refused: hello claims 65669 bytes, more than 65536 (alert 80 internal_error)",
    );
    let two_names = client_hello(Some("a b.test"), &[]);
    verdict(&two_names, "refused: server name has a control character or a space (alert 47 illegal_parameter)");
    verdict(
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 70000\r\n",
        "refused: PROXY v1 header has a port that is no number from 0 to 65535",
    );
}

#[test]
fn what_comes_before_the_hello_is_taken_off() {
    let hello = client_hello(Some("Shop.Test."), &["h2"]);
    let all = [b"PROXY TCP4 192.0.2.1 198.51.100.1 5 443\r\n", &SSL_REQUEST[..], &hello].concat();
    let report = json(&all);
    assert_eq!(report["proxy_header"]["source"], "192.0.2.1:5");
    assert_eq!(report["postgres"][0], "SSLRequest");
    assert_eq!(report["hello"]["sni"], "shop.test");
    assert_eq!(report["hello"]["sni_as_sent"], "Shop.Test.");
    assert_eq!(report["hello"]["alpn"][0], "h2");
    assert_eq!(report["bytes_behind"], 0);
    // Records are shown as they are, and early data behind the hello does no harm.
    let cut = [records(&message(Some("a.test"), &[], 0), 20), vec![0x17, 3, 3, 0, 1, 9]].concat();
    let report = json(&cut);
    assert_eq!((&report["verdict"]["outcome"], &report["bytes_behind"]), (&"valid".into(), &6.into()));
    assert_eq!(report["records"].as_array().unwrap().last().unwrap()["name"], "application_data");
}

#[test]
fn a_listener_says_where_the_hello_would_go() {
    let address = own_loopback();
    let _backend = Backend::naming((address, 1001), "a");
    let body = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
[[listener.route]]
sni = ["a.test", "app.example.test"]
tls-min = "1.3"
pool = "a"
[[listener]]
name = "narrow"
bind = ["{ip}:444"]
max-hello = "512B"
deny = ["203.0.113.0/24"]
pool = "a"
[[listener.route]]
first-bytes = ["http"]
pool = "a"
[pool.a]
backends = ["{ip}:1001"]
"#;
    let daemon = Daemon::start_on(address, body, "", |command| command);
    let (file, socket) = (daemon.dir().join("sluice.toml"), daemon.socket());
    let known = client_hello(Some("a.test"), &[]);
    for arguments in [
        ["--listener", "tls", "--socket", socket.to_str().unwrap()],
        ["--listener", "tls", "-c", file.to_str().unwrap()],
    ] {
        let output = decode(&known, &arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("\npool      a\n") && text.contains(&format!("\nbackend   {address}:1001\n")), "{text}");
        assert_eq!(output.status.code(), Some(0));
        let unknown = decode(&client_hello(Some("b.test"), &[]), &arguments);
        assert!(String::from_utf8(unknown.stdout).unwrap().contains("refused   no_route"));
        assert_eq!(unknown.status.code(), Some(6));
    }
    let old = std::fs::read(captured("openssl-tls12.bin")).unwrap();
    let output = decode(&old, &["--listener", "tls", "-c", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("no route for this server name with this TLS version"));
    // Its limit, the source in a PROXY header, and what it wants besides TLS are the listener's as well.
    let arguments = ["--listener", "narrow", "-c", file.to_str().unwrap()];
    let text = |bytes: &[u8]| {
        let output = decode(bytes, &arguments);
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    let (large, code) = text(&records(&message(Some("a.test"), &[], 600), 16_384));
    assert!(large.contains("refused   hello_too_large") && code == Some(6), "{large}");
    let from = |source: &str| [format!("PROXY TCP4 {source} 198.51.100.1 5 443\r\n").as_bytes(), &known].concat();
    assert_eq!(text(&from("192.0.2.1")).1, Some(0));
    let (denied, code) = text(&from("203.0.113.1"));
    assert!(denied.contains("refused   source_denied") && code == Some(6), "{denied}");
    let (http, code) = text(b"GET / HTTP/1.1\r\n\r\n");
    assert!(http.contains("pool      a") && code == Some(0), "{http}");
    assert_eq!(text(b"SSH-2.0-x\r\n").1, Some(6));
    let none = decode(&known, &["--listener", "none", "--socket", socket.to_str().unwrap()]);
    assert!(String::from_utf8(none.stderr).unwrap().contains("no listener is called `none`"));
    assert_eq!(sluice().args(["hello", "/nonexistent"]).output().unwrap().status.code(), Some(1));
}
