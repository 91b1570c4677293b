//! Real programs for the tests: nginx and `PostgreSQL` as backends, any program as a client, and clients that ask again
//! and again while something happens. Every process is ended by its pid when its guard goes.

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DEADLINE, TempDir, eventually, within};

pub mod configured;
pub mod directory;
pub mod knot;
pub mod mail;
pub mod mariadb;
pub mod openssl;
pub mod postgres;
pub mod redis;

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
    // Browsers, Java and Ansible take their time on a busy machine.
    let status = within(Duration::from_secs(90), &format!("{command:?} ends"), || process.ended());
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
        Pid::from_raw(self.child.id().cast_signed())
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

/// As [`free_port`], several that differ: one that is given back could be drawn again.
#[track_caller]
pub fn free_ports<const N: usize>(address: Ipv4Addr) -> [SocketAddr; N] {
    [(); N].map(|()| TcpListener::bind((address, 0)).expect("a free port")).map(|held| held.local_addr().unwrap())
}

/// A self-made certificate for one name, and its key.
pub struct Certificate {
    dir: TempDir,
}

impl Certificate {
    #[track_caller]
    pub fn for_name(name: &str) -> Self {
        Self::new(name, &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
    }

    /// With a key of another kind, in the words of `openssl req -newkey`.
    #[track_caller]
    pub fn new(name: &str, key: &[&str]) -> Self {
        let dir = TempDir::new();
        let mut openssl = program("/usr/bin/openssl");
        openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey"]).args(key);
        openssl.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")]);
        openssl.arg("-keyout").arg(dir.path().join("key.pem")).arg("-out").arg(dir.path().join("certificate.pem"));
        printed(&mut openssl);
        Self { dir }
    }

    /// One that was made elsewhere, in PEM.
    pub fn of(certificate: &str, key: &str) -> Self {
        let dir = TempDir::new();
        fs::write(dir.path().join("certificate.pem"), certificate).unwrap();
        fs::write(dir.path().join("key.pem"), key).unwrap();
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

    /// Its only process.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        self.process.as_ref().expect("running").pid()
    }

    /// Where `/files/NAME` is on disk.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("files").join(name)
    }
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
