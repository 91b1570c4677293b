//! HAProxy's runtime API (management guide, "Unix Socket commands").

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::super::Handle;
use super::super::overrides::Peer;
use super::WRITE_LIMIT;

/// Serves one client.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    _control: &Handle,
    mut stream: S,
    _first: Vec<u8>,
    _peer: Peer,
) -> io::Result<()> {
    let message = "HAProxy's runtime API is not built yet; this version speaks HTTP GET and JSON lines\n\n";
    timeout(WRITE_LIMIT, stream.write_all(message.as_bytes())).await?
}
