//! What a server sends first after a ClientHello, as far as it can be seen without a key: RFC 8446 5.1 and 6, the same
//! bytes in every version. It judges nothing about the server by itself.

/// Bytes that are enough to tell: an alert that only warns, then a record header and type or level and description of
/// the message.
pub const ANSWER_BYTES: usize = 13;

/// A server's first answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstAnswer {
    /// A ServerHello, or a HelloRetryRequest.
    ServerHello,
    /// An alert, and which; `None` when the first segment ends before it says so.
    Alert(Option<u8>),
    /// Something else, or too little to tell.
    Other,
    /// Nothing: it closed.
    Closed,
    /// Nothing: it reset.
    Reset,
    /// Nothing within `first-byte-timeout`.
    Silence,
}

impl FirstAnswer {
    /// Names of all, in the order of [`FirstAnswer::index`].
    pub const NAMES: [&'static str; 6] = ["server_hello", "alert", "other", "closed", "reset", "silence"];

    /// Takes the first bytes of a server, any number of them.
    pub const fn of(bytes: &[u8]) -> Self {
        match bytes {
            // A warning goes before the ServerHello that means it (RFC 6066 3: unrecognized_name).
            [0x15, 3, _, 0, 2, 1, _, 0x16, 3, _, _, _, 2, ..] | [0x16, 3, _, _, _, 2, ..] => Self::ServerHello,
            [0x15, 3, _, 0, 2, _, description, ..] => Self::Alert(Some(*description)),
            [0x15, 3, ..] => Self::Alert(None),
            _ => Self::Other,
        }
    }

    /// Position in tables of counters.
    pub const fn index(self) -> usize {
        match self {
            Self::ServerHello => 0,
            Self::Alert(_) => 1,
            Self::Other => 2,
            Self::Closed => 3,
            Self::Reset => 4,
            Self::Silence => 5,
        }
    }
}

/// Name of an alert (RFC 8446 6, RFC 5246 7.2, RFC 7301, RFC 7507, RFC 6066).
pub const fn alert_name(description: u8) -> &'static str {
    match description {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "unknown alert",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], want: FirstAnswer) {
        assert_eq!(FirstAnswer::of(bytes), want, "{bytes:x?}");
    }

    #[test]
    fn first_answers_are_told_apart_at_every_length() {
        let hello = [0x16, 3, 3, 0, 122, 2, 0, 0, 118];
        let alert = [0x15, 3, 3, 0, 2, 2, 112];
        for length in 0..=hello.len() {
            let want = if length >= 6 { FirstAnswer::ServerHello } else { FirstAnswer::Other };
            check(&hello[..length], want);
        }
        for length in 0..=alert.len() {
            let want = match length {
                0 | 1 => FirstAnswer::Other,
                2..=6 => FirstAnswer::Alert(None),
                _ => FirstAnswer::Alert(Some(112)),
            };
            check(&alert[..length], want);
        }
        check(b"HTTP/1.1 400 Bad Request", FirstAnswer::Other);
        check(&[0x16, 3, 3, 0, 4, 1, 0, 0], FirstAnswer::Other);
        check(&[0x15, 3, 3, 0, 3, 2, 80], FirstAnswer::Alert(None));
        check(&[0x15, 2, 3, 0, 2, 2, 80], FirstAnswer::Other);
    }

    #[test]
    fn a_warning_before_the_server_hello_is_no_refusal() {
        let warned = [0x15, 3, 3, 0, 2, 1, 112, 0x16, 3, 3, 0, 122, 2, 0];
        check(&warned, FirstAnswer::ServerHello);
        check(&warned[..ANSWER_BYTES], FirstAnswer::ServerHello);
        check(&warned[..12], FirstAnswer::Alert(Some(112)));
        let fatal = [0x15, 3, 3, 0, 2, 2, 112, 0x16, 3, 3, 0, 122, 2];
        check(&fatal, FirstAnswer::Alert(Some(112)));
    }

    #[test]
    fn every_answer_has_its_counter() {
        let all = [FirstAnswer::ServerHello, FirstAnswer::Alert(None), FirstAnswer::Other];
        let none = [FirstAnswer::Closed, FirstAnswer::Reset, FirstAnswer::Silence];
        let places: Vec<usize> = all.into_iter().chain(none).map(FirstAnswer::index).collect();
        assert_eq!(places, (0..FirstAnswer::NAMES.len()).collect::<Vec<_>>());
    }
}
