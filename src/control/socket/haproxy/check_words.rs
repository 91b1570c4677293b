//! States and results of checks in HAProxy's words.

use crate::config::{CheckKind, HealthCheck};
use crate::decide::health;
use crate::state::{Pool, Standing, Vitals};

/// A result of a check, with its number in `show servers state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// As in `show stat`.
    pub word: &'static str,
    /// As in `show servers state`.
    pub number: u32,
    /// What it means.
    meaning: &'static str,
}

const fn code(word: &'static str, number: u32, meaning: &'static str) -> Code {
    Code { word, number, meaning }
}

const INI: Code = code("INI", 1, "Initializing");
const HANA: Code = code("HANA", 4, "Health analyze");
const SOCKERR: Code = code("SOCKERR", 5, "Socket error");
const L4OK: Code = code("L4OK", 6, "Layer4 check passed");
const L4TOUT: Code = code("L4TOUT", 7, "Layer4 timeout");
const L4CON: Code = code("L4CON", 8, "Layer4 connection problem");
const L6OK: Code = code("L6OK", 9, "Layer6 check passed");
const L6TOUT: Code = code("L6TOUT", 10, "Layer6 timeout");
const L6RSP: Code = code("L6RSP", 11, "Layer6 invalid response");
const L7TOUT: Code = code("L7TOUT", 12, "Layer7 timeout");
const L7RSP: Code = code("L7RSP", 13, "Layer7 invalid response");
const L7OK: Code = code("L7OK", 15, "Layer7 check passed");
const L7STS: Code = code("L7STS", 17, "Layer7 wrong status");
const PROCERR: Code = code("PROCERR", 18, "External check error");
const PROCTOUT: Code = code("PROCTOUT", 19, "External check timeout");
const PROCOK: Code = code("PROCOK", 20, "External check passed");

/// The last result of a check, and what it means.
pub fn check_status(check: &HealthCheck, vitals: &Vitals) -> (Code, &'static str) {
    let last = &vitals.check;
    let code = match (last.ok, &*last.reason) {
        (None, "") => INI,
        (_, "live") => HANA,
        (_, "local") => SOCKERR,
        (Some(true), _) => passed(&check.kind),
        (_, reason) => {
            // The parting decides nothing.
            let phase = last.phases.iter().rfind(|phase| phase.name != "close");
            failed(&check.kind, phase.map_or("", |phase| &*phase.name), reason)
        }
    };
    (code, code.meaning)
}

const fn passed(kind: &CheckKind) -> Code {
    match kind {
        CheckKind::Tcp(_) => L4OK,
        CheckKind::TlsHello(_) | CheckKind::Tls(_) => L6OK,
        CheckKind::Exec(_) => PROCOK,
        _ => L7OK,
    }
}

fn failed(kind: &CheckKind, phase: &str, reason: &str) -> Code {
    let timed_out = reason == "timeout";
    match (kind, phase) {
        (CheckKind::Exec(_), _) if timed_out => PROCTOUT,
        (CheckKind::Exec(_), _) => PROCERR,
        (_, "connect") if timed_out => L4TOUT,
        (_, "connect") => L4CON,
        (_, "handshake" | "hello") if timed_out => L6TOUT,
        (_, "handshake" | "hello") => L6RSP,
        _ if timed_out => L7TOUT,
        _ if matches!(reason, "closed" | "reset" | "too_long" | "error") || reason.starts_with("not_") => L7RSP,
        _ => L7STS,
    }
}

/// HAProxy's points of health: up from `rise` on, at most `rise + fall - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Successes in a row that bring it up.
    pub rise: u32,
    /// Failures in a row that bring it down.
    pub fall: u32,
    /// Its points.
    pub points: u32,
}

impl Health {
    /// What the last results come to.
    pub fn of(check: &HealthCheck, vitals: &Vitals) -> Self {
        let health::Thresholds { rise, fall } = check.thresholds;
        let points = match vitals.health {
            health::Health::Up | health::Health::Unchecked => (rise + fall - 1).saturating_sub(vitals.streak),
            health::Health::Down | health::Health::Unknown => vitals.streak,
        };
        Self { rise, fall, points }
    }
}

/// The state of a member. While results speak against it, how many more it takes to change.
pub fn status(pool: &Pool, member: usize) -> String {
    let (backend, share) = (&pool.backends[member], pool.shares[member]);
    let (standing, vitals) = (backend.standing(), backend.vitals());
    let by_agent = vitals.overrides.admin.in_force().is_none();
    let health = pool.config.health.as_ref().map(|check| Health::of(check, &vitals));
    match (standing, health) {
        (Standing::Disabled, _) => "MAINT".to_owned(),
        (Standing::Draining, _) if by_agent => "DRAIN (agent)".to_owned(),
        (Standing::Draining, _) => "DRAIN".to_owned(),
        (Standing::Up | Standing::Unchecked, _) if share.weight == 0 => "DRAIN".to_owned(),
        (Standing::Up, Some(Health { rise, fall, points })) if points < rise + fall - 1 => {
            format!("UP {}/{fall}", (points + 1).saturating_sub(rise))
        }
        (Standing::Down, Some(Health { rise, points, .. })) if points > 0 => format!("DOWN {points}/{rise}"),
        (Standing::Up, _) => "UP".to_owned(),
        (Standing::Unchecked, _) => "no check".to_owned(),
        (Standing::Down | Standing::Ejected, _) => "DOWN".to_owned(),
    }
}
