//! `show sess`: open sessions, one a line.

use std::time::Duration;

use super::super::super::failure::Failure;
use super::super::super::{Handle, report};
use super::{Answer, Answered};
use crate::api::{SessionReport, SessionsParams};

/// Answers `show sess [ID]`.
pub async fn show(control: &Handle, arguments: &[String]) -> Answered {
    let sessions = report::sessions(control, SessionsParams::default()).await;
    match arguments.first().map(String::as_str) {
        None | Some("all") => Ok(Answer::Pieces(Box::new(sessions.into_iter().map(|session| line(&session))))),
        Some(wanted) => {
            let found = sessions.iter().find(|session| Some(&session.session) == id(wanted).as_ref());
            let found = found.ok_or_else(|| Failure::new("no_such_session", "Session not found."))?;
            Ok(Answer::Text(line(found)))
        }
    }
}

/// The id of a session as sluice writes it, from one with or without `0x`; `None`: it is none.
pub fn id(text: &str) -> Option<String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).ok().filter(|id| *id > 0).map(|id| format!("{id:016x}"))
}

fn line(session: &SessionReport) -> String {
    let family = if session.client.ip().to_canonical().is_ipv4() { "tcpv4" } else { "tcpv6" };
    let seconds = |ms: u64| format!("{}s", Duration::from_millis(ms).as_secs());
    // What a client offers may be anything.
    let quoted = |text: &Option<String>| text.as_deref().unwrap_or("-").escape_default().to_string();
    format!(
        "0x{}: proto={family} src={} dst={} fe={} be={} srv={} age={} idle={} bin={} bout={} sni={} alpn={}\n",
        session.session,
        session.client,
        session.destination,
        session.listener,
        session.pool.as_deref().unwrap_or("<NONE>"),
        session.backend.as_deref().unwrap_or("<none>"),
        seconds(session.age_ms),
        seconds(session.idle_ms),
        session.bytes_up,
        session.bytes_down,
        quoted(&session.sni),
        quoted(&session.alpn),
    )
}
