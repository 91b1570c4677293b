//! The check `tcp`: a connection is accepted within the time-out. It is closed in an orderly way, with FIN. A backend that
//! expects PROXY headers gets one that says whose connection it is: ours (LOCAL).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::decide::hello::proxy::{Version, write_local};
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
pub async fn probe(address: SocketAddr, limit: Duration, send_proxy: Option<Version>) -> Verdict {
    let (reason, detail) = match timeout(limit, connect(address, send_proxy)).await {
        Ok(Ok(())) => {
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

async fn connect(address: SocketAddr, send_proxy: Option<Version>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    if let Some(version) = send_proxy {
        let header = write_local(version, stream.local_addr()?, stream.peer_addr()?);
        stream.write_all(&header).await?;
    }
    Ok(())
}
