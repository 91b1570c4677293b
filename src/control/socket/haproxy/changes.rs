//! Commands that change something: weights, states, ending sessions. The changes themselves are those of the other
//! dialects; here are HAProxy's arguments and messages.

use std::sync::Arc;

use super::super::super::failure::Failure;
use super::super::super::overrides::{self, Peer, Saying};
use super::super::super::{Handle, kill};
use super::{Answer, Answered, sess};
use crate::api::KillParams;
use crate::state::{Admin, Pool, Snapshot};

/// Most weight, as in the configuration.
const MOST_WEIGHT: i64 = 1000;

/// A server that was named as `POOL/BACKEND`.
struct Named {
    path: String,
    pool: Arc<Pool>,
    member: usize,
}

fn find(snapshot: &Snapshot, argument: Option<&String>) -> Result<Named, Failure> {
    let split = argument.and_then(|path| path.split_once('/'));
    let (pool_name, name) = split.ok_or_else(|| Failure::new("bad_params", "Require 'backend/server'."))?;
    let pool = snapshot.pools.iter().find(|pool| *pool.config.name == *pool_name);
    let pool = pool.ok_or_else(|| Failure::new("no_such_pool", "No such backend."))?;
    let member = pool.backends.iter().position(|backend| *backend.name == *name);
    let member = member.ok_or_else(|| Failure::new("no_such_backend", "No such server."))?;
    Ok(Named { path: format!("{pool_name}/{name}"), pool: Arc::clone(pool), member })
}

/// Answers `get weight POOL/BACKEND`.
pub fn get_weight(control: &Handle, arguments: &[String]) -> Answered {
    let Named { pool, member, .. } = find(&control.snapshot(), arguments.first())?;
    let (now, initial) = (pool.shares[member].weight, pool.config.backends[member].weight);
    Ok(Answer::Text(format!("{now} (initial {initial})\n")))
}

/// Answers `set weight POOL/BACKEND N|N%`.
pub async fn set_weight(control: &Handle, arguments: &[String], peer: Peer) -> Answered {
    let named = find(&control.snapshot(), arguments.first())?;
    weigh(control, &named, arguments.get(1), peer).await
}

/// Answers `set server POOL/BACKEND state|weight WORD`.
pub async fn set_server(control: &Handle, arguments: &[String], peer: Peer) -> Answered {
    let named = find(&control.snapshot(), arguments.first())?;
    match (arguments.get(1).map(String::as_str), arguments.get(2)) {
        (Some("weight"), weight) => weigh(control, &named, weight, peer).await,
        (Some("state"), word) => {
            let admin = match word.map(String::as_str) {
                Some("ready") => Admin::Ready,
                Some("drain") => Admin::Draining,
                Some("maint") => Admin::Disabled,
                _ => {
                    let message = "'set server <srv> state' expects 'ready', 'drain' and 'maint'.";
                    return Err(Failure::new("bad_params", message));
                }
            };
            say(control, &named, Saying::State(admin), peer).await
        }
        _ => Err(Failure::new("bad_params", "usage: set server <backend>/<server> state | weight")),
    }
}

/// Answers `enable server POOL/BACKEND` and `disable server POOL/BACKEND`.
pub async fn order(control: &Handle, arguments: &[String], admin: Admin, peer: Peer) -> Answered {
    let named = find(&control.snapshot(), arguments.first())?;
    say(control, &named, Saying::State(admin), peer).await
}

async fn say(control: &Handle, named: &Named, saying: Saying, peer: Peer) -> Answered {
    overrides::say(control, &named.path, saying, None, peer).await?;
    Ok(Answer::done())
}

async fn weigh(control: &Handle, named: &Named, text: Option<&String>, peer: Peer) -> Answered {
    let initial = named.pool.config.backends[named.member].weight;
    let text = text.ok_or_else(|| Failure::new("bad_params", "Require <weight> or <weight%>."))?;
    let weight = weight(text, initial).map_err(|why| Failure::new("bad_params", why))?;
    say(control, named, Saying::Weight(weight), peer).await
}

/// A weight as HAProxy reads one; a share is one of the configured weight.
fn weight(text: &str, initial: u32) -> Result<u32, String> {
    let (number, is_share) = text.strip_suffix('%').map_or((text, false), |number| (number, true));
    let Ok(number) = number.parse::<i64>() else {
        let begins_well = number.strip_prefix(['-', '+']).unwrap_or(number).starts_with(|c: char| c.is_ascii_digit());
        let why = if begins_well {
            "Trailing garbage in weight string"
        } else {
            "Empty weight string or preceded by garbage"
        };
        return Err(why.to_owned());
    };
    let weight = match (is_share, number) {
        (true, ..0) => return Err("Relative weight must be positive.".to_owned()),
        (true, share) => share.saturating_mul(initial.into()).div_euclid(100).min(MOST_WEIGHT),
        (false, 0..=MOST_WEIGHT) => number,
        (false, _) => return Err(format!("Absolute weight can only be between 0 and {MOST_WEIGHT} inclusive.")),
    };
    Ok(weight as u32)
}

/// Answers `shutdown session ID`.
pub async fn shutdown_session(control: &Handle, arguments: &[String], peer: Peer) -> Answered {
    let session = arguments.first().and_then(|text| sess::id(text));
    let session = session.ok_or_else(|| Failure::new("bad_params", "Session pointer expected (use 'show sess')."))?;
    let params = KillParams { session: Some(session), ..KillParams::default() };
    match kill::kill(control, &params, peer).await {
        Ok(_) => Ok(Answer::done()),
        Err(Failure { code: "no_such_session", .. }) => {
            Err(Failure::new("no_such_session", "No such session (use 'show sess')."))
        }
        Err(other) => Err(other),
    }
}

/// Answers `shutdown sessions server POOL/BACKEND`.
pub async fn shutdown_sessions(control: &Handle, arguments: &[String], peer: Peer) -> Answered {
    let Named { path, .. } = find(&control.snapshot(), arguments.first())?;
    let params = KillParams { backend: Some(path), ..KillParams::default() };
    kill::kill(control, &params, peer).await?;
    Ok(Answer::done())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a server whose configured weight is 50.
    #[track_caller]
    fn check(text: &str, want: Result<u32, &str>) {
        assert_eq!(weight(text, 50).as_ref().map_err(String::as_str).copied(), want, "{text}");
    }

    #[test]
    fn weights_are_read_as_haproxy_reads_them() {
        check("0", Ok(0));
        check("1000", Ok(1000));
        check("20%", Ok(10));
        check("0%", Ok(0));
        check("1%", Ok(0));
        check("999999999999999999%", Ok(1000));
        let range = Err("Absolute weight can only be between 0 and 1000 inclusive.");
        check("1001", range);
        check("-1", range);
        check("-1%", Err("Relative weight must be positive."));
        check("10x", Err("Trailing garbage in weight string"));
        check("10%%", Err("Trailing garbage in weight string"));
        check("", Err("Empty weight string or preceded by garbage"));
        check("%", Err("Empty weight string or preceded by garbage"));
        check("x10", Err("Empty weight string or preceded by garbage"));
    }
}
