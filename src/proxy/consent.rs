//! PostgreSQL's answer to our request for TLS: one byte, or the next backend is tried.

use std::io;

use tokio::net::TcpStream;

use super::connect::{Deadline, Failure};
use super::session::Session;
use super::worker::Worker;
use crate::decide::hello::postgres::{SslAnswer, is_whole_answer, ssl_answer};
use crate::state::ConnectError;

/// Waits for a server's answer to the request for TLS. Nothing of the client's is written before it consents, so that
/// after any other answer the next backend may be tried.
pub async fn await_consent(
    worker: &Worker,
    session: &Session,
    stream: &TcpStream,
    deadline: Deadline,
) -> Result<(), Failure> {
    let mut answer = [0; 512];
    let mut filled = 0;
    loop {
        match stream.try_read(&mut answer[filled..]) {
            Ok(0) if filled > 0 => return judge(&answer[..filled]),
            Ok(0) => return Err(no_consent(ConnectError::Closed, "closed instead of answering SSLRequest")),
            Ok(count) => {
                filled += count;
                // The text of an error may come in pieces; what it means is clear already.
                if filled == answer.len() || is_whole_answer(&answer[..filled]) {
                    return judge(&answer[..filled]);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) if filled > 0 => return judge(&answer[..filled]),
            Err(error) => {
                return Err(no_consent(ConnectError::Closed, format!("{error} instead of an answer to SSLRequest")));
            }
        }
        match deadline.wait(worker, session, Box::pin(stream.readable())).await {
            Ok(()) => {}
            Err(Failure::Connect(ConnectError::Timeout, _)) if filled > 0 => return judge(&answer[..filled]),
            Err(Failure::Connect(ConnectError::Timeout, error)) => {
                return Err(no_consent(ConnectError::Timeout, format!("answer to SSLRequest {error}")));
            }
            Err(other) => return Err(other),
        }
    }
}

fn judge(answer: &[u8]) -> Result<(), Failure> {
    Err(match ssl_answer(answer) {
        SslAnswer::Yes => return Ok(()),
        SslAnswer::No => no_consent(ConnectError::NoTls, "answered N to SSLRequest: it has no TLS"),
        SslAnswer::Error(text) => no_consent(ConnectError::ErrorResponse, format!("answered SSLRequest with: {text}")),
        SslAnswer::Surplus(count) => no_consent(
            ConnectError::BadAnswer,
            format!("sent {count} unencrypted bytes behind its answer to SSLRequest"),
        ),
        SslAnswer::Unknown(byte) => {
            no_consent(ConnectError::BadAnswer, format!("answered SSLRequest with byte {byte:#04x}: not PostgreSQL"))
        }
    })
}

fn no_consent(kind: ConnectError, text: impl Into<String>) -> Failure {
    Failure::Connect(kind, io::Error::other(text.into()))
}
