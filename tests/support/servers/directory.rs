//! A real LDAP server: slapd of OpenLDAP, without a database of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::Signal;

use super::{Certificate, Process, program, wait_until_listening};
use crate::support::TempDir;

/// A directory at one address, in plain text and inside TLS.
pub struct Directory {
    _process: Process,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    _dir: TempDir,
}

impl Directory {
    /// Starts it with these lines more in its configuration.
    #[track_caller]
    pub fn start(plain: SocketAddr, tls: SocketAddr, certificate: &Certificate, lines: &str) -> Self {
        let dir = TempDir::new();
        let root = dir.path().display();
        let config = format!(
            "include /etc/ldap/schema/core.schema\npidfile {root}/pid\nargsfile {root}/args\n\
             TLSCertificateFile {}\nTLSCertificateKeyFile {}\n{lines}\n",
            certificate.path().display(),
            certificate.key().display()
        );
        fs::write(dir.path().join("slapd.conf"), config).unwrap();
        let said = dir.path().join("said");
        let mut command = program("/usr/sbin/slapd");
        command.arg("-f").arg(dir.path().join("slapd.conf")).args(["-h", &format!("ldap://{plain}/ ldaps://{tls}/")]);
        // A debug level keeps it in the foreground.
        command.args(["-d", "none"]).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let mut process = Process::spawn(&mut command, Signal::SIGTERM);
        for address in [plain, tls] {
            wait_until_listening(&mut process, address, &said);
        }
        Self { _process: process, plain, tls, _dir: dir }
    }
}
