//! Changes that keys ask for: the question to the operator, the request to the daemon, and what its answer says. Pure.

use serde_json::Value;

use crate::api::{Changed, KillParams, Killed, OrderParams};

/// A change of one backend, as `POOL/BACKEND`, or of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Take no new connections.
    Drain(String),
    /// Take them again.
    Enable(String),
    /// Take none for good.
    Disable(String),
    /// End all sessions.
    Kill(String),
    /// End one session.
    End(String),
}

impl Change {
    /// What the operator is asked. `active`: connections of the backend.
    pub fn question(&self, active: u32) -> String {
        match self {
            Self::Drain(path) => format!("drain {path}? It takes no new connections; its {active} run on."),
            Self::Enable(path) => format!("enable {path}? It takes new connections, once it is well."),
            Self::Disable(path) => format!("disable {path}? It takes no new connections; its {active} run on."),
            Self::Kill(path) => format!("end all sessions of {path}? Its {active} connections are reset at once."),
            Self::End(session) => format!("end session {session}? It is reset at once."),
        }
    }

    /// The backend that is meant as a whole.
    pub fn backend(&self) -> Option<&str> {
        match self {
            Self::Drain(path) | Self::Enable(path) | Self::Disable(path) | Self::Kill(path) => Some(path),
            Self::End(_) => None,
        }
    }

    /// Method and parameters of the request.
    pub fn request(&self) -> (&'static str, Value) {
        let order = |method, path: &String| (method, to_value(OrderParams { backend: path.clone(), for_ms: None }));
        match self {
            Self::Drain(path) => order("drain", path),
            Self::Enable(path) => order("enable", path),
            Self::Disable(path) => order("disable", path),
            Self::Kill(path) => ("kill", to_value(KillParams { backend: Some(path.clone()), ..KillParams::default() })),
            Self::End(id) => ("kill", to_value(KillParams { session: Some(id.clone()), ..KillParams::default() })),
        }
    }

    /// What the daemon's answer comes to, in a sentence.
    ///
    /// # Errors
    /// When the answer is none to this request.
    pub fn outcome(&self, answer: Value) -> Result<String, serde_json::Error> {
        Ok(match self {
            Self::Drain(_) | Self::Enable(_) | Self::Disable(_) => {
                let changed: Changed = serde_json::from_value(answer)?;
                let kept = if changed.kept == Some(false) { "; NOT kept over a restart: see the log" } else { "" };
                format!("{} is {} with {} connections{kept}", changed.backend, changed.state, changed.active)
            }
            Self::Kill(path) => {
                let killed: Killed = serde_json::from_value(answer)?;
                format!("{} sessions of {path} were told to end", killed.sessions)
            }
            Self::End(session) => {
                let _: Killed = serde_json::from_value(answer)?;
                format!("session {session} was told to end")
            }
        })
    }
}

fn to_value(params: impl serde::Serialize) -> Value {
    serde_json::to_value(params).expect("parameters are plain data")
}
