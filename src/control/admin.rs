//! Operators' words about backends: drain, disable, enable. Logged with the peer that said them.

use std::sync::Arc;

use super::standing::{Change, follow};
use super::{Handle, state_file};
use crate::state::{Admin, Cause, Override};

/// Who is at the other end of the status socket (`SO_PEERCRED`, `unix(7)`).
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Process, when the kernel says.
    pub pid: Option<i32>,
}

/// Sets or takes back an override. Returns the backend's new state, or `None` when there is no such backend.
pub fn set(control: &Handle, path: &str, admin: Admin, peer: Peer) -> Option<&'static str> {
    let snapshot = control.snapshot();
    let backend = snapshot.backend_named(path)?;
    let changed = backend.change(|vitals| {
        let said = Override { admin, by_uid: peer.uid, since: jiff::Timestamp::now() };
        vitals.override_ = (admin != Admin::Ready).then_some(said);
    });
    let state = backend.standing().name();
    let pid = peer.pid.unwrap_or(0);
    tracing::info!(backend = path, state, uid = peer.uid, pid, "operator changed backend");
    let pool = snapshot.backends().find(|(_, other)| Arc::ptr_eq(other, backend)).map(|(pool, _)| pool);
    if let (Some(states), Some(pool)) = (changed, pool) {
        let detail = format!("by uid {} (pid {pid})", peer.uid);
        let by = Cause::Operator;
        follow(
            control,
            pool,
            backend,
            Change { states, from: None, by, reason: "operator", detail: &detail, evidence: Vec::new() },
        );
    }
    if let Some(path) = &snapshot.config.global.state_file
        && let Err(error) = state_file::save(path, &snapshot)
    {
        tracing::error!(path = %path.display(), %error, "cannot write the state file: the override will not survive a restart");
    }
    Some(state)
}
