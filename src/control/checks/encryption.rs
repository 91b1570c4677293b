//! Dialogues that can be held inside TLS: the same stream either way, so that a kind says once what it has to say.

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Join, join, split};
use tokio::net::TcpStream;

use super::connector::Connector;
use super::{Failed, Talk};
use crate::config::Encryption;

/// A connection, encrypted or not.
pub type Stream = Join<Box<dyn AsyncRead + Unpin>, Box<dyn AsyncWrite + Unpin>>;

/// Opens connections.
pub enum Opener {
    /// In plain text.
    Plain,
    /// With this handshake.
    Tls(Box<Connector>),
}

impl Opener {
    pub fn new(encryption: &Encryption) -> Result<Self, String> {
        Ok(match encryption {
            Encryption::Off => Self::Plain,
            Encryption::Require(settings) => Self::Tls(Box::new(Connector::new(settings)?)),
        })
    }

    /// Connects, and makes the handshake.
    pub async fn open(&self, talk: &mut Talk<'_>) -> Result<Stream, Failed> {
        let stream = talk.connect().await?;
        self.over(talk, stream).await
    }

    /// Makes the handshake on an established connection.
    pub async fn over(&self, talk: &mut Talk<'_>, stream: TcpStream) -> Result<Stream, Failed> {
        Ok(match self {
            Self::Plain => boxed(stream),
            Self::Tls(connector) => boxed(connector.handshake(talk, stream).await?),
        })
    }
}

fn boxed(stream: impl AsyncRead + AsyncWrite + 'static) -> Stream {
    let (reader, writer) = split(stream);
    join(Box::new(reader), Box::new(writer))
}

/// Says a last word and ends the stream in the protocol's order: servers log what ends otherwise. Whether they still
/// hear it changes no verdict.
pub async fn end(talk: &mut Talk<'_>, mut stream: Stream, last_word: &[u8]) {
    if !last_word.is_empty() {
        let _ = talk.send(&mut stream, last_word).await;
    }
    let _ = stream.shutdown().await;
}
