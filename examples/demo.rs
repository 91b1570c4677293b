//! The main job in half a minute: three TLS servers with certificates made on the spot, the balancer in front of them,
//! and a client that asks for three names. One server dies on the way and comes back; no client notices.
//!
//! `cargo run --release --example demo`, with `-- --stay` to leave everything running and try it with curl.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What nothing in the demo takes longer than.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Outcome<()> {
    let stay = env::args().any(|argument| argument == "--stay");
    println!("1. Three TLS servers, each with a certificate of its own, made just now:");
    let mut roots = RootCertStore::empty();
    let mut apple = Server::start("apple", &["fruit.test"], &mut roots)?;
    let cherry = Server::start("cherry", &["fruit.test"], &mut roots)?;
    let potato = Server::start("potato", &["potato.test", "www.potato.test"], &mut roots)?;
    for server in [&apple, &cherry, &potato] {
        println!("     {:<7} {:<22} for {}", server.name, server.address, server.names.join(", "));
    }

    println!(
        "\n2. The balancer. It never decrypts anything: it reads the name in the ClientHello and passes bytes on."
    );
    let balancer = Balancer::start(&config(&apple, &cherry, &potato))?;
    println!("     {}", balancer.config.replace('\n', "\n     ").trim_end());

    println!("\n3. A client asks for three names, and checks the certificate each time:");
    let client = Client::new(roots, balancer.address);
    for name in ["fruit.test", "fruit.test", "potato.test", "www.potato.test"] {
        println!("     {name:<16} -> {}", client.ask(name)?);
    }
    match client.ask("carrot.test") {
        Ok(answer) => return Err(format!("carrot.test has no route, but {answer} answered").into()),
        Err(error) => println!("     {:<16} -> refused, as it should be: {error}", "carrot.test"),
    }

    println!("\n4. apple dies. 20 clients come at once:");
    apple.stop();
    let answers: Outcome<Vec<String>> = (0..20).map(|_| client.ask("fruit.test")).collect();
    println!("     {} of 20 answered, all by cherry: the refused connection was moved on, unseen", answers?.len());
    balancer.wait_until(&apple, "down")?;
    balancer.show("backends");

    println!("\n5. apple is back:");
    apple.resume()?;
    balancer.wait_until(&apple, "up")?;
    let begun = Instant::now();
    while client.ask("fruit.test")? != "apple" {
        if begun.elapsed() > PATIENCE {
            return Err("apple gets no clients".into());
        }
    }
    println!("     apple answers again");

    println!("\n6. What was recorded of the last two clients:");
    for record in balancer.last_records(2, "backend=apple")? {
        println!("     {record}");
    }
    if stay {
        stay_running(&balancer);
    }
    drop((apple, cherry, potato));
    println!("\nAll of it worked.");
    Ok(())
}

fn config(apple: &Server, cherry: &Server, potato: &Server) -> String {
    format!(
        r#"[[listener]]
name = "https"
bind = ["LISTEN"]
[[listener.route]]
sni = ["fruit.test"]
pool = "fruit"
[[listener.route]]
sni = ["potato.test", "*.potato.test"]
pool = "vegetables"

[pool.fruit]
balance = "least-connections"
[[pool.fruit.backend]]
name = "apple"
address = "{}"
[[pool.fruit.backend]]
name = "cherry"
address = "{}"
[pool.fruit.health]
check = "tcp"
interval = "200ms"

[pool.vegetables]
backends = ["{}"]
[pool.vegetables.health]
check = "tcp"
"#,
        apple.address, cherry.address, potato.address
    )
}

fn stay_running(balancer: &Balancer) {
    let address = balancer.address;
    println!("\nThe balancer stays. Try, in another terminal:");
    for name in ["fruit.test", "www.potato.test", "carrot.test"] {
        println!("     curl -k --resolve {name}:{}:{} https://{name}:{0}/", address.port(), address.ip());
    }
    println!("     {} --socket {} backends", balancer.program, balancer.socket);
    println!("Ctrl-C ends it.");
    loop {
        thread::park();
    }
}

/// A TLS server that answers with its name.
struct Server {
    name: &'static str,
    names: Vec<String>,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    running: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(name: &'static str, names: &[&str], roots: &mut RootCertStore) -> Outcome<Self> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names.clone())?;
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        roots.add(certificate.clone())?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
        let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let running = Arc::new(AtomicBool::new(false));
        let mut server = Self { name, names, address, tls: Arc::new(tls), running, thread: None };
        server.serve(listener);
        Ok(server)
    }

    fn serve(&mut self, listener: TcpListener) {
        self.running.store(true, Ordering::SeqCst);
        let (tls, running, name) = (Arc::clone(&self.tls), Arc::clone(&self.running), self.name);
        self.thread = Some(thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if !running.load(Ordering::SeqCst) {
                    break;
                }
                let tls = Arc::clone(&tls);
                // Health checks connect and say nothing; that is no error worth a word.
                thread::spawn(move || drop(answer(stream, tls, name)));
            }
        }));
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.running.store(false, Ordering::SeqCst);
            drop(TcpStream::connect(self.address));
            drop(thread.join());
        }
    }

    fn resume(&mut self) -> Outcome<()> {
        self.serve(TcpListener::bind(self.address)?);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn answer(stream: TcpStream, tls: Arc<ServerConfig>, name: &str) -> Outcome<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(ServerConnection::new(tls)?, stream);
    let mut request = [0; 4096];
    if stream.read(&mut request)? > 0 {
        let body = format!("{name}\n");
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
        stream.conn.send_close_notify();
        stream.flush()?;
    }
    Ok(())
}

/// A client that checks certificates.
struct Client {
    tls: Arc<ClientConfig>,
    balancer: SocketAddr,
}

impl Client {
    fn new(roots: RootCertStore, balancer: SocketAddr) -> Self {
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { tls: Arc::new(tls), balancer }
    }

    /// Asks for a name; who answers.
    fn ask(&self, name: &str) -> Outcome<String> {
        let stream = TcpStream::connect_timeout(&self.balancer, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let tls = ClientConnection::new(Arc::clone(&self.tls), ServerName::try_from(name.to_owned())?)?;
        let mut stream = StreamOwned::new(tls, stream);
        write!(stream, "GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("an answer without a body")?;
        Ok(body.trim().to_owned())
    }
}

/// The balancer, as a process of its own.
struct Balancer {
    child: Child,
    address: SocketAddr,
    config: String,
    folder: std::path::PathBuf,
    socket: String,
    program: String,
}

impl Balancer {
    fn start(config: &str) -> Outcome<Self> {
        let program = program()?;
        let folder = env::temp_dir().join(format!("sluice-demo-{}", process::id()));
        fs::create_dir_all(&folder)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = config.replace("LISTEN", &address.to_string());
        let socket = folder.join("sluice.sock").display().to_string();
        let log = folder.join("log").display().to_string();
        let head = format!("[global]\nstatus-socket = \"{socket}\"\n[log]\ntarget = \"{log}\"\n");
        fs::write(folder.join("sluice.toml"), format!("{head}{config}"))?;
        let mut command = Command::new(&program);
        let child = command.arg("run").arg("-c").arg(folder.join("sluice.toml")).stdin(Stdio::null()).spawn()?;
        let mut balancer = Self { child, address, config, folder, socket, program };
        let begun = Instant::now();
        while balancer.ask("status").is_none() {
            if let Some(status) = balancer.child.try_wait()? {
                return Err(format!("the balancer ended with {status}").into());
            }
            balancer.patient(begun)?;
        }
        Ok(balancer)
    }

    fn patient(&self, begun: Instant) -> Outcome<()> {
        if begun.elapsed() > PATIENCE {
            return Err(format!("nothing happened for {PATIENCE:?}; see {}", self.folder.display()).into());
        }
        thread::sleep(Duration::from_millis(20));
        Ok(())
    }

    /// Output of a command of the program.
    fn ask(&self, command: &str) -> Option<String> {
        let output = Command::new(&self.program).args(["--socket", &self.socket, command]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn wait_until(&self, server: &Server, state: &str) -> Outcome<()> {
        let begun = Instant::now();
        let wanted = format!("\t{}\t{state}\t", server.name);
        while !self.ask("backends").is_some_and(|table| table.contains(&wanted)) {
            self.patient(begun)?;
        }
        Ok(())
    }

    fn show(&self, command: &str) {
        println!("     $ sluice {command}");
        for line in self.ask(command).unwrap_or_default().lines() {
            let cells: Vec<&str> = line.split('\t').collect();
            let cell = |place: usize| cells.get(place).copied().unwrap_or_default();
            println!("     {:<11} {:<16} {:<6} {:<20} {}", cell(0), cell(1), cell(2), cell(3), cell(11));
        }
    }

    /// The last records, once the very last holds `last`: they are written a moment after the session.
    fn last_records(&self, count: usize, last: &str) -> Outcome<Vec<String>> {
        let begun = Instant::now();
        loop {
            let log = fs::read_to_string(self.folder.join("log"))?;
            let records: Vec<&str> = log.lines().filter(|line| line.starts_with("time=")).collect();
            if records.len() >= count && records.last().is_some_and(|record| record.contains(last)) {
                return Ok(records[records.len() - count..].iter().map(|line| (*line).to_owned()).collect());
            }
            self.patient(begun)?;
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// The program beside this example: `cargo run --example` builds it only as a library, so it is built when missing.
fn program() -> Outcome<String> {
    let example = env::current_exe()?;
    let folder = example.parent().and_then(|examples| examples.parent()).ok_or("no target folder")?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--bin", "sluice", "--manifest-path"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    if !command.status()?.success() {
        return Err("cargo build failed".into());
    }
    Ok(folder.join("sluice").display().to_string())
}
