//! The keys of `[pool.NAME.health]`: those of every check here, and those that the kinds bring, joined.

use super::kind::{CHECK_WORDS, KINDS};
use crate::config::keys::{DAY, Key, Kind, SECOND, SectionKeys, built};

/// `[pool.NAME.health]`.
pub static HEALTH: SectionKeys = SectionKeys { heading: "[pool.NAME.health]", keys: &JOINED };

/// Keys of every check.
pub(super) const COMMON: &[Key] = &[
    built(
        "check",
        Kind::Word(CHECK_WORDS),
        "\"off\"",
        "What is done. off: live traffic alone decides. tcp: a connection is accepted. tls-hello: a ClientHello is answered with a ServerHello. tls: a whole handshake. http, https: a request is answered as expected. postgres: start-up, judged by SQLSTATE. mysql: a login, also to MariaDB. redis: PING. smtp: greeting and EHLO. ldap: an anonymous bind. expect: steps of your own. agent: what an agent says, in HAProxy's words. exec: exit status of a program.",
    ),
    built(
        "interval",
        Kind::Duration(10, DAY),
        "\"2s\"",
        "Time between checks while up and steady, jittered by a tenth.",
    ),
    built(
        "fast-interval",
        Kind::Duration(10, DAY),
        "\"500ms\"",
        "Time between checks while the state is changing, or after live traffic failed; never above interval.",
    ),
    built("down-interval", Kind::Duration(10, DAY), "\"5s\"", "Time between checks while down."),
    built("timeout", Kind::Duration(1, 600 * SECOND), "\"1s\"", "Time for one check, all its phases together."),
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
];

const COUNT: usize = {
    let (mut count, mut kind) = (COMMON.len(), 0);
    while kind < KINDS.len() {
        count += KINDS[kind].own.len();
        kind += 1;
    }
    count
};

static JOINED: [Key; COUNT] = {
    let mut keys = [COMMON[0]; COUNT];
    let (mut at, mut kind) = (1, 0);
    while at < COMMON.len() {
        keys[at] = COMMON[at];
        at += 1;
    }
    while kind < KINDS.len() {
        let mut own = 0;
        while own < KINDS[kind].own.len() {
            keys[at] = KINDS[kind].own[own];
            at += 1;
            own += 1;
        }
        kind += 1;
    }
    keys
};
