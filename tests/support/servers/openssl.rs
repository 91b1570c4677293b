//! `openssl s_server` for what nginx cannot do or say: early data, one group only, what a ticket carried.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::Signal;

use super::{Certificate, Process, program, wait_until_listening};
use crate::support::TempDir;

/// A TLS server that takes one connection after the other.
pub struct OpenSsl {
    _process: Process,
    pub address: SocketAddr,
    dir: TempDir,
}

impl OpenSsl {
    /// Starts it with more arguments. With `-www` it answers any request with a page about the connection.
    #[track_caller]
    pub fn start(address: SocketAddr, certificate: &Certificate, arguments: &[&str]) -> Self {
        let dir = TempDir::new();
        let said = dir.path().join("said");
        let file = File::create(&said).expect("a file for what it says");
        let mut command = program("/usr/bin/openssl");
        command.args(["s_server", "-accept", &address.to_string()]).args(arguments);
        command.arg("-cert").arg(certificate.path()).arg("-key").arg(certificate.key());
        // A standard input that ends would end its connections.
        command.stdin(Stdio::piped()).stdout(file.try_clone().expect("one more handle")).stderr(file);
        let mut process = Process::spawn(&mut command, Signal::SIGTERM);
        wait_until_listening(&mut process, address, &said);
        Self { _process: process, address, dir }
    }

    /// All that it has printed so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("said")).unwrap_or_default()).into_owned()
    }
}
