//! A real `PostgreSQL` server, and its programs as clients.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use super::{Certificate, Process, answer, finish, printed, program, wait_until_listening};
use crate::support::{TempDir, eventually};

/// A real `PostgreSQL`, which answers its name to `SHOW cluster_name`, with and without TLS; user and database `postgres`.
/// As root it runs as the user `postgres`, because it refuses to be root.
pub struct Postgres {
    process: Option<Process>,
    pub address: SocketAddr,
    name: String,
    dir: TempDir,
}

impl Postgres {
    #[track_caller]
    pub fn start(address: SocketAddr, name: &str) -> Self {
        let dir = TempDir::new();
        give_to_postgres(dir.path());
        let mut initdb = Self::unprivileged("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"]);
        printed(initdb.arg(dir.path().join("data")));
        let certificate = Certificate::for_name("db.test");
        for (from, to) in [(certificate.path(), "server.crt"), (certificate.key(), "server.key")] {
            let to = dir.path().join("data").join(to);
            fs::copy(from, &to).unwrap();
            fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
            give_to_postgres(&to);
        }
        let mut postgres = Self { process: None, address, name: name.to_owned(), dir };
        postgres.start_again();
        postgres
    }

    /// Starts it after [`Postgres::kill`]; back when it answers queries.
    #[track_caller]
    pub fn start_again(&mut self) {
        let said = self.dir.path().join("stderr");
        let mut command = Self::unprivileged("postgres");
        command.arg("-D").arg(self.data());
        command.arg(format!("--listen_addresses={}", self.address.ip())).arg(format!("--port={}", self.address.port()));
        command.arg(format!("--cluster_name={}", self.name));
        command.args(["--unix_socket_directories=", "--ssl=on", "--fsync=off", "--shared_buffers=32MB"]);
        command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        // Immediate shutdown: it ends its children and removes its shared memory.
        let process = self.process.insert(Process::spawn(&mut command, Signal::SIGQUIT));
        wait_until_listening(process, self.address, &said);
        let address = self.address;
        eventually("PostgreSQL answers queries", || answer(&finish(&mut psql(address, "disable", "SELECT 1"))).ok());
    }

    /// SIGKILL for the main process and then for each of its children; back when all are gone.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.take().expect("running").kill();
        eventually("the children of PostgreSQL are gone", || {
            let children = self.processes();
            for child in &children {
                let _ = kill(*child, Signal::SIGKILL);
            }
            children.is_empty().then_some(())
        });
    }

    /// The processes of this server: each has its data folder as working directory.
    fn processes(&self) -> Vec<Pid> {
        let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == self.data());
        pids.filter(ours).map(Pid::from_raw).collect()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// One of the server's programs, from Debian's folder of the newest version there.
    #[track_caller]
    pub fn program(name: &str) -> Command {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
        let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max().unwrap_or(0);
        let mut command = program(format!("/usr/lib/postgresql/{newest}/bin/{name}"));
        // The caller's own settings and keys stay out.
        for (key, _) in env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(key);
        }
        command
            .env("HOME", "/nonexistent")
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .env("PGCONNECT_TIMEOUT", "10");
        command
    }

    fn unprivileged(name: &str) -> Command {
        let mut command = Self::program(name);
        if let Some(user) = postgres_user() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
        }
        command
    }
}

/// Whom `PostgreSQL` runs as, when the tests run as root.
fn postgres_user() -> Option<User> {
    let find = || User::from_name("postgres").expect("users").expect("user postgres: run ./tests/run");
    geteuid().is_root().then(find)
}

fn give_to_postgres(path: &Path) {
    if let Some(user) = postgres_user() {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown to postgres");
    }
}

/// A real psql that runs one query and prints bare values.
pub fn psql(address: SocketAddr, sslmode: &str, query: impl AsRef<OsStr>) -> Command {
    let mut command = Postgres::program("psql");
    command.env("PGHOST", address.ip().to_string()).env("PGPORT", address.port().to_string());
    command.env("PGSSLMODE", sslmode).args(["-X", "-A", "-t", "-q", "-c"]).arg(query);
    command
}
