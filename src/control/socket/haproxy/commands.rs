//! The commands: which there are, and which one a line means. What they do stands in the files beside this one.

use std::time::Duration;

use super::super::super::Handle;
use super::super::super::failure::Failure;
use super::super::super::overrides::Peer;
use super::{Answer, Answered, changes, clear, errors, info, servers, sess, stat};
use crate::state::Admin;

/// Longest silence that a client may wish for.
const LONGEST_IDLE: Duration = Duration::from_hours(24);

macro_rules! commands {
    ($($verb:ident = $words:literal, $arguments:literal, $help:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Verb { $($verb,)* }

        /// Each with its first words, its arguments, and what it does.
        const COMMANDS: &[(Verb, &str, &str, &str)] = &[$((Verb::$verb, $words, $arguments, $help),)*];
    };
}

commands! {
    ClearCounters = "clear counters", "[all]", "clear maxima (or all counters, as shown here)";
    DisableServer = "disable server", "<bk>/<srv>", "take no new sessions (maintenance)";
    EnableServer = "enable server", "<bk>/<srv>", "let health decide again";
    GetWeight = "get weight", "<bk>/<srv>", "weight at present and as configured";
    SetServer = "set server", "<bk>/<srv> state|weight", "change state (ready, drain, maint) or weight";
    SetTimeout = "set timeout cli", "<delay>", "how long this client may be silent";
    SetWeight = "set weight", "<bk>/<srv> <n>[%]", "change the weight";
    ShowBackend = "show backend", "", "names of the pools";
    ShowErrors = "show errors", "[<px>]", "first bytes that were refused last";
    ShowInfo = "show info", "[json|typed]", "the process as a whole";
    ShowServersConn = "show servers conn", "[<bk>]", "connections of servers";
    ShowServersState = "show servers state", "[<bk>]", "states of servers";
    ShowSess = "show sess", "[<id>]", "open sessions";
    ShowStat = "show stat", "[json|typed|up|no-maint]", "counters of listeners, pools and servers";
    ShowVersion = "show version", "", "version of the runtime API and of sluice";
    ShutdownSession = "shutdown session", "<id>", "end a session";
    ShutdownSessions = "shutdown sessions server", "<bk>/<srv>", "end the sessions of a server";
    Help = "help", "[<command>]", "commands, all or those that begin so";
    Prompt = "prompt", "", "turn the prompt on or off";
    Quit = "quit", "", "close the connection";
}

/// Carries out a command and counts it.
pub async fn call(control: &Handle, words: &[String], peer: Peer) -> Answered {
    let found = COMMANDS.iter().find(|(_, first, ..)| begins_with(words, first));
    let answered = match found {
        Some((verb, first, ..)) => run(control, *verb, &words[first.split(' ').count()..], peer).await,
        None => Err(Failure::new("no_such_method", unknown(words))),
    };
    let result = answered.as_ref().map_or_else(|failure| failure.code, |_| "ok");
    control.shared.commands.count(found.map_or("unknown", |(_, first, ..)| first), result);
    answered
}

async fn run(control: &Handle, verb: Verb, arguments: &[String], peer: Peer) -> Answered {
    match verb {
        Verb::ClearCounters => Ok(clear::counters(control, arguments)),
        Verb::DisableServer => changes::order(control, arguments, Admin::Disabled, peer).await,
        Verb::EnableServer => changes::order(control, arguments, Admin::Ready, peer).await,
        Verb::GetWeight => changes::get_weight(control, arguments),
        Verb::SetServer => changes::set_server(control, arguments, peer).await,
        Verb::SetTimeout => set_timeout(arguments),
        Verb::SetWeight => changes::set_weight(control, arguments, peer).await,
        Verb::ShowBackend => Ok(servers::backends(control)),
        Verb::ShowErrors => errors::show(control, arguments),
        Verb::ShowInfo => info::show(control, arguments),
        Verb::ShowServersConn => servers::connections(control, arguments),
        Verb::ShowServersState => servers::state(control, arguments),
        Verb::ShowSess => sess::show(control, arguments).await,
        Verb::ShowStat => stat::show(control, arguments),
        Verb::ShowVersion => Ok(Answer::Text(format!("{}\n", info::VERSION))),
        Verb::ShutdownSession => changes::shutdown_session(control, arguments, peer).await,
        Verb::ShutdownSessions => changes::shutdown_sessions(control, arguments, peer).await,
        Verb::Help => Ok(Answer::Text(help(arguments))),
        Verb::Prompt => Ok(Answer::Prompt),
        Verb::Quit => Ok(Answer::Quit),
    }
}

/// Whether the first words are these.
fn begins_with(words: &[String], first: &str) -> bool {
    let mut given = words.iter();
    first.split(' ').all(|word| given.next().is_some_and(|given| given == word))
}

fn unknown(words: &[String]) -> String {
    let like = listing(|first| words.first().is_some_and(|word| first.split(' ').next() == Some(word)));
    let (begin, list) = if like.is_empty() {
        ("Unknown command. Please enter one of the following commands only:", listing(|_| true))
    } else {
        ("Unknown command, but maybe one of the following ones is a better match:", like)
    };
    format!("{begin}\n{}", list.trim_end_matches('\n'))
}

fn help(arguments: &[String]) -> String {
    let wanted = arguments.join(" ");
    format!("The following commands are valid at this level:\n{}", listing(|first| first.starts_with(&wanted)))
}

/// A line for each command whose first words are meant.
fn listing(meant: impl Fn(&str) -> bool) -> String {
    let line = |text: String, (_, first, arguments, help): &(Verb, &str, &str, &str)| {
        text + &format!("  {:<40}: {help}\n", format!("{first} {arguments}"))
    };
    COMMANDS.iter().filter(|(_, first, ..)| meant(first)).fold(String::new(), line)
}

/// Answers `set timeout cli DELAY`: seconds, or a number with a unit.
fn set_timeout(arguments: &[String]) -> Answered {
    let invalid = || Failure::new("bad_params", "Invalid timeout value.");
    let text = arguments.first().ok_or_else(|| Failure::new("bad_params", "Expects an integer value."))?;
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..unit_at].parse().map_err(|_| invalid())?;
    let ms_each = match &text[unit_at..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(invalid()),
    };
    let limit = Duration::from_millis(number.saturating_mul(ms_each));
    if limit.is_zero() {
        return Err(invalid());
    }
    Ok(Answer::Idle(limit.min(LONGEST_IDLE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn idle(text: &str) -> Option<Duration> {
        match set_timeout(&[text.to_owned()]) {
            Ok(Answer::Idle(limit)) => Some(limit),
            _ => None,
        }
    }

    #[test]
    fn a_client_may_wish_for_a_time_out() {
        assert_eq!(idle("60"), Some(Duration::from_mins(1)));
        assert_eq!(idle("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(idle("5m"), Some(Duration::from_mins(5)));
        assert_eq!(idle("99999999999999999h"), Some(LONGEST_IDLE));
        for bad in ["", "0", "-1", "abc", "5x", "99999999999999999999", "1\u{e9}"] {
            assert_eq!(idle(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_command_hides_another() {
        for (place, (_, first, ..)) in COMMANDS.iter().enumerate() {
            let words: Vec<String> = first.split(' ').map(str::to_owned).collect();
            let found = COMMANDS.iter().position(|(_, first, ..)| begins_with(&words, first));
            assert_eq!(found, Some(place), "{first}");
        }
    }

    #[test]
    fn unknown_commands_get_the_list() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let all = unknown(&words("foo"));
        assert!(all.starts_with("Unknown command. Please enter one of"), "{all}");
        assert_eq!(all.lines().count(), COMMANDS.len() + 1);
        let like = unknown(&words("show foo"));
        assert!(like.lines().skip(1).all(|line| line.starts_with("  show ")), "{like}");
        assert_eq!(help(&words("set server")).lines().count(), 2);
    }
}
