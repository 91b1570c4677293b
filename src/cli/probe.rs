//! `sluice probe`: has the daemon check a backend now, and shows how each phase went.

use serde_json::{Value, json};

use super::Globals;
use super::client::ask;
use super::output::{Exit, Table, data};

/// Runs `probe`.
pub fn probe(globals: &Globals, backend: &str) -> Exit {
    let answer = match ask(globals, "probe", &json!({ "backend": backend })) {
        Ok(answer) => answer,
        Err(exit) => return exit,
    };
    if globals.json {
        data(&format!("{answer:#}\n"));
    } else {
        print(globals, &answer);
    }
    if answer["result"] == "ok" { Exit::Ok } else { Exit::Failed }
}

fn print(globals: &Globals, answer: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut table = Table::new(&["phase", "ms", "evidence"]);
    for phase in answer["phases"].as_array().into_iter().flatten() {
        table.row(["phase", "took_ms", "evidence"].iter().map(|key| text(&phase[key])).collect());
    }
    table.row(vec![text(&answer["result"]), text(&answer["took_ms"]), text(&answer["detail"])]);
    table.print(globals);
}
