//! The check `redis`: AUTH, if there is a password, and PING (Redis's documentation of its protocol and of ACLs). A server
//! that wants a password and gets none is well: it answers.

use super::encryption::{self, Opener, Stream};
use super::evidence::{excerpt, harmless};
use super::{FULL, Failed, Passed, Talk};
use crate::config::Redis;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// The commands made ready.
pub struct Dialogue {
    opener: Opener,
    auth: Option<Vec<u8>>,
}

impl Dialogue {
    pub fn new(settings: &Redis) -> Result<Self, String> {
        let user = settings.user.as_deref().map(str::as_bytes);
        let auth = settings.secret().map(|secret| auth(user, secret));
        Ok(Self { opener: Opener::new(&settings.encryption)?, auth })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let mut stream = self.opener.open(talk).await?;
        if let Some(auth) = &self.auth {
            talk.phase("auth");
            talk.send_as(&mut stream, auth, "AUTH (password not shown)").await?;
            reply(talk, &mut stream, b"+OK").await?;
        }
        talk.phase("ping");
        talk.send(&mut stream, PING).await?;
        let passed = reply(talk, &mut stream, b"+PONG").await?;
        encryption::end(talk, stream, b"").await;
        Ok(passed)
    }
}

/// Receives the reply to one command, which should be `want`.
async fn reply(talk: &mut Talk<'_>, stream: &mut Stream, want: &[u8]) -> Result<Passed, Failed> {
    let mut bytes = Vec::new();
    talk.receive(stream, &mut bytes, |bytes| line(bytes).is_some()).await?;
    let (address, line) = (talk.target.address, line(&bytes).unwrap_or_default());
    if line == want {
        return Ok(Passed::new("pong", format!("{address} answered {}", harmless(&String::from_utf8_lossy(line)))));
    }
    let words = harmless(&String::from_utf8_lossy(line));
    match refusal(line) {
        Some((reason, Meaning::Alive)) => Ok(Passed::new(reason, format!("{address} is up and refuses us: {words}"))),
        Some((reason, Meaning::Unwell)) => Err(Failed::new(reason, format!("{address} answered {words}"))),
        None => Err(Failed::new("not_redis", format!("{address} answered with {}", excerpt(&bytes)))),
    }
}

/// The first line, once it is whole or cannot be a reply.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    if !matches!(bytes.first()?, b'+' | b'-') {
        return Some(bytes);
    }
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some(bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It works and does not let us do this.
    Alive,
    /// It does not serve.
    Unwell,
}

/// What an error says, by its first word; `None` when the line is no error.
fn refusal(line: &[u8]) -> Option<(&'static str, Meaning)> {
    let text = line.strip_prefix(b"-")?;
    let word = text.split(|byte| *byte == b' ').next().unwrap_or_default();
    Some(match word {
        b"NOAUTH" => ("noauth", Meaning::Alive),
        b"NOPERM" => ("noperm", Meaning::Alive),
        b"WRONGPASS" => ("wrongpass", Meaning::Unwell),
        b"LOADING" => ("loading", Meaning::Unwell),
        b"MASTERDOWN" => ("masterdown", Meaning::Unwell),
        b"BUSY" => ("busy", Meaning::Unwell),
        b"ERR" if text.starts_with(b"ERR max number of clients") => (FULL, Meaning::Unwell),
        _ => ("error", Meaning::Unwell),
    })
}

/// AUTH with lengths, so that a password may have any bytes.
fn auth(user: Option<&[u8]>, secret: &[u8]) -> Vec<u8> {
    let words: Vec<&[u8]> = [b"AUTH"].into_iter().map(|word| &word[..]).chain(user).chain([secret]).collect();
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    command
}

#[cfg(test)]
mod tests {
    use super::super::mutants;
    use super::*;

    #[test]
    fn replies_are_lines_or_no_replies() {
        for whole in ["+PONG\r\n", "-NOAUTH Authentication required.\r\n", "+OK\n"] {
            for cut in 0..whole.len() {
                assert_eq!(line(&whole.as_bytes()[..cut]), None, "{whole:?} cut at {cut}");
            }
            assert_eq!(line(whole.as_bytes()), Some(whole.trim_end().as_bytes()));
        }
        assert_eq!(line(b"H"), Some(&b"H"[..]));
    }

    #[test]
    fn errors_are_told_apart_by_their_first_word() {
        for (line, want) in [
            ("-NOAUTH Authentication required.", Some(("noauth", Meaning::Alive))),
            ("-NOPERM this user has no permissions", Some(("noperm", Meaning::Alive))),
            ("-WRONGPASS invalid username-password pair", Some(("wrongpass", Meaning::Unwell))),
            ("-LOADING Redis is loading the dataset in memory", Some(("loading", Meaning::Unwell))),
            ("-MASTERDOWN Link with MASTER is down", Some(("masterdown", Meaning::Unwell))),
            ("-BUSY Redis is busy running a script.", Some(("busy", Meaning::Unwell))),
            ("-ERR max number of clients reached", Some(("full", Meaning::Unwell))),
            ("-DENIED Redis is running in protected mode", Some(("error", Meaning::Unwell))),
            ("-LOADINGX", Some(("error", Meaning::Unwell))),
            ("-", Some(("error", Meaning::Unwell))),
            ("+PONG", None),
            ("HTTP/1.1 400 Bad Request", None),
        ] {
            assert_eq!(refusal(line.as_bytes()), want, "{line}");
        }
    }

    #[test]
    fn auth_has_user_and_password_with_their_lengths() {
        assert_eq!(auth(None, b"p\r\nw"), b"*2\r\n$4\r\nAUTH\r\n$4\r\np\r\nw\r\n");
        assert_eq!(auth(Some(b"me"), b"pw"), b"*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$2\r\npw\r\n");
    }

    #[test]
    fn mutants_of_an_error_are_alive_only_by_their_word() {
        mutants::each(b"-NOAUTH Authentication required.\r\n", |mutant| {
            let meaning = line(mutant).and_then(refusal);
            if meaning.is_some_and(|(_, meaning)| meaning == Meaning::Alive) {
                assert!(mutant.starts_with(b"-NOAUTH"), "{}", mutant.escape_ascii());
            }
        });
    }
}
