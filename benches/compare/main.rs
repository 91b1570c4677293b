//! sluice side by side with `HAProxy` and nginx stream on one machine: `cargo bench --bench compare -- --help`.
//!
//! No TLS is spoken: clients send a real-looking `ClientHello`, then a protocol of our own whose every byte is known, which is all a
//! proxy that passes TLS through can see. The proxy under test has one processor for itself; load generator and backend share another.

// Tables go to standard output, and both they and configurations are put together from formatted pieces.
#![allow(clippy::print_stdout, clippy::format_push_string, clippy::format_collect)]

mod about;
mod backend;
mod calls;
mod configurations;
mod engine;
mod flow;
mod loads;
mod measure;
mod metrics;
mod options;
mod pace;
mod process;
mod proxies;
mod raw;
mod readme;
mod report;
mod transfer;
mod usage;
mod wire;

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::about::describe;
use crate::loads::{LOADS, Load, Sample};
use crate::options::{HELP, Options, Task};
use crate::process::{Folder, Places, Running};
use crate::proxies::{Kind, Scene};
use crate::wire::Pattern;

/// What everything here returns.
type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--role", "launch", ..] => process::launch(&arguments[2..]).map(|()| true),
        // `cargo test --all-targets` runs benches like this.
        [] => {
            println!("run it with `cargo bench --bench compare`; --help tells more");
            Ok(true)
        }
        ["--role", "backend"] => backend::serve().map(|()| true),
        _ => Options::parse(&arguments).and_then(|options| compare(&options)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::from(2)
        }
    }
}

/// Does what was asked for; tells whether every row is valid.
fn compare(options: &Options) -> Outcome<bool> {
    if [Task::Help, Task::List].contains(&options.task) {
        let width = LOADS.iter().map(|load| load.name.len()).max().unwrap_or(0);
        let lines = LOADS
            .iter()
            .map(|load| format!("{:width$}  {}{}\n", load.name, if load.quick { "(quick) " } else { "" }, load.about));
        print!("{}", if options.task == Task::Help { HELP.to_owned() } else { lines.collect() });
        return Ok(true);
    }
    if let Task::WriteReadme(path) = &options.task {
        let (about, samples) = raw::read(&fs::read_to_string(path)?)?;
        readme::write(&readme_path(), &about, &samples)?;
        return Ok(true);
    }
    if options.readme {
        readme::has_marks(&readme_path())?;
    }
    let loads = chosen_loads(options)?;
    let kinds = chosen_kinds(options)?;
    let (_, hard_limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard_limit, hard_limit)?;

    let places = Places::find()?;
    process::pin_to(&[places.load])?;
    let folder = Folder::create()?;
    let pattern = Pattern::new()?;
    let (backend, backend_ports, complaints) = start_backend(&folder, places)?;
    let scene = Scene { options, folder: &folder, places, backend: backend.pid(), backend_ports, pattern: &pattern };
    let about = describe(options, &kinds, places);
    for (name, value) in &about {
        println!("{name}: {value}");
    }

    if options.task == Task::CountCalls {
        print!("\n{}", calls::table(&scene, &kinds)?);
        return Ok(true);
    }

    let mut samples = Vec::new();
    for round in 0..options.rounds() {
        for load in &loads {
            for turn in 0..kinds.len() {
                let kind = kinds[(turn + round) % kinds.len()];
                if !load.applies(kind, round, options.rounds()) {
                    continue;
                }
                let mut values = load.measure(kind, &scene, samples.len()).map_err(|error| error.to_string());
                let settle = if values.is_ok() { 40 } else { 300 };
                std::thread::sleep(Duration::from_millis(settle));
                let complaint = take_complaint(&complaints)?;
                if let Some(complaint) = complaint {
                    values = Err(values.err().map_or(complaint.clone(), |error| format!("{error}; {complaint}")));
                }
                let sample = Sample { load: load.name, kind, round, values };
                eprintln!("{}", report::progress(&sample));
                samples.push(sample);
            }
        }
    }
    for load in loads {
        print!("{}", report::table(load, &kinds, &samples));
    }
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&raw::write(&about, &samples))?)?;
    }
    if options.readme {
        readme::write(&readme_path(), &about, &samples)?;
    }
    Ok(samples.iter().all(|sample| sample.values.is_ok()))
}

/// The README of these sources.
fn readme_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

fn chosen_loads(options: &Options) -> Outcome<Vec<&'static Load>> {
    for name in &options.only {
        if !LOADS.iter().any(|load| load.name.starts_with(name.as_str())) {
            return Err(format!("no load called {name}; --list names them").into());
        }
    }
    // A whole name means that load alone, even if others begin with it.
    let is_whole = |name: &str| LOADS.iter().any(|load| load.name == name);
    let wanted = |load: &&Load| {
        let is_meant = |name: &String| load.name == name || (!is_whole(name) && load.name.starts_with(name.as_str()));
        let named = options.only.iter().any(is_meant);
        let can_be = !load.counts_calls() || calls::strace().is_some();
        named || (options.only.is_empty() && (load.quick || !options.quick) && can_be)
    };
    Ok(LOADS.iter().filter(wanted).collect())
}

/// The proxies that were asked for, or all that are found.
fn chosen_kinds(options: &Options) -> Outcome<Vec<Kind>> {
    let found = |kind: &Kind| *kind == Kind::Direct || kind.program(options).is_some();
    if let Some(missing) = options.proxies.iter().find(|kind| !found(kind)) {
        return Err(format!("the program of {} was not found", missing.name()).into());
    }
    let wanted = |kind: &Kind| options.proxies.is_empty() || options.proxies.contains(kind);
    Ok(Kind::ALL.into_iter().filter(|kind| wanted(kind) && found(kind)).collect())
}

/// Starts the backend; its standard error goes to the file that is returned.
fn start_backend(folder: &Folder, places: Places) -> Outcome<(Running, [u16; 2], PathBuf)> {
    let (complaints, stderr) = folder.output("backend.stderr")?;
    let arguments = ["--role", "backend"].map(str::to_owned);
    let mut backend = Running::start(&[places.load], &std::env::current_exe()?, &arguments, Stdio::piped(), stderr)?;
    let mut line = String::new();
    BufReader::new(backend.stdout().ok_or("no pipe from the backend")?).read_line(&mut line)?;
    let ports: Vec<u16> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match ports[..] {
        [first, second] => Ok((backend, [first, second], complaints)),
        _ => Err(format!("the backend did not start: {}", fs::read_to_string(complaints)?).into()),
    }
}

/// What the backend complained about since the last time.
fn take_complaint(path: &Path) -> Outcome<Option<String>> {
    let text = fs::read_to_string(path)?;
    if text.is_empty() {
        return Ok(None);
    }
    // The backend appends, so that it goes on at the beginning.
    fs::write(path, "")?;
    let more = text.lines().count().saturating_sub(1);
    Ok(text.lines().next().map(|line| format!("{line} (and {more} more)")))
}
