//! Keys of the process and of listeners.

use super::{DAY, Kind, SECOND, SectionKeys, built, later};

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
            "Sessions of a route or backend that a reload removes: run on, run on for shutdown-grace, or are closed.",
        ),
        built(
            "state-file",
            Kind::Text,
            "",
            "Where operators' overrides (drain, disable) are kept over a restart; written as a whole or not at all.",
        ),
        built(
            "resolvers",
            Kind::SocketAddresses,
            "[]",
            "DNS servers, address and port, for backends that are named; without search list and hosts file. Empty: /etc/resolv.conf and /etc/hosts decide, and are read again when they change.",
        ),
        built("relay", Kind::Tables, "", "When bytes are copied and when they are spliced."),
    ],
};

/// `[global.relay]`.
pub static RELAY: SectionKeys = SectionKeys {
    heading: "[global.relay]",
    keys: &[
        built(
            "full-reads",
            Kind::Integer(1, 100),
            "3",
            "Reads in a row that fill the buffer of 64 KiB before a direction is spliced; below that, splicing costs more than it saves.",
        ),
        built(
            "small-fills",
            Kind::Integer(1, 100),
            "4",
            "Pipes in a row that were filled with less than small-fill before it is copied again.",
        ),
        built("small-fill", Kind::Size(1, 1 << 20), "\"32KiB\"", "See small-fills; about the break-even of splicing."),
        built(
            "pipe-size",
            Kind::Size(64 << 10, 16 << 20),
            "\"1MiB\"",
            "Pipes asked for: 1 MiB costs a tenth less CPU than 256 KiB (fs.pipe-max-size and fs.pipe-user-pages-soft limit it).",
        ),
        built(
            "turn",
            Kind::Size(16 << 10, 16 << 20),
            "\"1MiB\"",
            "Bytes that a direction moves before other sessions of the worker get their turn; less is fairer to small messages and costs more.",
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
            "sample",
            Kind::Share,
            "1.0",
            "Share of ordinary sessions (end = done) that have records; refusals and failures always have theirs. What is left out is counted in log_sampled_out_total.",
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
        built(
            "user-timeout",
            Kind::DurationOrOff(100, DAY),
            "",
            "For the client's leg, instead of the pool's user-timeout.",
        ),
        built(
            "keepalive",
            Kind::DurationOrOff(SECOND, DAY),
            "",
            "For the client's leg, instead of the pool's keepalive.",
        ),
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
