//! `sluice top` as an operator has it: the real program in a real terminal (tmux), keys in, the screen out.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Backend, Daemon, TempDir, connect, eventually, own_loopback};

const CONFIG: &str = r#"
[[listener]]
name = "https"
bind = ["{ip}:443"]
protocol = "tcp"
pool = "web"
[[listener]]
name = "db"
bind = ["{ip}:5432"]
protocol = "tcp"
pool = "database"
[pool.web.health]
check = "tcp"
interval = "100ms"
[[pool.web.backend]]
address = "{ip}:1001"
name = "one"
[[pool.web.backend]]
address = "{ip}:1002"
name = "dead"
[pool.database.health]
check = "tcp"
interval = "100ms"
[[pool.database.backend]]
address = "{ip}:2001"
name = "two"
"#;

fn start() -> (Daemon, [Backend; 2]) {
    let address = own_loopback();
    let backends = [Backend::echo((address, 1001)), Backend::echo((address, 2001))];
    (Daemon::start_on(address, CONFIG, "", |command| command), backends)
}

/// A terminal with a shell in it; it ends with the test.
struct Screen {
    dir: TempDir,
}

impl Screen {
    fn open() -> Self {
        let screen = Self { dir: TempDir::new() };
        let shell = "env -u NO_COLOR PS1='prompt> ' bash --norc";
        screen.tmux(&["-u", "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", shell]);
        screen.wait("a prompt", |text| text.contains("prompt>"));
        screen
    }

    /// With a daemon's `top` on it.
    fn top(daemon: &Daemon, arguments: &str) -> Self {
        let screen = Self::open();
        let program = env!("CARGO_BIN_EXE_sluice");
        screen.type_in(&format!("{program} --socket {} top {arguments}; echo left-$?\n", daemon.socket().display()));
        screen.wait("pools and backends", |text| text.contains("pools 2") && text.contains("web/one"));
        screen
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.dir.path().join("tmux"));
        command
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command().args(arguments).output().expect("run tmux");
        assert!(status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// Types letters; `\n` is Enter.
    fn type_in(&self, text: &str) {
        for (place, part) in text.split('\n').enumerate() {
            if place > 0 {
                self.key("Enter");
            }
            if !part.is_empty() {
                self.tmux(&["send-keys", "-l", "--", part]);
            }
        }
    }

    fn key(&self, name: &str) {
        self.tmux(&["send-keys", name]);
    }

    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as it should be.
    #[track_caller]
    fn wait(&self, what: &str, good: impl Fn(&str) -> bool) -> String {
        let last = std::cell::RefCell::new(String::new());
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                thread::sleep(Duration::from_millis(20));
                *last.borrow_mut() = self.text();
                good(&last.borrow()).then(|| last.borrow().clone())
            })
        }));
        seen.unwrap_or_else(|_| panic!("not on the screen: {what}\n{}", last.borrow()))
    }

    /// Program in the foreground of the shell.
    fn foreground(&self) -> Pid {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]).trim().to_owned();
        eventually("the shell has a child", || {
            let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
            children.split_whitespace().next().map(|pid| Pid::from_raw(pid.parse().unwrap()))
        })
    }

    /// The terminal is as it was before: the shell answers, the cursor is seen, nothing covers what was there.
    #[track_caller]
    fn is_given_back(&self) {
        assert_eq!(self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).trim(), "0 1");
        self.type_in("echo alive-$((20 + 3))\n");
        // The echo of what is typed, and its outcome.
        self.wait("the shell works", |text| text.contains("echo alive-$((20 + 3))") && text.contains("alive-23"));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").output();
    }
}

/// The line of a backend.
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(name)).unwrap_or_default()
}

#[test]
fn operator_orders_filters_drains_and_kills_from_the_screen() {
    let (daemon, _backends) = start();
    let mut session = connect(daemon.at(443));
    session.write_all(b"hello").unwrap();
    session.read_exact(&mut [0; 5]).unwrap();
    let screen = Screen::top(&daemon, "--interval 200ms");
    let text = screen.wait("states and a session", |text| {
        line(text, "web/one").contains(" up ")
            && line(text, "web/dead").contains(" down ")
            && line(text, "web  ").contains(" 1 up 1 down ")
    });
    assert!(line(&text, "sluice ").contains("running  up "), "{text}");
    assert!(line(&text, "sluice ").contains(&format!("pid {}", daemon.pid())), "{text}");
    let coloured = screen.tmux(&["capture-pane", "-p", "-e"]);
    assert!(coloured.contains("\u{1b}[38;5;2mup"), "{coloured:?}");

    // Orders.
    screen.type_in("s");
    screen.wait("the worst first", |text| {
        let mut rows = text.lines().skip_while(|line| !line.contains("state▾")).skip(1);
        rows.next().is_some_and(|row| row.starts_with("web/dead"))
    });
    screen.type_in("/one\n");
    screen.wait("only one backend", |text| {
        text.contains("backends 1/3 /one") && line(text, "web/dead").is_empty() && line(text, "database/two").is_empty()
    });

    // A question that is answered with no, and one with yes.
    let override_of = |name: &str| {
        let list = daemon.json("/v1/backends");
        list.as_array().unwrap().iter().find(|row| row["backend"] == name).unwrap()["override"].clone()
    };
    screen.type_in("d");
    screen.wait("a question", |text| text.contains("[y/n] drain web/one? It takes no new connections; its 1 run on."));
    screen.type_in("n");
    screen.wait("no question", |text| !text.contains("[y/n]"));
    assert!(override_of("one").is_null());
    screen.type_in("dy");
    screen.wait("the answer and the state", |text| {
        text.contains("web/one is draining with 1 connections") && line(text, "web/one").contains(" draining* ")
    });
    daemon.wait_for_state("one", "draining");
    assert_eq!(override_of("one")["state"], "drain");
    daemon.wait_for_log("operator changed backend");
    assert_eq!(daemon.log().matches("operator changed backend").count(), 1, "the one that was meant");

    // One backend, and the end of its session.
    screen.type_in("\n");
    let client = session.local_addr().unwrap().to_string();
    screen.wait("all about it", |text| {
        text.contains("sessions 1")
            && text.contains(&client)
            && text.contains("drain, said ")
            && text.contains("tcp: ok")
    });
    screen.type_in("Ky");
    screen.wait("the answer", |text| text.contains("1 sessions of web/one were told to end"));
    assert!(session.read(&mut [0; 1]).map_or(true, |count| count == 0), "the session ended");
    screen.wait("no session", |text| text.contains("sessions 0"));
    screen.type_in("ey");
    screen.wait("up again", |text| text.contains("web/one is up with 0 connections"));
    daemon.wait_for_state("one", "up");
    assert!(override_of("one").is_null());

    screen.type_in("q");
    screen.wait("the end", |text| text.contains("left-0"));
    screen.is_given_back();
}

#[test]
fn every_size_and_the_way_to_the_shell_and_back() {
    let (daemon, _backends) = start();
    let screen = Screen::top(&daemon, "--no-color --interval 200ms");
    let styled = screen.tmux(&["capture-pane", "-p", "-e"]);
    assert!(
        styled.contains("backends 3") && ![38, 48].iter().any(|kind| styled.contains(&format!("\u{1b}[{kind};"))),
        "no colours: {styled:?}"
    );
    screen.tmux(&["resize-window", "-x", "40", "-y", "10"]);
    screen.wait("backends alone", |text| {
        text.contains("web/dead") && text.contains("q quit") && !text.contains("listeners")
    });
    screen.tmux(&["resize-window", "-x", "1", "-y", "1"]);
    screen.tmux(&["resize-window", "-x", "200", "-y", "50"]);
    let at = daemon.at(443).to_string();
    screen.wait("everything", |text| {
        text.contains(&at) && text.contains("weight") && line(text, "web/dead").contains("Connection refused")
    });
    screen.type_in("?");
    screen.wait("help", |text| text.contains("end all sessions of the backend"));
    screen.key("Escape");
    screen.wait("no help", |text| text.contains("listeners 2"));
    screen.key("C-z");
    screen.wait("the shell", |text| text.contains("Stopped"));
    screen.is_given_back();
    screen.type_in("fg\n");
    screen.wait("the screen again", |text| text.contains("listeners 2") && text.contains("web/one"));
    screen.key("C-c");
    screen.wait("the end", |text| text.contains("alive-23") && !text.contains("listeners 2"));
    screen.is_given_back();
}

#[test]
fn a_daemon_that_goes_away_is_found_again_and_a_signal_gives_the_terminal_back() {
    let (mut daemon, _backends) = start();
    let screen = Screen::top(&daemon, "--interval 200ms");
    daemon.signal(Signal::SIGKILL);
    daemon.wait_for_exit();
    let text = screen.wait("silence is told", |text| text.contains("no answer since "));
    assert!(!line(&text, "web/one").is_empty(), "the last figures stay: {text}");
    screen.type_in("/one\ndy");
    screen.wait("a change that cannot be", |text| {
        text.lines().last().is_some_and(|line| line.starts_with("no daemon behind "))
    });
    let mut again = support::sluice();
    again.arg("run").arg("-c").arg(daemon.dir().join("sluice.toml"));
    let mut again = again.stderr(std::process::Stdio::null()).spawn().unwrap();
    let pid = format!("pid {}", again.id());
    screen.wait("the new one", |text| text.contains(&pid) && !text.contains("no answer since"));
    let list = daemon.json("/v1/backends");
    assert!(list.as_array().unwrap().iter().all(|row| row["override"].is_null()), "nothing was repeated");
    kill(screen.foreground(), Signal::SIGTERM).unwrap();
    screen.wait("the end", |text| text.contains("left-0"));
    screen.is_given_back();
    again.kill().unwrap();
    again.wait().unwrap();
}

#[test]
fn without_daemon_terminal_or_sense_it_says_so() {
    let (daemon, _backends) = start();
    let refused = |arguments: &[&str], text: &str| {
        let output = daemon.cli(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(text) && output.stdout.is_empty(), "{stderr}");
    };
    refused(&["top"], "top draws on a terminal: stdout is none");
    refused(&["top", "--interval", "1ms"], "outside 200ms to 30s");
    refused(&["top", "--interval", "often"], "write a number and ms or s");
    let screen = Screen::open();
    let program = env!("CARGO_BIN_EXE_sluice");
    let nowhere = daemon.dir().join("nowhere");
    screen.type_in(&format!("clear; {program} --socket {} top; echo left-$?\n", nowhere.display()));
    screen.wait("no daemon", |text| text.contains("left-5") && text.contains("no such file; see --socket"));
    screen.type_in(&format!("clear; {program} --socket {} top --json; echo left-$?\n", daemon.socket().display()));
    screen.wait("no JSON", |text| text.contains("left-2") && text.contains("it has no --json"));
}
