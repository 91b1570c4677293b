//! Asks the daemon one thing and says on stderr why there is no answer.

use std::time::Duration;

use serde_json::Value;

use super::Globals;
use super::connection::{Connection, Trouble};
use super::output::{Exit, message};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks the daemon. On failure the reason is printed and the exit code returned.
pub fn ask(globals: &Globals, method: &str, params: &Value) -> Result<Value, Exit> {
    let answer = Connection::open(&globals.socket, LIMIT).and_then(|mut connection| connection.ask(method, params));
    answer.map_err(|trouble| match trouble {
        Trouble::NoDaemon(why) => {
            message(&format!("{why}; see --socket"));
            Exit::NoDaemon
        }
        Trouble::Lost(why) => {
            message(&why);
            Exit::Failed
        }
        Trouble::Refused(refusal) => {
            message(&refusal.message);
            if !refusal.hint.is_empty() {
                message(&format!("hint: {}", refusal.hint));
            }
            if refusal.code == "reload_failed" { Exit::Failed } else { Exit::Refused }
        }
    })
}
