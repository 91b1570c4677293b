//! Limits of the runtime API: long lines, lines without an end, silence, clients that ask much or do not read.

#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::support::DEADLINE;
use crate::support::runtime_api::{ask, cell, say, start};

#[test]
fn a_client_has_its_limits() {
    let (_daemon, _backend, socket) = start("");
    let long = format!("{}\n", "x".repeat(16 * 1024));
    assert_eq!(ask(&socket, long.as_bytes()), "Line is longer than 16384 bytes.\n\n");

    // Nothing of a line without its end is obeyed.
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"disable server shop/a;show version").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!((answer.as_str(), cell(&socket, "shop", "a", "status").as_str()), ("", "UP"));

    let begun = Instant::now();
    assert_eq!(say(&socket, "prompt;set timeout cli 200ms"), "\n> \n> ");
    assert!(begun.elapsed().as_secs() < 5, "silence lasted {:?}", begun.elapsed());

    let unknown = say(&socket, "foo");
    assert!(unknown.starts_with("Unknown command. Please enter one of the following commands only:\n"), "{unknown}");
    assert!(unknown.contains("\n  show stat ") && unknown.ends_with("\n\n"), "{unknown}");

    // More than any buffer holds, written while it is read.
    let answer = ask(&socket, "help\n".repeat(2000).as_bytes());
    assert!(answer.len() > 2_000_000 && answer.ends_with("\n\n"));
}

#[test]
fn a_client_that_does_not_read_is_let_go_and_costs_little() {
    let (daemon, _backend, socket) = start("");
    let before = daemon.private_memory();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let lines = "show stat\n".repeat(1000);
    let error = loop {
        if let Err(error) = stream.write_all(lines.as_bytes()) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    let grown = daemon.private_memory().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes");
}
