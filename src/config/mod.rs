//! The configuration: TOML in, one checked and immutable [`Config`] out, or every problem at once with its place.
//! Reads no file by itself except through [`Sources`], starts nothing, and never guesses.

mod backends;
mod check;
mod choice;
mod dump;
mod fixed;
mod health;
mod keys;
mod listener;
mod nearest;
mod network;
mod pool;
mod problem;
mod quantity;
mod schema;
mod section;
mod source;
mod value;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::decide::prefix::PrefixMap;
use crate::decide::route::Conditions;

pub use backends::{Address, Backend, DEFAULT_WEIGHT, MOST_WEIGHT};
pub use check::check;
pub use dump::{dump, table};
pub use fixed::{FixedChange, fixed_changes};
pub use health::{
    Agent, CheckKind, ClientCertificate, Encryption, Exec, Expect, HealthCheck, Http, Https, Ldap, Loaded, MySql,
    Postgres, Redis, Smtp, Step, Tcp, Tls, TlsHello, Trust, Verify,
};
pub use keys::{Key, SECTIONS, SectionKeys, Status};
pub use nearest::is_name;
pub use pool::{FastOpen, OnDown, Pool};
pub use problem::{Code, Colour, Problem, Problems, Severity};
pub use schema::schema;
pub use source::{Place, SourceError, Sources};
pub use value::{format_duration, parse_duration};

/// Position of a pool in [`Config::pools`].
pub type PoolId = usize;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[global]`.
    pub global: Global,
    /// `[log]`.
    pub log: Log,
    /// `[[listener]]`, in the order of the files.
    pub listeners: Vec<Listener>,
    /// `[pool.NAME]`, sorted by name.
    pub pools: Vec<Pool>,
}

/// `[global]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Worker threads; `None`: one per CPU that the process may run on.
    pub workers: Option<usize>,
    /// Path of the status socket.
    pub status_socket: PathBuf,
    /// TCP address for `GET /metrics`.
    pub metrics: Option<SocketAddr>,
    /// Connections at once; beyond it new ones wait in the kernel's backlog.
    pub max_connections: u32,
    /// Time for sessions to end by themselves after SIGTERM; `None`: without limit.
    pub shutdown_grace: Option<Duration>,
    /// How long `/readyz` says no before the listeners close.
    pub ready_delay: Duration,
    /// What happens to sessions of a backend that a reload removes.
    pub removed_sessions: RemovedSessions,
    /// Where overrides are kept over a restart.
    pub state_file: Option<PathBuf>,
    /// DNS servers; empty: those of the system.
    pub resolvers: Vec<SocketAddr>,
    /// When bytes are copied and when they are spliced.
    pub relay: RelayNumbers,
}

impl Config {
    /// A pool whose check starts a program, if there is one.
    pub fn program_of(&self) -> Option<&str> {
        let runs = |pool: &&Pool| matches!(&pool.health, Some(HealthCheck { kind: CheckKind::Exec(_), .. }));
        self.pools.iter().find(runs).map(|pool| &*pool.name)
    }
}

impl Global {
    /// Worker threads where the process may run on so many CPUs.
    pub fn workers_on(&self, cpus: usize) -> usize {
        self.workers.unwrap_or(cpus).max(1)
    }
}

/// `[global.relay]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayNumbers {
    /// Full reads in a row before a direction is spliced.
    pub full_reads: u8,
    /// Small fills in a row before it is copied again.
    pub small_fills: u8,
    /// What counts as small, in bytes.
    pub small_fill: u32,
    /// Bytes of a pipe.
    pub pipe_size: u32,
    /// Bytes of one turn.
    pub turn: u32,
}

/// Which way bytes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayPath {
    /// Copied, and spliced while a direction is bulk.
    Auto,
    /// Copied through user space.
    Copy,
    /// Spliced through a pipe.
    Splice,
}

impl RelayPath {
    /// Name as in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Copy => "copy",
            Self::Splice => "splice",
        }
    }
}

/// What happens to sessions of a backend that a reload removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedSessions {
    /// They run on.
    Keep,
    /// They run on for `shutdown-grace`, then they are closed.
    Drain,
    /// They are closed at once.
    Close,
}

impl RemovedSessions {
    /// Name as in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drain => "drain",
            Self::Close => "close",
        }
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Which records of sessions are written.
    pub sessions: LogSessions,
    /// Share of ordinary sessions whose records are written.
    pub sample: f64,
    /// Where lines go.
    pub target: LogTarget,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` pairs.
    Text,
    /// One JSON object per line.
    Json,
    /// `HAProxy`'s TCP log line.
    TcpLog,
}

/// Which records of sessions are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSessions {
    /// One at the end of each session.
    End,
    /// One at the start as well.
    Both,
    /// None; metrics count all the same.
    Off,
}

/// Where lines of the log go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// The journal of systemd.
    Journal,
    /// A file, reopened on SIGUSR1.
    File(PathBuf),
}

impl fmt::Display for LogTarget {
    /// As in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stderr => f.write_str("stderr"),
            Self::Journal => f.write_str("journal"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Waits for a ClientHello and routes by it.
    Tls,
    /// The same, after what PostgreSQL's clients send before it.
    Postgres,
    /// Looks at nothing.
    Tcp,
}

impl Protocol {
    /// Name as in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Postgres => "postgres",
            Self::Tcp => "tcp",
        }
    }
}

/// A time that may be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Switched off.
    Off,
    /// After this time.
    After(Duration),
}

impl Limit {
    /// The time; `None` when it is off.
    pub const fn time(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::After(time) => Some(time),
        }
    }
}

/// How a rejected client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reject {
    /// A TLS alert with the reason, then a lingering close.
    Alert,
    /// An ordinary close (FIN).
    Close,
    /// A reset (RST).
    Reset,
}

/// What the longest matching prefix of `allow` and `deny` says of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// May connect.
    Allow,
    /// May not.
    Deny,
}

/// `[[listener]]`.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Name, unique.
    pub name: Arc<str>,
    /// Addresses to listen on.
    pub bind: Vec<SocketAddr>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where a connection goes that no route takes.
    pub pool: Option<PoolId>,
    /// From accept to a whole hello.
    pub hello_timeout: Duration,
    /// Handshake bytes of the hello, at most.
    pub max_hello: usize,
    /// How a rejected client is told.
    pub reject: Reject,
    /// Sources that must send a PROXY header; `None`: nobody may.
    pub accept_proxy: Option<PrefixMap<()>>,
    /// Source prefixes; no match denies.
    pub access: PrefixMap<Access>,
    /// Connections at once on this listener; beyond it new ones are refused.
    pub max_connections: Option<u32>,
    /// No byte either way for this long ends the session; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// The same after one side finished.
    pub half_close_timeout: Option<Duration>,
    /// For the client's leg, instead of the pool's; `None`: as the pool says.
    pub user_timeout: Option<Limit>,
    /// For the client's leg, instead of the pool's; `None`: as the pool says.
    pub keepalive: Option<Limit>,
    /// Rules, in the order of the file.
    pub routes: Vec<Route>,
}

impl Listener {
    /// The pool that every connection of a PostgreSQL listener goes to, if there is only one: the name is not needed.
    /// A route for sessions without TLS says that not everybody may have them, wherever it leads.
    pub fn only_pool(&self) -> Option<PoolId> {
        let leads = |route: &Route, pool: PoolId| {
            route.target == RouteTarget::Pool(pool) && route.conditions.first_bytes.is_empty()
        };
        let same = |pool: &PoolId| self.routes.iter().all(|route| leads(route, *pool));
        self.pool.filter(|pool| self.protocol == Protocol::Postgres && same(pool))
    }
}

/// `[[listener.route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// When it applies.
    pub conditions: Conditions,
    /// Where the connection goes then.
    pub target: RouteTarget,
    /// Where it stands, as `file:line`.
    pub origin: Arc<str>,
    /// The texts of the rule as written, for the dump.
    pub written: WrittenRoute,
    /// A hash of conditions and target: the same in every generation that has this rule, wherever it stands.
    pub identity: u64,
}

/// The conditions of a route as written.
#[derive(Clone, Debug, Default)]
pub struct WrittenRoute {
    /// `sni`.
    pub sni: Vec<String>,
    /// `alpn`.
    pub alpn: Vec<String>,
    /// `from`.
    pub from: Vec<String>,
    /// `tls-min`.
    pub tls_min: Option<String>,
    /// `first-bytes`.
    pub first_bytes: Vec<String>,
}

impl WrittenRoute {
    /// What [`Route::identity`] is for these conditions and this target, `pool NAME` or `reject WORD`. The order in lists
    /// says nothing. A listener's own pool is a route without conditions.
    pub fn identity(&self, target: &str) -> u64 {
        let mut hasher = SipHasher13::new();
        for list in [&self.sni, &self.alpn, &self.from, &self.first_bytes] {
            let mut list: Vec<&str> = list.iter().map(String::as_str).collect();
            list.sort_unstable();
            list.hash(&mut hasher);
        }
        self.tls_min.hash(&mut hasher);
        target.hash(&mut hasher);
        hasher.finish()
    }
}

/// Where a route sends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// To a pool.
    Pool(PoolId),
    /// Nowhere; the client is told like this.
    Reject(Reject),
}
