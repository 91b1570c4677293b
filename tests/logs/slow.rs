//! Targets of the log that do not take what they should: a pipe that nobody reads, a device and a disk that are full, a
//! journal that hangs or is not there. No worker waits for them, every line that is missing is counted, none is torn in two
//! unseen, and stopping takes no longer.

#![allow(clippy::unwrap_used, clippy::float_cmp, clippy::print_stdout)]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::logged::{CONFIG, apart, logging, median, sessions};
use crate::support::servers::finish;
use crate::support::{Backend, Daemon, TempDir, eventually, own_loopback, sluice};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::Value;

/// Sessions of each batch, and how many there may be before lines are dropped: the queue holds a thousand batches, so it
/// takes some.
const BATCH: usize = 400;
const MOST: usize = 20_000;
/// Many workers hand over many small batches.
const WORKERS: &str = "workers = 16\n";

/// One at a time: they compare times.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(adjust: impl FnOnce(&mut Command) -> &mut Command) -> (Daemon, Backend) {
    let address = own_loopback();
    let backend = Backend::naming((address, 1001), "one");
    (Daemon::start_on(address, CONFIG, WORKERS, adjust), backend)
}

fn dropped(daemon: &Daemon) -> u64 {
    daemon.metric("sluice_log_dropped_total") as u64
}

fn accepted(daemon: &Daemon) -> u64 {
    daemon.metric("sluice_listener_connections_total{listener=\"tls\"}") as u64
}

/// Records among lines, each of which must be whole.
#[track_caller]
fn records<'a>(lines: impl Iterator<Item = &'a str>) -> u64 {
    let parsed =
        lines.map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    parsed.filter(|line| line.get("session").is_some()).count() as u64
}

/// Sessions until lines are dropped; none takes longer than before.
#[track_caller]
fn run_until_dropped(daemon: &Daemon) {
    let mut quiet = sessions(daemon.at(443), BATCH);
    quiet.sort_unstable();
    let mut stuck = Vec::new();
    while dropped(daemon) == 0 {
        assert!(stuck.len() < MOST, "nothing is dropped");
        stuck.extend(sessions(daemon.at(443), BATCH));
    }
    // The queue is full from here on. The machine does other things too: what holds sessions up does in every batch.
    let before = median(quiet);
    let is_quick = (0..5).any(|_| {
        let after = median(sessions(daemon.at(443), BATCH));
        println!("sessions took {before:?}, and {after:?} with the queue full, after {}", stuck.len());
        after < before * 3 + Duration::from_millis(5)
    });
    assert!(is_quick, "they took {before:?} before");
}

#[track_caller]
fn stops_at_once(daemon: &mut Daemon) {
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait_for_exit().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "stopping took {:?}", begun.elapsed());
}

/// What came out of a pipe that nobody read for a while: with what was dropped it is everything.
#[track_caller]
fn all_is_accounted_for(mut daemon: Daemon, pipe: impl Read + Send + 'static) {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&lines);
    let reader = thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            kept.lock().unwrap().push(line.unwrap());
        }
    });
    // Before the log begins, standard error has what the configuration is warned of.
    let read = || records(lines.lock().unwrap().iter().map(String::as_str).skip_while(|line| !line.starts_with('{')));
    let accepted = accepted(&daemon);
    eventually("all is written or dropped", || (read() + dropped(&daemon) == accepted).then_some(()));
    let lost = dropped(&daemon);
    assert!(lost > 0);
    stops_at_once(&mut daemon);
    drop(daemon);
    reader.join().unwrap();
    assert_eq!(read() + lost, accepted);
}

#[test]
fn stderr_that_nobody_reads_delays_no_session_and_what_is_missing_is_counted() {
    let _alone = alone();
    let (pipe, stderr) = std::io::pipe().unwrap();
    let (daemon, _backend) = start(|command| {
        logging(command, "format = \"json\"\ntarget = \"stderr\"").stderr(Stdio::from(OwnedFd::from(stderr)))
    });
    run_until_dropped(&daemon);
    all_is_accounted_for(daemon, pipe);
}

#[test]
fn fifo_that_nobody_reads_delays_no_session_and_what_is_missing_is_counted() {
    let _alone = alone();
    let dir = TempDir::new();
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    let log = format!("format = \"json\"\ntarget = \"{}\"", path.display());
    let mut options = OpenOptions::new();
    let waiting = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
    let (daemon, _backend) = start(|command| logging(command, &log));
    run_until_dropped(&daemon);
    // Opened while the other end is, so that it waits for more instead of ending.
    let pipe = File::open(&path).unwrap();
    drop(waiting);
    all_is_accounted_for(daemon, pipe);
}

#[test]
fn stop_does_not_wait_for_a_target_that_hangs() {
    let _alone = alone();
    let (pipe, stderr) = std::io::pipe().unwrap();
    let (mut daemon, _backend) = start(|command| {
        logging(command, "format = \"json\"\ntarget = \"stderr\"").stderr(Stdio::from(OwnedFd::from(stderr)))
    });
    // More than a pipe holds, and less than fills the queue.
    sessions(daemon.at(443), BATCH);
    stops_at_once(&mut daemon);
    drop(pipe);
}

#[test]
fn fifo_without_a_reader_is_an_error_at_start() {
    let dir = TempDir::new();
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    let file = dir.path().join("c.toml");
    let root = dir.path().display();
    let config = format!("[global]\nstatus-socket = \"{root}/s\"\n[log]\ntarget = \"{root}/fifo\"\n{CONFIG}");
    fs::write(&file, config.replace("{ip}", &own_loopback().to_string())).unwrap();
    let output = finish(sluice().arg("run").arg("-c").arg(&file));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains(&format!("cannot open log file {root}/fifo: ")), "{said}");
}

#[test]
fn full_device_loses_every_line_counts_each_and_is_complained_of_once() {
    let _alone = alone();
    let (mut daemon, _backend) =
        start(|command| logging(command, "format = \"json\"\ntarget = \"/dev/full\"").arg("--quiet"));
    sessions(daemon.at(443), BATCH);
    eventually("all are counted", || (dropped(&daemon) >= BATCH as u64).then_some(()));
    assert_eq!((dropped(&daemon), accepted(&daemon)), (BATCH as u64, BATCH as u64));
    let said = daemon.stderr();
    assert_eq!(said.matches("cannot write the log: No space left on device").count(), 1, "{said}");
    stops_at_once(&mut daemon);
}

#[test]
fn lines_that_a_full_disk_cut_are_counted_and_the_next_ones_are_whole() {
    let _alone = alone();
    let (mut daemon, _backend) = start(|command| {
        let disk = "mkdir {dir}/disk && mount -t tmpfs -o size=100k none {dir}/disk";
        let dir = command.get_args().last().unwrap().to_string_lossy().replace("/sluice.toml", "");
        logging(command, "format = \"json\"\ntarget = \"{dir}/disk/log\"").arg("--quiet");
        apart(command, &disk.replace("{dir}", &dir))
    });
    let path = format!("/proc/{}/root{}/disk/log", daemon.pid(), daemon.dir().display());
    // Whole records, and whether there is a line that was cut, without a line feed.
    let look = || {
        let text = fs::read_to_string(&path).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        (records(whole.lines().filter(|line| !line.is_empty())), whole.len() < text.len())
    };
    let empty = || OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    // Now and then a line ends where the disk does, and none is cut.
    let mut written_before = 0;
    let was_cut = (0..5).any(|_| {
        let before = dropped(&daemon);
        while dropped(&daemon) == before {
            assert!(accepted(&daemon) < MOST as u64, "the disk is never full");
            sessions(daemon.at(443), BATCH);
        }
        let (written, cut) = eventually("all is written or counted", || {
            let (written, cut) = look();
            (written_before + written + dropped(&daemon) == accepted(&daemon)).then_some((written, cut))
        });
        assert!(written > 0, "whole lines");
        written_before += written;
        empty();
        cut
    });
    assert!(was_cut, "a line is cut");
    let lost = dropped(&daemon);
    sessions(daemon.at(443), 40);
    eventually("there is room again", || (look() == (40, false)).then_some(()));
    assert_eq!(dropped(&daemon), lost);
    stops_at_once(&mut daemon);
}

/// Whether each datagram that comes in time is a record.
fn receive(inbox: &UnixDatagram) -> impl Iterator<Item = bool> {
    let mut entry = vec![0; 1 << 20];
    std::iter::from_fn(move || {
        let count = inbox.recv(&mut entry).ok()?;
        Some(String::from_utf8_lossy(&entry[..count]).contains("SLUICE_SESSION"))
    })
}

/// A socket where the daemon, and nobody else, sees the journal's.
fn journal(command: &mut Command) -> &mut Command {
    let dir = command.get_args().last().unwrap().to_string_lossy().replace("/sluice.toml", "");
    logging(command, "format = \"json\"\ntarget = \"journal\"").arg("--quiet");
    apart(command, &format!("mount -t tmpfs none /run && mkdir /run/systemd && ln -s {dir} /run/systemd/journal"))
}

#[test]
fn journal_that_hangs_delays_no_session_and_one_that_is_gone_loses_lines_until_it_is_back() {
    let _alone = alone();
    let mut inbox = None;
    let (mut daemon, _backend) = start(|command| {
        let path = command.get_args().last().unwrap().to_string_lossy().replace("sluice.toml", "socket");
        inbox = Some(UnixDatagram::bind(path).unwrap());
        journal(command)
    });
    let inbox = inbox.unwrap();
    inbox.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    run_until_dropped(&daemon);
    let mut received = 0;
    eventually("all is received or dropped", || {
        received += receive(&inbox).filter(|is_record| *is_record).count() as u64;
        (received + dropped(&daemon) == accepted(&daemon)).then_some(())
    });
    let lost = dropped(&daemon);
    drop(inbox);
    sessions(daemon.at(443), 40);
    eventually("all are lost", || (dropped(&daemon) >= lost + 40).then_some(()));
    let path = daemon.dir().join("socket");
    fs::remove_file(&path).unwrap();
    let inbox = UnixDatagram::bind(&path).unwrap();
    inbox.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    sessions(daemon.at(443), 40);
    assert_eq!(receive(&inbox).take(40).filter(|is_record| *is_record).count(), 40, "the next ones arrive");
    assert_eq!(dropped(&daemon), lost + 40);
    stops_at_once(&mut daemon);
}
