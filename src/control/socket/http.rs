//! The HTTP dialect of the status socket, and the metrics address: GET only, one request per connection.

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::super::{Control, metrics, report};
use super::REQUEST_LIMIT;
use crate::api::SessionsParams;
use crate::state::Phase;

/// Longest request head, in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// Which paths are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// All of them.
    All,
    /// `/metrics` only, for the TCP address.
    MetricsOnly,
}

struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn text(status: &'static str, body: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{body}\n") }
    }

    fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(text) => Self { status: "200 OK", content_type: "application/json", body: text + "\n" },
            Err(error) => Self::text("500 Internal Server Error", &error.to_string()),
        }
    }
}

/// Answers one request whose first bytes are `head`. The caller bounds the time.
pub async fn serve(
    control: &Control,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut head: Vec<u8>,
    paths: Paths,
) -> std::io::Result<()> {
    let deadline = Instant::now() + REQUEST_LIMIT;
    let answer = loop {
        match parse(&head) {
            Parsed::Request(path) => break answer(control, &path, paths).await,
            Parsed::Incomplete if head.len() < MAX_HEAD => {
                if timeout_at(deadline, stream.read_buf(&mut head)).await?? == 0 {
                    return Ok(());
                }
            }
            Parsed::Incomplete => break Answer::text("431 Request Header Fields Too Large", "request head over 8 KiB"),
            Parsed::NotGet => break Answer::text("405 Method Not Allowed", "only GET"),
            Parsed::Bad => break Answer::text("400 Bad Request", "not an HTTP request"),
        }
    };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        answer.status,
        answer.content_type,
        answer.body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(answer.body.as_bytes()).await?;
    stream.shutdown().await
}

enum Parsed {
    Request(String),
    Incomplete,
    NotGet,
    Bad,
}

fn parse(head: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => Parsed::Incomplete,
        Ok(httparse::Status::Complete(_)) if request.method != Some("GET") => Parsed::NotGet,
        Ok(httparse::Status::Complete(_)) => Parsed::Request(request.path.unwrap_or("/").to_owned()),
        Err(_) => Parsed::Bad,
    }
}

async fn answer(control: &Control, target: &str, paths: Paths) -> Answer {
    let path = target.split('?').next().unwrap_or(target);
    match path {
        "/metrics" => match metrics::encode(&control.shared) {
            Ok(body) => Answer { status: "200 OK", content_type: metrics::CONTENT_TYPE, body },
            Err(error) => Answer::text("500 Internal Server Error", &error.to_string()),
        },
        _ if paths == Paths::MetricsOnly => Answer::text("404 Not Found", "only /metrics here"),
        "/healthz" => Answer::text("200 OK", "alive"),
        "/readyz" => match control.shared.phase() {
            Phase::Running => Answer::text("200 OK", "ready"),
            other => Answer::text("503 Service Unavailable", other.name()),
        },
        "/v1/status" => Answer::json(&report::status(control)),
        "/v1/backends" => Answer::json(&report::backends(control, None).unwrap_or_default()),
        "/v1/sessions" => Answer::json(&report::sessions(control, SessionsParams::default()).await),
        "/v1/refused" => Answer::json(&report::refused(control, None).unwrap_or_default()),
        "/v1/events" => Answer::json(&report::events(control, 0, None, usize::MAX)),
        "/v1/config" => {
            Answer { status: "200 OK", content_type: "application/toml", body: crate::config::dump(&control.config()) }
        }
        _ => Answer::text("404 Not Found", "no such path"),
    }
}
