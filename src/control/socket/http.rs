//! The HTTP dialect of the status socket, and the metrics address: GET only, one request per connection.

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::super::metrics::{self, Format};
use super::super::{Control, report};
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
            Parsed::Request { path, accept } => break answer(control, &path, &accept, paths).await,
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
    Request { path: String, accept: String },
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
        Ok(httparse::Status::Complete(_)) => {
            let accepts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("accept"));
            let accepts: Vec<_> = accepts.map(|header| String::from_utf8_lossy(header.value)).collect();
            Parsed::Request { path: request.path.unwrap_or("/").to_owned(), accept: accepts.join(",") }
        }
        Err(_) => Parsed::Bad,
    }
}

async fn answer(control: &Control, target: &str, accept: &str, paths: Paths) -> Answer {
    let path = target.split('?').next().unwrap_or(target);
    match path {
        "/metrics" => {
            let format = Format::of(accept);
            match metrics::encode(&control.shared, format) {
                Ok(body) => Answer { status: "200 OK", content_type: format.content_type(), body },
                Err(error) => Answer::text("500 Internal Server Error", &error.to_string()),
            }
        }
        _ if paths == Paths::MetricsOnly => Answer::text("404 Not Found", "only /metrics here"),
        "/healthz" => Answer::text("200 OK", "alive"),
        "/readyz" => match control.shared.phase() {
            Phase::Running => Answer::text("200 OK", "ready"),
            // Whoever asked before another process took over asks about the service.
            _ if control.succeeded.get() => Answer::text("200 OK", "ready"),
            other => Answer::text("503 Service Unavailable", other.name()),
        },
        "/v1/status" => Answer::json(&report::status(control)),
        "/v1/backends" => Answer::json(&report::backends(control, None).unwrap_or_default()),
        "/v1/sessions" => Answer::json(&report::sessions(control, SessionsParams::default()).await),
        "/v1/refused" => Answer::json(&report::refused(control, None).unwrap_or_default()),
        "/v1/names" => Answer::json(&report::names(control, None)),
        "/v1/events" => Answer::json(&report::events(control, 0, None, usize::MAX)),
        "/v1/config" => {
            Answer { status: "200 OK", content_type: "application/toml", body: crate::config::dump(&control.config()) }
        }
        _ => Answer::text("404 Not Found", "no such path"),
    }
}
