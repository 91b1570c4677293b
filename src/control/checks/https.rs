//! The check `https`: that of `http`, inside the handshake of `tls`.

use rustls::pki_types::ServerName;

use super::connector::Connector;
use super::{Failed, Passed, Talk, http};
use crate::config::{Http, Https};

/// Handshake and request.
pub struct Dialogue {
    http: Http,
    sni: Option<ServerName<'static>>,
    connector: Connector,
}

impl Dialogue {
    pub fn new(settings: &Https) -> Result<Self, String> {
        let Https { http, tls } = settings.clone();
        Ok(Self { connector: Connector::new(&tls)?, http, sni: tls.sni })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let stream = talk.connect().await?;
        let stream = self.connector.handshake(talk, stream).await?;
        let host = match &self.sni {
            Some(ServerName::DnsName(name)) => name.as_ref().to_owned(),
            _ => talk.target.address.to_string(),
        };
        http::ask(&self.http, &host, talk, stream).await
    }
}
