//! The running process's part of an upgrade.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::estate::Estate;
use super::words::{
    FORMAT, Hello, Listening, OLDEST, SESSIONS, Sockets, Word, hear_word, lost, out_of_turn, say, say_listening,
    say_with,
};
use super::{LATE_LIMIT, READY_LIMIT, STEP_LIMIT, TAKE_OVER};
use crate::api::Upgraded;
use crate::control::lifecycle::{Stop, ended, tell_systemd};
use crate::control::{Control, Handle};
use crate::decide::close::CloseReason;
use crate::state::{Matching, Phase, Tallies};
use crate::sys::channel::{Channel, Passage};
use crate::sys::privileges::Passing;

/// Time for the answers that clients of the status socket are still to get.
const LAST_ANSWERS: Duration = Duration::from_millis(200);
/// How long a new process that gave up may take to end by itself.
const FAREWELL: Duration = Duration::from_millis(100);

/// What a hand-over leaves to [`bid_farewell`]: the channel, what was counted until then, and the process that goes on.
pub struct Given {
    channel: Arc<Channel>,
    counted: Tallies,
    heir: u32,
}

/// Hands everything over to the binary that is now on disk, started like this process. When it returns well this process
/// has only its last sessions' set-up to finish.
///
/// # Errors
/// Why it failed; nothing has changed then.
pub async fn upgrade(control: &Handle) -> Result<Upgraded, String> {
    let begun = Instant::now();
    let outcome = try_upgrade(control, begun).await;
    match &outcome {
        Ok(Upgraded { pid, version, sessions, pause_ms, took_ms }) => {
            tracing::info!(pid, version, sessions, pause_ms, took_ms, "upgraded: another process goes on from here");
        }
        Err(why) => tracing::error!(why, "upgrade failed, this process goes on as before"),
    }
    outcome
}

async fn try_upgrade(control: &Handle, begun: Instant) -> Result<Upgraded, String> {
    if std::process::id() == 1 {
        return Err(
            "process 1 of a container cannot be replaced: the container ends with it; start another one".to_owned()
        );
    }
    let _only = control.upgrading.try_lock().map_err(|_| "another upgrade runs".to_owned())?;
    is_running(control)?;
    // What it still sends is for this process, and would come too late.
    let predecessor = control.predecessor.take();
    if let Some(predecessor) = predecessor {
        // It neither panics nor is aborted.
        let _ = predecessor.await;
    }
    // Nothing else changes from here on what is in force.
    let turn = control.reloading.try_lock().map_err(|_| "a reload runs".to_owned())?;
    is_running(control)?;
    let (mut successor, version) = start(control).await?;
    is_running(control)?;
    // Until the sessions are given away this thread does nothing else, so that nothing changes that was told already.
    let (sessions, pause) = hand_over(control, &mut successor)?;
    let (channel, passage) = (Arc::clone(&successor.channel), successor.passage());
    let pid = successor.let_live();
    tell_systemd(&[NotifyState::MainPid(pid)]);
    control.plane.borrow().let_go(&passage);
    leave_the_rest(control);
    let counted = Tallies::of(&control.shared, &control.snapshot());
    if let Err(why) = say(&channel, &Word::Counts(Box::new(counted.clone()))) {
        tracing::error!(why, "the new process begins with counters at zero");
    }
    control.given.replace(Some(Given { channel, counted, heir: pid }));
    // The receiver lives as long as the process runs.
    let _ = control.stops.send(Stop::HandedOver);
    drop(turn);
    let millis = |time: Duration| time.as_micros() as f64 / 1000.0;
    Ok(Upgraded { pid, version, sessions, pause_ms: millis(pause), took_ms: millis(begun.elapsed()) })
}

fn is_running(control: &Control) -> Result<(), String> {
    match control.shared.phase() {
        Phase::Running => Ok(()),
        Phase::Starting => Err("the process is still starting".to_owned()),
        Phase::Leaving | Phase::Draining => Err("the process is stopping".to_owned()),
    }
}

/// The process that is to take over; it dies with this value unless it may live.
struct Successor {
    child: Option<Child>,
    channel: Arc<Channel>,
    /// Version of the format that it has chosen.
    format: u32,
}

impl Successor {
    /// How sessions go there.
    fn passage(&self) -> Passage {
        Passage { channel: Arc::clone(&self.channel), kind: SESSIONS, format: self.format }
    }

    fn let_live(mut self) -> u32 {
        self.child.take().map_or(0, |child| child.id())
    }

    /// Ends it, whatever it does. Returns how it ended, if it had by itself.
    fn end(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        // A process that says farewell by closing its end needs a moment.
        let begun = Instant::now();
        let mut ended = None;
        while ended.is_none() && begun.elapsed() < FAREWELL {
            ended = child.try_wait().ok().flatten();
            std::thread::sleep(Duration::from_millis(1));
        }
        // It may have ended already.
        let _ = child.kill();
        let _ = child.wait();
        ended
    }

    /// Ends it, and adds to `why` how it ended where that was by itself.
    fn fail(&mut self, why: String) -> String {
        match self.end() {
            Some(status) => format!("{why} ({status})"),
            None => why,
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts the new process, and brings it to where only sessions are missing.
async fn start(control: &Handle) -> Result<(Successor, String), String> {
    let (channel, there) = Channel::pair().map_err(|error| error.to_string())?;
    channel.set_limit(Some(READY_LIMIT)).map_err(|error| error.to_string())?;
    let program = control.program.as_ref().map_err(Clone::clone)?;
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).arg(TAKE_OVER).stdin(Stdio::from(there));
    // They are about this process.
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    let child = {
        let _passing = Passing::begin();
        command.spawn().map_err(|error| format!("cannot start {}: {error}", program.path.display()))?
    };
    // Our copy of its end goes with the command.
    drop(command);
    tracing::info!(pid = child.id(), program = %program.path.display(), "upgrade begins");
    let mut successor = Successor { child: Some(child), channel: Arc::new(channel), format: OLDEST };
    let sockets = sockets(control)?;
    let estate = Estate::of(control)?;
    let (channel, confined) = (Arc::clone(&successor.channel), control.confined);
    let talk = move || {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        say(&channel, &Word::Hello(Hello { oldest: OLDEST, newest: FORMAT, version, confined }))?;
        say_listening(&channel, sockets.listening)?;
        for (socket, descriptor) in sockets.others {
            say_with(&channel, &Word::Sockets(socket), &[descriptor])?;
        }
        say(&channel, &Word::State(Box::new(estate)))?;
        match hear_word(&channel)? {
            Word::Ready { format: format @ OLDEST..=FORMAT, version } => Ok((format, version)),
            other => Err(out_of_turn(&other)),
        }
    };
    let outcome = spawn_blocking(talk).await.map_err(|error| error.to_string())?;
    match outcome {
        Ok((format, version)) => {
            successor.format = format;
            Ok((successor, version))
        }
        Err(why) => Err(successor.fail(why)),
    }
}

struct Descriptors {
    listening: Vec<(Listening, OwnedFd)>,
    others: Vec<(Sockets, OwnedFd)>,
}

fn sockets(control: &Control) -> Result<Descriptors, String> {
    let listening = control.plane.borrow().sockets(STEP_LIMIT).map_err(|error| error.to_string())?;
    let listening = listening.into_iter().map(|(bind, activated, socket)| (Listening { bind, activated }, socket));
    let others = control.served.duplicate().map_err(|error| error.to_string())?;
    Ok(Descriptors { listening: listening.collect(), others })
}

/// Hands the sessions over; no byte moves meanwhile. On an error they go on here.
fn hand_over(control: &Handle, successor: &mut Successor) -> Result<(u64, Duration), String> {
    let channel = Arc::clone(&successor.channel);
    channel.set_limit(Some(STEP_LIMIT)).map_err(|error| error.to_string())?;
    // Before any session stands still.
    Estate::of(control)
        .and_then(|estate| say(&channel, &Word::State(Box::new(estate))))
        .map_err(|why| successor.fail(why))?;
    let begun = Instant::now();
    let outcome = offer(control, &successor.passage()).and_then(|sessions| {
        say(&channel, &Word::Go)?;
        match hear_word(&channel)? {
            Word::Took => Ok((sessions, begun.elapsed())),
            other => Err(out_of_turn(&other)),
        }
    });
    outcome.map_err(|why| {
        // It must not move a byte any more before they go on here.
        let why = successor.fail(why);
        if matches!(hear_word(&channel), Ok(Word::Took)) {
            // It took them and died before that was heard: nobody knows what it has moved.
            control.plane.borrow().end_sessions(&Matching::All, CloseReason::LocalError, usize::MAX);
        }
        control.plane.borrow().go_on();
        why
    })
}

/// Sends all sessions, and waits until the new process holds them.
fn offer(control: &Control, passage: &Passage) -> Result<u64, String> {
    let mut sessions = 0;
    for worker in control.plane.borrow().hand_over(passage) {
        let sent =
            worker.recv_timeout(STEP_LIMIT).map_err(|_| "a worker did not come to a stand in time".to_owned())?;
        sessions += sent.map_err(|error| lost(&error))?;
    }
    say(&passage.channel, &Word::Handed { sessions })?;
    match hear_word(&passage.channel)? {
        Word::Holding => Ok(sessions),
        other => Err(out_of_turn(&other)),
    }
}

/// Nothing is this process's any more but what [`bid_farewell`] does.
fn leave_the_rest(control: &Handle) {
    control.succeeded.set(true);
    control.shared.set_phase(Phase::Draining);
    control.served.leave_to_heir();
    control.probes.take();
    control.names.borrow_mut().stop();
    control.kills.borrow_mut().drain().for_each(|(_, kill)| kill.stop());
}

/// Waits for the sessions that were still set up, hands over what was counted since, and ends. Words to stop are passed on:
/// they are about the service.
pub async fn bid_farewell(control: &Handle, mut word: Option<Stop>, more: &mut mpsc::UnboundedReceiver<Stop>) {
    let Some(Given { channel, counted, heir }) = control.given.take() else { return };
    let set_up = async {
        if timeout(LATE_LIMIT, ended(control)).await.is_err() {
            control.plane.borrow().end_sessions(&Matching::All, CloseReason::Shutdown, usize::MAX);
            // As when stopping.
            let _ = timeout(STEP_LIMIT, ended(control)).await;
        }
        sleep(LAST_ANSWERS).await;
    };
    let mut set_up = std::pin::pin!(set_up);
    loop {
        pass_on(heir, word.take());
        tokio::select! {
            () = &mut set_up => break,
            next = more.recv() => word = next,
        }
    }
    let since = Tallies::of(&control.shared, &control.snapshot()).since(&counted);
    let told = say(&channel, &Word::Counts(Box::new(since))).and_then(|()| say(&channel, &Word::Bye));
    if let Err(why) = told {
        tracing::warn!(why, "what was counted last is lost");
    }
}

fn pass_on(heir: u32, word: Option<Stop>) {
    let signal = match word {
        Some(Stop::Grace(_)) => Signal::SIGTERM,
        Some(Stop::Unlimited) => Signal::SIGQUIT,
        Some(Stop::Now) => Signal::SIGINT,
        Some(Stop::HandedOver) | None => return,
    };
    tracing::info!(heir, ?signal, "passed on to the process that took over");
    if let Err(error) = kill(Pid::from_raw(heir.cast_signed()), signal) {
        tracing::error!(heir, %error, "cannot pass a signal on");
    }
}
