//! The check `tls-hello`: a ClientHello as of today's clients, made by rustls, and a look at the first record of the
//! answer. No cryptography but the hello's own key share; an alert is kept as the reason.

use rustls::{AlertDescription, ClientConnection};

use super::certificate::alert_words;
use super::connector::Connector;
use super::evidence::excerpt;
use super::{Failed, Passed, Talk};
use crate::config::{Tls, TlsHello, Trust, Verify};

/// Content types of records (RFC 8446 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// Type of the message (RFC 8446 4).
const SERVER_HELLO: u8 = 2;
/// Type, version and length of a record.
const RECORD_HEADER: usize = 5;

/// A hello made ready.
pub struct Dialogue {
    connector: Connector,
}

impl Dialogue {
    pub fn new(settings: &TlsHello) -> Result<Self, String> {
        let TlsHello { sni, alpn } = settings.clone();
        let settings = Tls { sni, alpn, trust: Trust::System, verify: Verify::None, client: None };
        Ok(Self { connector: Connector::new(&settings)? })
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        let mut stream = talk.connect().await?;
        talk.phase("hello");
        let hello = self.hello(talk).map_err(Failed::local)?;
        talk.send(&mut stream, &hello).await?;
        let mut answer = Vec::new();
        talk.receive(&mut stream, &mut answer, |answer| verdict(answer).is_some()).await?;
        talk.part(&mut stream).await;
        match verdict(&answer) {
            Some(Answer::ServerHello) => {
                Ok(Passed::new("server_hello", format!("{} answered with a ServerHello", talk.target.address)))
            }
            Some(Answer::Alert(alert)) => {
                Err(Failed::new("alert", format!("{} answered with {}", talk.target.address, alert_words(alert))))
            }
            Some(Answer::Other) | None => {
                let what = excerpt(&answer);
                Err(Failed::new("not_tls", format!("{} answered with something else: {what}", talk.target.address)))
            }
        }
    }

    fn hello(&self, talk: &Talk<'_>) -> Result<Vec<u8>, String> {
        let mut hello = Vec::new();
        let session = ClientConnection::new(self.connector.config(), self.connector.name_for(talk));
        session.map_err(|error| error.to_string())?.write_tls(&mut hello).map_err(|error| error.to_string())?;
        Ok(hello)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    ServerHello,
    Alert(AlertDescription),
    Other,
}

/// What the first record is; `None` while that is not certain.
fn verdict(answer: &[u8]) -> Option<Answer> {
    // Whatever is wrong is seen at the first byte that is.
    let begins =
        [answer.first().map(|kind| matches!(*kind, ALERT | HANDSHAKE)), answer.get(1).map(|major| *major == 3)];
    if begins.contains(&Some(false)) {
        return Some(Answer::Other);
    }
    let (header, body) = answer.split_at_checked(RECORD_HEADER)?;
    match (header[0], usize::from(u16::from_be_bytes([header[3], header[4]]))) {
        (HANDSHAKE, 1..) => Some(if *body.first()? == SERVER_HELLO { Answer::ServerHello } else { Answer::Other }),
        (ALERT, 2) => Some(Answer::Alert((*body.get(1)?).into())),
        _ => Some(Answer::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &[u8], expected: Answer) {
        let decided = (0..=answer.len()).find_map(|cut| verdict(&answer[..cut]));
        assert_eq!(decided, Some(expected), "at the first prefix that is enough");
    }

    #[test]
    fn every_prefix_waits_or_is_sure() {
        check(&[22, 3, 3, 0, 90, 2, 0, 0, 86], Answer::ServerHello);
        check(&[22, 3, 1, 0, 1, 2], Answer::ServerHello);
        check(&[21, 3, 3, 0, 2, 2, 112], Answer::Alert(AlertDescription::UnrecognisedName));
        check(&[21, 3, 3, 0, 2, 2, 250], Answer::Alert(AlertDescription::Unknown(250)));
        check(&[22, 3, 3, 0, 90, 1], Answer::Other);
        check(&[22, 3, 3, 0, 0], Answer::Other);
        check(&[21, 3, 3, 0, 20], Answer::Other);
        check(&[22, 2], Answer::Other);
        check(b"H", Answer::Other);
        check(&[23], Answer::Other);
        assert_eq!(verdict(&[21, 3, 3, 0, 2, 2]), None);
        assert_eq!(verdict(&[22, 3, 3, 0, 9]), None);
        assert_eq!(verdict(&[]), None);
    }
}
