//! `sluice events`: what happened, and with `--follow` what happens from then on.

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::Globals;
use super::client::{ask, complain, show};
use super::connection::{Refusal, Trouble};
use super::output::{Exit, Paper, ascii_controls, colour, paper, stream_styled};
use super::tables;
use crate::api::{Event, EventsParams, VERSION};

/// Examples of `events`.
pub const EXAMPLES: &str = "With --follow, the last --limit events come first, then each as it happens, until Ctrl-C (exit code 0) \
or until the daemon stops (exit code 1); under --json each is a line.\n\nExamples:\n  sluice events\n  \
sluice events --pool shop --limit 10 --json\n  sluice events --follow --limit 0";

/// Arguments of `events`.
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Only of this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Only the last so many.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Go on with each further event as it happens.
    #[arg(short, long)]
    follow: bool,
}

/// Runs `events`.
pub fn events(globals: &Globals, args: EventsArgs) -> Exit {
    let EventsArgs { pool, limit, follow } = args;
    let mut params = EventsParams { pool, limit: Some(limit), ..EventsParams::default() };
    if !follow {
        return show(globals, "events", &params, |list: Vec<Event>| tables::events(&list).print(globals));
    }
    // The usual words for a socket that nobody answers on, and a head for what follows.
    let head = ask(globals, "events", &EventsParams { limit: Some(0), ..EventsParams::default() });
    let printed = head.map(|none: Vec<Event>| {
        if !globals.json {
            tables::events(&none).print(globals);
        }
    });
    if let Err(exit) = printed {
        return exit;
    }
    params.follow = true;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let ended = runtime.map_err(lost).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                trouble = listen(globals, &params) => trouble.map(|()| Exit::Ok),
                interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| Exit::Ok).map_err(lost),
            }
        })
    });
    ended.unwrap_or_else(complain)
}

fn lost(error: std::io::Error) -> Trouble {
    Trouble::Lost(format!("cannot follow events: {error}"))
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    event: Value,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    code: String,
    message: String,
    hint: Option<String>,
}

/// Prints events as they come; ends well when nobody reads them any more.
async fn listen(globals: &Globals, params: &EventsParams) -> Result<(), Trouble> {
    let mut connection = BufReader::new(UnixStream::connect(&globals.socket).await.map_err(lost)?);
    let request = json!({ "v": VERSION, "id": 1, "method": "events", "params": params });
    connection.write_all(format!("{request}\n").as_bytes()).await.map_err(lost)?;
    let mut lines = connection.lines();
    while let Some(line) = lines.next_line().await.map_err(lost)? {
        let strange = |error| Trouble::Lost(format!("the daemon sent something else than an event: {error}"));
        let Line { event, error } = serde_json::from_str(&line).map_err(strange)?;
        if let Some(Failure { code, message, hint }) = error {
            return Err(Trouble::Refused(Refusal { code, message, hint: hint.unwrap_or_default() }));
        }
        let written = if globals.json {
            stream_styled(&format!("{}\n", ascii_controls(&event.to_string())))
        } else {
            let event: Event = serde_json::from_value(event).map_err(strange)?;
            let paper = paper();
            stream_styled(&tables::events(&[event]).body(paper, colour(globals, paper != Paper::Pipe)))
        };
        if written.is_err() {
            return Ok(());
        }
    }
    Err(Trouble::Lost("the daemon is gone".to_owned()))
}
