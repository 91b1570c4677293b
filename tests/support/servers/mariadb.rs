//! A real MariaDB.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::{Process, answer, finish, printed, program};
use crate::support::{TempDir, eventually};

/// A server with data of its own and without the caller's settings; `root` comes through its socket file, without a password.
pub struct MariaDb {
    _process: Process,
    pub address: SocketAddr,
    dir: TempDir,
}

impl MariaDb {
    /// Starts it; back when it answers queries. Nothing has connected to its port until then. It knows `hosts` only, lines
    /// as in /etc/hosts: it counts the errors of none but addresses that it has looked up. Needs root for that.
    #[track_caller]
    pub fn start(address: SocketAddr, hosts: &str, arguments: &[&str]) -> Self {
        let dir = TempDir::new();
        fs::create_dir(dir.path().join("data")).unwrap();
        let mut install = program("/usr/bin/mariadb-install-db");
        install.args(["--no-defaults", "--user=root", "--datadir"]).arg(dir.path().join("data"));
        printed(install.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-log-bin"]));
        let said = dir.path().join("said");
        fs::write(dir.path().join("hosts"), hosts).unwrap();
        let mut server = program("/usr/bin/unshare");
        server.args(["--mount", "/bin/sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
        server.arg(dir.path().join("hosts")).args(["/usr/sbin/mariadbd", "--no-defaults", "--user=root"]);
        server.arg("--datadir").arg(dir.path().join("data")).arg("--socket").arg(dir.path().join("socket"));
        server.args([&format!("--bind-address={}", address.ip()), &format!("--port={}", address.port())]);
        server.args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", "--performance-schema=on"]);
        server.args(arguments).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let mut process = Process::spawn(&mut server, Signal::SIGTERM);
        let socket = dir.path().join("socket");
        eventually("MariaDB answers queries", || {
            let log = || fs::read_to_string(&said).unwrap_or_default();
            assert!(process.ended().is_none(), "MariaDB ended:\n{}", log());
            answer(&finish(&mut client(&socket, "SELECT 1"))).ok()
        });
        Self { _process: process, address, dir }
    }

    /// Runs statements as root and returns what they print.
    #[track_caller]
    pub fn ask(&self, statements: &str) -> String {
        printed(&mut client(&self.dir.path().join("socket"), statements))
    }

    /// The value of a status variable.
    #[track_caller]
    pub fn status(&self, name: &str) -> u64 {
        let shown = self.ask(&format!("SHOW GLOBAL STATUS LIKE '{name}'"));
        shown.split_whitespace().last().and_then(|value| value.parse().ok()).expect("a number")
    }
}

fn client(socket: &PathBuf, statements: &str) -> Command {
    let mut client = program("/usr/bin/mariadb");
    client.args(["--no-defaults", "--user=root", "--skip-column-names", "--batch"]).arg("--socket").arg(socket);
    client.args(["--execute", statements]);
    client
}
