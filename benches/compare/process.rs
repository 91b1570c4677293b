//! Starting and ending other programs: pinned to a processor, ended with us whatever happens, in a folder of their own.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use socket2::{Domain, Socket, Type};

use crate::Outcome;

/// Where proxies run, and where the load generator and the backend run.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The processor of the proxy under test.
    pub proxy: usize,
    /// The processor of everything else.
    pub load: usize,
    /// The processor of a second worker: a third one if there is one, else that of everything else.
    pub second: usize,
}

impl Places {
    /// The first processors that this process may run on.
    pub fn find() -> Outcome<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut numbers = (0..CpuSet::count()).filter(|number| allowed.is_set(*number).unwrap_or(false));
        match (numbers.next(), numbers.next()) {
            (Some(proxy), Some(load)) => Ok(Self { proxy, load, second: numbers.next().unwrap_or(load) }),
            _ => Err("two processors are needed: one for the proxy, one for load and backend".into()),
        }
    }

    /// Where a proxy with so many workers may run.
    pub fn of_proxy(self, workers: usize) -> Vec<usize> {
        if workers > 1 { vec![self.proxy, self.second] } else { vec![self.proxy] }
    }

    /// How many processors such a proxy, load and backend have between them.
    pub fn count(self, workers: usize) -> usize {
        let mut all = self.of_proxy(workers);
        all.push(self.load);
        all.sort_unstable();
        all.dedup();
        all.len()
    }
}

/// Pins this process (its only thread) to processors.
pub fn pin_to(processors: &[usize]) -> Outcome<()> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}

/// The role `launch PARENT CPU,CPU PROGRAM ARGUMENTS`: pins itself, asks to be killed with its parent, and becomes the program.
pub fn launch(arguments: &[String]) -> Outcome<()> {
    let [parent, processors, program, rest @ ..] = arguments else {
        return Err("launch needs a parent, a processor and a program".into());
    };
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != parent.parse::<i32>()? {
        return Err("the parent has ended already".into());
    }
    let processors: Vec<usize> = processors.split(',').map(str::parse).collect::<Result<_, _>>()?;
    pin_to(&processors)?;
    let error = Command::new(program).args(rest).exec();
    Err(format!("{program}: {error}").into())
}

/// A running program, killed when dropped.
pub struct Running {
    child: Child,
    /// It ends its own children when asked to end, and would leave them behind if killed.
    has_children: bool,
}

impl Running {
    /// Starts a program pinned to processors.
    pub fn start(
        processors: &[usize],
        program: &Path,
        arguments: &[String],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Outcome<Self> {
        let processors: Vec<String> = processors.iter().map(usize::to_string).collect();
        let child = Command::new(std::env::current_exe()?)
            .args(["--role", "launch", &std::process::id().to_string(), &processors.join(",")])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()?;
        Ok(Self { child, has_children: false })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output, when it is a pipe.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// From now on, it is asked to end before it is killed.
    pub fn takes_children_along(&mut self) {
        self.has_children = true;
    }

    /// Interrupts it and waits for its end.
    pub fn interrupt(&mut self, patience: Duration) -> Outcome<()> {
        self.ask(Signal::SIGINT, patience)
    }

    fn ask(&mut self, signal: Signal, patience: Duration) -> Outcome<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?;
        let deadline = Instant::now() + patience;
        while self.ended()?.is_none() {
            if Instant::now() > deadline {
                return Err(format!("process {} does not end on {signal}", self.pid()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_children && matches!(self.ended(), Ok(None)) {
            // Killed next if it does not.
            let _ = self.ask(Signal::SIGTERM, Duration::from_secs(2));
        }
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder that is removed when dropped; in memory if possible, so that no disk takes part.
pub struct Folder {
    path: PathBuf,
}

const FOLDER_PREFIX: &str = "sluice-compare-";

impl Folder {
    /// Makes the folder, and removes those that killed runs left behind.
    pub fn create() -> Outcome<Self> {
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        for entry in fs::read_dir(&base)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(pid) = name.strip_prefix(FOLDER_PREFIX) else { continue };
            if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = base.join(format!("{FOLDER_PREFIX}{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path })
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A new file in it, for a program's output.
    pub fn output(&self, name: &str) -> Outcome<(PathBuf, Stdio)> {
        let path = self.file(name);
        let file = File::options().create(true).append(true).open(&path)?;
        Ok((path, Stdio::from(file)))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A listening socket on a free port, outside the range that outgoing connections use.
pub fn listen() -> Outcome<TcpListener> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 10_000)?;
    for _ in 0..1000 {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed) - 20_000) % 12_000;
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        let bound =
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).and_then(|()| socket.listen(4096));
        match bound {
            Ok(()) => return Ok(socket.into()),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err("no free port between 20000 and 32000".into())
}

/// A port that was free a moment ago.
pub fn free_port() -> Outcome<u16> {
    Ok(listen()?.local_addr()?.port())
}

/// Finds a program in PATH and where administrators' programs are.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/local/sbin", "/sbin"]);
    folders.map(|folder| Path::new(folder).join(name)).find(|candidate| candidate.is_file())
}
