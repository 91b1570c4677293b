//! What one has to know to read the figures: date, machine, programs and their settings.

use std::fs;

use crate::calls::strace;
use crate::options::Options;
use crate::process::Places;
use crate::proxies::Kind;

/// Names and values, in the order in which they are told.
pub type About = Vec<(String, String)>;

/// All of it.
pub fn describe(options: &Options, kinds: &[Kind], places: Places) -> About {
    let mut about = About::new();
    let mut tell = |name: &str, value: String| about.push((name.to_owned(), value));
    tell("date", jiff::Zoned::now().date().to_string());
    tell("machine", machine());
    tell("places", format!("proxy on CPU {}, load and backend on CPU {}", places.proxy, places.load));
    for kind in kinds.iter().filter(|kind| **kind != Kind::Direct) {
        let settings = match kind {
            Kind::Sluice => ["workers = 1".to_owned(), options.sluice_pool.join(", "), options.sluice_relay.join(", ")]
                .join(" ")
                .trim()
                .to_owned(),
            Kind::Haproxy => "nbthread 1, splice-request and splice-response, 256 KiB pipes".to_owned(),
            _ => match &options.nginx_buffer {
                Some(size) => format!("one process, proxy_buffer_size {size}"),
                None => "one process, proxy_buffer_size 64k for bulk and mix, else 16k".to_owned(),
            },
        };
        let version = kind.version(options);
        tell(kind.name(), format!("{version}; {settings}; one log line for every session, to a file"));
    }
    if strace().is_none() {
        tell("system calls", "not counted, since strace was not found (Debian: apt-get install strace)".to_owned());
    }
    let (rounds, seconds) = (options.rounds(), options.window().as_secs_f64());
    tell("rounds", format!("{rounds} rounds of {seconds} s (three in five of them for minor rows), proxies in turn"));
    tell("cells", "median (least-most) and the median ratio to the best peer of a round".to_owned());
    about
}

/// The machine in words.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = processors.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let is_virtual = field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    format!(
        "{count} {}CPUs, {}, Linux {}",
        if is_virtual { "virtual " } else { "" },
        field("model name").unwrap_or_else(|| "of an unknown model".to_owned()),
        // Without what a distributor or a builder appends.
        read("/proc/sys/kernel/osrelease").split('-').next().unwrap_or_default()
    )
}

/// The value of that name, or nothing.
pub fn value<'a>(about: &'a About, name: &str) -> &'a str {
    about.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
}
