//! The JSON dialect of the status socket: one request per line, one answer per line. The commands speak it.

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::admin::{self, Peer};
use super::lifecycle::Stop;
use super::probe_now::{self, NoProbe};
use super::status::{self, SessionFilter};
use super::{Handle, reload, socket};
use crate::decide::hello::{FirstBytes, TlsVersion};
use crate::state::{Admin, RouteQuery, explain};

/// Longest request line, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// Methods, for the message about unknown ones.
const METHODS: &str = "status, backends, sessions, refused, route, reload, drain, disable, enable, probe, stop";

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    v: Option<u32>,
    #[serde(default)]
    id: Value,
    method: String,
    #[serde(default)]
    params: Value,
}

struct Failure {
    code: &'static str,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
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
        match timeout(socket::IDLE, lines.fill_buf()).await {
            Ok(Ok([])) | Err(_) => return Ok(()),
            Ok(result) => drop(result?),
        }
        // A line that has begun must end soon: 64 half ones would lock everybody else out.
        let mut limited = (&mut lines).take(MAX_LINE);
        timeout(socket::REQUEST_LIMIT, limited.read_until(b'\n', &mut line)).await??;
        if line.last() != Some(&b'\n') && line.len() as u64 == MAX_LINE {
            let failure = Failure::new("too_long", format!("request over {MAX_LINE} bytes"));
            return send(&mut write, &error(&Value::Null, failure)).await;
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) if request.v.is_some_and(|version| version != 1) => {
                error(&request.id, Failure::new("version", "this version speaks v 1 only"))
            }
            Ok(request) => match dispatch(control, &request, peer).await {
                Ok(result) => json!({ "id": request.id, "result": result }),
                Err(failure) => error(&request.id, failure),
            },
            Err(cause) => error(&Value::Null, Failure::new("bad_request", format!("not a request: {cause}"))),
        };
        send(&mut write, &answer).await?;
    }
}

fn error(id: &Value, failure: Failure) -> Value {
    json!({ "id": id, "error": { "code": failure.code, "message": failure.message, "hint": failure.hint } })
}

async fn send(write: &mut (impl AsyncWrite + Unpin), answer: &Value) -> std::io::Result<()> {
    let mut line = answer.to_string();
    line.push('\n');
    // A client that does not read its answer is let go.
    timeout(socket::WRITE_LIMIT, write.write_all(line.as_bytes())).await?
}

async fn dispatch(control: &Handle, request: &Request, peer: Peer) -> Result<Value, Failure> {
    let params = &request.params;
    let text = |key: &str| params[key].as_str().map(str::to_owned);
    match request.method.as_str() {
        "status" => Ok(status::status(control)),
        "backends" => {
            let pool = text("pool");
            status::backends(control, pool.as_deref()).ok_or_else(|| {
                Failure::new("no_such_pool", format!("no pool is called `{}`", pool.unwrap_or_default()))
            })
        }
        "sessions" => {
            let limit = params["limit"].as_u64().map(|limit| limit as usize);
            let filter = SessionFilter { backend: text("backend"), sni: text("sni"), limit };
            Ok(status::sessions(control, &filter).await)
        }
        "refused" => {
            let listener = text("listener");
            status::refused(control, listener.as_deref()).ok_or_else(|| {
                let name = listener.unwrap_or_default();
                Failure::new("no_such_listener", format!("no listener is called `{name}`"))
            })
        }
        "route" => {
            let query = route_query(params)?;
            let explanation = explain(&control.snapshot(), &query).map_err(|why| Failure::new("bad_params", why))?;
            Ok(json!(explanation))
        }
        "reload" => {
            tracing::info!(uid = peer.uid, pid = peer.pid.unwrap_or(0), "operator asked for a reload");
            let report = reload::reload(control).await;
            if report.ok { Ok(json!(report)) } else { Err(Failure::new("reload_failed", report.message)) }
        }
        "drain" => set_admin(control, params, Admin::Draining, peer),
        "disable" => set_admin(control, params, Admin::Disabled, peer),
        "enable" => set_admin(control, params, Admin::Ready, peer),
        "probe" => probe(control, params).await,
        "stop" => {
            tracing::info!(uid = peer.uid, pid = peer.pid.unwrap_or(0), "operator asked to stop");
            // The receiver lives as long as the process runs.
            let _ = control.stops.send(Stop::Grace);
            Ok(json!({ "stopping": true }))
        }
        other => Err(Failure::new("no_such_method", format!("no method is called `{other}`"))
            .hint(format!("there are: {METHODS}"))),
    }
}

fn set_admin(control: &Handle, params: &Value, admin: Admin, peer: Peer) -> Result<Value, Failure> {
    let path = params["backend"].as_str().ok_or_else(|| Failure::new("bad_params", "`backend` is missing"))?;
    let state = admin::set(control, path, admin, peer).ok_or_else(|| no_such_backend(path))?;
    Ok(json!({ "backend": path, "state": state }))
}

async fn probe(control: &Handle, params: &Value) -> Result<Value, Failure> {
    let path = params["backend"].as_str().ok_or_else(|| Failure::new("bad_params", "`backend` is missing"))?;
    probe_now::probe(control, path).await.map_err(|why| match why {
        NoProbe::NoSuchBackend => no_such_backend(path),
        NoProbe::NoCheck => {
            let pool = path.split('/').next().unwrap_or_default();
            Failure::new("no_check", format!("pool `{pool}` has no health check"))
                .hint(format!("add [pool.{pool}.health] with check = \"tcp\""))
        }
    })
}

fn no_such_backend(path: &str) -> Failure {
    Failure::new("no_such_backend", format!("no backend is called `{path}`")).hint("write POOL/BACKEND")
}

fn route_query(params: &Value) -> Result<RouteQuery, Failure> {
    let wrong = |message: String| Failure::new("bad_params", message);
    let text = |key: &str| params[key].as_str();
    let mut query = RouteQuery::new(text("listener").ok_or_else(|| wrong("`listener` is missing".to_owned()))?);
    if let Some(from) = text("from") {
        query.from = from.parse().map_err(|_| wrong(format!("`{from}` is not an address")))?;
    }
    if let Some(tls) = text("tls") {
        query.tls = TlsVersion::from_config(tls).ok_or_else(|| wrong(format!("`{tls}` is not a version of TLS")))?;
    }
    if let Some(spoken) = text("first_bytes") {
        let known = FirstBytes::from_config(spoken);
        query.first_bytes = Some(known.ok_or_else(|| wrong(format!("`{spoken}` is not a protocol of `first-bytes`")))?);
    }
    query.hello_bytes = params["hello_bytes"].as_u64().map(|bytes| bytes as usize);
    query.sni = text("sni").map(str::to_owned);
    query.alpn = params["alpn"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(query)
}
