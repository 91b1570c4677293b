//! The programs under comparison: their configurations, equal as far as they go, and how they are started.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::configurations::{Layout, haproxy, nginx, sluice};
use crate::options::Options;
use crate::process::{Folder, Places, Running, find_program, free_port};
use crate::usage::{Processes, children};
use crate::wire::{ANSWER_LENGTH, Mode, Pattern, Request, SERVER_NAMES, client_hello};

/// How long a proxy may take until it relays.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// Loopback addresses of the proxy that clients spread over: each has local ports of its own, so that none run out.
const FRONT_ADDRESSES: u8 = 8;
/// Exit code of sluice for a configuration that it does not take.
const INVALID_CONFIGURATION: i32 = 3;

/// What stands between client and backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Sluice,
    /// `HAProxy` in TCP mode.
    Haproxy,
    /// nginx's stream module.
    Nginx,
    /// Nothing.
    Direct,
}

impl Kind {
    /// In the order of the table.
    pub const ALL: [Self; 4] = [Self::Sluice, Self::Haproxy, Self::Nginx, Self::Direct];

    /// The name in options and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Direct => "direct",
        }
    }

    /// Whether it is one of those to be measured against.
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Haproxy | Self::Nginx)
    }

    /// Where its program is, if anywhere.
    pub fn program(self, options: &Options) -> Option<PathBuf> {
        match self {
            Self::Sluice => options.sluice.clone().or_else(|| option_env!("CARGO_BIN_EXE_sluice").map(PathBuf::from)),
            Self::Haproxy => options.haproxy.clone().or_else(|| find_program("haproxy")),
            Self::Nginx => options.nginx.clone().or_else(|| find_program("nginx")),
            Self::Direct => None,
        }
        .filter(|path| path.is_file())
    }

    /// What the program says about its version, and where it is if that was told.
    pub fn version(self, options: &Options) -> String {
        let Some(program) = self.program(options) else { return "not found".to_owned() };
        let flag = match self {
            Self::Sluice => "--version",
            _ => "-v",
        };
        let output = Command::new(&program).arg(flag).stdin(Stdio::null()).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let told = match self {
            Self::Sluice => &options.sluice,
            Self::Haproxy => &options.haproxy,
            _ => &options.nginx,
        };
        let place = told.as_ref().map(|path| format!(" ({})", path.display())).unwrap_or_default();
        format!("{}{place}", text.lines().next().unwrap_or("unknown version").trim())
    }
}

/// What all proxies of a run share.
pub struct Scene<'a> {
    /// The command line.
    pub options: &'a Options,
    /// Where files go.
    pub folder: &'a Folder,
    /// Which processor runs what.
    pub places: Places,
    /// The backend's process id.
    pub backend: u32,
    /// The backend's port for each server name.
    pub backend_ports: [u16; 2],
    /// What travels.
    pub pattern: &'a Pattern,
}

/// A proxy that is ready, or the way past all of them.
pub struct Proxy {
    running: Option<Running>,
    /// Its process and those that it started.
    processes: Vec<u32>,
    /// From starting the program until it relayed.
    pub start_time: Duration,
    /// For each server name, the addresses that lead to it.
    pub targets: [Vec<SocketAddr>; 2],
    /// Where it writes one line for every session.
    pub log: Option<PathBuf>,
}

impl Proxy {
    /// Starts a proxy and waits until it relays for both server names.
    pub fn start(kind: Kind, scene: &Scene<'_>, number: usize, layout: &Layout, bulk: bool) -> Outcome<Self> {
        if kind == Kind::Direct {
            let targets = scene.backend_ports.map(addresses);
            return Ok(Self { running: None, processes: Vec::new(), start_time: Duration::ZERO, targets, log: None });
        }
        match Self::start_program(kind, scene, &format!("{}-{number}", kind.name()), layout, bulk, true) {
            Err(Failed::Configuration(_)) if kind == Kind::Sluice => {
                // A sluice that cannot log to a file yet logs to its standard error.
                Self::start_program(kind, scene, &format!("{}-{number}b", kind.name()), layout, bulk, false)
            }
            other => other,
        }
        .map_err(|failed| match failed {
            Failed::Configuration(text) | Failed::Other(text) => text.into(),
        })
    }

    fn start_program(
        kind: Kind,
        scene: &Scene<'_>,
        name: &str,
        layout: &Layout,
        bulk: bool,
        own_log: bool,
    ) -> Result<Self, Failed> {
        let program =
            kind.program(scene.options).ok_or_else(|| Failed::Other("its program was not found".to_owned()))?;
        let port = free_port()?;
        let file = |suffix: &str| scene.folder.file(&format!("{name}{suffix}"));
        let configuration = file(".conf");
        let path = configuration.display().to_string();
        let (output_path, stdout) = scene.folder.output(&format!("{name}.stdout"))?;
        let (error_path, stderr) = scene.folder.output(&format!("{name}.stderr"))?;
        let (text, arguments, log) = match kind {
            Kind::Haproxy => {
                (haproxy(layout, port, &file(".map"))?, vec!["-db".to_owned(), "-f".to_owned(), path], output_path)
            }
            Kind::Nginx => {
                let buffer = scene.options.nginx_buffer.as_deref().unwrap_or(if bulk { "64k" } else { "16k" });
                let text = nginx(layout, port, &file(".pid"), &file(".log"), buffer);
                let errors = file(".errors").display().to_string();
                (text, vec!["-e".to_owned(), errors, "-c".to_owned(), path], file(".log"))
            }
            _ => {
                let log = own_log.then(|| file(".log"));
                let configuration = file(".toml");
                let text = sluice(layout, port, &file(".sock"), log.as_deref(), scene.options);
                fs::write(&configuration, &text).map_err(|error| Failed::Other(error.to_string()))?;
                let arguments = ["run", "-c", &configuration.display().to_string()].map(str::to_owned).to_vec();
                (text, arguments, log.unwrap_or_else(|| error_path.clone()))
            }
        };
        fs::write(&configuration, text).map_err(|error| Failed::Other(error.to_string()))?;
        let started = Instant::now();
        let mut running = Running::start(&scene.places.of_proxy(layout.workers), &program, &arguments, stdout, stderr)?;
        let has_master = kind == Kind::Nginx && layout.workers > 1;
        if has_master {
            running.takes_children_along();
        }
        let pid = running.pid();
        let targets = [addresses(port), addresses(port)];
        let mut proxy =
            Self { running: Some(running), processes: vec![pid], start_time: Duration::ZERO, targets, log: Some(log) };
        proxy.wait_until_ready(scene.pattern, &[&error_path, &file(".errors")])?;
        proxy.start_time = started.elapsed();
        if has_master {
            proxy.processes.extend(children(pid)?);
        }
        Ok(proxy)
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    /// Whose processor time counts.
    pub fn processes(&self, scene: &Scene<'_>) -> Processes {
        Processes { proxy: self.processes.clone(), backend: scene.backend }
    }

    fn wait_until_ready(&mut self, pattern: &Pattern, messages: &[&Path]) -> Result<(), Failed> {
        let deadline = Instant::now() + START_PATIENCE;
        for (index, name) in SERVER_NAMES.iter().enumerate() {
            let address = self.targets[index][0];
            while let Err(error) = probe(address, name, pattern) {
                if let Some(status) = self.running.as_mut().and_then(|it| it.ended().transpose()) {
                    let status = status?;
                    let text = format!("it ended with {status}: {}", last_lines(messages));
                    return Err(if status.code() == Some(INVALID_CONFIGURATION) {
                        Failed::Configuration(text)
                    } else {
                        Failed::Other(text)
                    });
                }
                if Instant::now() > deadline {
                    return Err(Failed::Other(format!(
                        "it does not relay for {name}: {error}; {}",
                        last_lines(messages)
                    )));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

/// Why a proxy did not start.
enum Failed {
    Configuration(String),
    Other(String),
}

impl<E: std::fmt::Display> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Other(error.to_string())
    }
}

/// The addresses under which a port of this machine is asked.
fn addresses(port: u16) -> Vec<SocketAddr> {
    (1..=FRONT_ADDRESSES).map(|last| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port))).collect()
}

/// One whole connection: hello, request, answer.
fn probe(address: SocketAddr, server_name: &str, pattern: &Pattern) -> Outcome<()> {
    let limit = Duration::from_secs(2);
    let mut socket = TcpStream::connect_timeout(&address, limit)?;
    socket.set_read_timeout(Some(limit))?;
    let request = Request::numbered(Mode::Send, ANSWER_LENGTH, 0, 0);
    let mut message = client_hello(server_name);
    request.write_to(pattern, &mut message);
    socket.write_all(&message)?;
    let mut answer = [0; ANSWER_LENGTH as usize];
    socket.read_exact(&mut answer)?;
    if answer != *pattern.slice(request.seed, 0, answer.len()) {
        return Err(std::io::Error::from(ErrorKind::InvalidData).into());
    }
    Ok(())
}

/// The end of what a program said.
fn last_lines(paths: &[&Path]) -> String {
    let texts: Vec<String> = paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
    lines[lines.len().saturating_sub(8)..].join(" / ")
}
