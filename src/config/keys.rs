//! Every key of the configuration, once: kind, default, unit and reason. Reading, did-you-mean hints, the JSON
//! schema and the tests of the shipped files all draw on these tables.

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A string without further form.
    Text,
    /// A name: letters, digits, `-`, `_`, `.`, `:`, `[`, `]`; at most 64 bytes.
    Name,
    /// A whole number.
    Integer(i64, i64),
    /// `"auto"` or a whole number.
    AutoOr(i64, i64),
    /// `true` or `false`.
    Flag,
    /// A duration string with limits in milliseconds.
    Duration(u64, u64),
    /// A duration string or `"off"`.
    DurationOrOff(u64, u64),
    /// A size string or integer with limits in bytes.
    Size(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// Several of these words.
    Words(&'static [&'static str]),
    /// `address:port`.
    SocketAddress,
    /// An address without a port.
    Address,
    /// Several `address:port`.
    SocketAddresses,
    /// Several prefixes.
    Prefixes,
    /// Several strings.
    Texts,
    /// A table or a list of tables with keys of its own.
    Tables,
}

/// Whether this version has the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It works.
    Built,
    /// It is part of the contract and refused until it works.
    NotBuilt,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name as written.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Default in TOML; empty when there is none.
    pub default: &'static str,
    /// Meaning, unit, and why the default is what it is.
    pub doc: &'static str,
    /// Whether this version has it.
    pub status: Status,
}

/// The keys of one kind of table.
#[derive(Debug)]
pub struct SectionKeys {
    /// Heading in a file, with NAME for a pool's name.
    pub heading: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

const fn built(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, doc, status: Status::Built }
}

const fn later(name: &'static str) -> Key {
    Key { name, kind: Kind::Text, default: "", doc: "", status: Status::NotBuilt }
}

const SECOND: u64 = 1000;
const DAY: u64 = 86_400 * SECOND;

/// The file itself.
pub static ROOT: SectionKeys = SectionKeys {
    heading: "file",
    keys: &[
        built("global", Kind::Tables, "", "The process."),
        built("log", Kind::Tables, "", "Records and messages."),
        built("listener", Kind::Tables, "", "Where clients connect."),
        built("pool", Kind::Tables, "", "Where connections go."),
    ],
};

/// `[global]`.
pub static GLOBAL: SectionKeys = SectionKeys {
    heading: "[global]",
    keys: &[
        built(
            "workers",
            Kind::AutoOr(1, 1024),
            "\"auto\"",
            "Worker threads; auto: one per CPU that the process may run on.",
        ),
        built(
            "status-socket",
            Kind::Text,
            "\"/run/sluice/sluice.sock\"",
            "Unix socket for status and commands; mode 0660.",
        ),
        built("metrics", Kind::SocketAddress, "", "TCP address for GET /metrics; the socket always serves it too."),
        built(
            "max-connections",
            Kind::Integer(1, 10_000_000),
            "100000",
            "Connections at once; beyond it new ones wait in the kernel's backlog.",
        ),
        built(
            "shutdown-grace",
            Kind::DurationOrOff(0, DAY),
            "\"30s\"",
            "On SIGTERM: time for sessions to end by themselves; off: without limit. systemd's own default is 90 s.",
        ),
        built(
            "ready-delay",
            Kind::Duration(0, 3600 * SECOND),
            "\"0s\"",
            "On stop: /readyz says no for this long before listeners close.",
        ),
        built(
            "removed-sessions",
            Kind::Word(&["keep", "drain", "close"]),
            "\"keep\"",
            "Sessions of a backend that a reload removes: run on, run on for shutdown-grace, or are closed.",
        ),
        built(
            "state-file",
            Kind::Text,
            "",
            "Where operators' overrides (drain, disable) are kept over a restart; written as a whole or not at all.",
        ),
    ],
};

/// `[log]`.
pub static LOG: SectionKeys = SectionKeys {
    heading: "[log]",
    keys: &[
        built(
            "format",
            Kind::Word(&["text", "json", "tcplog"]),
            "\"text\"",
            "How records look: key=value pairs, one JSON object per line, or HAProxy's TCP log line.",
        ),
        built(
            "sessions",
            Kind::Word(&["end", "both", "off"]),
            "\"end\"",
            "Records of sessions: at the end, at the start as well, or none.",
        ),
        built(
            "target",
            Kind::Text,
            "\"stderr\"",
            "stderr, journal (systemd's, with fields when the format is json), or the path of a file, reopened on SIGUSR1.",
        ),
    ],
};

/// `[[listener]]`.
pub static LISTENER: SectionKeys = SectionKeys {
    heading: "[[listener]]",
    keys: &[
        built("name", Kind::Name, "", "Name in records and metrics; unique. Required."),
        built("bind", Kind::SocketAddresses, "", "Addresses to listen on. Required."),
        later("reuse"),
        built(
            "protocol",
            Kind::Word(&["tls", "postgres", "tcp"]),
            "\"tls\"",
            "tls: wait for a ClientHello and route by it; postgres: the same after PostgreSQL's request for TLS, or all of it as it is when only one pool is possible; tcp: look at nothing.",
        ),
        built("pool", Kind::Text, "", "Where a connection goes that no route takes; without it, it is rejected."),
        built(
            "hello-timeout",
            Kind::Duration(10, 600 * SECOND),
            "\"5s\"",
            "From accept to a whole hello; one deadline, not one per read.",
        ),
        built(
            "max-hello",
            Kind::Size(512, 1 << 20),
            "\"64KiB\"",
            "Handshake bytes of the hello, over however many records; Go's and rustls' own limit. Raw bytes are capped at twice that.",
        ),
        built(
            "reject",
            Kind::Word(&["alert", "close", "reset"]),
            "\"alert\"",
            "How a rejected client is told: a TLS alert (or PostgreSQL error) with the reason, FIN, or RST. The default of protocol tcp is reset.",
        ),
        built(
            "accept-proxy",
            Kind::Prefixes,
            "[]",
            "Source prefixes that must send a PROXY header, version 1 or 2, within 1 s; its addresses then count as the client's. Never believed from any other source.",
        ),
        built(
            "allow",
            Kind::Prefixes,
            "[\"0.0.0.0/0\", \"::/0\"]",
            "Source prefixes that may connect; the longest match of allow and deny decides, deny wins a tie, no match denies.",
        ),
        built("deny", Kind::Prefixes, "[]", "Source prefixes that may not connect."),
        built(
            "max-connections",
            Kind::Integer(1, 10_000_000),
            "",
            "Connections at once on this listener; beyond it new ones are refused.",
        ),
        later("max-connections-per-source"),
        later("rate-per-source"),
        later("transparent"),
        built(
            "idle-timeout",
            Kind::DurationOrOff(100, 30 * DAY),
            "\"1h\"",
            "No byte either way for this long: both ends are reset. Long, for database sessions.",
        ),
        built("half-close-timeout", Kind::DurationOrOff(100, 30 * DAY), "\"1m\"", "The same after one side finished."),
        built("route", Kind::Tables, "", "Rules by server name and more."),
    ],
};

/// `[[listener.route]]`.
pub static ROUTE: SectionKeys = SectionKeys {
    heading: "[[listener.route]]",
    keys: &[
        built(
            "sni",
            Kind::Texts,
            "",
            "Server names, any of which matches: exact, *. for one label, **. for one or more. The most specific of all rules wins.",
        ),
        built("alpn", Kind::Texts, "", "Application protocols, any of which is offered."),
        built("from", Kind::Prefixes, "", "Source prefixes, one of which holds the client."),
        built(
            "tls-min",
            Kind::Word(&["1.0", "1.1", "1.2", "1.3"]),
            "",
            "The highest version that the client offers is at least this.",
        ),
        built(
            "first-bytes",
            Kind::Words(&["http", "ssh", "postgres", "rdp", "tds", "ldap", "silence"]),
            "",
            "Instead of sni, alpn and tls-min: what speaks, when it is not TLS, any of these; silence: nothing within hello-timeout. A postgres listener has only postgres: start-up packets without TLS.",
        ),
        built("pool", Kind::Text, "", "Where the connection goes. Either this or reject."),
        built("reject", Kind::Word(&["alert", "close", "reset"]), "", "The connection is rejected like this."),
    ],
};

/// `[pool.NAME]`.
pub static POOL: SectionKeys = SectionKeys {
    heading: "[pool.NAME]",
    keys: &[
        built(
            "balance",
            Kind::Word(&["least-connections", "round-robin", "random-two", "consistent-hash"]),
            "\"least-connections\"",
            "How a backend is chosen. consistent-hash: Maglev over the client's address; the default of pools that a postgres listener sends to, so that encrypted cancel requests find their server.",
        ),
        built("backends", Kind::SocketAddresses, "[]", "Backends in short form, weight 100."),
        built("backend", Kind::Tables, "", "Backends in long form; may stand beside the short form."),
        built(
            "connect-timeout",
            Kind::Duration(1, 120 * SECOND),
            "\"2s\"",
            "Time for one connection attempt; the kernel alone would try for 127 s.",
        ),
        built(
            "connect-tries",
            Kind::Integer(1, 16),
            "3",
            "Different backends that are tried for one client, while any is left.",
        ),
        built(
            "send-proxy",
            Kind::Word(&["off", "v1", "v2"]),
            "\"off\"",
            "PROXY header for the backends, before the client's first byte and in one write with it: v2 has the server name (AUTHORITY), the only offered protocol (ALPN), the session's id (UNIQUE_ID) and a checksum.",
        ),
        later("source-address"),
        later("slow-start"),
        later("panic-threshold"),
        built(
            "on-down",
            Kind::Word(&["keep", "close"]),
            "\"keep\"",
            "Sessions of a backend that goes down: run on, or are reset.",
        ),
        later("queue-timeout"),
        later("max-connections"),
        later("first-byte-timeout"),
        later("relay"),
        later("tcp-fast-open"),
        later("preconnect"),
        later("preconnect-idle"),
        later("user-timeout"),
        later("keepalive"),
        later("hash"),
        built("health", Kind::Tables, "", "The health check."),
        later("passive"),
    ],
};

/// `[[pool.NAME.backend]]`.
pub static BACKEND: SectionKeys = SectionKeys {
    heading: "[[pool.NAME.backend]]",
    keys: &[
        built("address", Kind::SocketAddress, "", "Where the backend listens. Required."),
        built(
            "name",
            Kind::Name,
            "",
            "Name in records, metrics and commands; unique in its pool. Default: the address.",
        ),
        built("weight", Kind::Integer(0, 1000), "100", "Share of new connections; 0 takes none."),
        built("backup", Kind::Flag, "false", "Used only when no other backend can take the connection."),
        later("max-connections"),
    ],
};

/// `[pool.NAME.health]`.
pub static HEALTH: SectionKeys = SectionKeys {
    heading: "[pool.NAME.health]",
    keys: &[
        built(
            "check",
            Kind::Word(&["off", "tcp"]),
            "\"off\"",
            "tcp: a connection is accepted. off: live traffic alone decides.",
        ),
        built(
            "interval",
            Kind::Duration(10, DAY),
            "\"2s\"",
            "Time between checks, jittered by a tenth; a quarter of it while the state is changing.",
        ),
        later("fast-interval"),
        later("down-interval"),
        built("timeout", Kind::Duration(1, 600 * SECOND), "\"1s\"", "Time for one check."),
        built(
            "rise",
            Kind::Integer(1, 100),
            "2",
            "Successes in a row that bring a backend up again. The very first one is enough by itself.",
        ),
        built(
            "fall",
            Kind::Integer(1, 100),
            "3",
            "Failures in a row, of checks or of connects for clients, that bring it down.",
        ),
        built("address", Kind::Address, "", "Address to check instead of the backend's."),
        built("port", Kind::Integer(1, 65_535), "", "Port to check instead of the backend's."),
        later("sni"),
    ],
};

/// All tables, in the order of a file.
pub static SECTIONS: &[&SectionKeys] = &[&GLOBAL, &LOG, &LISTENER, &ROUTE, &POOL, &BACKEND, &HEALTH];

/// Words that are part of the contract and refused until they work: (key, word).
pub const WORDS_LATER: &[(&str, &str)] = &[
    ("check", "tls-hello"),
    ("check", "tls"),
    ("check", "http"),
    ("check", "https"),
    ("check", "postgres"),
    ("check", "mysql"),
    ("check", "redis"),
    ("check", "smtp"),
    ("check", "ldap"),
    ("check", "expect"),
    ("check", "agent"),
    ("check", "exec"),
];

impl SectionKeys {
    /// The key called `name`; tests hold that every name asked for exists.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}
