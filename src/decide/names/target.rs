//! The name of a backend as the configuration writes it: `host:port`, or `srv:_service._tcp.domain`.
//! Names may hold letters outside ASCII; they are converted with IDNA (UTS 46).

use std::fmt;
use std::sync::Arc;

use crate::decide::hello::{Refusal, ServerName};

/// Prefix of a service.
const SRV: &str = "srv:";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `A` and `AAAA` of a host, in lower-case A-labels. A trailing dot is kept: it switches the search list off.
    Host {
        /// The host.
        name: Arc<str>,
        /// The port at all its addresses.
        port: u16,
    },
    /// `SRV` of a service, in the same form.
    Service(Arc<str>),
}

/// Why a text names nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// Not of either form; it may have been meant as an address.
    Form,
    /// The port is not 1 to 65535.
    Port,
    /// Not a host name; why.
    Name(String),
    /// A service that does not begin with `_service._proto.`
    Service,
    /// A host that begins with `_service._proto.`: `srv:` is missing.
    Prefix,
    /// A service with a port: its records have ports of their own.
    ServicePort,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("neither an address nor a name with a port"),
            Self::Port => f.write_str("the port is not 1 to 65535"),
            Self::Name(why) => write!(f, "the name {why}"),
            Self::Service => f.write_str("a service begins with two labels like `_https._tcp`"),
            Self::Prefix => f.write_str("a service needs `srv:` before it and no port"),
            Self::ServicePort => f.write_str("the records of a service have ports of their own"),
        }
    }
}

impl std::error::Error for TargetError {}

impl Target {
    /// Reads a name as written; addresses are none.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if let Some(service) = text.strip_prefix(SRV) {
            if service.contains(':') {
                return Err(TargetError::ServicePort);
            }
            let name = host_name(service)?;
            return if is_service(&name) { Ok(Self::Service(name)) } else { Err(TargetError::Service) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::Form)?;
        // `10.0.0.256:443` and `::1:443` are wrong addresses, not names: no top-level domain is a number.
        let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let is_number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
        if host.is_empty() || is_number || host.contains([':', '[', ']', '/']) {
            return Err(TargetError::Form);
        }
        let name = host_name(host)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(TargetError::Port)?;
        if is_service(&name) { Err(TargetError::Prefix) } else { Ok(Self::Host { name, port }) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Service(name) => write!(f, "{SRV}{name}"),
        }
    }
}

/// Two labels with an underscore and more than one byte, then at least one more (RFC 2782; registries that put tags
/// there, such as Consul's, name the second one freely).
fn is_service(name: &str) -> bool {
    let mut labels = name.split('.').filter(|label| !label.is_empty());
    let mut underscored = || labels.next().is_some_and(|label| label.len() > 1 && label.starts_with('_'));
    underscored() && underscored() && labels.next().is_some()
}

fn host_name(text: &str) -> Result<Arc<str>, TargetError> {
    let ascii = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(text).map_err(|_| TargetError::Name("does not convert with IDNA".into()))?
    };
    match ServerName::from_wire(ascii.as_bytes()) {
        Ok(Some(_)) => Ok(ascii.into()),
        Ok(None) => Err(TargetError::Form),
        Err(Refusal::Name(why)) => Err(TargetError::Name(why.into())),
        Err(other) => Err(TargetError::Name(other.to_string())),
    }
}
