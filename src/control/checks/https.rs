//! The check `https`: that of `http`, inside the handshake of `tls`.

use super::connector::Connector;
use super::{Failed, Passed, Talk, http};
use crate::config::{Http, Https};

/// Handshake and request.
pub struct Dialogue {
    http: Http,
    connector: Connector,
}

impl Dialogue {
    pub fn new(settings: &Https) -> Result<Self, String> {
        Ok(Self { http: settings.http.clone(), connector: Connector::new(&settings.tls)? })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let stream = talk.connect().await?;
        let stream = self.connector.handshake(talk, stream).await?;
        let host = self.connector.name_for(talk).to_str().into_owned();
        http::ask(&self.http, &host, talk, stream).await
    }
}
