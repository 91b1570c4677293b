//! Talks to the daemon: one request in the JSON dialect, one answer.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::Globals;
use super::output::{Exit, message};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks the daemon. On failure the reason is printed and the exit code returned.
pub fn ask(globals: &Globals, method: &str, params: &Value) -> Result<Value, Exit> {
    let path = globals.socket.display();
    let mut stream = UnixStream::connect(&globals.socket).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::NotFound => "no such file",
            ErrorKind::ConnectionRefused => "nobody listens on it",
            ErrorKind::PermissionDenied => "permission denied",
            _ => "cannot connect",
        };
        message(&format!("no daemon behind {path}: {why}; see --socket"));
        Exit::NoDaemon
    })?;
    let exchange = || -> std::io::Result<String> {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let request = json!({ "v": 1, "id": 1, "method": method, "params": params });
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok(line)
    };
    let mut exchange = exchange;
    let line = exchange().map_err(|error| {
        message(&format!("no answer from the daemon behind {path}: {error}"));
        Exit::Failed
    })?;
    let mut answer: Value = serde_json::from_str(&line).map_err(|error| {
        message(&format!("the daemon behind {path} answered with something else than JSON: {error}"));
        Exit::Failed
    })?;
    if let Some(failure) = answer.get("error") {
        let text = |key: &str| failure[key].as_str().unwrap_or_default();
        message(text("message"));
        if !text("hint").is_empty() {
            message(&format!("hint: {}", text("hint")));
        }
        return Err(match text("code") {
            "reload_failed" => Exit::Failed,
            _ => Exit::Refused,
        });
    }
    Ok(answer["result"].take())
}
