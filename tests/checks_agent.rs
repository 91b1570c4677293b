//! The check `agent`: what HAProxy's kind of agent says, and what the daemon makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};

use serde_json::{Value, json};
use support::checked::Checked;
use support::servers::free_port;
use support::{Backend, DEADLINE, Daemon, eventually, own_loopback};

/// An agent that says what it was last told to say, and closes.
struct Agent {
    line: Arc<Mutex<String>>,
    backend: Backend,
}

impl Agent {
    fn start(address: SocketAddr, line: &str) -> Self {
        let line = Arc::new(Mutex::new(line.to_owned()));
        let says = Arc::clone(&line);
        let backend = Backend::start(address, move |mut stream| {
            let line = says.lock().unwrap().clone();
            let _ = stream.write_all(line.as_bytes());
        });
        Self { line, backend }
    }

    fn say(&self, line: &str) {
        line.clone_into(&mut self.line.lock().unwrap());
    }
}

/// Two backends, of which the second has an agent.
const CONFIG: &str = r#"
[[listener]]
name = "l"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "p"
[pool.p]
send-proxy = "v2"
[[pool.p.backend]]
address = "{ip}:1001"
name = "b"
[pool.p.health]
check = "agent"
port = 1002
interval = "50ms"
fast-interval = "50ms"
down-interval = "50ms"
timeout = "300ms"
rise = 1
fall = 1
"#;

/// The row of the backend.
fn row(daemon: &Daemon) -> Value {
    daemon.json("/v1/backends")[0].clone()
}

/// Waits until the agent was asked `count` times more; it has been heard that often, but for one.
fn asked_again(agent: &Agent, count: u32) {
    let before = agent.backend.accepted();
    eventually("the agent is asked again", || (agent.backend.accepted() >= before + count).then_some(()));
}

#[test]
fn health_is_what_the_agent_last_said_of_it() {
    let address = own_loopback();
    let mut agent = Agent::start((address, 1002).into(), "up\n");
    let daemon = Daemon::start_on(address, CONFIG, "", |command| command);
    daemon.wait_for_state("b", "up");

    agent.say("down#disk \x1b[2J full\n");
    daemon.wait_for_state("b", "down");
    let detail = row(&daemon)["check"]["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("says down #disk \\u{1b}[2J full"), "{detail}");

    // Not mentioned is not changed, and nothing said or nobody there is nothing known.
    for line in ["75%\n", "ready maxconn:30\n", "\n", ""] {
        agent.say(line);
        asked_again(&agent, 3);
        assert_eq!(row(&daemon)["state"], "down", "{line:?}");
    }
    agent.say("50%,up\r\n");
    daemon.wait_for_state("b", "up");
    agent.say("drain\n");
    asked_again(&agent, 3);
    for (line, state) in [("stopped\n", "down"), ("up\n", "up"), ("failed#test\n", "down"), ("UP ready", "up")] {
        agent.say(line);
        daemon.wait_for_state("b", state);
    }
    agent.backend.stop();
    let failed = daemon.metric("sluice_backend_checks_total{pool=\"p\",backend=\"b\",result=\"failed\"}");
    eventually("the agent cannot be asked", || {
        let now = daemon.metric("sluice_backend_checks_total{pool=\"p\",backend=\"b\",result=\"failed\"}");
        (now >= failed + 5.0).then_some(())
    });
    assert_eq!(row(&daemon)["state"], "up", "an agent that is gone says nothing of its backend");
}

#[test]
fn a_backend_takes_traffic_before_its_agent_was_heard() {
    let address = own_loopback();
    let daemon = Daemon::start_on(address, CONFIG, "", |command| command);
    eventually("the agent was asked for", || row(&daemon)["check"]["detail"].as_str().map(str::to_owned));
    assert_eq!(row(&daemon)["state"], "up");
}

#[test]
fn unknown_words_are_ignored_and_warned_of_once() {
    let address = own_loopback();
    let agent = Agent::start((address, 1002).into(), "down\n");
    let daemon = Daemon::start_on(address, CONFIG, "", |command| command);
    daemon.wait_for_state("b", "down");
    agent.say("bogus up 12\n");
    daemon.wait_for_state("b", "up");
    asked_again(&agent, 3);
    let warnings = daemon.log().lines().filter(|line| line.contains("unknown words")).count();
    assert_eq!(warnings, 1, "{}", daemon.log());
    assert!(daemon.log().contains("bogus 12"), "{}", daemon.log());
}

#[test]
fn words_are_shown_as_data() {
    let agent = Agent::start(free_port(own_loopback()), "75% maxconn:30 drain down#over there\n");
    let (heard, said) = mpsc::channel();
    let polite = Backend::start(free_port(own_loopback()), move |mut stream| {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut bytes = [0; 7];
        let _ = stream.read_exact(&mut bytes);
        let _ = stream.write_all(b"ready\n");
        let _ = heard.send(bytes);
    });
    let mute = Backend::start(free_port(own_loopback()), |mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let endless =
        Backend::start(free_port(own_loopback()), |mut stream| while stream.write_all(&[b'u'; 4096]).is_ok() {});
    let checks = [
        (agent.backend.address, "check = \"agent\""),
        (polite.address, "check = \"agent\"\nsend = \"hello\\r\\n\""),
        (mute.address, "check = \"agent\"\ntimeout = \"300ms\""),
        (endless.address, "check = \"agent\""),
        (free_port(own_loopback()), "check = \"agent\""),
    ];
    let checked = Checked::start(own_loopback(), &checks);
    let verdict = checked.expect(0, "failed", "agent_down", "says down drain 75% maxconn:30 #over there");
    let want = json!({
        "health": "down", "operation": "drain", "weight_percent": 75, "max_connections": 30,
        "text": "over there", "unknown": [],
    });
    assert_eq!(verdict["agent"], want);
    let verdict = checked.expect(1, "unknown", "agent_words", "says ready");
    assert_eq!((&verdict["agent"]["operation"], &verdict["agent"]["health"]), (&json!("ready"), &Value::Null));
    assert_eq!(&said.recv_timeout(DEADLINE).unwrap(), b"hello\r\n");
    checked.expect(2, "unknown", "timeout", "agent to ");
    checked.expect(3, "unknown", "too_long", "over 16384 bytes");
    checked.expect(4, "unknown", "refused", "connect to ");
}
