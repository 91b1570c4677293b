//! Keys of pools, their backends and their health checks.

use super::{DAY, Kind, SECOND, SectionKeys, built, later};

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
        built(
            "backends",
            Kind::Backends,
            "[]",
            "Backends in short form, weight 100: ip:port, host:port (all its A and AAAA records), or srv:_service._tcp.domain (SRV records).",
        ),
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
        built(
            "source-address",
            Kind::Sources,
            "\"off\"",
            "Address, or list of addresses, to connect from; each has its own ports, so that a list holds more connections to one backend. off: the kernel's choice.",
        ),
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
        built(
            "relay",
            Kind::Word(&["auto", "copy", "splice"]),
            "\"auto\"",
            "auto: each direction is copied, spliced once it proves to be bulk, and copied again; see [global.relay].",
        ),
        built(
            "tcp-fast-open",
            Kind::Flag,
            "false",
            "The client's first bytes in the SYN, where the backend gave a cookie before (RFC 7413): saves a round trip, but after a time-out no other backend is tried, and a network may deliver them twice.",
        ),
        built(
            "preconnect",
            Kind::Integer(0, 1000),
            "0",
            "Ready connections that each worker keeps to each backend that takes traffic, for clients that speak first: saves them the round trip. Not for servers that serve one connection at a time.",
        ),
        built(
            "preconnect-idle",
            Kind::Duration(100, 3600 * SECOND),
            "\"20s\"",
            "A ready connection is renewed after this time; must be shorter than the backend's own patience with silent clients.",
        ),
        built(
            "user-timeout",
            Kind::DurationOrOff(100, DAY),
            "\"30s\"",
            "On both legs: data that nobody acknowledges for this long ends the session. Like TCP_USER_TIMEOUT, but a peer that answers and only does not read is left alone.",
        ),
        built(
            "keepalive",
            Kind::DurationOrOff(SECOND, DAY),
            "\"60s\"",
            "On both legs: first probe after this silence; then 6 more, 10 s apart. Linux itself would wait for two hours.",
        ),
        later("hash"),
        built("health", Kind::Tables, "", "The health check."),
        later("passive"),
    ],
};

/// `[[pool.NAME.backend]]`.
pub static BACKEND: SectionKeys = SectionKeys {
    heading: "[[pool.NAME.backend]]",
    keys: &[
        built(
            "address",
            Kind::Backend,
            "",
            "Where the backend listens: ip:port; or a name that is asked for again when its time to live ends (1 s to 5 min): host:port (all its A and AAAA records), or srv:_service._tcp.domain (SRV records: the lowest priority first, the others as backup; their weights). Required.",
        ),
        built(
            "name",
            Kind::Name,
            "",
            "Name in records, metrics and commands; unique in its pool. Default: the address. The addresses of a named backend are members of their own: ADDRESS, or NAME@ADDRESS.",
        ),
        built(
            "weight",
            Kind::Integer(0, 1000),
            "100",
            "Share of new connections, for each address of a name; 0 takes none. Not for srv, whose records have weights.",
        ),
        built(
            "backup",
            Kind::Flag,
            "false",
            "Used only when no other backend can take the connection. Not for srv, whose records have priorities.",
        ),
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
