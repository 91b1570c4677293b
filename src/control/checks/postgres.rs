//! The check `postgres`: a start-up packet, after SSLRequest and a handshake if TLS is required, and a verdict by what
//! the server makes of it (PostgreSQL documentation, "Message Flow"). It never logs in with a password: a server that
//! asks for one is well, and is left without a word, which it takes without a line in its log.

use super::encryption::{self, Opener};
use super::evidence::{excerpt, harmless};
use super::{FULL, Failed, Passed, Talk};
use crate::config::Postgres;
use crate::decide::hello::postgres::{SSL_REQUEST, SslAnswer, is_whole_answer, sql_state, ssl_answer, start_up};

/// Longest message that a server sends while it starts a session up, kind byte not included.
const MOST_MESSAGE: usize = 8 * 1024;
/// Kind and length of a message.
const HEAD: usize = 5;
/// `Terminate`.
const GOODBYE: &[u8] = b"X\0\0\0\x04";

/// The packets made ready.
pub struct Dialogue {
    opener: Opener,
    start_up: Vec<u8>,
    user: String,
}

impl Dialogue {
    pub fn new(settings: &Postgres) -> Result<Self, String> {
        let start_up = start_up(&settings.user, settings.database.as_deref());
        Ok(Self { opener: Opener::new(&settings.encryption)?, start_up, user: harmless(&settings.user) })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let mut stream = talk.connect().await?;
        if matches!(self.opener, Opener::Tls(_)) {
            talk.phase("ssl-request");
            talk.send(&mut stream, &SSL_REQUEST).await?;
            let mut answer = Vec::new();
            talk.receive(&mut stream, &mut answer, is_whole_answer).await?;
            consent(talk, &answer)?;
        }
        let mut stream = self.opener.over(talk, stream).await?;
        talk.phase("start-up");
        talk.send(&mut stream, &self.start_up).await?;
        let mut bytes = Vec::new();
        talk.receive(&mut stream, &mut bytes, |bytes| answer(bytes).is_some()).await?;
        let answer = answer(&bytes).unwrap_or(Answer::Other);
        let last_word = if answer == Answer::Ready { GOODBYE } else { b"" };
        encryption::end(talk, stream, last_word).await;
        self.verdict(talk, answer, &bytes)
    }

    fn verdict(&self, talk: &Talk<'_>, answer: Answer<'_>, bytes: &[u8]) -> Result<Passed, Failed> {
        let (address, user) = (talk.target.address, &self.user);
        match answer {
            Answer::Ready => Ok(Passed::new("ready", format!("{address} started a session of user {user}"))),
            Answer::WantsPassword(method) => {
                Ok(Passed::new("asks_password", format!("{address} asks user {user} to prove it (method {method})")))
            }
            Answer::Error(packet) => refusal(talk, packet),
            Answer::Other => Err(Failed::new("not_postgres", format!("{address} answered with {}", excerpt(bytes)))),
        }
    }
}

/// Whether the server agrees to TLS. A handshake follows: a server that was asked and then left would log that.
fn consent(talk: &Talk<'_>, answer: &[u8]) -> Result<(), Failed> {
    let address = talk.target.address;
    match ssl_answer(answer) {
        SslAnswer::Yes => Ok(()),
        SslAnswer::No => Err(Failed::new("no_tls", format!("{address} answered SSLRequest with N: it has no TLS"))),
        SslAnswer::Error(_) => refusal(talk, answer).and(Err(Failed::new("no_tls", format!("{address} has no TLS")))),
        SslAnswer::Surplus(count) => {
            Err(Failed::new("surplus", format!("{address} sent {count} bytes in plain text after its consent to TLS")))
        }
        SslAnswer::Unknown(_) => {
            Err(Failed::new("not_postgres", format!("{address} answered SSLRequest with {}", excerpt(answer))))
        }
    }
}

/// The verdict on an error.
fn refusal(talk: &Talk<'_>, packet: &[u8]) -> Result<Passed, Failed> {
    let address = talk.target.address;
    let words = match ssl_answer(packet) {
        // Made safe for a log there.
        SslAnswer::Error(text) => text,
        _ => excerpt(packet),
    };
    match sql_state(packet).map(Meaning::of) {
        Some(Meaning::Alive) => Ok(Passed::new("refused_user", format!("{address} is up and refuses us: {words}"))),
        Some(Meaning::Full) => Err(Failed::new(FULL, format!("{address} has no free connections: {words}"))),
        Some(Meaning::NotNow) => Err(Failed::new("not_now", format!("{address} takes no connections: {words}"))),
        Some(Meaning::Broken) | None => Err(Failed::new("error", format!("{address} answered with an error: {words}"))),
    }
}

/// What an SQLSTATE says of a server (PostgreSQL documentation, "PostgreSQL Error Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It works, and does not know or not want us: 28xxx, 3D000.
    Alive,
    /// No place for anybody new (53300): it takes none until a check finds one; sessions that run are not touched.
    Full,
    /// It starts, stops or recovers: 57P03.
    NotNow,
    /// Anything else.
    Broken,
}

impl Meaning {
    fn of(state: [u8; 5]) -> Self {
        match state {
            [b'2', b'8', ..] | [b'3', b'D', b'0', b'0', b'0'] => Self::Alive,
            _ if state == *b"53300" => Self::Full,
            _ if state == *b"57P03" => Self::NotNow,
            _ => Self::Broken,
        }
    }
}

/// What a server makes of a start-up packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer<'a> {
    /// `ReadyForQuery`: everything went well.
    Ready,
    /// It wants to know who we are, by the method of this number.
    WantsPassword(u32),
    /// An error packet.
    Error(&'a [u8]),
    /// None of its messages.
    Other,
}

/// Reads messages until one decides; `None`: more has to come. After `AuthenticationOk` a server can still find that it
/// has no place or no such database, so the end of the start-up is what counts.
fn answer(bytes: &[u8]) -> Option<Answer<'_>> {
    let (mut rest, mut is_let_in) = (bytes, false);
    loop {
        let kind = *rest.first()?;
        if !matches!(kind, b'R' | b'E' | b'S' | b'K' | b'N' | b'v' | b'Z') {
            return Some(Answer::Other);
        }
        if kind == b'E' {
            return is_whole_answer(rest).then_some(Answer::Error(rest));
        }
        let length = u32::from_be_bytes(*rest[1..].first_chunk()?) as usize;
        if !(HEAD - 1..=MOST_MESSAGE).contains(&length) {
            return Some(Answer::Other);
        }
        let (message, after) = rest.split_at_checked(1 + length)?;
        match (kind, &message[HEAD..]) {
            (b'R', [0, 0, 0, 0]) => is_let_in = true,
            (b'R', [a, b, c, d, ..]) => return Some(Answer::WantsPassword(u32::from_be_bytes([*a, *b, *c, *d]))),
            (b'Z', _) if is_let_in => return Some(Answer::Ready),
            (b'R' | b'Z', _) => return Some(Answer::Other),
            _ => {}
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::hello::postgres::{SqlState, error_response};

    const READY: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x0aa\0bcd\0K\0\0\0\x0c12345678Z\0\0\0\x05I";

    /// What is made of `bytes`, at the first prefix that is enough, and how long that is.
    fn decided(bytes: &[u8]) -> Option<(usize, Answer<'_>)> {
        (0..=bytes.len()).find_map(|cut| answer(&bytes[..cut]).map(|answer| (cut, answer)))
    }

    #[track_caller]
    fn check(bytes: &[u8], want: Answer<'_>, at: usize) {
        assert_eq!(decided(bytes), Some((at, want)), "{}", bytes.escape_ascii());
    }

    #[test]
    fn every_prefix_waits_or_is_sure() {
        check(READY, Answer::Ready, READY.len());
        check(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0", Answer::WantsPassword(10), 24);
        check(b"R\0\0\0\x08\0\0\0\x03", Answer::WantsPassword(3), 9);
        let error = error_response(SqlState::NOT_NOW, "the database system is starting up");
        check(&error, Answer::Error(&error), error.len());
        let late = [&READY[..9], &error].concat();
        check(&late, Answer::Error(&error), late.len());
        let old = b"Ecould not fork new process\n\0";
        check(old, Answer::Error(old), old.len());
        check(b"HTTP/1.1", Answer::Other, 1);
        check(b"Z\0\0\0\x05I", Answer::Other, 6);
        check(b"R\0\0\0\x04", Answer::Other, 5);
        check(b"R\0\0\0\x03", Answer::Other, 5);
        check(b"S\0\0\x20\x01", Answer::Other, 5);
        check(b"S\xff\xff\xff\xff", Answer::Other, 5);
    }

    #[test]
    fn sql_states_mean_what_the_manual_says() {
        for (state, want) in [
            (b"57P03", Meaning::NotNow),
            (b"53300", Meaning::Full),
            (b"28000", Meaning::Alive),
            (b"28P01", Meaning::Alive),
            (b"3D000", Meaning::Alive),
            (b"57P01", Meaning::Broken),
            (b"53200", Meaning::Broken),
            (b"08P01", Meaning::Broken),
            (b"XX000", Meaning::Broken),
        ] {
            assert_eq!(Meaning::of(*state), want, "{}", state.escape_ascii());
        }
    }

    #[test]
    fn mutants_are_never_taken_for_more_than_they_are() {
        super::super::mutants::each(READY, |mutant| {
            if decided(mutant).is_some_and(|(_, answer)| answer == Answer::Ready) {
                assert!(mutant.starts_with(b"R\0\0\0\x08\0\0\0\0"), "ready without being let in");
            }
        });
    }
}
