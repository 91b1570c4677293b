//! What the status socket says: the shapes of requests and answers, in JSON. The daemon fills them in, the commands read
//! them, and `docs/api` has a schema for each, made from here. Nothing is decided here.
//!
//! Version 1. A later version of sluice may add fields; readers ignore those that they do not know.

mod backends;
mod changes;
mod events;
mod probe;
mod requests;
mod sessions;
mod status;

pub use backends::{
    AddedReport, AgentReport, BackendReport, CheckState, DrainReport, EjectionState, History, HistoryReport,
    OverrideReport, Quantiles, Rates, WordReport,
};
pub use changes::{Added, Changed, Killed, Removed, Stopping, Upgraded};
pub use events::{Cause, Event, Evidence};
pub use probe::{AgentSaid, CertificateReport, ProbePhase, ProbeReport};
pub use requests::{
    AddParams, BackendParams, BackendsParams, DrainParams, EventsParams, HistoryParams, KillParams, ListenerParams,
    NamesParams, OrderParams, RemoveParams, RouteParams, SessionsParams, SortBy, StopParams, WeightParams,
};
pub use sessions::{NameCount, NamesReport, RefusedRecord, RefusedReport, SessionReport};
pub use status::{
    ConfigReport, ListenerReport, MovedReport, NameReport, PoolReport, ReloadReport, StatusReport, WorkerReport,
};

/// Version of the JSON dialect.
pub const VERSION: u32 = 1;
