//! A check on demand, for `sluice probe`: made as the schedule makes it, shown phase by phase, and not counted, so that
//! looking changes nothing.

use std::time::Duration;

use super::Control;
use super::checks::{Check, Finding, Target};
use crate::api::{AgentSaid, CertificateReport, ProbePhase, ProbeReport};
use crate::state::CheckPhase;

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
pub async fn probe(control: &Control, path: &str) -> Result<ProbeReport, NoProbe> {
    let snapshot = control.snapshot();
    let backend = snapshot.backend_named(path).ok_or(NoProbe::NoSuchBackend)?;
    let pool = snapshot.pools.iter().find(|pool| pool.config.name == backend.pool).ok_or(NoProbe::NoSuchBackend)?;
    let config = pool.config.health.as_ref().ok_or(NoProbe::NoCheck)?;
    let mut target = Target::new(backend, config, pool.config.send_proxy);
    target.limit = target.limit.min(LONGEST);
    let verdict = Check::new(&config.kind).run(&target).await;
    let phase = |phase: &CheckPhase| ProbePhase {
        phase: phase.name.to_string(),
        took_ms: millis(phase.took),
        evidence: phase.evidence.clone(),
    };
    Ok(ProbeReport {
        pool: backend.pool.to_string(),
        backend: backend.name.to_string(),
        address: target.address,
        check: config.kind.word().to_owned(),
        result: match verdict.finding {
            Finding::Well => "ok",
            Finding::Unwell => "failed",
            Finding::Nothing => "unknown",
        }
        .to_owned(),
        reason: verdict.reason.to_owned(),
        detail: verdict.detail,
        took_ms: millis(verdict.took),
        phases: verdict.phases.iter().map(phase).collect(),
        certificate: verdict.certificate.map(|facts| CertificateReport {
            subject: facts.subject,
            issuer: facts.issuer,
            expires: facts.not_after,
        }),
        agent: verdict.agent.map(|words| AgentSaid {
            health: words.health.map(|health| health.word().to_owned()),
            operation: words.operation.map(|operation| operation.word().to_owned()),
            weight_percent: words.weight,
            max_connections: words.max_connections,
            text: words.text,
            unknown: words.unknown,
        }),
        state: backend.standing().name().to_owned(),
    })
}

fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
