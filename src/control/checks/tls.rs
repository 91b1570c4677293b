//! The check `tls`: a whole handshake. With TLS 1.3 a server that wants a certificate of ours says so only after we think
//! that all is done, so its last word is awaited.

use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::connector::{self, Connector};
use super::{Failed, Passed, Talk, certificate};
use crate::config::Tls;

/// A handshake made ready.
pub struct Dialogue {
    connector: Connector,
}

impl Dialogue {
    pub fn new(settings: &Tls) -> Result<Self, String> {
        Ok(Self { connector: Connector::new(settings)? })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let stream = talk.connect().await?;
        let mut stream = self.connector.handshake(talk, stream).await?;
        talk.phase("close");
        talk.note("sent close_notify");
        let goodbye = async {
            stream.shutdown().await?;
            // Application data is nobody's refusal, and one read of it is enough.
            stream.read(&mut [0; 512]).await
        };
        // A server that neither answers nor closes has nothing against us; half of the time is left for it to say so.
        match timeout(talk.left() / 2, goodbye).await {
            Ok(Err(error)) if is_refusal(&error) => Err(connector::failed(talk, &error)),
            Ok(_) | Err(_) => Ok(Passed::new("handshake", words(talk))),
        }
    }
}

fn words(talk: &Talk<'_>) -> String {
    let shown = talk.certificate.as_ref().map(|facts| certificate::words(facts, Timestamp::now()));
    format!("handshake with {}: {}", talk.target.address, shown.unwrap_or_default())
}

/// Whether the server said no. Whatever else goes wrong after our goodbye is an ordinary end.
fn is_refusal(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::AlertReceived(_)))
}
