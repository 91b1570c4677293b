//! Keys of pools and their backends.

use super::{DAY, Kind, SECOND, SectionKeys, built};

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
        built(
            "slow-start",
            Kind::DurationOrOff(SECOND, DAY),
            "\"off\"",
            "A backend that comes back begins with a tenth of its weight and has all of it after this time; not where all are new, and not with consistent-hash, whose keys would move.",
        ),
        built(
            "panic-threshold",
            Kind::Share,
            "0.0",
            "While less than this share of the weight is healthy, health is ignored: too many backends cannot all be down. 0: never.",
        ),
        built(
            "on-down",
            Kind::Word(&["keep", "close"]),
            "\"keep\"",
            "Sessions of a backend that goes down: run on, or are reset (not where its check finds it only full).",
        ),
        built(
            "queue-timeout",
            Kind::DurationOrOff(1, 600 * SECOND),
            "\"off\"",
            "When no backend has a place left: wait this long for one, first come first served. off: refused at once.",
        ),
        built(
            "max-connections",
            Kind::Integer(1, 10_000_000),
            "",
            "Connections of the whole pool at once, over all workers, exactly. Default: no limit.",
        ),
        built(
            "first-byte-timeout",
            Kind::DurationOrOff(1, 600 * SECOND),
            "\"off\"",
            "Silence of the server after a ClientHello that counts as a failure of the backend (see passive); the session itself goes on.",
        ),
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
            "Ready connections that each worker keeps to each backend that takes traffic, for clients that speak first: saves them the round trip. No more than `max-connections` leaves, twice a second. Not for servers that serve one connection at a time.",
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
        built("hash", Kind::Tables, "", "How consistent-hash finds a backend."),
        built("health", Kind::Tables, "", "The health check."),
        built("passive", Kind::Tables, "", "What live traffic shows."),
    ],
};

/// `[pool.NAME.hash]`.
pub static HASH: SectionKeys = SectionKeys {
    heading: "[pool.NAME.hash]",
    keys: &[
        built(
            "key",
            Kind::Words(&["source", "source-prefix", "sni", "alpn", "destination"]),
            "[\"source\"]",
            "What decides, in this order: the client's address, its /24 or /64, the server name, the offered protocols, the address that it connected to. A connection that has none of them goes by least connections.",
        ),
        built(
            "table",
            Kind::Word(&["maglev", "ring"]),
            "\"maglev\"",
            "maglev: shares within 1 %, a few further keys move when a backend leaves for good. ring: shares within a quarter or so, no further key moves.",
        ),
        built(
            "bounded-load",
            Kind::FactorOrOff(1.0, 1000.0),
            "1.25",
            "No backend gets a connection that would bring it above this multiple of its share; the next in the order of the key takes it. off: as far as the keys bring it.",
        ),
        built(
            "seed",
            Kind::Text,
            "\"\"",
            "Any text that clients do not know, the same in all instances: they cannot choose names that meet at one backend. Another one gives most keys another backend.",
        ),
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
            "Where the backend listens: ip:port; or a name that is asked for again when its time to live ends (1 s to 5 min): host:port (all its A and AAAA records), or srv:_service._tcp.domain (SRV records: their priorities and weights). Required.",
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
        built(
            "max-connections",
            Kind::Integer(1, 10_000_000),
            "",
            "Connections at once, over all workers, exactly, from the pick on. Default: no limit.",
        ),
    ],
};

/// `[pool.NAME.passive]`.
pub static PASSIVE: SectionKeys = SectionKeys {
    heading: "[pool.NAME.passive]",
    keys: &[
        built(
            "failures",
            Kind::Integer(0, 1000),
            "5",
            "In a row, until a backend is ejected: connect errors, silence (first-byte-timeout). A hello that is refused by an alert, a close or a reset may be the client's fault: it counts only with those of other clients, at least three. 0: never ejected.",
        ),
        built(
            "eject",
            Kind::Duration(100, DAY),
            "\"30s\"",
            "How long an ejected backend takes no new connections; times the number of ejections in a row, up to ten.",
        ),
        built(
            "max-ejected",
            Kind::Share,
            "0.5",
            "Share of the pool's backends that may be ejected at once; one may always be, while another takes connections.",
        ),
    ],
};
