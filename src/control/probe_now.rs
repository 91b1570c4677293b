//! A check on demand, for `sluice probe`: made as the schedule makes it, shown phase by phase, and not counted, so that
//! looking changes nothing.

use std::time::Duration;

use serde_json::{Value, json};

use super::Control;
use super::checks::{Check, Finding, Target};
use crate::decide::health::agent::{AgentHealth, AgentWords, Operation};
use crate::state::CertificateFacts;

/// Longest check on demand: whoever asked waits for it, and the commands wait for 30 s.
const LONGEST: Duration = Duration::from_secs(20);

/// Why there was no check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoProbe {
    /// No backend has this name.
    NoSuchBackend,
    /// Its pool has no check.
    NoCheck,
}

/// Checks the backend called `POOL/BACKEND` now.
pub async fn probe(control: &Control, path: &str) -> Result<Value, NoProbe> {
    let snapshot = control.snapshot();
    let backend = snapshot.backend_named(path).ok_or(NoProbe::NoSuchBackend)?;
    let pool = snapshot.pools.iter().find(|pool| pool.config.name == backend.pool).ok_or(NoProbe::NoSuchBackend)?;
    let config = pool.config.health.as_ref().ok_or(NoProbe::NoCheck)?;
    let mut target = Target::new(backend, config, pool.config.send_proxy);
    target.limit = target.limit.min(LONGEST);
    let verdict = Check::new(&config.kind).run(&target).await;
    let phases = verdict
        .phases
        .iter()
        .map(|phase| json!({ "phase": phase.name, "took_ms": millis(phase.took), "evidence": phase.evidence }));
    Ok(json!({
        "pool": &*backend.pool,
        "backend": &*backend.name,
        "address": target.address,
        "check": config.kind.word(),
        "result": match verdict.finding {
            Finding::Well => "ok",
            Finding::Unwell => "failed",
            Finding::Nothing => "unknown",
        },
        "reason": verdict.reason,
        "detail": verdict.detail,
        "took_ms": millis(verdict.took),
        "phases": phases.collect::<Vec<_>>(),
        "certificate": verdict.certificate.as_ref().map(certificate),
        "agent": verdict.agent.as_ref().map(agent),
        "state": backend.standing().name(),
    }))
}

fn certificate(facts: &CertificateFacts) -> Value {
    json!({ "subject": facts.subject, "issuer": facts.issuer, "expires": facts.not_after })
}

/// An agent's words; null is what it did not mention.
fn agent(words: &AgentWords) -> Value {
    json!({
        "health": words.health.map(AgentHealth::word),
        "operation": words.operation.map(Operation::word),
        "weight_percent": words.weight,
        "max_connections": words.max_connections,
        "text": words.text,
        "unknown": words.unknown,
    })
}

fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
