//! The check `tcp`: a connection is accepted within the time-out. It is closed in an orderly way, with FIN.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::sys::socket;

/// What a check says of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is well.
    Well,
    /// It is not.
    Unwell,
    /// Nothing: this machine lacked something for the check.
    Nothing,
}

/// What a check found out.
#[derive(Debug)]
pub struct Verdict {
    /// Whether the backend is well.
    pub finding: Finding,
    /// In a word.
    pub reason: &'static str,
    /// In a sentence.
    pub detail: String,
}

/// Checks one address.
pub async fn probe(address: SocketAddr, limit: Duration) -> Verdict {
    let (reason, detail) = match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(_)) => {
            return Verdict { finding: Finding::Well, reason: "connected", detail: format!("connected to {address}") };
        }
        Ok(Err(error)) if socket::is_local(&error) => {
            let detail = format!("cannot check {address}: {error}");
            return Verdict { finding: Finding::Nothing, reason: "local", detail };
        }
        Ok(Err(error)) => {
            let reason = match error.kind() {
                ErrorKind::ConnectionRefused => "refused",
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
                _ => "error",
            };
            (reason, format!("connect to {address}: {error}"))
        }
        Err(_) => ("timeout", format!("connect to {address} timed out after {} ms", limit.as_millis())),
    };
    Verdict { finding: Finding::Unwell, reason, detail }
}
