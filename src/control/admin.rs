//! Operators' words about backends: drain, disable, enable. Logged with the peer that said them.

use super::{Control, state_file};
use crate::state::{Admin, Override};

/// Who is at the other end of the status socket (`SO_PEERCRED`, `unix(7)`).
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Process, when the kernel says.
    pub pid: Option<i32>,
}

/// Sets or takes back an override. Returns the backend's new state, or `None` when there is no such backend.
pub fn set(control: &Control, path: &str, admin: Admin, peer: Peer) -> Option<&'static str> {
    let snapshot = control.snapshot();
    let backend = snapshot.backend_named(path)?;
    backend.change(|vitals| {
        let said = Override { admin, by_uid: peer.uid, since: jiff::Timestamp::now() };
        vitals.override_ = (admin != Admin::Ready).then_some(said);
    });
    let state = backend.standing().name();
    tracing::info!(backend = path, state, uid = peer.uid, pid = peer.pid.unwrap_or(0), "operator changed backend");
    if let Some(path) = &snapshot.config.global.state_file
        && let Err(error) = state_file::save(path, &snapshot)
    {
        tracing::error!(path = %path.display(), %error, "cannot write the state file: the override will not survive a restart");
    }
    Some(state)
}
