//! Tables for people.

use crate::loads::{Load, Sample};
use crate::metrics::{MACHINE_PER_EXCHANGE, MACHINE_PER_GIGABYTE, Metric, Must, OTHERS, PROCESSORS, THROUGHPUT};
use crate::proxies::Kind;

/// From this share of one core on, what others took is told; the kernel's own threads take a tenth under bulk loads.
const DISTURBANCE: f64 = 0.25;

/// The table of one load: a line for every metric, a column for every proxy.
pub fn table(load: &Load, kinds: &[Kind], all: &[Sample]) -> String {
    let samples: Vec<&Sample> = all.iter().filter(|sample| sample.load == load.name).collect();
    let kinds: Vec<Kind> =
        kinds.iter().copied().filter(|kind| samples.iter().any(|sample| sample.kind == *kind)).collect();
    let mut metrics: Vec<&Metric> = Vec::new();
    for (metric, _) in samples.iter().filter_map(|sample| sample.values.as_ref().ok()).flatten() {
        if !metrics.contains(metric) {
            metrics.push(metric);
        }
    }
    metrics.retain(|metric| ![&OTHERS, &PROCESSORS].contains(metric));
    // A row without proxy, if it comes first, knows fewer metrics; keep the order of the fullest sample.
    if let Some(fullest) =
        samples.iter().filter_map(|sample| sample.values.as_ref().ok()).max_by_key(|values| values.len())
    {
        metrics.sort_by_key(|metric| fullest.iter().position(|(other, _)| other == metric));
    }
    let with_sluice = kinds.contains(&Kind::Sluice);
    let mut header: Vec<String> = vec![load.name.to_owned()];
    header.extend(kinds.iter().map(|kind| kind.name().to_owned()));
    if with_sluice {
        header.push("must".to_owned());
    }
    let mut rows = vec![header];
    for metric in &metrics {
        let mut row = vec![format!("{}, {}", metric.name, metric.unit)];
        row.extend(kinds.iter().map(|kind| cell(metric, *kind, &samples)));
        if with_sluice {
            row.push(verdict(metric, &samples));
        }
        rows.push(row);
    }
    rows.extend(against_row(load, &kinds, all));
    if metrics.is_empty() {
        let mut row = vec!["(nothing)".to_owned()];
        row.extend(kinds.iter().map(|_| "VOID".to_owned()));
        rows.push(row);
    }
    let mut text = format!("\n### {}: {}\n\n{}", load.name, load.about, align(&rows));
    for sample in samples {
        if let Err(why) = &sample.values {
            text += &format!("VOID: {}, round {}: {why}\n", sample.kind.name(), sample.round + 1);
        }
        if let Some(share) = disturbance(sample) {
            let (name, round) = (sample.kind.name(), sample.round + 1);
            text += &format!(
                "disturbed: {name}, round {round}: others (programs, kernel threads) took {:.0} % of a core\n",
                share * 100.0
            );
        }
    }
    text
}

/// The share of a core that others took, if it was so much that it must be told.
pub fn disturbance(sample: &Sample) -> Option<f64> {
    value(sample, &OTHERS).filter(|share| *share > DISTURBANCE)
}

/// Median, spread, and ratio to the best peer.
fn cell(metric: &Metric, kind: Kind, samples: &[&Sample]) -> String {
    if samples.iter().any(|sample| sample.kind == kind && sample.values.is_err()) {
        return "VOID".to_owned();
    }
    let values: Vec<f64> =
        samples.iter().filter(|sample| sample.kind == kind).filter_map(|sample| value(sample, metric)).collect();
    let Some(middle) = median(&values) else { return "-".to_owned() };
    let mut text = number(middle);
    if values.len() > 1 {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        text += &format!(" ({}-{})", number(least), number(most));
    }
    if let Some(ratio) = median(&ratios(metric, kind, samples)) {
        text += &format!(" x{ratio:.2}");
    }
    text
}

/// Whether sluice does what the design demands.
fn verdict(metric: &Metric, samples: &[&Sample]) -> String {
    let (Some(must), Some(more_is_better)) = (metric.must, metric.more_is_better) else { return String::new() };
    let is_valid = |sample: &&&Sample| sample.kind == Kind::Sluice && sample.values.is_ok();
    let (bound, reached, text) = match must {
        Must::Ratio(bound) => (bound, median(&ratios(metric, Kind::Sluice, samples)), format!("x{bound:.2}")),
        Must::Value(bound) => {
            let values: Vec<f64> = samples.iter().filter(is_valid).filter_map(|sample| value(sample, metric)).collect();
            (bound, median(&values), number(bound))
        }
    };
    let sign = if more_is_better { ">=" } else { "<=" };
    let met = match reached {
        None => "",
        Some(reached) if (more_is_better && reached >= bound) || (!more_is_better && reached <= bound) => " met",
        Some(_) => " MISSED",
    };
    format!("{sign} {text}{met}")
}

/// The line that holds a load against another one of the same program.
fn against_row(load: &Load, kinds: &[Kind], samples: &[Sample]) -> Option<Vec<String>> {
    let against = load.against()?;
    let ratios: Vec<Option<f64>> = kinds.iter().map(|kind| against_ratio(load, *kind, samples)).collect();
    if ratios.iter().all(Option::is_none) {
        return None;
    }
    let mut row = vec![format!("{} to {}", against.metric.name, against.base)];
    row.extend(ratios.iter().map(|ratio| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))));
    if let Some(reached) = against_ratio(load, Kind::Sluice, samples) {
        let more_is_better = against.metric.more_is_better == Some(true);
        let is_met = if more_is_better { reached >= against.must } else { reached <= against.must };
        let sign = if more_is_better { ">=" } else { "<=" };
        let verdict = match room(load, Kind::Sluice, samples) {
            _ if is_met => "met".to_owned(),
            Some(most) if most < against.must => format!("not to be seen here, where {most:.2} is the most"),
            _ => "MISSED".to_owned(),
        };
        row.push(format!("{sign} {:.2} {verdict}", against.must));
    }
    Some(row)
}

/// The median over rounds of a load's figure to the same program's figure under the load it is held against.
pub fn against_ratio(load: &Load, kind: Kind, samples: &[Sample]) -> Option<f64> {
    let against = load.against()?;
    let of_round = |name: &str, round: usize| {
        let mut found = samples.iter().filter(|it| it.load == name && it.kind == kind && it.round == round);
        value(found.next()?, against.metric)
    };
    if is_void(load.name, kind, samples) || is_void(against.base, kind, samples) {
        return None;
    }
    let rounds = samples.iter().filter(|it| it.load == load.name && it.kind == kind).map(|it| it.round);
    let ratios: Vec<f64> =
        rounds.filter_map(|round| Some(of_round(load.name, round)? / of_round(against.base, round)?)).collect();
    median(&ratios)
}

/// How many times the base's rate a load could reach at most on this machine, if every unit cost as much processor time as in the
/// base, and no processor were ever idle. Known where several workers share the processors with load and backend.
pub fn room(load: &Load, kind: Kind, samples: &[Sample]) -> Option<f64> {
    let against = load.against()?;
    let processors = median_of(&PROCESSORS, load.name, kind, samples)?;
    let rate = median_of(against.metric, against.base, kind, samples)?;
    let busy = if *against.metric == THROUGHPUT {
        rate / 8.0 * median_of(&MACHINE_PER_GIGABYTE, against.base, kind, samples)?
    } else {
        rate / 1000.0 * median_of(&MACHINE_PER_EXCHANGE, against.base, kind, samples)?
    };
    (busy > 0.0).then(|| processors / busy)
}

/// The median of a figure.
pub fn median_of(metric: &Metric, load: &str, kind: Kind, samples: &[Sample]) -> Option<f64> {
    let of_load = samples.iter().filter(|sample| sample.load == load && sample.kind == kind);
    median(&of_load.filter_map(|sample| value(sample, metric)).collect::<Vec<f64>>())
}

/// The median ratio of a figure to the best peer of the same round.
pub fn ratio(metric: &Metric, load: &str, kind: Kind, samples: &[Sample]) -> Option<f64> {
    let samples: Vec<&Sample> = samples.iter().filter(|sample| sample.load == load).collect();
    median(&ratios(metric, kind, &samples))
}

/// Whether any of a program's runs under a load went wrong.
pub fn is_void(load: &str, kind: Kind, samples: &[Sample]) -> bool {
    samples.iter().any(|sample| sample.load == load && sample.kind == kind && sample.values.is_err())
}

/// For each round, the value divided by the best of the peers in the same round.
fn ratios(metric: &Metric, kind: Kind, samples: &[&Sample]) -> Vec<f64> {
    let Some(more_is_better) = metric.more_is_better.filter(|_| kind != Kind::Direct) else { return Vec::new() };
    let is_void = |kind: Kind| samples.iter().any(|sample| sample.kind == kind && sample.values.is_err());
    if is_void(kind) {
        return Vec::new();
    }
    let mut ratios = Vec::new();
    for sample in samples.iter().filter(|sample| sample.kind == kind) {
        let peers =
            samples.iter().filter(|other| other.round == sample.round && other.kind.is_peer() && !is_void(other.kind));
        let peers = peers.filter_map(|peer| value(peer, metric));
        let best = if more_is_better { peers.reduce(f64::max) } else { peers.reduce(f64::min) };
        if let (Some(own), Some(best)) = (value(sample, metric), best.filter(|best| *best > 0.0)) {
            ratios.push(own / best);
        }
    }
    ratios
}

fn value(sample: &Sample, metric: &Metric) -> Option<f64> {
    sample.values.as_ref().ok()?.iter().find(|(other, _)| *other == metric).map(|(_, value)| *value)
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// A number with about three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude >= 100.0 => format!("{value:.0}"),
        magnitude if magnitude >= 10.0 => format!("{value:.1}"),
        magnitude if magnitude >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Rows as a markdown table that is also readable as it stands.
pub fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += &format!("| {} |\n", cells.join(" | "));
        if index == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text += &format!("| {} |\n", rules.join(" | "));
        }
    }
    text
}

/// One line while it goes on.
pub fn progress(sample: &Sample) -> String {
    let result = match &sample.values {
        Ok(values) => values
            .iter()
            .map(|(metric, value)| format!("{} {} {}", metric.name, number(*value), metric.unit))
            .collect::<Vec<_>>()
            .join(", "),
        Err(why) => format!("VOID: {why}"),
    };
    format!("round {} {} {}: {result}", sample.round + 1, sample.load, sample.kind.name())
}
