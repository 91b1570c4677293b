//! `sluice top`: what the daemon does, live and over the whole screen. Here are the terminal and the loop over what
//! happens; the terminal is given back on every way out. Ratatui draws on stdout, and only what has changed.

mod change;
mod facts;
mod feed;
mod keys;
mod model;
mod text;
mod view;

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::sync::Once;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::{panic, thread};

use clap::Args;
use jiff::Timestamp;
use nix::sys::signal::{SigSet, Signal, raise};
use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::execute;

use self::feed::{Feed, News, Wish};
use self::keys::Action;
use self::model::{Model, Notice};
use self::view::Theme;
use super::Globals;
use super::connection::Connection;
use super::output::{Exit, colour, message};
use crate::config::parse_duration;

/// The shortest and the longest time between two looks. The daemon lets go of who is silent for a minute.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// How often ages are drawn anew while nothing else happens.
const TICK: Duration = Duration::from_secs(1);

/// Arguments of `top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// How often to ask the daemon, 200ms to 30s.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).ok_or("write a number and ms or s, as in 500ms")?;
    if interval < INTERVALS.0 || interval > INTERVALS.1 { Err("outside 200ms to 30s".to_owned()) } else { Ok(interval) }
}

/// What the loop waits for.
enum Happening {
    News(News),
    Terminal(io::Result<Event>),
    Signal,
}

impl From<News> for Happening {
    fn from(news: News) -> Self {
        Self::News(news)
    }
}

/// Runs `top`.
pub fn top(globals: &Globals, args: &TopArgs) -> Exit {
    if globals.json || !io::stdout().is_terminal() {
        let why = if globals.json { "it has no --json" } else { "stdout is none" };
        message(&format!("top draws on a terminal: {why}; try `sluice status` or `sluice backends`"));
        return Exit::Usage;
    }
    let connection = match Connection::open(&globals.socket, feed::LIMIT) {
        Ok(connection) => connection,
        Err(trouble) => {
            message(&format!("{trouble}; see --socket"));
            return Exit::NoDaemon;
        }
    };
    let (news, happenings) = channel();
    let (wishes, wished) = channel();
    let feed = Feed { socket: globals.socket.clone(), interval: args.interval, connection: Some(connection) };
    // Blocked before there are other threads, so that only the one that waits for signals gets them.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    let ended = signals.thread_block().map_err(io::Error::from).and_then(|()| take_terminal()).and_then(|terminal| {
        spawn_signals(signals, news.clone());
        spawn_terminal(news.clone());
        thread::spawn(move || feed.run(&wished, &news));
        let model = Model::new(args.interval, Timestamp::now());
        let theme = Theme(colour(globals, true));
        Loop { terminal, model, theme, wishes }.run(&happenings)
    });
    give_back();
    match ended {
        Ok(()) => Exit::Ok,
        Err(error) => {
            message(&format!("cannot draw on the terminal: {error}"));
            Exit::Failed
        }
    }
}

/// Takes the whole terminal. A panic gives it back, before it says what it is: ratatui sees to that, but for the cursor.
fn take_terminal() -> io::Result<DefaultTerminal> {
    static CURSOR: Once = Once::new();
    CURSOR.call_once(|| {
        let further = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            show_cursor();
            further(panic);
        }));
    });
    ratatui::try_init()
}

/// Gives the terminal back as it was.
fn give_back() {
    ratatui::restore();
    show_cursor();
}

fn show_cursor() {
    // A terminal that is gone has no cursor.
    let _ = execute!(io::stdout(), Show);
}

/// Ends the loop at the first signal; a second one ends the process, should the terminal not take what is drawn.
fn spawn_signals(signals: SigSet, happenings: Sender<Happening>) {
    thread::spawn(move || {
        let waited = signals.wait();
        let told = happenings.send(Happening::Signal);
        if waited.is_ok() && told.is_ok() {
            let _ = signals.thread_unblock();
        }
        loop {
            thread::park();
        }
    });
}

fn spawn_terminal(happenings: Sender<Happening>) {
    thread::spawn(move || {
        loop {
            let event = event::read();
            let broken = event.is_err();
            if happenings.send(Happening::Terminal(event)).is_err() || broken {
                return;
            }
        }
    });
}

/// What the loop works with.
struct Loop {
    terminal: DefaultTerminal,
    model: Model,
    theme: Theme,
    wishes: Sender<Wish>,
}

impl Loop {
    /// Draws, waits for what happens, and so on, until the operator or a signal ends it.
    fn run(mut self, happenings: &Receiver<Happening>) -> io::Result<()> {
        loop {
            self.terminal.draw(|frame| view::draw(&self.model, self.theme, frame.area(), frame.buffer_mut()))?;
            let first = match happenings.recv_timeout(TICK.max(self.model.interval)) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            self.model.now = Timestamp::now();
            // Whatever is there already is drawn at once.
            for happening in first.into_iter().chain(happenings.try_iter()) {
                if self.handle(happening)?.is_break() {
                    return Ok(());
                }
            }
        }
    }
    fn handle(&mut self, happening: Happening) -> io::Result<ControlFlow<()>> {
        let model = &mut self.model;
        match happening {
            Happening::News(News::Polled(answers)) => match *answers {
                Ok(answers) => model.take(answers, Timestamp::now()),
                Err(why) => model.miss(why, Timestamp::now()),
            },
            Happening::News(News::Changed(notice)) => model.notice = Some(notice),
            // Some terminals also tell when a key is let go.
            Happening::Terminal(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                let action = keys::press(model, key);
                return self.act(action);
            }
            // A new size is seen when drawing.
            Happening::Terminal(Ok(_)) => {}
            Happening::Terminal(Err(error)) => return Err(error),
            Happening::Signal => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn act(&mut self, action: Action) -> io::Result<ControlFlow<()>> {
        match action {
            Action::None => {}
            Action::Quit => return Ok(ControlFlow::Break(())),
            Action::Suspend => {
                give_back();
                raise(Signal::SIGTSTP)?;
                self.terminal = take_terminal()?;
            }
            Action::Poll => {
                let looks_at = self.model.looks_at().cloned();
                self.wish(Wish::Look(looks_at.map(|path| (path, self.model.session_order))));
            }
            Action::Change(change) => {
                self.model.notice = Some(Notice::Sent("asking the daemon".to_owned()));
                self.wish(Wish::Change(change));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn wish(&self, wish: Wish) {
        // The feed ends with this loop only.
        let _ = self.wishes.send(wish);
    }
}

#[cfg(test)]
mod tests;
