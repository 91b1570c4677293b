//! What the JSON dialect can be asked for: each method reads its parameters, acts, and answers with a type of `api`.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::super::failure::Failure;
use super::super::kill;
use super::super::lifecycle::Stop;
use super::super::overrides::{self, Peer, Saying};
use super::super::probe_now::{self, NoProbe};
use super::super::{Handle, members, reload, report, upgrade};
use crate::api::{
    BackendParams, BackendsParams, EventsParams, HistoryParams, ListenerParams, NamesParams, OrderParams, RouteParams,
    SessionsParams, StopParams, Stopping, WeightParams,
};
use crate::decide::hello::{FirstBytes, TlsVersion};
use crate::state::{Admin, RouteQuery, explain};
use crate::sys::clock::coarse_ms;

/// What becomes of a request.
pub enum Outcome {
    /// One answer, as it will be written: a tree of it would take several times the memory.
    Answer(Box<RawValue>),
    /// Events as they happen.
    Follow(EventsParams),
}

type Answered = Result<Outcome, Failure>;

/// All methods.
const METHODS: &[&str] = &[
    "status",
    "backends",
    "history",
    "sessions",
    "events",
    "refused",
    "names",
    "config",
    "route",
    "reload",
    "drain",
    "disable",
    "enable",
    "weight",
    "reset",
    "kill",
    "backend_add",
    "backend_remove",
    "probe",
    "upgrade",
    "stop",
];

/// Carries out a request and counts it.
pub async fn call(control: &Handle, method: &str, params: Value, peer: Peer) -> Answered {
    let outcome = dispatch(control, method, params, peer).await;
    // Names that are made up are not kept.
    let known = METHODS.iter().find(|known| **known == method).copied().unwrap_or("unknown");
    let result = outcome.as_ref().map_or_else(|failure| failure.code, |_| "ok");
    control.shared.commands.count(known, result);
    outcome
}

async fn dispatch(control: &Handle, method: &str, params: Value, peer: Peer) -> Answered {
    match method {
        "status" => answer(&report::status(control)),
        "backends" => {
            let BackendsParams { pool } = read(params)?;
            answer(&report::backends(control, pool.as_deref()).ok_or_else(|| no_such_pool(pool))?)
        }
        "history" => {
            let HistoryParams { pool } = read(params)?;
            answer(&report::history(control, pool.as_deref()).ok_or_else(|| no_such_pool(pool))?)
        }
        "sessions" => {
            let wanted: SessionsParams = read(params)?;
            check_source(wanted.source.as_deref())?;
            answer(&report::sessions(control, wanted).await)
        }
        "events" => {
            let wanted: EventsParams = read(params)?;
            if wanted.follow {
                return Ok(Outcome::Follow(wanted));
            }
            let most = wanted.limit.unwrap_or(usize::MAX);
            answer(&report::events(control, wanted.after, wanted.pool.as_deref(), most))
        }
        "refused" => {
            let ListenerParams { listener } = read(params)?;
            answer(&report::refused(control, listener.as_deref()).ok_or_else(|| {
                let name = listener.unwrap_or_default();
                Failure::new("no_such_listener", format!("no listener is called `{name}`"))
            })?)
        }
        "config" => answer(&report::config(control)),
        "names" => {
            let NamesParams { limit } = read(params)?;
            answer(&report::names(control, limit))
        }
        "route" => {
            let query = route_query(read(params)?)?;
            answer(&explain(&control.snapshot(), &query, coarse_ms()).map_err(|why| Failure::new("bad_params", why))?)
        }
        "reload" => {
            tracing::info!(uid = peer.uid, pid = peer.pid.unwrap_or(0), "operator asked for a reload");
            let report = reload::reload(control).await;
            if report.ok { answer(&report) } else { Err(Failure::new("reload_failed", report.message)) }
        }
        "drain" => answer(&overrides::drain(control, &read(params)?, peer).await?),
        "disable" => order(control, params, Admin::Disabled, peer).await,
        "enable" => order(control, params, Admin::Ready, peer).await,
        "weight" => {
            let WeightParams { backend, weight, for_ms } = read(params)?;
            say(control, &backend, Saying::Weight(weight), for_ms, peer).await
        }
        "reset" => {
            let OrderParams { backend, for_ms } = read(params)?;
            if for_ms.is_some() {
                return Err(Failure::new("bad_params", "`reset` is for good"));
            }
            say(control, &backend, Saying::Reset, None, peer).await
        }
        "kill" => answer(&kill::kill(control, &read(params)?, peer).await?),
        "backend_add" => answer(&members::add(control, read(params)?, peer).await?),
        "backend_remove" => answer(&members::remove(control, &read(params)?, peer).await?),
        "probe" => probe(control, read(params)?).await,
        "upgrade" => {
            tracing::info!(uid = peer.uid, pid = peer.pid.unwrap_or(0), "operator asked for an upgrade");
            answer(&upgrade::upgrade(control).await.map_err(|why| Failure::new("upgrade_failed", why))?)
        }
        "stop" => {
            let StopParams { grace_ms } = read(params)?;
            tracing::info!(uid = peer.uid, pid = peer.pid.unwrap_or(0), "operator asked to stop");
            // The receiver lives as long as the process runs.
            let _ = control.stops.send(Stop::Grace(grace_ms.map(Duration::from_millis)));
            let connections = control.shared.active.load(std::sync::atomic::Ordering::Relaxed);
            answer(&Stopping { stopping: true, connections })
        }
        other => Err(Failure::new("no_such_method", format!("no method is called `{other}`"))
            .hint(format!("there are: {}", METHODS.join(", ")))),
    }
}

fn answer(value: &impl Serialize) -> Answered {
    let value = to_raw_value(value).map_err(|error| Failure::new("internal", error.to_string()))?;
    Ok(Outcome::Answer(value))
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, Failure> {
    serde_json::from_value(params).map_err(|error| Failure::new("bad_params", format!("params: {error}")))
}

fn no_such_pool(pool: Option<String>) -> Failure {
    Failure::no_such_pool(&pool.unwrap_or_default())
}

async fn order(control: &Handle, params: Value, admin: Admin, peer: Peer) -> Answered {
    let OrderParams { backend, for_ms } = read(params)?;
    say(control, &backend, Saying::State(admin), for_ms, peer).await
}

async fn say(control: &Handle, backend: &str, saying: Saying, for_ms: Option<u64>, peer: Peer) -> Answered {
    answer(&overrides::say(control, backend, saying, for_ms.map(Duration::from_millis), peer).await?)
}

async fn probe(control: &Handle, BackendParams { backend }: BackendParams) -> Answered {
    let report = probe_now::probe(control, &backend).await.map_err(|why| match why {
        NoProbe::NoSuchBackend => Failure::no_such_backend(&backend),
        NoProbe::NoCheck => {
            let pool = backend.split('/').next().unwrap_or_default();
            Failure::new("no_check", format!("pool `{pool}` has no health check"))
                .hint(format!("add [pool.{pool}.health] with check = \"tcp\""))
        }
    });
    answer(&report?)
}

fn check_source(source: Option<&str>) -> Result<(), Failure> {
    let is_one = |text: &str| text.parse::<ipnet::IpNet>().is_ok() || text.parse::<std::net::IpAddr>().is_ok();
    match source.filter(|text| !is_one(text)) {
        Some(text) => Err(Failure::new("bad_params", format!("`{text}` is neither an address nor a prefix"))),
        None => Ok(()),
    }
}

fn route_query(params: RouteParams) -> Result<RouteQuery, Failure> {
    let wrong = |message: String| Failure::new("bad_params", message);
    let mut query = RouteQuery::new(params.listener);
    query.from = params.from.unwrap_or(query.from);
    if let Some(tls) = params.tls {
        query.tls = TlsVersion::from_config(&tls).ok_or_else(|| wrong(format!("`{tls}` is not a version of TLS")))?;
    }
    if let Some(spoken) = params.first_bytes {
        let known = FirstBytes::from_config(&spoken);
        query.first_bytes = Some(known.ok_or_else(|| wrong(format!("`{spoken}` is not a protocol of `first-bytes`")))?);
    }
    query.hello_bytes = params.hello_bytes;
    query.sni = params.sni;
    query.alpn = params.alpn;
    Ok(query)
}

#[cfg(test)]
mod tests {
    #[test]
    fn methods_are_listed_once() {
        let mut sorted = super::METHODS.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), super::METHODS.len());
    }
}
