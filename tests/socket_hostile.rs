//! Clients of the status socket that never read, never finish, send garbage or come in crowds: an honest client is answered
//! within its bound all the time, and memory comes back.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Backend, DEADLINE, Daemon, eventually, own_loopback};

/// Longest wait of an honest client, whatever the others do. A place is made within a second, and there may be a queue.
const BOUND: Duration = Duration::from_secs(4);
/// What may come on top of the memory before: buffers of 64 clients and what the allocator keeps.
const MORE_MEMORY: u64 = 24 << 20;

const CONFIG: &str = r#"
[[listener]]
name = "plain"
protocol = "tcp"
bind = ["{ip}:443"]
pool = "a"
[pool.a]
backends = ["{ip}:1001"]
"#;

fn start() -> (Daemon, Backend) {
    let address = own_loopback();
    let backend = Backend::echo((address, 1001));
    (Daemon::start_on(address, CONFIG, "workers = 1\n", |command| command), backend)
}

fn open(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Asks in both dialects, again and again, while `attack` runs, and holds each answer to the bound. Memory is bounded
/// meanwhile and comes back.
#[track_caller]
fn honest_clients_are_served_during(daemon: &Daemon, attack: impl FnOnce() + Send) {
    daemon.get("/v1/backends").unwrap();
    let before = daemon.private_memory();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let attacking = scope.spawn(|| {
            attack();
            over.store(true, Ordering::SeqCst);
        });
        let mut asked = 0;
        let mut longest = Duration::ZERO;
        while !over.load(Ordering::SeqCst) || asked < 3 {
            let begun = Instant::now();
            // As a process of its own, like every command.
            let output = daemon.cli(&["backends", "--json"]);
            assert!(output.status.success(), "{output:?}");
            assert_eq!(daemon.get("/healthz").expect("an answer").0, 200);
            longest = longest.max(begun.elapsed());
            assert!(longest < 2 * BOUND, "an honest client waited for {longest:?}");
            let memory = daemon.private_memory();
            assert!(memory < before + 4 * MORE_MEMORY, "{memory} bytes, {before} before");
            asked += 1;
            if attacking.is_finished() && !over.load(Ordering::SeqCst) {
                break;
            }
        }
        attacking.join().unwrap();
    });
    eventually("memory comes back", || (daemon.private_memory() < before + MORE_MEMORY).then_some(()));
}

/// Whether the daemon has closed it.
fn is_closed(stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let closed = loop {
        match (&*stream).read(&mut buffer) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() != std::io::ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false).unwrap();
    closed
}

#[test]
fn crowds_of_idle_clients_lock_nobody_out() {
    let (daemon, _backend) = start();
    honest_clients_are_served_during(&daemon, || {
        // One process with two hundred at once, which say nothing, half of something, or one request and then nothing.
        let idle: Vec<UnixStream> = (0..200)
            .map(|number| {
                let mut stream = open(&daemon);
                let said: &[u8] = match number % 4 {
                    0 => b"",
                    1 => b"{\"v\":1,\"id\":1,\"met",
                    2 => b"{\"v\":1,\"id\":1,\"method\":\"status\"}\n",
                    _ => b"GET /v1/status HTT",
                };
                // It may have been sent away already.
                let _ = stream.write_all(said);
                stream
            })
            .collect();
        eventually("they are let go but for those that may be idle for a minute", || {
            (idle.iter().filter(|stream| is_closed(stream)).count() >= 150).then_some(())
        });
    });
}

/// A process of its own that holds a connection and says nothing.
fn holder(daemon: &Daemon) -> Child {
    let script = "import socket,sys,time\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                  s.sendall(b'{\"method\":\"status\"}\\n')\ns.recv(1)\nprint('x',flush=True)\ntime.sleep(60)";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script]).arg(daemon.socket()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn crowds_of_processes_lock_nobody_out_either() {
    let (daemon, _backend) = start();
    let mut holders: Vec<Child> = (0..70).map(|_| holder(&daemon)).collect();
    for one in &mut holders {
        // Each was answered: even the last ones, when all places were taken.
        one.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).expect("an answer");
    }
    honest_clients_are_served_during(&daemon, || {});
    for mut one in holders {
        one.kill().unwrap();
        one.wait().unwrap();
    }
}

#[test]
fn clients_that_never_read_are_let_go() {
    let (daemon, _backend) = start();
    honest_clients_are_served_during(&daemon, || {
        let request = b"{\"v\":1,\"id\":1,\"method\":\"backends\"}\n".repeat(2000);
        let deaf: Vec<UnixStream> = (0..20)
            .map(|_| {
                let mut stream = open(&daemon);
                stream.set_nonblocking(true).unwrap();
                // As much as fits; the daemon stops reading when its answers are not read.
                let _ = stream.write(&request);
                stream
            })
            .collect();
        eventually("they are let go", || {
            // A write tells, without reading anything.
            deaf.iter().all(|mut stream| matches!(stream.write(b" "), Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe)).then_some(())
        });
    });
}

#[test]
fn event_streams_that_do_not_read_are_let_go() {
    let (daemon, _backend) = start();
    let path = format!("a/{}", daemon.at(1001));
    honest_clients_are_served_during(&daemon, || {
        let streams: Vec<UnixStream> = (0..10)
            .map(|_| {
                let mut stream = open(&daemon);
                stream.write_all(b"{\"method\":\"events\",\"params\":{\"follow\":true}}\n").unwrap();
                stream
            })
            .collect();
        let mut listener = open(&daemon);
        listener.write_all(b"{\"method\":\"events\",\"params\":{\"follow\":true}}\n").unwrap();
        // Each pair is half a kilobyte for each stream; their buffers hold some hundred.
        for _ in 0..300 {
            assert!(daemon.ask("drain", &json!({ "backend": path })).get("result").is_some());
            assert!(daemon.ask("enable", &json!({ "backend": path })).get("result").is_some());
        }
        let mut seen = 0;
        let mut lines = std::io::BufReader::new(&mut listener);
        let mut line = String::new();
        while seen < 600 {
            line.clear();
            std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
            assert!(serde_json::from_str::<Value>(&line).unwrap()["event"]["id"].is_u64(), "{line}");
            seen += 1;
        }
        eventually("those that do not read are let go", || {
            streams.iter().all(|mut stream| stream.write(b" ").is_err()).then_some(())
        });
    });
}

#[test]
fn garbage_without_end_is_answered_or_cut_off() {
    let (daemon, _backend) = start();
    honest_clients_are_served_during(&daemon, || {
        for first in [&b"{"[..], b"G", b"GET /", b"x", b"\0", b"\xff"] {
            let mut stream = open(&daemon);
            let junk = [first, &vec![b'a'; 64 * 1024]].concat();
            let mut sent = 0;
            while sent < 10 << 20 {
                match stream.write(&junk) {
                    Ok(count) => sent += count,
                    Err(_) => break,
                }
            }
            assert!(sent < 2 << 20, "{sent} bytes were taken after {first:?}");
            eventually("it is closed", || is_closed(&stream).then_some(()));
        }
        // Ten megabytes of lines that are none: each is answered, as long as somebody reads.
        let mut stream = open(&daemon);
        let mut reader = stream.try_clone().unwrap();
        let lines = b"{]\n".repeat(100_000);
        let reading = thread::spawn(move || {
            let mut answers = String::new();
            reader.read_to_string(&mut answers).unwrap();
            answers.lines().filter(|line| line.contains("bad_request")).count()
        });
        stream.write_all(&lines).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(reading.join().unwrap(), 100_000);
    });
    assert!(daemon.log().len() < 20_000, "nothing of it is in the log");
}

#[test]
fn one_byte_a_second_is_too_slow() {
    let (daemon, _backend) = start();
    for request in
        [&b"{\"method\":\"status\"}                 \n"[..], b"GET /v1/status HTTP/1.1\r\nHost: sluice\r\n\r\n"]
    {
        let mut stream = open(&daemon);
        let begun = Instant::now();
        let cut = request.iter().position(|byte| {
            thread::sleep(Duration::from_millis(500));
            stream.write_all(&[*byte]).is_err()
        });
        let took = begun.elapsed();
        assert!(cut.is_some(), "it was never cut off");
        assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&took), "{took:?}");
    }
}

#[test]
fn nesting_and_wrong_types_are_errors_and_the_connection_goes_on() {
    let (daemon, _backend) = start();
    let mut stream = open(&daemon);
    let deep = format!("{{\"method\":\"status\",\"params\":{}{}}}\n", "[".repeat(30_000), "]".repeat(30_000));
    let wide = format!("{{\"method\":\"status\",\"params\":{{\"a\":[{}1]}}}}\n", "1,".repeat(30_000));
    let requests: [(&str, &str); 12] = [
        (&deep, "bad_request"),
        (&wide, "ok"),
        ("{\"method\":7}\n", "bad_request"),
        ("{\"id\":{\"a\":[1]},\"method\":\"status\"}\n", "ok"),
        ("{\"v\":\"1\",\"method\":\"status\"}\n", "bad_request"),
        ("{}\n", "bad_request"),
        ("{\"method\":\"\\u0000\\u001b[2J\"}\n", "no_such_method"),
        ("{\"method\":\"backends\",\"params\":[]}\n", "ok"),
        ("{\"method\":\"backends\",\"params\":7}\n", "bad_params"),
        ("{\"method\":\"weight\",\"params\":{\"backend\":\"a/b\",\"weight\":1e9}}\n", "bad_params"),
        ("{\"method\":\"sessions\",\"params\":{\"limit\":-1}}\n", "bad_params"),
        ("{\"method\":\"sessions\",\"params\":{\"limit\":18446744073709551615}}\n", "ok"),
    ];
    let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
    for (request, wanted) in requests {
        stream.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        let code = answer["error"]["code"].as_str().unwrap_or("ok");
        assert_eq!(code, wanted, "{}: {answer}", &request[..request.len().min(80)]);
    }
}
