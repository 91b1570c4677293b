//! What a scrape of a thousand backends costs, and that sessions do not notice it. Alone in its file, because it measures.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::hello::client_hello;
use support::metrics::families;
use support::{Backend, Daemon, connect, own_loopback};

const BACKENDS: usize = 1000;
/// The bound of the issue, which a release build has to hold; other builds are about five times as slow.
const BOUND: Duration = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 50 });

fn config() -> String {
    let mut config = String::from("[[listener]]\nname = \"tls\"\nbind = [\"{ip}:443\"]\npool = \"one\"\n");
    config += "[pool.one]\nbackends = [\"{ip}:1001\"]\n";
    for pool in 0..10 {
        writeln!(config, "[pool.p{pool}]\nbackends = [").unwrap();
        for number in 0..BACKENDS / 10 {
            writeln!(config, "\"10.{pool}.0.{number}:443\",").unwrap();
        }
        config += "]\n";
    }
    config
}

/// How long each of some exchanges over one open session took.
fn exchanges(at: SocketAddr, count: usize) -> Vec<Duration> {
    let mut stream = connect(at);
    let hello = client_hello(Some("a.test"), &[]);
    exchange_once(&mut stream, &hello);
    (0..count)
        .map(|_| {
            let begun = Instant::now();
            exchange_once(&mut stream, &[7; 100]);
            begun.elapsed()
        })
        .collect()
}

fn exchange_once(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    stream.read_exact(&mut vec![0; bytes.len()]).unwrap();
}

/// How long each of some whole sessions took, from connect to the end: these record their times.
fn sessions(at: SocketAddr, count: usize) -> Vec<Duration> {
    let hello = client_hello(Some("a.test"), &[]);
    let one = |_| {
        let begun = Instant::now();
        exchange_once(&mut connect(at), &hello);
        begun.elapsed()
    };
    (0..count).map(one).collect()
}

fn quantile(mut times: Vec<Duration>, share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize]
}

#[test]
fn a_scrape_of_a_thousand_backends_is_quick_and_no_session_waits_for_it() {
    let address = own_loopback();
    let _backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, &config(), "", |command| command);
    // Processor time is what a scrape costs on a machine that has other things to do; the fastest says what it takes.
    let cost = |daemon: &Daemon| {
        let begun = Instant::now();
        let (_, text) = daemon.get("/metrics").unwrap();
        (begun.elapsed(), text)
    };
    let scrapes: Vec<(Duration, String)> = (0..20).map(|_| cost(&daemon)).collect();
    let (fastest, text) = scrapes.into_iter().min_by_key(|(took, _)| *took).unwrap();
    assert_eq!(families(&text)["sluice_backend_up"].samples, BACKENDS + 1);
    println!("a scrape of {BACKENDS} backends: {fastest:?}, {} KiB", text.len() / 1024);
    assert!(fastest < BOUND, "a scrape took {fastest:?}");

    let quiet = (exchanges(daemon.at(443), 3000), sessions(daemon.at(443), 500));
    let (stop, scraped) = (AtomicBool::new(false), AtomicU32::new(0));
    let busy = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(daemon.get("/metrics").unwrap().0, 200);
                daemon.json("/v1/backends");
                scraped.fetch_add(1, Ordering::SeqCst);
            }
        });
        let times = (exchanges(daemon.at(443), 3000), sessions(daemon.at(443), 500));
        stop.store(true, Ordering::SeqCst);
        times
    });
    let medians = [&quiet.0, &busy.0, &quiet.1, &busy.1].map(|times| quantile(times.clone(), 0.5));
    let tails = [&quiet.0, &busy.0, &quiet.1, &busy.1].map(|times| quantile(times.clone(), 0.99));
    println!("exchanges and sessions, quiet and scraped {scraped:?} times: medians {medians:?}, p99 {tails:?}");
    // A lock held over a scrape would add all of it to what comes meanwhile: to the median, because scrapes never pause.
    for (quiet, busy) in [(medians[0], medians[1]), (medians[2], medians[3])] {
        assert!(busy < quiet * 5 + Duration::from_millis(10), "{quiet:?} became {busy:?}");
    }
    assert!(tails[1] < tails[0] * 5 + BOUND, "the slowest exchanges: {:?} became {:?}", tails[0], tails[1]);
    assert!(scraped.into_inner() > 0);
}
