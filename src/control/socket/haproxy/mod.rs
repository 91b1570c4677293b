//! HAProxy's runtime API (management guide, "Unix Socket commands"), the third dialect of the status socket: what tools
//! and scripts for HAProxy ask, sluice answers. Here is the conversation: lines, prompt, time-outs, writing. What the
//! commands do stands in the files beside this one. The socket knows no levels: who may open it may do everything.

mod changes;
mod check_words;
mod clear;
mod commands;
mod errors;
mod fields;
mod info;
mod line;
mod rows;
mod server_row;
mod servers;
mod sess;
mod stat;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use self::line::Line;
use super::super::Handle;
use super::super::failure::Failure;
use super::super::overrides::Peer;
use super::{IDLE, REQUEST_LIMIT, WRITE_LIMIT};

/// Silence after which a client without a prompt is let go, as for HAProxy.
const SCRIPT_IDLE: Duration = Duration::from_secs(10);
/// Bytes of an answer that are written at once.
const PIECE: usize = 16 * 1024;

/// What a command answers.
pub enum Answer {
    /// Lines, each with its end.
    Text(String),
    /// The same, made while they are written.
    Pieces(Box<dyn Iterator<Item = String>>),
    /// The prompt appears, or not any more.
    Prompt,
    /// The client may be silent so long.
    Idle(Duration),
    /// The client wants to go.
    Quit,
}

impl Answer {
    /// Nothing but the empty line: it is done.
    pub fn done() -> Self {
        Self::Text(String::new())
    }
}

/// What becomes of a command.
pub type Answered = Result<Answer, Failure>;

/// Answers until the client closes, is silent for too long, or has asked its one line without a prompt. Lines that came
/// with the first one are answered too. `first` holds the bytes that told the dialect.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    control: &Handle,
    stream: S,
    first: Vec<u8>,
    peer: Peer,
) -> io::Result<()> {
    let (read, write) = tokio::io::split(stream);
    let mut lines = BufReader::new(first.as_slice().chain(read));
    let mut client = Client { write, waiting: String::new(), prompt: false, idle: None };
    loop {
        match timeout(client.idle(), lines.fill_buf()).await {
            Ok(Ok([])) | Err(_) => return Ok(()),
            Ok(result) => drop(result?),
        }
        let commands = match timeout(REQUEST_LIMIT, line::read(&mut lines)).await?? {
            Line::Whole(commands) => commands,
            Line::TooLong => {
                client.say(&format!("Line is longer than {} bytes.\n\n", line::MOST)).await?;
                return client.flush().await;
            }
            Line::Cut => return Ok(()),
        };
        for words in commands {
            if !client.answer(commands::call(control, &words, peer).await).await? {
                return client.flush().await;
            }
        }
        client.flush().await?;
        let more_came = tokio::select! {
            biased;
            _ = lines.fill_buf() => true,
            () = std::future::ready(()) => false,
        };
        if !client.prompt && !more_came {
            return Ok(());
        }
    }
}

/// Where answers go.
struct Client<W> {
    write: W,
    /// What is to be written.
    waiting: String,
    prompt: bool,
    /// What the client has wished for.
    idle: Option<Duration>,
}

impl<W: AsyncWrite + Unpin> Client<W> {
    fn idle(&self) -> Duration {
        self.idle.unwrap_or(if self.prompt { IDLE } else { SCRIPT_IDLE })
    }

    /// Writes an answer. Says whether the client stays.
    async fn answer(&mut self, answered: Answered) -> io::Result<bool> {
        match answered {
            Ok(Answer::Text(text)) => self.say(&text).await?,
            Ok(Answer::Pieces(pieces)) => {
                for piece in pieces {
                    self.say(&piece).await?;
                }
            }
            Ok(Answer::Prompt) => self.prompt = !self.prompt,
            Ok(Answer::Idle(limit)) => self.idle = Some(limit),
            Ok(Answer::Quit) => return Ok(false),
            Err(failure) => {
                self.say(&failure.message).await?;
                self.say("\n").await?;
            }
        }
        self.say(if self.prompt { "\n> " } else { "\n" }).await?;
        Ok(true)
    }

    async fn say(&mut self, text: &str) -> io::Result<()> {
        self.waiting.push_str(text);
        if self.waiting.len() >= PIECE { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> io::Result<()> {
        // A client that does not read its answer is let go.
        timeout(WRITE_LIMIT, self.write.write_all(self.waiting.as_bytes())).await??;
        self.waiting.clear();
        Ok(())
    }
}
