//! The README's section on performance, written from the results of a full run: every figure and every name in it is generated.

use std::fs;
use std::path::Path;

use crate::Outcome;
use crate::about::{About, value as told};
use crate::loads::{LOADS, Load, Sample};
use crate::metrics::{
    CALLS_EACH, CALLS_PER_MEBIBYTE, CONNECTIONS, FAR_TAIL, MEMORY, Metric, PROXY_PER_EXCHANGE, PROXY_PER_GIGABYTE,
    START, TAIL, THROUGHPUT,
};
use crate::proxies::Kind;
use crate::report::{against_ratio, align, disturbance, is_void, median_of, number, ratio, room};

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";
/// Longest line of text.
const WIDTH: usize = 120;
/// A peer that is ahead by more than this share is told.
const AHEAD: f64 = 0.05;
const PROGRAMS: [(Kind, &str); 3] = [(Kind::Sluice, "sluice"), (Kind::Haproxy, "HAProxy"), (Kind::Nginx, "nginx")];

/// Loads that have these metrics, and by which of them they are shown.
const GROUPS: [(&str, &[&str], &[&Metric]); 5] = [
    ("Moving bytes", &["download-", "upload-"], &[&PROXY_PER_GIGABYTE, &THROUGHPUT]),
    ("Requests and answers", &["objects-", "exchange-"], &[&PROXY_PER_EXCHANGE, &TAIL, &FAR_TAIL]),
    ("Connections", &["connect-"], &[&PROXY_PER_EXCHANGE, &CONNECTIONS, &START]),
    ("Small exchanges beside bulk", &["mix"], &[&THROUGHPUT, &TAIL, &FAR_TAIL]),
    ("Memory, and system calls", &["idle", "calls-"], &[&MEMORY, &CALLS_EACH, &CALLS_PER_MEBIBYTE]),
];

/// Whether the section has its place, which is better known before a long run than after it.
pub fn has_marks(path: &Path) -> Outcome<()> {
    around(&fs::read_to_string(path)?).map(|_| ())
}

/// Puts the section between its marks.
pub fn write(path: &Path, about: &About, samples: &[Sample]) -> Outcome<()> {
    let text = fs::read_to_string(path)?;
    let (before, after) = around(&text)?;
    fs::write(path, format!("{before}{BEGIN}\n{}\n{END}{after}", section(about, samples)))?;
    Ok(())
}

/// What stands before and after the marks.
fn around(text: &str) -> Outcome<(&str, &str)> {
    let (before, rest) = text.split_once(BEGIN).ok_or("README.md has no mark where figures begin")?;
    let (_, after) = rest.split_once(END).ok_or("README.md has no mark where figures end")?;
    Ok((before, after))
}

/// The whole section.
fn section(about: &About, samples: &[Sample]) -> String {
    let mut text = paragraph(&format!(
        "A run of `benches/compare` on {}: {}; {}; {}.",
        told(about, "date"),
        told(about, "machine"),
        told(about, "places"),
        told(about, "rounds")
    ));
    text += "\n";
    for (kind, _) in PROGRAMS.iter().filter(|(kind, _)| !told(about, kind.name()).is_empty()) {
        text += &item(told(about, kind.name()));
    }
    text += "\n";
    text += &paragraph(
        "All route by server name from the same hello to the same backend. Cells are medians, `x` is the median ratio of sluice to the \
         better peer of the same round. Take the CPU per unit and the ratios as the figures; rates and latencies depend on the \
         machine. To repeat it: `cargo bench --bench compare -- --readme` (under ten minutes), or `-- --quick` (under one) for a look.",
    );
    for (title, prefixes, metrics) in GROUPS {
        text += &group(title, prefixes, metrics, samples);
    }
    if samples.iter().any(|sample| sample.load.starts_with("calls-")) {
        text += "\n";
        text += &paragraph(
            "System calls are counted by strace, which makes every proxy slow, so that it finds more to do at each waking: calls that \
             wait are fewer than in life. `-- --syscalls` lists them by name.",
        );
    }
    text += &held_against(samples);
    text += "\n";
    text += &peers_ahead(samples);
    let void: Vec<String> = samples.iter().filter(|sample| sample.values.is_err()).map(void_run).collect();
    if !void.is_empty() {
        text += "\n";
        text += &paragraph(&format!("Void, because something went wrong in a run: {}.", void.join(", ")));
    }
    let disturbed = samples.iter().filter(|sample| disturbance(sample).is_some()).count();
    if disturbed > 0 {
        text += "\n";
        text += &paragraph(&format!(
            "In {disturbed} of {} measurements, other programs and the kernel's own threads took more than a quarter of a core.",
            samples.len()
        ));
    }
    text.trim_end().to_owned()
}

fn void_run(sample: &Sample) -> String {
    format!("`{}` of {} in round {}", sample.load, sample.kind.name(), sample.round + 1)
}

/// The table of some loads: a line for each, in it all the metrics that it has.
fn group(title: &str, prefixes: &[&str], metrics: &[&'static Metric], samples: &[Sample]) -> String {
    let loads = LOADS.iter().filter(|load| prefixes.iter().any(|prefix| load.name.starts_with(prefix)));
    let measured: Vec<(&Load, Vec<&Metric>)> = loads
        .map(|load| (load, metrics_of(load, samples)))
        .map(|(load, has)| (load, metrics.iter().copied().filter(|metric| has.contains(metric)).collect()))
        .filter(|(_, shown): &(_, Vec<_>)| !shown.is_empty())
        .collect();
    if measured.is_empty() {
        return String::new();
    }
    let is_uniform = measured.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let units = |shown: &[&Metric]| {
        shown.iter().map(|metric| format!("{}, {}", metric.name, metric.unit)).collect::<Vec<_>>().join(" / ")
    };
    let heading = if is_uniform { format!("{title}: {}", units(&measured[0].1)) } else { title.to_owned() };
    let mut rows = vec![header(&heading)];
    for (load, shown) in &measured {
        let label = format!("`{}`: {}", load.name, load.about);
        let mut row = vec![if is_uniform { label } else { format!("{label}: {}", units(shown)) }];
        let figures = |of: &dyn Fn(&Metric) -> Option<f64>, sign: &str, places: Option<usize>| {
            let figure = |value: f64| places.map_or_else(|| number(value), |places| format!("{value:.places$}"));
            let cell = |metric: &&Metric| of(metric).map_or("-".to_owned(), |value| format!("{sign}{}", figure(value)));
            shown.iter().map(cell).collect::<Vec<_>>().join(" / ")
        };
        for (kind, _) in PROGRAMS {
            row.push(if is_void(load.name, kind, samples) {
                "void".to_owned()
            } else {
                figures(&|metric| median_of(metric, load.name, kind, samples), "", None)
            });
        }
        row.push(figures(&|metric| ratio(metric, load.name, Kind::Sluice, samples), "x", Some(2)));
        rows.push(row);
    }
    format!("\n{}", align(&rows))
}

fn header(title: &str) -> Vec<String> {
    let programs = PROGRAMS.iter().map(|(_, name)| (*name).to_owned());
    std::iter::once(title.to_owned()).chain(programs).chain([String::new()]).collect()
}

/// What is known of a load, by any program.
fn metrics_of(load: &Load, samples: &[Sample]) -> Vec<&'static Metric> {
    let mut found: Vec<&'static Metric> = Vec::new();
    for (metric, _) in samples.iter().filter(|it| it.load == load.name).flat_map(|it| it.values.iter().flatten()) {
        if !found.contains(metric) {
            found.push(metric);
        }
    }
    found
}

/// The table of loads that are held against another load of the same program.
fn held_against(samples: &[Sample]) -> String {
    let mut rows = vec![header("Against itself")];
    // No ratio to peers here.
    rows[0].pop();
    let mut bounds = Vec::new();
    for load in &LOADS {
        let Some(against) = load.against() else { continue };
        let ratios = PROGRAMS
            .map(|(kind, _)| against_ratio(load, kind, samples).map_or("-".to_owned(), |it| format!("x{it:.2}")));
        if ratios.iter().all(|ratio| ratio == "-") {
            continue;
        }
        let title = format!("{}, `{}` to `{}`", against.metric.name, load.name, against.base);
        rows.push(std::iter::once(title).chain(ratios).collect());
        if let Some(most) = room(load, Kind::Sluice, samples) {
            bounds.push(format!("x{most:.2} in `{}`", load.name));
        }
    }
    if rows.len() == 1 {
        return String::new();
    }
    let mut text = format!("\n{}", align(&rows));
    if !bounds.is_empty() {
        text += "\n";
        text += &paragraph(&format!(
            "Load and backend compete with the second worker for the processors of this machine. With the work that one worker's run \
             cost, all of it, sluice could reach at most {}: what two workers can do on a larger machine is not shown here.",
            bounds.join(", ")
        ));
    }
    text
}

/// Every figure in which a peer is ahead, whether it has a row above or not.
fn peers_ahead(samples: &[Sample]) -> String {
    let mut found: Vec<(&Metric, Vec<String>)> = Vec::new();
    for load in &LOADS {
        for metric in metrics_of(load, samples) {
            let Some(ratio) = ratio(metric, load.name, Kind::Sluice, samples) else { continue };
            let more_is_better = metric.more_is_better == Some(true);
            let is_ahead = if more_is_better { ratio < 1.0 - AHEAD } else { ratio > 1.0 + AHEAD };
            let peers = PROGRAMS.iter().filter(|(kind, _)| kind.is_peer());
            let best = peers
                .filter_map(|(kind, name)| Some((median_of(metric, load.name, *kind, samples)?, *name)))
                .min_by(|a, b| if more_is_better { b.0.total_cmp(&a.0) } else { a.0.total_cmp(&b.0) });
            let Some((_, name)) = best.filter(|_| is_ahead) else { continue };
            let text = format!("`{}` ({name}, x{ratio:.2})", load.name);
            match found.iter_mut().find(|(other, _)| (other.name, other.unit) == (metric.name, metric.unit)) {
                Some((_, list)) => list.push(text),
                None => found.push((metric, vec![text])),
            }
        }
    }
    let percent = AHEAD * 100.0;
    if found.is_empty() {
        return paragraph(&format!("No peer is ahead by more than {percent:.0} percent in any figure."));
    }
    let mut text =
        paragraph(&format!("Where a peer is ahead by more than {percent:.0} percent, in figures shown above or not:"));
    text += "\n";
    for (metric, list) in found {
        text += &item(&format!("{}, {}: {}", metric.name, metric.unit, list.join(", ")));
    }
    text
}

fn paragraph(text: &str) -> String {
    wrap(text, "", "")
}

fn item(text: &str) -> String {
    wrap(text, "- ", "  ")
}

/// Lines of at most `WIDTH` characters.
fn wrap(text: &str, first: &str, further: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("{further}{word}")),
            None => lines.push(format!("{first}{word}")),
        }
    }
    lines.join("\n") + "\n"
}
