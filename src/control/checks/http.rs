//! The check `http`: a GET request, and what its answer must have. HTTP itself is hyper's work; here are the bounds.

use std::io;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::evidence::{excerpt, harmless};
use super::talk::MOST;
use super::{Failed, Passed, Talk, connector};
use crate::config::Http;

/// Fields of an answer, at most.
const MOST_FIELDS: usize = 100;

/// The request.
pub struct Dialogue {
    settings: Http,
}

impl Dialogue {
    #[expect(clippy::unnecessary_wraps, reason = "every kind may fail to get ready")]
    pub fn new(settings: &Http) -> Result<Self, String> {
        Ok(Self { settings: settings.clone() })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let stream = talk.connect().await?;
        let host = talk.target.address.to_string();
        ask(&self.settings, &host, talk, stream).await
    }
}

/// Asks on an established connection; `host` stands in for one that is not configured.
pub async fn ask<S>(settings: &Http, host: &str, talk: &mut Talk<'_>, stream: S) -> Result<Passed, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    talk.phase("request");
    let request = Request::get(&settings.path)
        .header("host", settings.host.as_deref().unwrap_or(host))
        .header("user-agent", concat!("sluice/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failed::local(format!("cannot ask: {error}")))?;
    talk.note(&format!("sent GET {}", harmless(&settings.path)));
    let client = http1::Builder::new().max_buf_size(MOST).max_headers(MOST_FIELDS).handshake(TokioIo::new(stream));
    let (mut sender, connection) = client.await.map_err(|error| failed(talk, &error))?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| failed(talk, &error))?;
        judge(settings, answer, talk).await
    };
    // Whatever ends the connection, its answer says so.
    let drive = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        biased;
        verdict = answer => verdict,
        never = drive => never,
    }
}

async fn judge(settings: &Http, answer: hyper::Response<Incoming>, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
    let status = answer.status();
    talk.note(&format!("got {:?} {status}", answer.version()));
    if !settings.status.iter().any(|(low, high)| (*low..=*high).contains(&status.as_u16())) {
        return Err(Failed::new("status", format!("{} answered with status {status}", talk.target.address)));
    }
    let Some(text) = &settings.text else {
        return Ok(Passed::new("status", format!("{} answered with status {status}", talk.target.address)));
    };
    talk.phase("body");
    let mut body = answer.into_body();
    let mut seen = Vec::new();
    while seen.len() < MOST {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| failed(talk, &error))?;
        let Some(data) = frame.data_ref() else { continue };
        // The text may begin in what came before.
        let from = seen.len().saturating_sub(text.len() - 1);
        seen.extend_from_slice(&data[..data.len().min(MOST - seen.len())]);
        if seen[from..].windows(text.len()).any(|window| window == text.as_bytes()) {
            talk.note(&format!("found the text in the first {} bytes", seen.len()));
            return Ok(Passed::new("text", format!("status {status}, and the text is there")));
        }
    }
    talk.note(&format!("got {}", excerpt(&seen)));
    let detail = format!("status {status}, but the text is not in the first {} bytes of the body", seen.len());
    Err(Failed::new("text", detail))
}

/// The failure that an error of hyper is.
fn failed(talk: &mut Talk<'_>, error: &hyper::Error) -> Failed {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    if let Some(cause) = cause {
        return connector::failed(talk, cause);
    }
    if error.is_incomplete_message() {
        return talk.closed();
    }
    Failed::new("not_http", format!("{} answered with something else than HTTP: {error}", talk.target.address))
}
