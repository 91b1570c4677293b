//! Rows of `show stat`: a listener is a FRONTEND, a pool a BACKEND, a backend a server. Here are the frontends and
//! pools, and what all rows have in common; servers are in `server_row.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::super::Control;
use super::fields::{COLUMNS, Cell};
use super::server_row;
use crate::decide::close::CloseReason;
use crate::state::{Backend, Listener, ListenerShard, Phase, Pool, PoolShard, Shape, Share, Snapshot, Timings, Trend};

/// Fills in columns: `cells!(row, scur = 5, smax = 7)`. A column that does not exist does not compile.
macro_rules! cells {
    ($row:expr, $($name:ident = $value:expr),+ $(,)?) => {
        $($row.cells[const { $crate::control::socket::haproxy::fields::column(stringify!($name)) }] = $value.into();)+
    };
}
pub(super) use cells;

/// The first number of a proxy; 1 is the status socket itself, as for HAProxy.
const FIRST_ID: usize = 2;

/// Whose row it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The listener at this position.
    Listener(usize),
    /// The pool at this position.
    Pool(usize),
    /// The backend at this position of the pool at that one.
    Server(usize, usize),
}

impl Whose {
    /// All rows, in HAProxy's order.
    pub fn all(snapshot: &Snapshot) -> impl Iterator<Item = Self> {
        let members = |(place, pool): (usize, &Arc<Pool>)| {
            let servers = (0..pool.backends.len()).map(move |member| Self::Server(place, member));
            servers.chain([Self::Pool(place)]).collect::<Vec<_>>()
        };
        let listeners = (0..snapshot.listeners.len()).map(Self::Listener);
        listeners.chain(snapshot.pools.iter().enumerate().flat_map(members))
    }

    /// Number and name of the proxy.
    pub fn proxy(self, snapshot: &Snapshot) -> (usize, &str) {
        match self {
            Self::Listener(place) => (FIRST_ID + place, &*snapshot.listeners[place].config.name),
            Self::Pool(place) | Self::Server(place, _) => {
                (FIRST_ID + snapshot.listeners.len() + place, &*snapshot.pools[place].config.name)
            }
        }
    }

    /// Number within the proxy; 0 is the proxy itself.
    pub fn service(self) -> usize {
        match self {
            Self::Listener(_) | Self::Pool(_) => 0,
            Self::Server(_, member) => member + 1,
        }
    }

    /// Its letter in typed output, its word in JSON, and its number in `type`.
    pub fn kind(self) -> (char, &'static str, u32) {
        match self {
            Self::Listener(_) => ('F', "Frontend", 0),
            Self::Pool(_) => ('B', "Backend", 1),
            Self::Server(..) => ('S', "Server", 2),
        }
    }

    /// Its totals over time.
    pub fn trend(self, snapshot: &Snapshot) -> &Trend {
        match self {
            Self::Listener(place) => &snapshot.listeners[place].state.trend,
            Self::Pool(place) => &snapshot.pools[place].state.trend,
            Self::Server(place, member) => &snapshot.pools[place].backends[member].trend,
        }
    }
}

/// One row.
#[derive(Debug)]
pub struct Row {
    /// Whose it is.
    pub whose: Whose,
    /// A value for each column.
    pub cells: Vec<Cell>,
}

impl Row {
    /// The row as it stands, whatever was cleared.
    pub fn whole(control: &Control, snapshot: &Snapshot, whose: Whose) -> Self {
        let mut row = Self { whose, cells: vec![Cell::Empty; COLUMNS.len()] };
        let (iid, name) = whose.proxy(snapshot);
        cells!(row, pxname = name, pid = 1_u32, iid = iid, sid = whose.service(), mode = "tcp");
        cells!(row, type = whose.kind().2);
        match whose {
            Whose::Listener(place) => listener(&mut row, control, &snapshot.listeners[place]),
            Whose::Pool(place) => pool(&mut row, control, &snapshot.pools[place]),
            Whose::Server(place, member) => server_row::fill(&mut row, &snapshot.pools[place], member),
        }
        row
    }

    /// The row since the last `clear counters all`.
    pub fn since_cleared(control: &Control, snapshot: &Snapshot, whose: Whose) -> Self {
        let mut row = Self::whole(control, snapshot, whose);
        if let Some(cleared) = whose.trend(snapshot).cleared() {
            for ((cell, column), before) in row.cells.iter_mut().zip(&COLUMNS).zip(&*cleared) {
                if let (Cell::Number(number), true) = (cell, column.is_counter()) {
                    *number = (*number - *before as i64).max(0);
                }
            }
        }
        row
    }

    /// What `clear counters all` keeps, to be taken off.
    pub fn counts(&self) -> Arc<[u64]> {
        let count = |cell: &Cell| if let Cell::Number(number) = cell { (*number).max(0) as u64 } else { 0 };
        self.cells.iter().map(count).collect()
    }

    /// What the samples of its totals come to.
    pub fn set_shape(&mut self, shape: &Shape) {
        cells!(self, smax = shape.most_active);
        cells!(self, rate = rounded(shape.rates.connections), rate_max = rounded(shape.most_connections));
    }

    /// Seconds since the last session; -1 before the first.
    pub fn set_last_session(&mut self, shape: &Shape) {
        cells!(self, lastsess = shape.quiet.map_or(-1, |seconds| seconds as i64));
    }

    /// How often and how long it was down.
    pub fn set_outages(&mut self, trend: &Trend) {
        let outages = trend.outages(Instant::now());
        cells!(self, chkdown = outages.count, downtime = outages.length.as_secs());
    }

    /// Times in milliseconds: means since the start, where HAProxy has those of the last 1024 sessions, and the longest.
    pub fn set_times(&mut self, timings: &Timings) {
        let mean = |micros: f64| rounded(micros / 1000.0);
        let (connect, first_byte, session) = (&timings.connect, &timings.first_byte, &timings.session);
        cells!(self, ctime = mean(connect.mean()), rtime = mean(first_byte.mean()), ttime = mean(session.mean()));
        cells!(self, ctime_max = connect.max() / 1000, rtime_max = first_byte.max() / 1000);
        cells!(self, ttime_max = session.max() / 1000);
    }
}

/// A figure as a whole number.
pub fn rounded(figure: f64) -> u64 {
    figure.round() as u64
}

fn listener(row: &mut Row, control: &Control, listener: &Listener) {
    let sum = |counter: &dyn Fn(&ListenerShard) -> u64| -> u64 {
        listener.state.shards.iter().map(|shard| counter(shard)).sum()
    };
    let rejected = |meant: &dyn Fn(CloseReason) -> bool| -> u64 {
        let reasons = CloseReason::ALL.iter().filter(|reason| meant(**reason));
        reasons.map(|reason| sum(&|shard| shard.rejected[reason.index()].get())).sum()
    };
    let whole_process = control.shared.active.load(Ordering::Relaxed);
    let config = control.config();
    let limit = listener.config.max_connections.unwrap_or(config.global.max_connections);
    let (active, total) = (listener.state.active().max(0), sum(&|shard| shard.total.get()));
    let is_full = active >= i64::from(limit) || whole_process >= config.global.max_connections;
    let status = match control.shared.phase() {
        Phase::Draining => "STOP",
        _ if is_full => "FULL",
        _ => "OPEN",
    };
    let shape = listener.state.trend.shape();
    row.set_shape(&shape);
    let refused_source =
        |reason| matches!(reason, CloseReason::SourceDenied | CloseReason::RateLimited | CloseReason::LimitReached);
    let refused_route = |reason| matches!(reason, CloseReason::NoRoute | CloseReason::RouteRejected);
    let bad_hello = |reason: CloseReason| reason.is_of_first_bytes() || reason == CloseReason::ClientGone;
    cells!(row, svname = "FRONTEND", status = status, scur = active, slim = limit, stot = total);
    cells!(row, bin = sum(&|shard| shard.bytes_up.get()), bout = sum(&|shard| shard.bytes_down.get()));
    cells!(row, dreq = rejected(&refused_route), dresp = 0_u32, ereq = rejected(&bad_hello));
    cells!(row, dcon = rejected(&refused_source), dses = 0_u32, rate_lim = 0_u32, conn_tot = total);
    cells!(row, conn_rate = rounded(shape.rates.connections), conn_rate_max = rounded(shape.most_connections));
}

fn pool(row: &mut Row, control: &Control, pool: &Pool) {
    let sum =
        |counter: &dyn Fn(&PoolShard) -> u64| -> u64 { pool.state.shards.iter().map(|shard| counter(shard)).sum() };
    let closed = |reason: CloseReason| sum(&|shard| shard.closed[reason.index()].get());
    let places = &pool.state.places;
    let members = || pool.backends.iter().zip(&pool.shares).zip(&pool.config.backends);
    let usable = |backup: bool| {
        let takes = |backend: &Backend, share: &Share| share.weight > 0 && backend.takes(places.health_ignored());
        members()
            .filter(|((backend, share), config)| config.tier.is_backup() == backup && takes(backend, share))
            .count()
    };
    let (act, bck) = (usable(false), usable(true));
    let weight: u64 = places.weights.in_use();
    let total = sum(&|shard| shard.total.get());
    let shape = pool.state.trend.shape();
    row.set_shape(&shape);
    row.set_last_session(&shape);
    row.set_outages(&pool.state.trend);
    let mut timings = Timings::default();
    pool.backends.iter().for_each(|backend| timings.merge(&backend.timings()));
    row.set_times(&timings);
    let (mut up, mut down, mut errors, mut reused) = (0, 0, 0, 0);
    for backend in &pool.backends {
        up += backend.sum(|shard| shard.bytes_up.get());
        down += backend.sum(|shard| shard.bytes_down.get());
        errors += server_row::connect_errors(backend);
        reused += backend.sum(|shard| shard.ready_used.get());
    }
    let active: u32 = pool.backends.iter().map(|backend| backend.active.count()).sum();
    let status = if act + bck > 0 { "UP" } else { "DOWN" };
    cells!(row, svname = "BACKEND", status = status, weight = weight, uweight = weight, act = act, bck = bck);
    cells!(row, qcur = places.waiting(), qmax = shape.most_waiting, scur = active, slim = pool.config.max_connections);
    cells!(row, stot = total, lbtot = total, bin = up, bout = down, dreq = 0_u32, dresp = 0_u32, econ = errors);
    cells!(row, connect = total + errors, reuse = reused, algo = algorithm(pool.config.method.name()));
    cells!(row, cli_abrt = closed(CloseReason::ClientReset), srv_abrt = closed(CloseReason::BackendReset));
    let turned = pool.state.trend.outages(Instant::now()).turned;
    let age = turned.map_or_else(|| server_row::age(control.shared.started), |at| at.elapsed().as_secs());
    cells!(row, lastchg = age);
}

/// HAProxy's word for a method.
fn algorithm(method: &str) -> &str {
    match method {
        "least-connections" => "leastconn",
        "round-robin" => "roundrobin",
        "random-two" => "random",
        _ => "hash",
    }
}
