//! Knot DNS with one zone, `shop.test`, that tests rewrite while it runs.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};

use super::{Process, program, wait_until_listening};
use crate::support::{TempDir, eventually};

/// A running server.
pub struct Knot {
    process: Process,
    dir: TempDir,
    /// Where it answers, over UDP and TCP.
    pub address: SocketAddr,
    serial: AtomicU32,
}

impl Knot {
    /// Starts with these records, in the form of a zone file, relative to `shop.test.`.
    #[track_caller]
    pub fn start(address: Ipv4Addr, records: &str) -> Self {
        Self::start_in(TempDir::new(), (address, 5353).into(), records, 1)
    }

    #[track_caller]
    fn start_in(dir: TempDir, address: SocketAddr, records: &str, serial: u32) -> Self {
        let root = dir.path().display().to_string();
        let config = format!(
            "server:\n    rundir: {root}\n    listen: {}@{}\n\
             database:\n    storage: {root}\n    journal-db-max-size: 16M\n\
             log:\n  - target: stderr\n    any: info\n\
             zone:\n  - domain: shop.test\n    storage: {root}\n    file: zone\n    zonefile-sync: -1\n    \
             zonefile-load: whole\n    journal-content: none\n",
            address.ip(),
            address.port()
        );
        fs::write(dir.path().join("knot.conf"), config).unwrap();
        write_zone(&dir, records, serial);
        let said = dir.path().join("said");
        let mut command = program("/usr/sbin/knotd");
        command.arg("-c").arg(dir.path().join("knot.conf"));
        command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let mut process = Process::spawn(&mut command, Signal::SIGTERM);
        wait_until_listening(&mut process, address, &said);
        let knot = Self { process, dir, address, serial: AtomicU32::new(serial) };
        knot.wait_for(serial);
        knot
    }

    /// Replaces all records; back when they are served.
    #[track_caller]
    pub fn serve(&self, records: &str) {
        let serial = self.serial.fetch_add(1, Ordering::SeqCst) + 1;
        write_zone(&self.dir, records, serial);
        kill(self.process.pid(), Signal::SIGHUP).expect("signal knotd");
        self.wait_for(serial);
    }

    /// SIGKILL: from now on nobody answers.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts again, where it was killed.
    #[track_caller]
    pub fn revive(self, records: &str) -> Self {
        let (address, serial) = (self.address, self.serial.load(Ordering::SeqCst) + 1);
        drop(self);
        Self::start_in(TempDir::new(), address, records, serial)
    }

    #[track_caller]
    fn wait_for(&self, serial: u32) {
        eventually(&format!("zone {serial} is loaded"), || {
            let said = fs::read_to_string(self.dir.path().join("said")).ok()?;
            said.contains(&format!("-> {serial},")).then_some(())
        });
        drop(TcpStream::connect(self.address).expect("it answers"));
    }
}

fn write_zone(dir: &TempDir, records: &str, serial: u32) {
    let zone = format!(
        "$ORIGIN shop.test.\n$TTL 1\n@ SOA ns hostmaster {serial} 60 60 60 1\n@ NS ns\nns A 127.0.0.1\n{records}\n"
    );
    // Replaced as a whole, as the configuration is.
    fs::write(dir.path().join("new"), zone).unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("zone")).unwrap();
}
