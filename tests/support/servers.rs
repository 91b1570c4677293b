//! Real programs for the tests: nginx and PostgreSQL as backends, any program as a client, and clients that ask again
//! and again while something happens. Every process is ended by its pid when its guard goes.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use super::{DEADLINE, TempDir, eventually};

/// A command for a program that has to be there.
#[track_caller]
pub fn program(path: impl AsRef<Path>) -> Command {
    let path = path.as_ref();
    assert!(path.exists(), "{} is missing: run ./tests/run, which installs it", path.display());
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end, within the deadline.
#[track_caller]
pub fn finish(command: &mut Command) -> Output {
    fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).expect("read a pipe");
            bytes
        })
    }
    let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()), Signal::SIGKILL);
    let stdout = drain(process.child.stdout.take().expect("piped"));
    let stderr = drain(process.child.stderr.take().expect("piped"));
    let status = eventually(&format!("{command:?} ends"), || process.ended());
    Output { status, stdout: stdout.join().expect("stdout"), stderr: stderr.join().expect("stderr") }
}

/// What a command that ended printed, or why it failed.
pub fn answer(output: &Output) -> Result<String, String> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// What a command prints; it must succeed.
#[track_caller]
pub fn printed(command: &mut Command) -> String {
    answer(&finish(command)).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A process that is told to end when dropped, and killed when it does not.
pub struct Process {
    pub child: Child,
    ending: Signal,
}

impl Process {
    /// Starts it; `ending` is the signal that tells it to end.
    #[track_caller]
    pub fn spawn(command: &mut Command, ending: Signal) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { child, ending }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for a child")
    }

    /// SIGKILL; back when its sockets are closed.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let begun = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            // Said again and again: a signal that comes before the program is ready for it can be lost.
            let signal = if begun.elapsed() < Duration::from_secs(5) { self.ending } else { Signal::SIGKILL };
            let _ = kill(self.pid(), signal);
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A port of `address` that nobody has, not even a stranger who listens on all addresses.
#[track_caller]
pub fn free_port(address: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

/// A self-made certificate for one name, and its key.
pub struct Certificate {
    dir: TempDir,
}

impl Certificate {
    #[track_caller]
    pub fn for_name(name: &str) -> Self {
        let dir = TempDir::new();
        let mut openssl = program("/usr/bin/openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        openssl.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")]);
        openssl.arg("-keyout").arg(dir.path().join("key.pem")).arg("-out").arg(dir.path().join("certificate.pem"));
        printed(&mut openssl);
        Self { dir }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("certificate.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }
}

/// Waits until something listens on `address`; a server that ended instead shows what it said.
#[track_caller]
fn wait_until_listening(process: &mut Process, address: SocketAddr, said: &Path) {
    eventually(&format!("{address} listens"), || {
        if let Some(status) = process.ended() {
            panic!("{address} ended with {status}:\n{}", fs::read_to_string(said).unwrap_or_default());
        }
        TcpStream::connect_timeout(&address, DEADLINE).ok()
    });
}

/// A real nginx with TLS. `/name` answers its name and the protocol, `/files/` holds its files, `PUT /files/` stores.
pub struct Nginx {
    process: Option<Process>,
    pub address: SocketAddr,
    dir: TempDir,
}

impl Nginx {
    #[track_caller]
    pub fn start(address: SocketAddr, name: &str, certificate: &Certificate) -> Self {
        let dir = TempDir::new();
        let root = dir.path().display().to_string();
        fs::create_dir(dir.path().join("files")).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|module| format!("{module}_temp_path {root}/{module};\n"))
            .concat();
        let (certificate, key) = (certificate.path(), certificate.key());
        // One process, so that one pid is the whole server.
        let config = format!(
            "daemon off; master_process off; pid {root}/pid; error_log stderr;
            events {{ worker_connections 512; }}
            http {{
                access_log off; {temporary}
                server {{
                    listen {address} ssl http2;
                    ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {}; ssl_certificate_key {};
                    client_max_body_size 64m;
                    location = /name {{ default_type text/plain; return 200 \"{name} $server_protocol\"; }}
                    location /files/ {{ root {root}; dav_methods PUT; }}
                }}
            }}",
            certificate.display(),
            key.display()
        );
        fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let mut nginx = Self { process: None, address, dir };
        nginx.start_again();
        nginx
    }

    /// Starts it after [`Nginx::kill`].
    #[track_caller]
    pub fn start_again(&mut self) {
        let said = self.dir.path().join("stderr");
        let mut command = program("/usr/sbin/nginx");
        command.arg("-p").arg(self.dir.path()).args(["-e", "stderr", "-c"]).arg(self.dir.path().join("nginx.conf"));
        command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let process = self.process.insert(Process::spawn(&mut command, Signal::SIGTERM));
        wait_until_listening(process, self.address, &said);
    }

    pub fn kill(&mut self) {
        self.process.take().expect("running").kill();
    }

    /// Where `/files/NAME` is on disk.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("files").join(name)
    }
}

/// A real PostgreSQL, which answers its name to `SHOW cluster_name`, with and without TLS; user and database `postgres`.
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
        let (listen, port) =
            (format!("listen_addresses={}", self.address.ip()), format!("port={}", self.address.port()));
        let name = format!("cluster_name={}", self.name);
        for setting in [&listen, &port, &name, "unix_socket_directories=", "ssl=on", "fsync=off", "shared_buffers=32MB"]
        {
            command.args(["-c", setting]);
        }
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
        let pids =
            fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let ours = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == self.data());
        pids.filter(ours).map(Pid::from_raw).collect()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// One of PostgreSQL's programs, from Debian's folder of the newest version there.
    #[track_caller]
    pub fn program(name: &str) -> Command {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
        let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).max().unwrap_or(0);
        let mut command = program(format!("/usr/lib/postgresql/{newest}/bin/{name}"));
        // The caller's own settings stay out.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(key);
        }
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres").env("PGCONNECT_TIMEOUT", "10");
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

/// Whom PostgreSQL runs as, when the tests run as root.
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

/// One request of a client that asks again and again.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub begun: Instant,
    pub ended: Instant,
    pub answer: Result<String, String>,
}

impl Attempt {
    /// Whether it succeeded with an answer like this.
    pub fn is_from(&self, like: &str) -> bool {
        self.answer.as_ref().is_ok_and(|answer| answer.contains(like))
    }
}

/// Clients that ask again and again, each on a thread of its own, until told to stop.
pub struct Clients {
    stop: Arc<AtomicBool>,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn start(count: usize, ask: impl Fn() -> Result<String, String> + Send + Sync + 'static) -> Self {
        let (stop, attempts, ask) =
            (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Attempt>>>::default(), Arc::new(ask));
        let client = |_| {
            let (stop, attempts, ask) = (Arc::clone(&stop), Arc::clone(&attempts), Arc::clone(&ask));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    let answer = ask();
                    attempts.lock().unwrap().push(Attempt { begun, ended: Instant::now(), answer });
                }
            })
        };
        let threads = (0..count).map(client).collect();
        Self { stop, attempts, threads }
    }

    /// Waits until `count` attempts that began after `since` have succeeded with an answer like this.
    #[track_caller]
    pub fn wait_for(&self, count: usize, since: Instant, like: &str) {
        let fits = |attempt: &&Attempt| attempt.begun >= since && attempt.is_from(like);
        eventually(&format!("{count} answers like {like:?}"), || {
            (self.attempts.lock().unwrap().iter().filter(fits).count() >= count).then_some(())
        });
    }

    /// Stops and returns all attempts.
    #[track_caller]
    pub fn stop(mut self) -> Vec<Attempt> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client");
        }
        std::mem::take(&mut self.attempts.lock().unwrap())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
