//! Why a connection ended: the closed set of reasons that records, metrics and HAProxy-style codes share.
//! Last stop of the spine for every stage; it decides nothing itself.

/// Who caused the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The client, by what it sent or did not send.
    Client,
    /// The backend, or the way to it.
    Backend,
    /// This process or its operator.
    Local,
}

impl Blame {
    /// Name as it stands in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Local => "local",
        }
    }
}

macro_rules! close_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $blame:expr, $code:literal;)*) => {
        /// Why a session ended. The names are the contract of `end` in records and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CloseReason { $($(#[$doc])* $variant,)* }

        impl CloseReason {
            /// Every reason, in the order of [`CloseReason::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name as it stands in records and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The reason of this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().find(|reason| reason.name() == name).copied()
            }

            /// Who caused it; `None` for an ordinary end.
            pub const fn blame(self) -> Option<Blame> {
                match self { $(Self::$variant => $blame,)* }
            }

            /// The two letters with which `HAProxy`'s TCP log would end the line
            /// (configuration manual, "Session state at disconnection").
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

use Blame::{Backend, Client, Local};

close_reasons! {
    /// Both sides finished; nothing was cut short.
    Done = "done", None, "--";
    /// The client left before or during the hello.
    ClientGone = "client_gone", Some(Client), "CR";
    /// The client reset the connection.
    ClientReset = "client_reset", Some(Client), "CD";
    /// The backend reset the connection.
    BackendReset = "backend_reset", Some(Backend), "SD";
    /// No byte either way for the idle time-out.
    IdleTimeout = "idle_timeout", Some(Client), "cD";
    /// One side had finished and the other stayed silent for the half-close time-out.
    HalfCloseTimeout = "half_close_timeout", Some(Backend), "sD";
    /// No whole hello before the deadline.
    HelloTimeout = "hello_timeout", Some(Client), "cR";
    /// TLS, but not a hello that a server would accept.
    HelloMalformed = "hello_malformed", Some(Client), "PR";
    /// The hello is, or claims to be, larger than `max-hello`.
    HelloTooLarge = "hello_too_large", Some(Client), "PR";
    /// The first bytes are not TLS.
    NotTls = "not_tls", Some(Client), "PR";
    /// The PROXY header is missing, malformed or not trusted.
    ProxyHeaderBad = "proxy_header_bad", Some(Client), "PR";
    /// The source address is denied.
    SourceDenied = "source_denied", Some(Client), "PR";
    /// The source opens connections too fast.
    RateLimited = "rate_limited", Some(Client), "PR";
    /// A connection limit is reached.
    LimitReached = "limit_reached", Some(Local), "RC";
    /// No route takes the connection.
    NoRoute = "no_route", Some(Client), "PR";
    /// A route with `reject` took the connection.
    RouteRejected = "route_rejected", Some(Client), "PR";
    /// No backend of the pool can take the connection.
    NoBackend = "no_backend", Some(Backend), "SC";
    /// No place became free in time.
    QueueTimeout = "queue_timeout", Some(Backend), "sQ";
    /// The last backend tried refused the connection.
    ConnectRefused = "connect_refused", Some(Backend), "SC";
    /// The last backend tried did not answer in time.
    ConnectTimeout = "connect_timeout", Some(Backend), "sC";
    /// The last backend tried cannot be reached.
    ConnectUnreachable = "connect_unreachable", Some(Backend), "SC";
    /// A database that answered N to the request for TLS.
    BackendRefusedTls = "backend_refused_tls", Some(Backend), "SC";
    /// The backend went down and its sessions were closed (`on-down = "close"`).
    BackendDown = "backend_down", Some(Backend), "DD";
    /// An operator ended the session.
    Killed = "killed", Some(Local), "KD";
    /// The route or backend was removed and its sessions were closed.
    Drained = "drained", Some(Local), "KD";
    /// The process stopped.
    Shutdown = "shutdown", Some(Local), "KD";
    /// A local fault: out of descriptors or ports, or a system call failed.
    LocalError = "local_error", Some(Local), "IC";
}

impl CloseReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Position in [`CloseReason::ALL`], for tables of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether a client alone can bring it about, as often as it likes and without any backend: such ends come in floods.
    pub const fn may_flood(self) -> bool {
        self.is_of_first_bytes()
            || matches!(
                self,
                Self::ClientGone
                    | Self::SourceDenied
                    | Self::RateLimited
                    | Self::LimitReached
                    | Self::NoRoute
                    | Self::RouteRejected
            )
    }

    /// Whether the first bytes were refused, or did not come in time.
    pub const fn is_of_first_bytes(self) -> bool {
        matches!(
            self,
            Self::HelloTimeout | Self::HelloMalformed | Self::HelloTooLarge | Self::NotTls | Self::ProxyHeaderBad
        )
    }

    /// Whether the connection was refused before any backend was given a byte.
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::HelloTimeout
                | Self::HelloMalformed
                | Self::HelloTooLarge
                | Self::NotTls
                | Self::ProxyHeaderBad
                | Self::SourceDenied
                | Self::RateLimited
                | Self::LimitReached
                | Self::NoRoute
                | Self::RouteRejected
                | Self::NoBackend
                | Self::QueueTimeout
                | Self::ConnectRefused
                | Self::ConnectTimeout
                | Self::ConnectUnreachable
                | Self::BackendRefusedTls
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_position_in_all() {
        for (position, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position, "{}", reason.name());
            assert_eq!(reason.code().len(), 2, "{}", reason.name());
        }
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::HashSet<_> = CloseReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), CloseReason::COUNT);
    }
}
