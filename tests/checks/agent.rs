//! The check `agent`: what HAProxy's kind of agent says, and what the daemon makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};

use crate::support::checked::Checked;
use crate::support::servers::configured::Configured;
use crate::support::servers::free_port;
use crate::support::{Backend, DEADLINE, Daemon, TempDir, connect, eventually, own_loopback};
use serde_json::{Value, json};
use sluice::decide::health::agent::{AgentHealth, AgentWords, Operation};

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
#[track_caller]
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
    let cases = [
        ("drain\n", "draining"),
        ("maint\n", "disabled"),
        ("stopped ready\n", "down"),
        ("up\n", "up"),
        ("failed#test\n", "down"),
        ("UP ready", "up"),
    ];
    for (line, state) in cases {
        agent.say(line);
        daemon.wait_for_state("b", state);
    }
    agent.backend.stop();
    let void = daemon.metric("sluice_backend_checks_total{pool=\"p\",backend=\"b\",result=\"void\"}");
    eventually("the agent cannot be asked", || {
        let now = daemon.metric("sluice_backend_checks_total{pool=\"p\",backend=\"b\",result=\"void\"}");
        (now >= void + 5.0).then_some(())
    });
    assert_eq!(row(&daemon)["state"], "up", "an agent that is gone says nothing of its backend");
}

#[test]
fn weight_and_limit_are_what_the_agent_last_asked_for() {
    let address = own_loopback();
    let agent = Agent::start((address, 1002).into(), "up\n");
    let daemon = Daemon::start_on(address, CONFIG, "", |command| command);
    let shown = |want: [Value; 3]| {
        eventually("the daemon follows", || {
            let row = row(&daemon);
            let is = [&row["effective_weight"], &row["max_connections"], &row["agent"]["operation"]];
            (is == want.each_ref()).then_some(())
        });
    };
    shown([100.into(), Value::Null, Value::Null]);
    agent.say("75%\n");
    shown([75.into(), Value::Null, Value::Null]);
    // What is not mentioned stays.
    agent.say("maxconn:2\n");
    shown([75.into(), 2.into(), Value::Null]);
    let _backend = Backend::naming((address, 1001), "b");
    let held: Vec<_> = (0..2).map(|_| connect(daemon.at(443))).collect();
    eventually("two sessions", || (row(&daemon)["active"] == 2).then_some(()));
    // Where the machine is busy, the reset comes before the connection is known here.
    let refused = TcpStream::connect(daemon.at(443));
    eventually("a third is refused", || {
        let full = daemon.metric("sluice_pool_full_total{pool=\"p\"}");
        (full > 0.0).then_some(())
    });
    assert!(!matches!(refused.and_then(|mut refused| refused.read(&mut [0; 8])), Ok(1..)), "nothing is answered");
    drop(held);
    // No weight is no new connection; the words before are taken back one by one.
    agent.say("0% maxconn:0\n");
    shown([0.into(), Value::Null, Value::Null]);
    agent.say("100% drain\n");
    daemon.wait_for_state("b", "draining");
    agent.say("ready\n");
    shown([100.into(), Value::Null, "ready".into()]);
    let by_agent = |event: &Value| event["by"] == "agent" && event["to"] == "draining";
    let events = daemon.json("/v1/events");
    assert!(events.as_array().unwrap().iter().any(by_agent), "{events:#}");
    // Another check: the agent speaks for it no more.
    agent.say("10%\n");
    shown([10.into(), Value::Null, "ready".into()]);
    daemon.write_config(&CONFIG.replace("check = \"agent\"\nport = 1002", "check = \"tcp\""), "");
    daemon.reload();
    shown([100.into(), Value::Null, Value::Null]);
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
    daemon.wait_for_log("bogus 12");
    let warnings = daemon.log().lines().filter(|line| line.contains("unknown words")).count();
    assert_eq!(warnings, 1, "{}", daemon.log());
}

#[test]
fn an_agent_gets_no_proxy_header_even_if_its_backend_does() {
    let address = own_loopback();
    let (heard, said) = mpsc::channel();
    let _agent = Backend::start((address, 1002), move |mut stream| {
        let _ = stream.write_all(b"up\n");
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let _ = heard.send(bytes);
    });
    let _daemon = Daemon::start_on(address, CONFIG, "", |command| command);
    assert_eq!(said.recv_timeout(DEADLINE).expect("a check"), b"", "the pool has send-proxy");
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

/// What a server has come to: down, drained or in maintenance, weight, connections at most.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    status: &'static str,
    weight: u32,
    most: u32,
}

/// What HAProxy has made of its server `s`, by its runtime API.
fn haproxys(socket: &Path) -> Option<Server> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(b"show stat\n").ok()?;
    let mut table = String::new();
    stream.read_to_string(&mut table).ok()?;
    let names: Vec<&str> = table.lines().next()?.split(',').collect();
    let row: Vec<&str> = table.lines().find(|row| row.split(',').nth(1) == Some("s"))?.split(',').collect();
    let field = |name: &str| row[names.iter().position(|column| *column == name).expect("a column")];
    let status = ["DOWN", "DRAIN", "MAINT"].into_iter().find(|word| field("status").starts_with(word));
    Some(Server {
        status: status.unwrap_or("UP"),
        weight: field("weight").parse().ok()?,
        most: field("slim").parse().unwrap_or(0),
    })
}

/// What these words make of a server that was up, with a weight of 100 and 50 connections.
fn ours(words: &AgentWords) -> Server {
    let is_down = words.health.is_some_and(|health| health != AgentHealth::Up);
    let status = match words.operation {
        Some(Operation::Maintenance) => "MAINT",
        _ if is_down => "DOWN",
        Some(Operation::Drain) => "DRAIN",
        Some(Operation::Ready) | None => "UP",
    };
    // 256 is the largest weight that HAProxy has.
    Server { status, weight: words.weight.unwrap_or(100).min(256), most: words.max_connections.unwrap_or(50) }
}

#[test]
fn haproxy_reads_the_same_words_alike() {
    let (address, dir) = (own_loopback(), TempDir::new());
    let agent = Agent::start((address, 1002).into(), "up\n");
    let socket = dir.path().join("socket");
    let sections = format!(
        "global
            stats socket {}
        listen l
            bind {address}:1000
            mode tcp
            timeout check 5s
            server s {address}:1001 weight 100 maxconn 50 agent-check agent-addr {address} agent-port 1002 agent-inter 20ms rise 1 fall 1",
        socket.display()
    );
    let _haproxy = Configured::haproxy(&sections, &[(address, 1000).into()]);
    for line in [
        "up",
        "down",
        "down #disk full",
        "fail",
        "stopped",
        "ready",
        "drain",
        "maint",
        "UP READY",
        "Down",
        "75%",
        "0%",
        "300%",
        "maxconn:30",
        "maxconn:0",
        "up ready 50% maxconn:7",
        "up,ready,50%,maxconn:7",
        "\tup \t down,,",
        "up down 10% 20%",
        "down up",
        "ready drain",
        "drain ready",
        "ready\r\ndrain",
        "maxconn:3 maxconn:4",
        "up #down 10%",
        "up bogus 30%",
        "upp",
        "stop",
        "7.5%",
        "75",
        "20%%",
        "40%x",
        "%",
        "maxconn:x",
        "maxconn:",
        "bogus",
        "",
    ] {
        agent.say("up ready 100% maxconn:50\n");
        let before = Server { status: "UP", weight: 100, most: 50 };
        eventually("HAProxy is where it was", || haproxys(&socket).filter(|server| *server == before));
        agent.say(&format!("{line}\n"));
        asked_again(&agent, 3);
        let words = AgentWords::parse(line.as_bytes());
        assert_eq!(haproxys(&socket), Some(ours(&words)), "HAProxy and we of {line:?}, which is {words:?}");
    }
}
