//! Asks the domain name system, through the resolver crate: one question in, one reply out, bounded in time and number.
//! It keeps no answer; what becomes of one is decided in `decide::names`.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::lookup_runtime::Here;
use crate::decide::names::{HostReply, Reply, Service};

/// Questions at once, over all names. Chosen: a thousand names are asked for within a second by any resolver nearby.
const AT_ONCE: usize = 64;
/// Longest wait for one reply, over all servers and tries.
const REPLY_LIMIT: Duration = Duration::from_secs(8);
/// Longest wait for one server where the configuration names them; the system's has its own.
const SERVER_LIMIT: Duration = Duration::from_secs(2);
/// Files that the system's resolver is made from.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// When each of [`SYSTEM_FILES`] was last changed.
type Stamps = [Option<SystemTime>; 2];

/// Asks the servers of the configuration, or those of the system.
pub struct Lookups {
    servers: Vec<SocketAddr>,
    /// The resolver and the files that it was made from.
    current: RefCell<Option<(Stamps, Rc<Resolver<Here>>)>>,
    permits: Semaphore,
}

impl Lookups {
    /// Asks `servers`; the system's, when there are none.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, current: RefCell::new(None), permits: Semaphore::new(AT_ONCE) }
    }

    /// Who is asked.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// `A` and `AAAA` of a host.
    pub async fn host(&self, name: &str) -> HostReply {
        let (v4, v6) = tokio::join!(
            self.ask(name, RecordType::A, |data| match data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                _ => None,
            }),
            self.ask(name, RecordType::AAAA, |data| match data {
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            })
        );
        HostReply { v4, v6 }
    }

    /// `SRV` of a service.
    pub async fn service(&self, name: &str) -> Reply<Service> {
        self.ask(name, RecordType::SRV, |data| match data {
            RData::SRV(record) => Some(Service {
                priority: record.priority,
                weight: record.weight,
                port: record.port,
                host: Arc::from(record.target.to_lowercase().to_ascii()),
            }),
            _ => None,
        })
        .await
    }

    async fn ask<T>(&self, name: &str, kind: RecordType, pick: impl Fn(&RData) -> Option<T>) -> Reply<T> {
        let resolver = match self.resolver() {
            Ok(resolver) => resolver,
            Err(error) => return Reply::Failed(format!("no resolver: {error}")),
        };
        let name = match Name::from_ascii(name) {
            Ok(name) => name,
            Err(error) => return Reply::Failed(error.to_string()),
        };
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        match timeout(REPLY_LIMIT, resolver.lookup(name, kind)).await {
            Ok(answer) => reply(answer, kind, pick),
            Err(_) => Reply::Failed(format!("{kind}: no answer within {} s", REPLY_LIMIT.as_secs())),
        }
    }

    /// The resolver; made anew when the system's files have changed, as the C library does.
    fn resolver(&self) -> Result<Rc<Resolver<Here>>, NetError> {
        let changed = |path: &str| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let stamps = if self.servers.is_empty() { SYSTEM_FILES.map(changed) } else { [None; 2] };
        let mut current = self.current.borrow_mut();
        if let Some((_, resolver)) = current.as_ref().filter(|(made_from, _)| *made_from == stamps) {
            return Ok(Rc::clone(resolver));
        }
        let resolver = Rc::new(make(&self.servers)?);
        *current = Some((stamps, Rc::clone(&resolver)));
        Ok(resolver)
    }
}

fn make(servers: &[SocketAddr]) -> Result<Resolver<Here>, NetError> {
    let mut builder = if servers.is_empty() {
        Resolver::builder(Here)?
    } else {
        let servers = servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let mut builder = Resolver::builder_with_config(config, Here);
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder.options_mut().timeout = SERVER_LIMIT;
        builder
    };
    // Whoever asks again does so because the time to live has ended.
    builder.options_mut().cache_size = 0;
    builder.build()
}

fn reply<T>(answer: Result<Lookup, NetError>, kind: RecordType, pick: impl Fn(&RData) -> Option<T>) -> Reply<T> {
    match answer {
        Ok(lookup) => {
            let records: Vec<T> = lookup.answers().iter().filter_map(|record| pick(&record.data)).collect();
            let ttl_s = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
            if records.is_empty() { Reply::Nothing("no records of this type") } else { Reply::Records(records, ttl_s) }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NXDomain => Reply::Nothing("no such name"),
            ResponseCode::NoError => Reply::Nothing("no records of this type"),
            code => Reply::Failed(format!("{kind}: {code}")),
        },
        Err(error) => Reply::Failed(format!("{kind}: {error}")),
    }
}
