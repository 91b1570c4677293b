//! The check `mysql`: reads the greeting and logs in as a user without a password (MySQL's documentation of the client
//! protocol, "Connection Phase"). It never only connects, and never leaves in the middle: servers count connections that
//! end before the login does, and lock their address out after `max_connect_errors` of them, which is ours.

use tokio::net::TcpStream;

use super::evidence::{excerpt, harmless};
use super::{FULL, Failed, Passed, Talk};
use crate::config::MySql;

/// Length of three bytes, and a number that counts packets.
const HEAD: usize = 4;
/// Packets of one login, at most: its answer, another method, and what that says.
const MOST_PACKETS: usize = 4;
/// What we can do: long passwords, protocol 4.1, its way of proving, and its methods by name.
const CAPABILITIES: u32 = 0x1 | 0x200 | 0x8000 | 0x8_0000;
/// Longest packet that we take, as clients say it.
const MOST_PACKET: u32 = 16 * 1024 * 1024;
/// `utf8mb4_general_ci`.
const CHARACTER_SET: u8 = 45;
/// `COM_QUIT`.
const GOODBYE: &[u8] = b"\x01\0\0\0\x01";

/// Who logs in.
pub struct Dialogue {
    user: String,
}

impl Dialogue {
    #[expect(clippy::unnecessary_wraps, reason = "every kind may fail to get ready")]
    pub fn new(settings: &MySql) -> Result<Self, String> {
        Ok(Self { user: settings.user.clone() })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let mut stream = talk.connect().await?;
        talk.phase("greeting");
        let greeting = receive(talk, &mut stream).await?;
        let version = match Packet::greeting(&greeting.payload) {
            Packet::Greeting(version) => harmless(version),
            other => return self.verdict(talk, &other, &greeting.payload),
        };
        talk.note(&format!("version {version}"));
        talk.phase("login");
        let mut answer = packet(greeting.number.wrapping_add(1), &login(&self.user));
        for _ in 0..MOST_PACKETS {
            talk.send(&mut stream, &answer).await?;
            let reply = receive(talk, &mut stream).await?;
            let proof: &[u8] = match Packet::reply(&reply.payload) {
                // Methods that hash with SHA-256 want an empty password with its end, the others want nothing.
                Packet::Switch(method) if method.contains("sha2") => &[0],
                Packet::Switch(_) => &[],
                // Whatever it asks for, there is no password: it is told so, and refuses.
                Packet::More => &[0],
                other => {
                    if other == Packet::Ok {
                        talk.send(&mut stream, GOODBYE).await?;
                    }
                    return self.verdict(talk, &other, &reply.payload);
                }
            };
            answer = packet(reply.number.wrapping_add(1), proof);
        }
        Err(Failed::new("error", format!("{} does not come to an end with the login", talk.target.address)))
    }

    fn verdict(&self, talk: &Talk<'_>, packet: &Packet<'_>, payload: &[u8]) -> Result<Passed, Failed> {
        let (address, user) = (talk.target.address, harmless(&self.user));
        match packet {
            Packet::Ok => Ok(Passed::new("login", format!("{address} let user {user} in"))),
            Packet::Error { code, text } => {
                let words = format!("error {code}: {}", harmless(&String::from_utf8_lossy(text)));
                match Meaning::of(*code) {
                    Meaning::Alive => {
                        Ok(Passed::new("refused_user", format!("{address} is up and refuses us, {words}")))
                    }
                    Meaning::Full => Err(Failed::new(FULL, format!("{address} has no free connections, {words}"))),
                    Meaning::Blocked => Err(Failed::new("blocked", format!("{address} has locked us out, {words}"))),
                    Meaning::Broken => Err(Failed::new("error", format!("{address} answered with {words}"))),
                }
            }
            _ => Err(Failed::new("not_mysql", format!("{address} answered with {}", excerpt(payload)))),
        }
    }
}

/// What an error says of a server (MySQL's and MariaDB's lists of server errors).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// It works, and does not want us: access denied (1045, 1698), the account is expired (1862) or locked (3118, MariaDB
    /// 4151), or must come with TLS (3159).
    Alive,
    /// No place for anybody new: 1040.
    Full,
    /// Too many connections of ours ended early: 1129.
    Blocked,
    /// Anything else.
    Broken,
}

impl Meaning {
    const fn of(code: u16) -> Self {
        match code {
            1045 | 1698 | 1862 | 3118 | 3159 | 4151 => Self::Alive,
            1040 => Self::Full,
            1129 => Self::Blocked,
            _ => Self::Broken,
        }
    }
}

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packet<'a> {
    /// A greeting, with the server's version.
    Greeting(&'a str),
    /// We are in.
    Ok,
    /// An error with its message.
    Error { code: u16, text: &'a [u8] },
    /// The user proves itself by another method, which has this name.
    Switch(&'a str),
    /// The method has something to say.
    More,
    /// None of these.
    Other,
}

impl<'a> Packet<'a> {
    fn greeting(payload: &'a [u8]) -> Self {
        match payload {
            [10, rest @ ..] => text(rest).map_or(Self::Other, Self::Greeting),
            [0xff, rest @ ..] => Self::error(rest),
            _ => Self::Other,
        }
    }

    fn reply(payload: &'a [u8]) -> Self {
        match payload {
            [0, ..] => Self::Ok,
            [0xff, rest @ ..] => Self::error(rest),
            [0xfe, rest @ ..] => text(rest).map_or(Self::Other, Self::Switch),
            [1, ..] => Self::More,
            _ => Self::Other,
        }
    }

    fn error(rest: &'a [u8]) -> Self {
        let Some((code, text)) = rest.split_first_chunk() else { return Self::Other };
        // Since protocol 4.1 an SQLSTATE stands before the text; not yet in the place of a greeting.
        let text = text.strip_prefix(b"#").and_then(|text| text.get(5..)).unwrap_or(text);
        Self::Error { code: u16::from_le_bytes(*code), text }
    }
}

/// A text that ends with NUL.
fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    str::from_utf8(&bytes[..end]).ok()
}

/// A packet that came whole.
struct Received {
    number: u8,
    payload: Vec<u8>,
}

async fn receive(talk: &mut Talk<'_>, stream: &mut TcpStream) -> Result<Received, Failed> {
    let mut bytes = Vec::new();
    talk.receive(stream, &mut bytes, is_whole).await?;
    let number = bytes.get(HEAD - 1).copied().unwrap_or_default();
    // A server waits for us after each of its packets, so nothing follows.
    Ok(Received { number, payload: bytes.split_off(HEAD.min(bytes.len())) })
}

fn is_whole(bytes: &[u8]) -> bool {
    let length = bytes.first_chunk().map(|[a, b, c]| u32::from_le_bytes([*a, *b, *c, 0]) as usize);
    length.is_some_and(|length| bytes.len() >= HEAD + length)
}

fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = (payload.len() as u32).to_le_bytes();
    [&[a, b, c, number], payload].concat()
}

/// `HandshakeResponse41` with an empty password. The method is that of old: a server that wants another one for this
/// user says so.
fn login(user: &str) -> Vec<u8> {
    let mut payload = Vec::with_capacity(64 + user.len());
    payload.extend_from_slice(&CAPABILITIES.to_le_bytes());
    payload.extend_from_slice(&MOST_PACKET.to_le_bytes());
    payload.push(CHARACTER_SET);
    payload.extend_from_slice(&[0; 23]);
    payload.extend_from_slice(user.as_bytes());
    payload.extend_from_slice(b"\0\0mysql_native_password\0");
    payload
}

#[cfg(test)]
mod tests {
    use super::super::mutants;
    use super::*;

    const GREETING: &[u8] = b"\x0a10.11.6-MariaDB\0\x01\0\0\0saltsalt\0rest";

    #[track_caller]
    fn check(payload: &[u8], at_greeting: Packet<'_>, at_login: Packet<'_>) {
        assert_eq!(Packet::greeting(payload), at_greeting, "{}", payload.escape_ascii());
        assert_eq!(Packet::reply(payload), at_login, "{}", payload.escape_ascii());
    }

    #[test]
    fn packets_are_what_they_are_where_they_come() {
        check(GREETING, Packet::Greeting("10.11.6-MariaDB"), Packet::Other);
        check(b"\0\0\0\x02\0\0\0", Packet::Other, Packet::Ok);
        let blocked = Packet::Error { code: 1129, text: b"Host is blocked" };
        check(b"\xff\x69\x04Host is blocked", blocked, blocked);
        let denied = Packet::Error { code: 1045, text: b"Access denied" };
        check(b"\xff\x15\x04#28000Access denied", denied, denied);
        check(b"\xfecaching_sha2_password\0salt", Packet::Other, Packet::Switch("caching_sha2_password"));
        check(b"\x01\x04", Packet::Other, Packet::More);
        check(b"\xff\x15", Packet::Other, Packet::Other);
        check(b"\x0a8.0", Packet::Other, Packet::Other);
        check(b"", Packet::Other, Packet::Other);
    }

    #[test]
    fn packets_are_whole_at_their_length() {
        let whole = packet(3, b"payload");
        assert_eq!(whole, b"\x07\0\0\x03payload");
        for cut in 0..whole.len() {
            assert!(!is_whole(&whole[..cut]), "cut at {cut}");
        }
        assert!(is_whole(&whole) && is_whole(b"\0\0\0\x02"));
        assert!(!is_whole(&[0xff; 16_000]), "16 MiB are announced");
    }

    #[test]
    fn errors_mean_what_the_manuals_say() {
        for (code, want) in [
            (1045, Meaning::Alive),
            (1698, Meaning::Alive),
            (1040, Meaning::Full),
            (1129, Meaning::Blocked),
            (1130, Meaning::Broken),
            (1053, Meaning::Broken),
        ] {
            assert_eq!(Meaning::of(code), want, "{code}");
        }
    }

    #[test]
    fn mutants_of_a_greeting_are_greetings_only_with_protocol_10() {
        mutants::each(GREETING, |mutant| {
            if matches!(Packet::greeting(mutant), Packet::Greeting(_)) {
                assert_eq!(mutant[0], 10);
            }
            assert_ne!(Packet::greeting(mutant), Packet::Ok);
        });
    }
}
