//! HAProxy's runtime API (management guide, "Unix Socket commands").

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::super::Handle;
use super::super::overrides::Peer;
use super::WRITE_LIMIT;

/// Serves one client.
pub async fn serve(_control: &Handle, mut stream: UnixStream, _first: Vec<u8>, _peer: Peer) -> io::Result<()> {
    let message = "HAProxy's runtime API is not built yet; this version speaks HTTP GET and JSON lines\n\n";
    timeout(WRITE_LIMIT, stream.write_all(message.as_bytes())).await?
}
