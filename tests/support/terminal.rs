//! The program on a terminal, which script(1) plays, and what of its output differs from run to run.

use std::path::Path;
use std::process::{Command, Stdio};

use super::servers::{finish, program};

/// What a command printed on a terminal, and its exit code.
pub struct Printed {
    pub text: String,
    pub code: i32,
}

/// Runs a command line of the shell, in which `sluice` is the program under test, on a terminal of so many columns.
#[track_caller]
pub fn on_terminal(line: &str, columns: usize, socket: &Path, folder: &Path, colours: bool) -> Printed {
    let binary = Path::new(env!("CARGO_BIN_EXE_sluice"));
    let path = format!("{}:/usr/bin:/bin", binary.parent().unwrap().display());
    let mut command = program("/usr/bin/script");
    let line = format!("stty rows 24 cols {columns} -echo -opost; {line}");
    command.args(["-qe", "-c", &line, "/dev/null"]).current_dir(folder).stdin(Stdio::null());
    command.env_clear().env("PATH", path).env("SHELL", "/bin/sh").env("SLUICE_SOCKET", socket);
    if !colours {
        command.env("NO_COLOR", "1");
    }
    let output = finish(&mut command);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    Printed { text, code: output.status.code().expect("an exit code") }
}

/// The words of a text without what differs from run to run: times, durations, ports of clients, processes, ids; and
/// without blanks and line ends, because these have different widths.
pub fn masked(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for one in text.split_whitespace() {
        let process = words.last().is_some_and(|last| last.trim_start_matches('(') == "pid");
        words.push(if process { "PROCESS".to_owned() } else { word(one) });
    }
    words
}

fn word(word: &str) -> String {
    let core = word.trim_matches(|c: char| "(),;:|".contains(c));
    let mask = |with: &str| word.replace(core, with);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if core.len() >= 20 && core.ends_with('Z') && core.starts_with("20") && core.contains('T') {
        return mask("TIME");
    }
    if core.len() == 16 && core.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return mask("ID");
    }
    if core.rsplit_once(':').is_some_and(|(host, port)| host.contains('.') && port.len() == 5 && digits(port)) {
        return mask("CLIENT");
    }
    if core.len() >= 4 && digits(core) {
        return mask("NUMBER");
    }
    // A strip of history, of which the last minute is certain.
    if core.len() == 60 && core.starts_with('_') {
        return mask(&format!("STRIP{}", &core[59..]));
    }
    // 43s, 1m03s, 0.1ms, 512B, 0.5: figures with units or fractions.
    let rest: String = core.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect();
    let number = core.starts_with(|c: char| c.is_ascii_digit()) && core.parse::<std::net::IpAddr>().is_err();
    let figure = ["ms", "s", "ms", "hm", "dh", "B", "K", "k", "M", ""].contains(&&*rest) && !digits(core);
    if number && figure { mask("FIGURE") } else { word.to_owned() }
}
