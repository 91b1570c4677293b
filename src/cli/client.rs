//! Asks the daemon one thing, shows the answer, and says on stderr why there is none.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Globals;
use super::connection::{Connection, Refusal, Trouble};
use super::output::{Exit, json, message};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks the daemon. On failure the reason is printed and the exit code returned.
pub fn ask<T: DeserializeOwned>(globals: &Globals, method: &str, params: &impl Serialize) -> Result<T, Exit> {
    quietly(globals, method, params).map_err(complain)
}

/// Asks the daemon and prints nothing.
pub fn quietly<T: DeserializeOwned>(globals: &Globals, method: &str, params: &impl Serialize) -> Result<T, Trouble> {
    Connection::open(&globals.socket, LIMIT).and_then(|mut connection| connection.ask(method, params))
}

/// Asks the daemon, prints its answer as it is when JSON is wanted, and otherwise calls `print`.
pub fn show<T: DeserializeOwned>(
    globals: &Globals,
    method: &str,
    params: &impl Serialize,
    print: impl FnOnce(T),
) -> Exit {
    if globals.json {
        return ask::<Value>(globals, method, params).map_or_else(
            |exit| exit,
            |answer| {
                json(&answer);
                Exit::Ok
            },
        );
    }
    ask(globals, method, params).map_or_else(
        |exit| exit,
        |answer| {
            print(answer);
            Exit::Ok
        },
    )
}

/// Says on stderr why there is no answer, and how the program ends then.
pub fn complain(trouble: Trouble) -> Exit {
    match trouble {
        Trouble::NoDaemon(why) => {
            message(&format!("{why}; see --socket"));
            Exit::NoDaemon
        }
        Trouble::Lost(why) => {
            message(&why);
            Exit::Failed
        }
        Trouble::Refused(Refusal { code, message: why, hint }) => {
            message(&why);
            if !hint.is_empty() {
                message(&format!("hint: {hint}"));
            }
            if ["reload_failed", "upgrade_failed"].contains(&&*code) { Exit::Failed } else { Exit::Refused }
        }
    }
}
