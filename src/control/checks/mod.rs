//! Health checks: one file per kind, which says what to send and what to expect. Here is what all have in common: the
//! address, the deadline, the verdict. Who is checked when, and what follows, is decided elsewhere.
//!
//! Adding a kind is a file here, one in `config/health`, and a line in each of the two lists.

mod agent;
mod certificate;
mod connector;
mod encryption;
mod evidence;
mod exec;
mod expect;
mod http;
mod https;
mod ldap;
#[cfg(test)]
mod mutants;
mod mysql;
mod postgres;
mod redis;
mod smtp;
mod talk;
mod tcp;
mod tls;
mod tls_hello;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::{CheckKind, HealthCheck};
use crate::decide::health::agent::AgentWords;
use crate::decide::hello::proxy::Version;
use crate::state::{Backend, CertificateFacts, CheckPhase};

pub use certificate::ExpiryWatch;
pub use talk::{FULL, Failed, Found, Passed, Talk};

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
    /// How it went.
    pub phases: Vec<CheckPhase>,
    /// How long it took in all.
    pub took: Duration,
    /// The certificate that was shown, believed or not.
    pub certificate: Option<CertificateFacts>,
    /// What an agent said, for whoever carries it out.
    pub agent: Option<AgentWords>,
}

/// What is checked.
#[derive(Debug)]
pub struct Target<'a> {
    /// Whose health it is.
    pub backend: &'a Backend,
    /// Where to connect.
    pub address: SocketAddr,
    /// Time for all of it.
    pub limit: Duration,
    /// The PROXY header that the backend expects.
    pub send_proxy: Option<Version>,
}

impl<'a> Target<'a> {
    /// What `check` checks of `backend`.
    pub fn new(backend: &'a Backend, check: &HealthCheck, send_proxy: Option<Version>) -> Self {
        let address = check.address.unwrap_or(backend.address.ip());
        let port = check.port.unwrap_or(backend.address.port());
        Self { backend, address: (address, port).into(), limit: check.timeout, send_proxy }
    }
}

macro_rules! dialogues {
    ($($kind:ident = $module:ident;)*) => {
        enum Dialogue { $($kind($module::Dialogue),)* }

        impl Dialogue {
            fn new(kind: &CheckKind) -> Result<Self, String> {
                Ok(match kind { $(CheckKind::$kind(settings) => Self::$kind($module::Dialogue::new(settings)?),)* })
            }

            async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
                match self { $(Self::$kind(dialogue) => dialogue.run(talk).await,)* }
            }
        }
    };
}

dialogues! {
    Tcp = tcp;
    TlsHello = tls_hello;
    Tls = tls;
    Http = http;
    Https = https;
    Postgres = postgres;
    MySql = mysql;
    Redis = redis;
    Smtp = smtp;
    Ldap = ldap;
    Expect = expect;
    Agent = agent;
    Exec = exec;
}

/// A check that is ready to be made: what does not change from one time to the next is worked out.
pub struct Check {
    dialogue: Result<Dialogue, String>,
}

impl Check {
    /// Makes ready what `kind` says.
    pub fn new(kind: &CheckKind) -> Self {
        Self { dialogue: Dialogue::new(kind) }
    }

    /// Checks once.
    pub async fn run(&self, target: &Target<'_>) -> Verdict {
        let begun = Instant::now();
        let mut talk = Talk::new(target);
        let result = match &self.dialogue {
            Ok(dialogue) => match tokio::time::timeout(target.limit, dialogue.run(&mut talk)).await {
                Ok(result) => result,
                Err(_) => Err(talk.timed_out()),
            },
            Err(why) => Err(Failed::local(why.clone())),
        };
        let (finding, reason, detail) = match result {
            Ok(Passed { reason, detail }) => (Finding::Well, reason, detail),
            Err(Failed { finding, reason, detail }) => (finding, reason, detail),
        };
        let Found { phases, certificate, agent } = talk.end();
        Verdict { finding, reason, detail, phases, took: begun.elapsed(), certificate, agent }
    }
}
