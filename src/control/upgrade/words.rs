//! What the two processes of an upgrade say to each other, in JSON, and the format's version.
//!
//! The running process (old) starts the new one and speaks first. Everything up to `Ready` costs nothing: either may give up,
//! and the old one carries on. From `State` on the old one does nothing else; from the first sessions on no byte moves. `Go`
//! is the old one's last word about the sessions, `Took` the new one's first: without it the old one goes on with them.
//!
//! ```text
//! old: Hello, Sockets, State      new: Ready, or Refused
//! old: State, sessions…, Handed   new: Holding, or Refused
//! old: Go                         new: Took
//! old: Counts                     (sessions that were still set up follow, each once its bytes flow)
//! old: Counts, Bye
//! ```

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::estate::Estate;
use crate::state::Tallies;
use crate::sys::channel::{Channel, MOST_DESCRIPTORS, Parcel};

/// Version of the format. A field that may be missing is no new version; whatever a reader of the one before would get wrong is.
///
/// 2: sessions that wait for a place go over as well, and `credit` of a direction is gone.
pub const FORMAT: u32 = 2;
/// The oldest version that is understood.
pub const OLDEST: u32 = 1;

/// Kind of a message with a [`Word`].
const WORD: u32 = 1;
/// Kind of a message with sessions.
pub const SESSIONS: u32 = 2;

/// What is said.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Who is there, and which versions of the format it can write.
    Hello(Hello),
    /// Descriptors that come with it, in this order.
    Sockets(Sockets),
    /// Health, events, operators' words.
    State(Box<Estate>),
    /// The configuration is good, its names and backends are asked, and sessions can come.
    Ready {
        /// The version of the format that was chosen.
        format: u32,
        /// The program's version.
        version: String,
    },
    /// It cannot go on.
    Refused {
        /// Why, in a sentence.
        why: String,
    },
    /// All sessions were sent.
    Handed {
        /// How many.
        sessions: u64,
    },
    /// All of them are here and registered.
    Holding,
    /// They are yours.
    Go,
    /// They are mine.
    Took,
    /// What was counted, or has come since the last time.
    Counts(Box<Tallies>),
    /// Nothing follows.
    Bye,
}

/// The first word.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version of the format that the old process can write.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
    /// The program's version.
    pub version: String,
    /// Whether most of the file system is closed for it, and so for whom it starts.
    pub confined: bool,
}

/// Descriptors that come with the word.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sockets {
    /// Listening sockets.
    Listening(Vec<Listening>),
    /// The status socket.
    Status {
        /// Its path.
        path: PathBuf,
        /// Whether its file goes with the process.
        ours: bool,
    },
    /// The socket of the metrics.
    Metrics(SocketAddr),
}

/// A listening socket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Listening {
    /// Its address as configured.
    pub bind: SocketAddr,
    /// Whether the service manager opened it.
    pub activated: bool,
}

/// What came.
pub enum Heard {
    /// A word and its descriptors.
    Word(Word, Vec<OwnedFd>),
    /// Sessions.
    Sessions(Parcel),
}

/// Says something.
pub fn say(channel: &Channel, word: &Word) -> Result<(), String> {
    say_with(channel, word, &[])
}

/// Says something that descriptors belong to.
pub fn say_with(channel: &Channel, word: &Word, descriptors: &[OwnedFd]) -> Result<(), String> {
    let bytes = serde_json::to_vec(word).map_err(|error| error.to_string())?;
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    channel.send(WORD, &bytes, &descriptors).map_err(|error| lost(&error))
}

/// Sends listening sockets, in as many messages as they need.
pub fn say_listening(channel: &Channel, mut all: Vec<(Listening, OwnedFd)>) -> Result<(), String> {
    while !all.is_empty() {
        let rest = all.split_off(all.len().min(MOST_DESCRIPTORS));
        let (what, descriptors): (Vec<_>, Vec<_>) = std::mem::replace(&mut all, rest).into_iter().unzip();
        say_with(channel, &Word::Sockets(Sockets::Listening(what)), &descriptors)?;
    }
    Ok(())
}

/// Hears the next message.
///
/// # Errors
/// When the other end is gone, silent or says what cannot be understood.
pub fn hear(channel: &Channel) -> Result<Heard, String> {
    let parcel = channel.receive().map_err(|error| lost(&error))?.ok_or("the other process ended")?;
    match parcel.kind {
        SESSIONS => Ok(Heard::Sessions(parcel)),
        WORD => {
            let word = serde_json::from_slice(&parcel.bytes).map_err(|error| format!("not understood: {error}"))?;
            Ok(Heard::Word(word, parcel.descriptors))
        }
        other => Err(format!("a message of unknown kind {other}")),
    }
}

/// Hears a word.
pub fn hear_word(channel: &Channel) -> Result<Word, String> {
    match hear(channel)? {
        Heard::Word(Word::Refused { why }, _) => Err(why),
        Heard::Word(word, _) => Ok(word),
        Heard::Sessions(_) => Err("sessions came out of turn".to_owned()),
    }
}

/// What it means that a word came out of turn.
pub fn out_of_turn(word: &Word) -> String {
    let name = match serde_json::to_value(word) {
        Ok(Value::String(name)) => name,
        Ok(Value::Object(named)) => named.into_iter().map(|(name, _)| name).collect(),
        _ => String::new(),
    };
    format!("`{name}` came out of turn")
}

/// What it means that the channel does not work.
pub fn lost(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "the other process did not answer in time".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            "the other process ended".to_owned()
        }
        _ => format!("the channel to the other process: {error}"),
    }
}

/// The version of the format that both understand: the newest.
///
/// # Errors
/// When there is none.
pub fn choose_format(hello: &Hello) -> Result<u32, String> {
    let format = hello.newest.min(FORMAT);
    if format < hello.oldest.max(OLDEST) {
        return Err(format!(
            "the running process (version {}) hands over in formats {} to {}, this binary (version {}) understands {OLDEST} \
             to {FORMAT}; restart instead",
            hello.version,
            hello.oldest,
            hello.newest,
            env!("CARGO_PKG_VERSION")
        ));
    }
    Ok(format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::missing_fields;

    #[test]
    fn the_newest_format_that_both_know_is_chosen_or_none() {
        let hello = |oldest, newest| Hello { oldest, newest, version: "9.9".to_owned(), confined: false };
        assert_eq!(choose_format(&hello(OLDEST, FORMAT)), Ok(FORMAT));
        assert_eq!(choose_format(&hello(OLDEST, FORMAT + 7)), Ok(FORMAT));
        let why = choose_format(&hello(FORMAT + 1, FORMAT + 7)).expect_err("too new");
        assert!(why.contains("9.9") && why.contains("restart"), "{why}");
        assert!(choose_format(&hello(0, OLDEST - 1)).is_err());
    }

    /// What a build of 2026-11-28 (commit 56d466b) said in format 1 to a process that was to take its place.
    #[test]
    fn what_an_older_build_said_is_understood_and_all_of_it_is_said_to_one() {
        let hello: Value =
            serde_json::from_str(include_str!("../../../tests/data/hand-over-1/hello.json")).expect("JSON");
        let Ok(Word::Hello(said)) = serde_json::from_value(hello.clone()) else { panic!("{hello}") };
        assert_eq!(choose_format(&said), Ok(1));
        let state: Value =
            serde_json::from_str(include_str!("../../../tests/data/hand-over-1/state.json")).expect("JSON");
        let word: Word = serde_json::from_value(state.clone()).expect("a state");
        let Word::State(estate) = &word else { panic!("{state}") };
        assert_eq!(estate.generation(), 1);
        for (word, then) in [(Word::Hello(said), hello), (word, state)] {
            let now = serde_json::to_value(&word).expect("JSON");
            assert_eq!(missing_fields(&now, &then), Vec::<String>::new());
        }
    }

    #[test]
    fn a_word_that_is_cut_or_changed_is_refused_and_never_a_panic() {
        let hello = Hello { oldest: 1, newest: 2, version: "9.9".to_owned(), confined: true };
        let whole = serde_json::to_vec(&Word::Hello(hello)).expect("JSON");
        let read = |bytes: &[u8]| serde_json::from_slice::<Word>(bytes);
        assert!(read(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        let (mut dice, mut good) = (7_u64, 0);
        for _ in 0..20_000 {
            let mut mutant = whole.clone();
            dice = crate::decide::balance::next_random(dice);
            let place = dice as usize % mutant.len();
            mutant[place] = (dice >> 32) as u8;
            good += u32::from(read(&mutant).is_ok());
        }
        assert!(good > 100, "some mutants are words: {good}");
        assert_eq!(out_of_turn(&Word::Go), "`go` came out of turn");
        assert_eq!(out_of_turn(&Word::Handed { sessions: 1 }), "`handed` came out of turn");
    }
}
