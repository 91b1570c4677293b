//! A daemon that is killed while operators speak: whatever the moment, the state file is whole, the next start takes it, and
//! every word that was answered as kept is in it.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::pump::Dice;
use support::{DEADLINE, Daemon, TempDir, own_loopback, through};

const BACKENDS: [&str; 4] = ["one", "two", "three", "four"];

struct Scene {
    dir: TempDir,
    address: Ipv4Addr,
}

impl Scene {
    fn new() -> Self {
        Self { dir: TempDir::new(), address: own_loopback() }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state.json")
    }

    /// A second file is written before it takes the place of the first.
    fn fresh(&self) -> PathBuf {
        self.dir.path().join("state.json.new")
    }

    #[track_caller]
    fn start(&self, adjust: impl FnOnce(&mut Command) -> &mut Command) -> Daemon {
        let mut body =
            "[[listener]]\nname = \"l\"\nprotocol = \"tcp\"\nbind = [\"{ip}:443\"]\npool = \"a\"\n".to_owned();
        for (port, name) in (1001..).zip(BACKENDS) {
            write!(body, "[[pool.a.backend]]\nname = \"{name}\"\naddress = \"{{ip}}:{port}\"\n").unwrap();
        }
        Daemon::start_on(self.address, &body, &format!("state-file = \"{}\"\n", self.state().display()), adjust)
    }

    /// The file is whole, if there is one, and the next start has of every backend the last word that was answered, or the one
    /// after it, which was on its way. That one counts from now on.
    #[track_caller]
    fn has_all(&self, said: &mut [Said]) {
        if let Ok(text) = fs::read(self.state()) {
            let whole: Value = serde_json::from_slice(&text).expect("a whole file");
            assert_eq!(whole["version"], 2);
        }
        let daemon = self.start(|command| command);
        assert!(!self.dir.path().join("state.json.bad").exists(), "{}", daemon.log());
        let list = daemon.json("/v1/backends");
        for Said { backend, kept, asked } in said {
            let row = list.as_array().unwrap().iter().find(|row| row["backend"] == *backend).unwrap();
            let now = row["override"]["weight"].as_u64().unwrap_or(0);
            assert!(now == *kept || now == *asked, "{backend}: {kept} was kept, {asked} asked for, but it is {now}");
            (*kept, *asked) = (now, now);
        }
    }
}

/// What an operator said of a backend: weights that count up.
#[derive(Clone, Copy)]
struct Said {
    backend: &'static str,
    /// The last one that was answered as kept.
    kept: u64,
    /// The last one that was asked for.
    asked: u64,
}

/// An operator who speaks as fast as he is answered.
struct Operator {
    socket: PathBuf,
    said: Said,
}

impl Operator {
    fn new(socket: &Path, said: Said) -> Self {
        Self { socket: socket.to_owned(), said }
    }

    /// Speaks until nobody answers any more. Tells of each word that was kept.
    fn speak(mut self, tell: &mpsc::Sender<()>) -> Said {
        // However it ends, it ends with the daemon.
        let _ = self.try_to_speak(tell);
        self.said
    }

    fn try_to_speak(&mut self, tell: &mpsc::Sender<()>) -> io::Result<()> {
        let mut stream = BufReader::new(UnixStream::connect(&self.socket)?);
        stream.get_ref().set_read_timeout(Some(DEADLINE))?;
        loop {
            self.said.asked = self.said.asked % 1000 + 1;
            let params = json!({ "backend": format!("a/{}", self.said.backend), "weight": self.said.asked });
            writeln!(stream.get_mut(), "{}", json!({ "method": "weight", "params": params }))?;
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let answer: Value = serde_json::from_str(&line)?;
            assert_eq!(answer["result"]["kept"], true, "{answer}");
            self.said.kept = self.said.asked;
            let _ = tell.send(());
        }
    }
}

#[test]
fn words_that_were_kept_survive_a_kill_at_any_time() {
    let scene = Scene::new();
    let mut said = BACKENDS.map(|backend| Said { backend, kept: 0, asked: 0 });
    let mut dice = Dice(20_261_128);
    let mut words = 0;
    for _ in 0..60 {
        let mut daemon = scene.start(|command| command);
        let (tell, told) = mpsc::channel();
        let socket = daemon.socket();
        said = thread::scope(|scope| {
            let speaking = said.map(|said| {
                let (operator, tell) = (Operator::new(&socket, said), tell.clone());
                scope.spawn(move || operator.speak(&tell))
            });
            for _ in BACKENDS {
                told.recv_timeout(DEADLINE).expect("a word is kept");
            }
            thread::sleep(Duration::from_micros(dice.between(0, 30_000)));
            daemon.signal(Signal::SIGKILL);
            speaking.map(|one| one.join().unwrap())
        });
        daemon.wait_for_exit();
        words += BACKENDS.len() + told.try_iter().count();
        scene.has_all(&mut said);
    }
    eprintln!("{words} words were kept");
}

#[test]
fn words_that_were_kept_survive_a_kill_at_every_step_of_writing() {
    let (mut halves, mut renamed) = (0, 0);
    // The calls that write a second file, put it in the place of the first, and make that last: the process is killed
    // when it makes one of them, for the first word and for one after others.
    let steps =
        ["openat", "write", "fsync", "close", "/^rename"].map(|call| (call, Scene::fresh as fn(&Scene) -> PathBuf));
    let last: (&str, fn(&Scene) -> PathBuf) = ("fsync", |scene| scene.dir.path().to_owned());
    for (call, path) in steps.into_iter().chain([last]) {
        for number in [1, 3] {
            let scene = Scene::new();
            let (path, kill) = (path(&scene), format!("inject={call}:signal=SIGKILL:when={number}"));
            let mut daemon = scene.start(|command| {
                through(command, "strace", &["-f", "-q", "-o", "/dev/null", "-P", path.to_str().unwrap(), "-e", &kill])
            });
            let (tell, _told) = mpsc::channel();
            let mut said = Operator::new(&daemon.socket(), Said { backend: "one", kept: 0, asked: 0 }).speak(&tell);
            assert!(!daemon.wait_for_exit().success(), "killed at {call}");
            let text = fs::read_to_string(scene.state()).unwrap_or_default();
            let is_new = text.contains(&format!("\"said\": {},", said.asked));
            eprintln!(
                "{call} {number}: kept {}, asked {}, half: {}, new: {is_new}",
                said.kept,
                said.asked,
                scene.fresh().exists()
            );
            halves += u32::from(scene.fresh().exists());
            renamed += u32::from(is_new);
            scene.has_all(std::slice::from_mut(&mut said));
        }
    }
    assert!(halves >= 6 && renamed >= 2, "killed before and after the new file took its place: {halves}, {renamed}");
}
