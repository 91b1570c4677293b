//! TLS for checks: what a handshake needs is made ready once, and each handshake keeps the certificate that was shown,
//! believed or not. Any kind of check can have its dialogue inside.

use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Failed, Talk, certificate};
use crate::config::{Loaded, Tls, Trust, Verify};

/// The algorithms of all handshakes.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// The system's authorities. Reading them takes long enough to do it once.
static SYSTEM: LazyLock<Result<Arc<RootCertStore>, String>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(Arc::new(roots));
    }
    let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
    Err(format!("the system's store of certificate authorities is empty{why}"))
});

/// A handshake made ready.
pub struct Connector {
    config: ClientConfig,
    /// Judges certificates; `None`: nobody does.
    judge: Option<Arc<WebPkiServerVerifier>>,
    name: Option<ServerName<'static>>,
}

impl Connector {
    /// Makes ready a handshake, or says what is wrong with its files.
    pub fn new(settings: &Tls) -> Result<Self, String> {
        let judge = match settings.verify {
            Verify::None => None,
            Verify::Full => {
                let verifier = WebPkiServerVerifier::builder_with_provider(roots(&settings.trust)?, PROVIDER.clone());
                Some(verifier.build().map_err(|error| format!("cannot judge certificates: {error}"))?)
            }
        };
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Witness::new(judge.clone())));
        let mut config = match &settings.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let unusable = |file: &Loaded, why: String| format!("cannot use {}: {why}", file.path.display());
                let key = PrivateKeyDer::from_pem_slice(&client.key.contents)
                    .map_err(|error| unusable(&client.key, error.to_string()))?;
                builder
                    .with_client_auth_cert(certificates(&client.chain)?, key)
                    .map_err(|error| unusable(&client.chain, error.to_string()))?
            }
        };
        config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Each check shall see the certificate.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config, judge, name: settings.sni.clone() })
    }

    /// Makes a handshake on an established connection, and tells what was agreed on.
    pub async fn handshake(&self, talk: &mut Talk<'_>, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failed> {
        talk.phase("handshake");
        talk.note("sent a ClientHello");
        let witness = Arc::new(Witness::new(self.judge.clone()));
        let mut config = self.config.clone();
        config.dangerous().set_certificate_verifier(witness.clone());
        let connector = TlsConnector::from(Arc::new(config));
        let connected = connector.connect(self.name_for(talk), stream).await;
        talk.certificate = witness.seen().as_ref().and_then(certificate::facts);
        if let Ok(stream) = &connected {
            talk.note(&agreed(stream));
        }
        if let Some(facts) = &talk.certificate {
            let words = certificate::words(facts, Timestamp::now());
            talk.note(&words);
        }
        connected.map_err(|error| failed(talk, &error))
    }

    /// The name that is sent and verified; the address, which is not sent, when there is none.
    pub fn name_for(&self, talk: &Talk<'_>) -> ServerName<'static> {
        self.name.clone().unwrap_or_else(|| ServerName::IpAddress(talk.target.address.ip().into()))
    }

    /// What is the same for every handshake.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::new(self.config.clone())
    }
}

/// The failure that an error on a connection with TLS is.
pub fn failed(talk: &mut Talk<'_>, error: &io::Error) -> Failed {
    if error.kind() == io::ErrorKind::UnexpectedEof { talk.closed() } else { talk.failed(error) }
}

fn agreed(stream: &TlsStream<TcpStream>) -> String {
    let (_, session) = stream.get_ref();
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS").replace('v', " ");
    let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("-");
    let alpn = session.alpn_protocol().map(|name| format!(", ALPN {}", name.escape_ascii())).unwrap_or_default();
    format!("{} {suite}{alpn}", version.replace('_', "."))
}

fn roots(trust: &Trust) -> Result<Arc<RootCertStore>, String> {
    let Trust::File(file) = trust else { return SYSTEM.clone() };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(file)?);
    if added == 0 {
        Err(format!("{} has no authority that can be used", file.path.display()))
    } else {
        Ok(roots.into())
    }
}

fn certificates(file: &Loaded) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&file.contents).collect();
    read.map_err(|error| format!("cannot read {}: {error}", file.path.display()))
}

/// Sees a certificate before it is judged.
#[derive(Debug)]
struct Witness {
    judge: Option<Arc<WebPkiServerVerifier>>,
    seen: Mutex<Option<CertificateDer<'static>>>,
}

impl Witness {
    fn new(judge: Option<Arc<WebPkiServerVerifier>>) -> Self {
        Self { judge, seen: Mutex::new(None) }
    }

    fn seen(&self) -> Option<CertificateDer<'static>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.clone().into_owned());
        match &self.judge {
            Some(judge) => judge.verify_server_cert(certificate, chain, name, ocsp, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
