//! The JSON dialect of the status socket: one request per line, one answer per line. The commands speak it. What the
//! methods do is in `methods.rs`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::super::Handle;
use super::super::failure::Failure;
use super::super::overrides::Peer;
use super::methods::{self, Outcome};
use super::{IDLE, REQUEST_LIMIT, WRITE_LIMIT};
use crate::api::{EventsParams, VERSION};

/// Longest request line, in bytes.
const MAX_LINE: u64 = 64 * 1024;

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    v: Option<u32>,
    #[serde(default)]
    id: Value,
    method: String,
    #[serde(default)]
    params: Option<Value>,
}

#[derive(Serialize)]
struct Answer {
    id: Value,
    result: Box<RawValue>,
}

/// Answers requests until the client closes, is silent for too long, or sends a line over the limit.
/// `first` holds the bytes that told the dialect.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    control: &Handle,
    stream: S,
    first: Vec<u8>,
    peer: Peer,
) -> std::io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    let mut lines = BufReader::new(first.as_slice().chain(read));
    loop {
        let mut line = Vec::new();
        match timeout(IDLE, lines.fill_buf()).await {
            Ok(Ok([])) | Err(_) => return Ok(()),
            Ok(result) => drop(result?),
        }
        // A line that has begun must end soon: 64 half ones would lock everybody else out.
        let mut limited = (&mut lines).take(MAX_LINE);
        timeout(REQUEST_LIMIT, limited.read_until(b'\n', &mut line)).await??;
        if line.last() != Some(&b'\n') && line.len() as u64 == MAX_LINE {
            let failure = Failure::new("too_long", format!("request over {MAX_LINE} bytes"));
            return send(&mut write, error(&Value::Null, failure)).await;
        }
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(cause) => {
                let failure = Failure::new("bad_request", format!("not a request: {cause}"));
                send(&mut write, error(&Value::Null, failure)).await?;
                continue;
            }
        };
        let outcome = if request.v.is_some_and(|version| version != VERSION) {
            Err(Failure::new("version", format!("this version speaks v {VERSION} only")))
        } else {
            let params = request.params.unwrap_or_else(|| json!({}));
            methods::call(control, &request.method, params, peer).await
        };
        match outcome {
            Ok(Outcome::Answer(result)) => send(&mut write, Answer { id: request.id, result }).await?,
            Ok(Outcome::Follow(params)) => return follow(control, &params, &request.id, &mut lines, &mut write).await,
            Err(failure) => send(&mut write, error(&request.id, failure)).await?,
        }
    }
}

/// Sends events as they happen, until the client closes or says something else.
async fn follow(
    control: &Handle,
    params: &EventsParams,
    id: &Value,
    lines: &mut (impl AsyncBufRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let events = &control.shared.events;
    let mut last = params.after;
    let mut most = params.limit.unwrap_or(usize::MAX);
    loop {
        let news = events.news();
        let mut news = std::pin::pin!(news);
        news.as_mut().enable();
        // Before the look: sending takes its time, and more may happen meanwhile.
        let newest = events.last();
        for event in events.since(last, params.pool.as_deref(), most) {
            last = event.id;
            send(write, json!({ "id": id, "event": event })).await?;
        }
        last = last.max(newest);
        most = usize::MAX;
        tokio::select! {
            () = news => {}
            _ = lines.fill_buf() => return Ok(()),
        }
    }
}

fn error(id: &Value, failure: Failure) -> Value {
    json!({ "id": id, "error": { "code": failure.code, "message": failure.message, "hint": failure.hint } })
}

async fn send(write: &mut (impl AsyncWrite + Unpin), answer: impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(&answer)?;
    // It may wait for its reader; once is enough.
    drop(answer);
    line.push(b'\n');
    // A client that does not read its answer is let go.
    timeout(WRITE_LIMIT, write.write_all(&line)).await?
}
