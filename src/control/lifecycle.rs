//! Start, signals and stop: what the control plane does from its first moment to its last.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::names::{self, Names};
use super::probes::{self, Probes};
use super::socket::Served;
use super::upgrade::{self, Estate, Heir};
use super::{
    ConfigSource, Control, DataPlane, Handle, StatusSocket, heartbeats, kill, members, overrides, reload, renewal,
    report, sampler, standing,
};
use crate::api::{SessionsParams, SortBy};
use crate::decide::close::CloseReason;
use crate::state::{LogMessage, Matching, Phase, Resolution, Shared, Snapshot, Supplement};

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Sessions may run for this time, or for `shutdown-grace` (TERM).
    Grace(Option<Duration>),
    /// Sessions may run without limit (QUIT).
    Unlimited,
    /// Now (INT, or a second TERM).
    Now,
    /// Another process has taken over.
    HandedOver,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grace(Some(grace)) => write!(f, "sessions may run for {} s", grace.as_secs_f64()),
            Self::Grace(None) => f.write_str("sessions may run for shutdown-grace"),
            Self::Unlimited => f.write_str("sessions may run without limit"),
            Self::Now => f.write_str("now"),
            Self::HandedOver => f.write_str("another process has taken over"),
        }
    }
}

/// What the control plane begins with.
pub struct Start {
    /// State of the process.
    pub shared: Arc<Shared>,
    /// Where the configuration comes from.
    pub source: ConfigSource,
    /// The first snapshot, prepared already.
    pub snapshot: Arc<Snapshot>,
    /// The workers.
    pub plane: Box<dyn DataPlane>,
    /// The status socket.
    pub status: StatusSocket,
    /// Whether the file of a socket that was handed over goes with this process.
    pub owns_status_file: bool,
    /// The socket of the metrics.
    pub metrics: Option<TcpListener>,
    /// Whether most of the file system is closed for the process.
    pub confined: bool,
    /// Whose place it takes, and what that process knows.
    pub heir: Option<(Heir, Box<Estate>)>,
}

/// Runs the control plane until the process stops.
///
/// # Errors
/// When it was to take the place of another process and that came to nothing.
pub async fn run(start: Start) -> Result<(), String> {
    let Start { shared, source, snapshot, plane, status, owns_status_file, metrics, confined, heir } = start;
    let (stops, mut asked_to_stop) = mpsc::unbounded_channel();
    shared.set_snapshot(Arc::clone(&snapshot));
    let renewal = Rc::new(Notify::new());
    let control: Handle = Rc::new(Control {
        shared: Arc::clone(&shared),
        source,
        plane: RefCell::new(plane),
        probes: RefCell::new(Probes::default()),
        names: RefCell::new(Names::new(Rc::clone(&renewal))),
        renewal,
        clock: Notify::new(),
        upgrading: tokio::sync::Mutex::default(),
        reloading: tokio::sync::Mutex::new(()),
        reloads: reload::Requests::default(),
        operators: RefCell::default(),
        saving: tokio::sync::Mutex::new(()),
        kills: RefCell::default(),
        removals: RefCell::default(),
        served: Served::default(),
        stops: stops.clone(),
        confined,
        program: upgrade::Program::of_this_process().map_err(|error| format!("cannot find this program: {error}")),
        given: RefCell::default(),
        predecessor: RefCell::default(),
        succeeded: Cell::new(false),
    });
    listen_to_signals(&control, &stops);
    // A reload that is asked for meanwhile waits until there is something to reload.
    let starting = control.reloading.lock().await;
    let is_heir = heir.is_some();
    if let Some((heir, estate)) = heir {
        if let Err(why) = inherit(&control, &snapshot, &heir, estate).await {
            heir.refuse(&why);
            return Err(why);
        }
        if owns_status_file {
            status.keep_file();
        }
    }
    control.served.take_status(&control, status).await;
    control.served.take_metrics(&control, metrics).await;
    if is_heir {
        move_status(&control).await;
    }

    let mut stop = None;
    if shared.phase() == Phase::Starting {
        tokio::select! {
            () = begin(&control, &snapshot) => shared.set_phase(Phase::Running),
            word = asked_to_stop.recv() => stop = Some(word.unwrap_or(Stop::Now)),
        }
    }
    drop(starting);
    if stop.is_none() {
        announce(&snapshot);
        spawn_local(renewal::keep_up(Handle::clone(&control)));
        spawn_local(overrides::keep_time(Handle::clone(&control)));
        spawn_local(sampler::sample(Handle::clone(&control)));
        heartbeats::watch(&shared);
        stop = asked_to_stop.recv().await;
    }
    if control.succeeded.get() {
        upgrade::bid_farewell(&control, stop, &mut asked_to_stop).await;
    } else {
        leave(&control, stop.unwrap_or(Stop::Now), &mut asked_to_stop).await;
    }
    control.served.give_up();
    let (done, flushed) = sync_channel(1);
    tracing::info!("stopped");
    // A log target that hangs must not keep the process.
    if shared.log.try_send(LogMessage::Flush(done)) {
        let _ = flushed.recv_timeout(Duration::from_secs(1));
    }
    Ok(())
}

/// The status socket is where the other process had it; a new configuration may have it elsewhere.
async fn move_status(control: &Handle) {
    let path = control.config().global.status_socket.clone();
    let is_elsewhere = |socket: &StatusSocket| socket.owns_file() && !socket.is_at(&path);
    let from_files = matches!(control.source, ConfigSource::Paths(_));
    if from_files && control.served.of_status(is_elsewhere) == Some(true) {
        match StatusSocket::open(&path) {
            Ok(socket) => control.served.take_status(control, socket).await,
            Err(error) => tracing::error!(%error, "the status socket stays where it was"),
        }
    }
}

/// Takes the place of another process, once everything is ready for it.
async fn inherit(control: &Handle, snapshot: &Arc<Snapshot>, heir: &Heir, estate: Box<Estate>) -> Result<(), String> {
    estate.take_up_words(control, snapshot)?;
    let resolution = names::add(control, &snapshot.config).await;
    let snapshot = settle(control, snapshot, &resolution);
    estate.take_up(control, &snapshot);
    probes::apply_to_known(control, &snapshot).await;
    let sessions = upgrade::take_over(control, &snapshot, heir)?;
    control.shared.set_phase(Phase::Running);
    tracing::info!(sessions, from = heir.from, "took over");
    standing::go_on_closing(control, &snapshot);
    // What was said while this process prepared itself.
    control.renewal.notify_one();
    let control = Handle::clone(control);
    spawn_local(async move { overrides::keep(&control).await });
    Ok(())
}

/// Listeners are bound; clients wait in the backlog until names are resolved and the first checks have answered.
async fn begin(control: &Handle, snapshot: &Arc<Snapshot>) {
    let resolution = names::add(control, &snapshot.config).await;
    overrides::restore(control, snapshot);
    let snapshot = settle(control, snapshot, &resolution);
    for backend in control.operators.borrow().absent.keys() {
        tracing::warn!(backend, "the state file has an override of a backend that is not there");
    }
    probes::apply_and_wait(control, &snapshot).await;
    // Nobody can ask for anything that would have to be in force.
    drop(control.plane.borrow_mut().install(&snapshot));
}

/// The snapshot with what names lead to and operators added; it is in force from here on.
fn settle(control: &Handle, snapshot: &Arc<Snapshot>, names: &Resolution) -> Arc<Snapshot> {
    let renew = || {
        let operators = control.operators.borrow();
        let supplement = Supplement { names, operators: &operators };
        snapshot.renewed(&supplement)
    };
    let renewed = renew().or_else(|error| {
        tracing::error!(%error, "added backends are not used");
        control.operators.borrow_mut().added.clear();
        renew()
    });
    let renewed = match renewed {
        Ok(renewed) => renewed.map(Arc::new),
        Err(error) => {
            tracing::error!(%error, "names are not used");
            None
        }
    };
    let snapshot = renewed.unwrap_or_else(|| Arc::clone(snapshot));
    control.shared.set_snapshot(Arc::clone(&snapshot));
    members::settle(control, &[], &snapshot);
    members::yield_to_file(control, &snapshot);
    snapshot
}

fn announce(snapshot: &Snapshot) {
    for listener in &snapshot.listeners {
        let (name, bind) = (&*listener.config.name, &listener.config.bind);
        tracing::info!(listener = name, ?bind, "listening");
    }
    let socket = snapshot.config.global.status_socket.display();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = snapshot.workers, %socket, "ready");
    tell_systemd(&[NotifyState::Ready]);
}

fn listen_to_signals(control: &Handle, stops: &mpsc::UnboundedSender<Stop>) {
    // The receiver outlives every sender, so that sending cannot fail.
    let mut terms = 0;
    on_signal(SignalKind::terminate(), stops.clone(), move |stops| {
        terms += 1;
        let _ = stops.send(if terms == 1 { Stop::Grace(None) } else { Stop::Now });
    });
    on_signal(SignalKind::interrupt(), stops.clone(), |stops| {
        let _ = stops.send(Stop::Now);
    });
    on_signal(SignalKind::quit(), stops.clone(), |stops| {
        let _ = stops.send(Stop::Unlimited);
    });
    on_signal(SignalKind::hangup(), Handle::clone(control), |control| {
        let control = Handle::clone(control);
        spawn_local(async move { reload_for_systemd(&control).await });
    });
    on_signal(SignalKind::user_defined1(), Arc::clone(&control.shared), |shared| {
        shared.log.reopen();
        tracing::info!("log reopened");
    });
    on_signal(SignalKind::user_defined2(), Handle::clone(control), |control| {
        let control = Handle::clone(control);
        // How it went is in the log.
        spawn_local(async move { drop(upgrade::upgrade(&control).await) });
    });
}

/// Reloads with the notifications that `Type=notify-reload` wants (`sd_notify(3)`).
async fn reload_for_systemd(control: &Handle) {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let micros = now.map_or(0, |time| i128::from(time.tv_sec()) * 1_000_000 + i128::from(time.tv_nsec()) / 1000);
    tell_systemd(&[NotifyState::Reloading, NotifyState::MonotonicUsec(micros)]);
    reload::reload_soon(control).await;
    tell_systemd(&[NotifyState::Ready]);
}

fn on_signal<T: 'static>(kind: SignalKind, context: T, mut act: impl FnMut(&T) + 'static) {
    match signal(kind) {
        Ok(mut signals) => drop(spawn_local(async move {
            while signals.recv().await.is_some() {
                act(&context);
            }
        })),
        Err(error) => tracing::error!(?kind, %error, "cannot listen to signal"),
    }
}

/// Stops: readiness first, then the listeners, then sessions as `stop` says; a further word may shorten it.
async fn leave(control: &Handle, mut stop: Stop, more: &mut mpsc::UnboundedReceiver<Stop>) {
    let global = control.config().global.clone();
    tell_systemd(&[NotifyState::Stopping]);
    control.shared.set_phase(Phase::Leaving);
    tracing::info!(connections = control.shared.active.load(Ordering::Relaxed), how = %stop, "stopping");
    if stop != Stop::Now && !global.ready_delay.is_zero() {
        tokio::select! {
            () = sleep(global.ready_delay) => {}
            word = more.recv() => stop = word.unwrap_or(Stop::Now),
        }
    }
    control.shared.set_phase(Phase::Draining);
    control.plane.borrow_mut().leave();
    let mut begun = Instant::now();
    // Gone with this future; a further word may have shortened the time that it counts on.
    let thinning = spawn_local(thin_out(Handle::clone(control), stop, global.shutdown_grace));
    let _thinning = AbortOnDrop(thinning.abort_handle());
    loop {
        let deadline = match (stop, global.shutdown_grace) {
            (Stop::Now | Stop::HandedOver, _) => Some(begun),
            (Stop::Grace(Some(grace)), _) => Some(begun + grace),
            (Stop::Grace(None), grace) => grace.map(|grace| begun + grace),
            (Stop::Unlimited, _) => None,
        };
        let late = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = ended(control) => return,
            word = more.recv() => {
                stop = word.unwrap_or(Stop::Now);
                // A word after QUIT begins a grace of its own.
                begun = Instant::now();
            }
            () = late => break,
        }
    }
    control.plane.borrow().end_sessions(&Matching::All, CloseReason::Shutdown, usize::MAX);
    // Sessions that are told to end do so at their next turn; a worker that hangs is left behind.
    if timeout(Duration::from_secs(5), ended(control)).await.is_err() {
        tracing::error!("a worker did not end in time");
    }
}

/// In the second half of the grace, ends those that have been silent since the first half, little by little with jitter, so
/// that not all clients come back in the same moment.
async fn thin_out(control: Handle, stop: Stop, usual: Option<Duration>) {
    let grace = match stop {
        Stop::Grace(Some(grace)) => Some(grace),
        Stop::Grace(None) => usual,
        Stop::Unlimited | Stop::Now | Stop::HandedOver => None,
    };
    let Some(half) = grace.map(|grace| grace / 2).filter(|half| !half.is_zero()) else { return };
    sleep(half).await;
    let silent =
        SessionsParams { idle_ms: Some(half.as_millis() as u64), sort: SortBy::Idle, ..SessionsParams::default() };
    let ids = report::ids(&report::sessions(&control, silent).await);
    // Some time is left for what the last ones still have to say.
    let rate = ids.len() as f64 / (half.as_secs_f64() * 0.9);
    if !ids.is_empty() {
        tracing::info!(sessions = ids.len(), "silent sessions end one by one");
        kill::pace(&control, &RefCell::new(ids.into()), Some(rate), CloseReason::Shutdown, || true).await;
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until every worker has ended.
pub async fn ended(control: &Control) {
    while !control.plane.borrow().has_ended() {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Tells the service manager, if there is one.
pub fn tell_systemd(state: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET this does nothing; with a broken one there is nobody to tell.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
