//! The check `smtp`: waits for the greeting, says EHLO and QUIT (RFC 5321). No mail is begun.

use super::encryption::{self, Opener, Stream};
use super::evidence::{excerpt, harmless};
use super::{Failed, Passed, Talk};
use crate::config::Smtp;

/// The commands made ready.
pub struct Dialogue {
    opener: Opener,
    hello: String,
}

impl Dialogue {
    pub fn new(settings: &Smtp) -> Result<Self, String> {
        Ok(Self { opener: Opener::new(&settings.encryption)?, hello: format!("EHLO {}\r\n", settings.name) })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let mut stream = self.opener.open(talk).await?;
        talk.phase("greeting");
        reply(talk, &mut stream, 220).await?;
        talk.phase("ehlo");
        talk.send(&mut stream, self.hello.as_bytes()).await?;
        let words = reply(talk, &mut stream, 250).await?;
        talk.phase("quit");
        encryption::end(talk, stream, b"QUIT\r\n").await;
        Ok(Passed::new("ehlo", format!("{} greets and answers EHLO with {words}", talk.target.address)))
    }
}

/// Receives one reply, which should have the code `want`; returns its last line.
async fn reply(talk: &mut Talk<'_>, stream: &mut Stream, want: u16) -> Result<String, Failed> {
    let mut bytes = Vec::new();
    talk.receive(stream, &mut bytes, |bytes| read(bytes).is_some()).await?;
    let address = talk.target.address;
    match read(&bytes) {
        Some(Reply::Whole { code, last }) => {
            let words = harmless(&String::from_utf8_lossy(last));
            if code == want {
                return Ok(words);
            }
            let reason = if code == 421 { "not_now" } else { "refused_by_server" };
            Err(Failed::new(reason, format!("{address} answered {words}, not {want}")))
        }
        Some(Reply::Other) | None => {
            Err(Failed::new("not_smtp", format!("{address} answered with {}", excerpt(&bytes))))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply<'a> {
    /// All its lines are there.
    Whole {
        /// Of the last line.
        code: u16,
        /// The last line, code included.
        last: &'a [u8],
    },
    /// No reply.
    Other,
}

/// Reads a reply of one or more lines (RFC 5321 4.2.1); `None`: more has to come. Lines after the last are not looked at.
fn read(bytes: &[u8]) -> Option<Reply<'_>> {
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let is_whole = line.ends_with(b"\n");
        let line = line.trim_ascii_end();
        let head = &line[..line.len().min(4)];
        let fits = head.iter().enumerate().all(|(at, byte)| match at {
            0 => matches!(byte, b'2'..=b'5'),
            3 => matches!(byte, b' ' | b'-'),
            _ => byte.is_ascii_digit(),
        });
        if !fits || (is_whole && head.len() < 3) {
            return Some(Reply::Other);
        }
        if !is_whole {
            return None;
        }
        if line.get(3) != Some(&b'-') {
            let code = str::from_utf8(&head[..3]).ok().and_then(|code| code.parse().ok());
            return Some(code.map_or(Reply::Other, |code| Reply::Whole { code, last: line }));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::mutants;
    use super::*;

    #[track_caller]
    fn check(bytes: &str, want: Option<(u16, &str)>) {
        let decided = (0..=bytes.len()).find_map(|cut| read(&bytes.as_bytes()[..cut]).map(|reply| (cut, reply)));
        let want = want.map_or(Reply::Other, |(code, last)| Reply::Whole { code, last: last.as_bytes() });
        let (cut, reply) = decided.expect("a decision");
        assert_eq!(reply, want, "{bytes:?}, decided at {cut}");
        assert!(want == Reply::Other || cut == bytes.len(), "{bytes:?} is whole at its end only, not at {cut}");
    }

    #[test]
    fn every_prefix_waits_or_is_sure() {
        check("220 mail.example ESMTP\r\n", Some((220, "220 mail.example ESMTP")));
        check("250-mail.example\r\n250-SIZE 1000\r\n250 STARTTLS\r\n", Some((250, "250 STARTTLS")));
        check("421 too busy\r\n", Some((421, "421 too busy")));
        check("554\r\n", Some((554, "554")));
        check("250-mail\n250 \n", Some((250, "250")));
        check("HTTP/1.1 400\r\n", None);
        check("2500 x\r\n", None);
        check("25\r\n", None);
        check("120 x\r\n", None);
        check("250-mail\r\nnext\r\n", None);
        check("\r\n", None);
    }

    #[test]
    fn mutants_are_read_within_the_bounds_of_codes() {
        mutants::each(b"250-mail.example\r\n250-SIZE 1000\r\n250 STARTTLS\r\n", |mutant| {
            if let Some(Reply::Whole { code, last }) = read(mutant) {
                assert!((200..600).contains(&code) && mutant.windows(last.len()).any(|window| window == last));
            }
        });
    }
}
