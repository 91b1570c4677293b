//! A real SMTP server: Python's aiosmtpd, which prints what it gets.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::Signal;

use super::{Certificate, Process, program, wait_until_listening};
use crate::support::TempDir;

/// A mail server that keeps nothing.
pub struct Mail {
    _process: Process,
    pub address: SocketAddr,
    _dir: TempDir,
}

impl Mail {
    /// Starts it, inside TLS if there is a certificate.
    #[track_caller]
    pub fn start(address: SocketAddr, certificate: Option<&Certificate>) -> Self {
        let dir = TempDir::new();
        let said = dir.path().join("said");
        let mut command = program("/usr/bin/python3");
        command.args(["-m", "aiosmtpd", "-n", "-l", &address.to_string()]);
        if let Some(certificate) = certificate {
            command.arg("--smtpscert").arg(certificate.path()).arg("--smtpskey").arg(certificate.key());
        }
        command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let mut process = Process::spawn(&mut command, Signal::SIGTERM);
        wait_until_listening(&mut process, address, &said);
        Self { _process: process, address, _dir: dir }
    }
}
