//! A log that is rotated under load: USR1 opens the file anew, every record is in one of the files, and none is torn.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::logged::{CONFIG, logging, sessions};
use crate::support::{Backend, Daemon, eventually, own_loopback};
use nix::sys::signal::Signal;
use serde_json::Value;

const ROTATIONS: usize = 20;

#[test]
fn no_line_is_lost_or_torn_when_the_file_is_rotated_under_load() {
    let address = own_loopback();
    let _backend = Backend::naming((address, 1001), "one");
    let daemon = Daemon::start_on(address, CONFIG, "", |command| command);
    let log = daemon.dir().join("log");
    let stop = AtomicBool::new(false);
    let served: usize = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut served = 0;
            while !stop.load(Ordering::SeqCst) {
                served += sessions(daemon.at(443), 40).len();
            }
            served
        });
        for number in 0..ROTATIONS {
            fs::rename(&log, daemon.dir().join(format!("log.{number}"))).unwrap();
            daemon.signal(Signal::SIGUSR1);
            // As logrotate does: the next one only when there is a new file with something in it.
            eventually("a new file", || fs::metadata(&log).ok().filter(|file| file.len() > 0));
        }
        stop.store(true, Ordering::SeqCst);
        load.join().unwrap()
    });
    let mut files: Vec<_> = (0..ROTATIONS).map(|number| daemon.dir().join(format!("log.{number}"))).collect();
    files.push(log);
    let read = || -> Vec<Value> {
        let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
        texts
            .flat_map(|text| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>())
            .collect()
    };
    let lines = eventually("all records", || {
        let lines = read();
        (lines.iter().filter(|line| line.get("session").is_some()).count() >= served).then_some(lines)
    });
    let ids: HashSet<&str> = lines.iter().filter_map(|line| line["session"].as_str()).collect();
    assert_eq!(ids.len(), served, "each session once");
    assert_eq!(lines.iter().filter(|line| line.get("session").is_some()).count(), served);
    assert_eq!(lines.iter().filter(|line| line["message"] == "log reopened").count(), ROTATIONS);
    assert_eq!(daemon.metric("sluice_log_dropped_total"), 0.0);
    assert!(files.iter().filter(|file| fs::metadata(file).unwrap().len() > 0).count() > ROTATIONS / 2);
}

#[test]
fn file_that_cannot_be_opened_anew_is_kept() {
    let address = own_loopback();
    let _backend = Backend::naming((address, 1001), "one");
    let log = "format = \"json\"\ntarget = \"{dir}/logs/log\"";
    let daemon = Daemon::start_on(address, CONFIG, "", |command| {
        let config = command.get_args().last().unwrap().to_string_lossy().into_owned();
        fs::create_dir(std::path::Path::new(&config).with_file_name("logs")).unwrap();
        logging(command, log)
    });
    fs::rename(daemon.dir().join("logs"), daemon.dir().join("moved")).unwrap();
    daemon.signal(Signal::SIGUSR1);
    let text = || fs::read_to_string(daemon.dir().join("moved/log")).unwrap();
    eventually("it says why", || text().contains("cannot reopen ").then_some(()));
    sessions(daemon.at(443), 4);
    eventually("records go on", || (text().matches("\"end\":\"done\"").count() == 4).then_some(()));
}
