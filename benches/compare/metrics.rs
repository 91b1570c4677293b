//! What is measured, in which unit, and what the design demands of it.

/// One column of results.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// What is measured.
    pub name: &'static str,
    /// In what.
    pub unit: &'static str,
    /// Whether more is better; `None` where it is neither.
    pub more_is_better: Option<bool>,
    /// What the design demands of sluice.
    pub must: Option<Must>,
}

/// A demand of the design, a bound from above or below according to what is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Must {
    /// On the ratio to the best peer.
    Ratio(f64),
    /// On the value itself.
    Value(f64),
}

/// What one measurement gives.
pub type Values = Vec<(&'static Metric, f64)>;

const fn metric(name: &'static str, unit: &'static str, more_is_better: Option<bool>, must: Option<Must>) -> Metric {
    Metric { name, unit, more_is_better, must }
}

pub static THROUGHPUT: Metric = metric("throughput", "Gbit/s", Some(true), Some(Must::Ratio(1.0)));
pub static PROXY_PER_GIGABYTE: Metric = metric("proxy CPU", "s/GB", Some(false), Some(Must::Ratio(0.95)));
pub static MACHINE_PER_GIGABYTE: Metric = metric("system CPU", "s/GB", Some(false), None);
pub static EXCHANGES: Metric = metric("exchanges", "1000/s", Some(true), None);
pub static CONNECTIONS: Metric = metric("connections", "1000/s", Some(true), None);
pub static MEDIAN: Metric = metric("p50", "us", Some(false), None);
pub static TAIL: Metric = metric("p99", "us", Some(false), Some(Must::Ratio(1.1)));
pub static FAR_TAIL: Metric = metric("p99.9", "us", Some(false), Some(Must::Ratio(1.1)));
pub static TAIL_OF_CONNECTIONS: Metric = metric("p99", "us", Some(false), None);
pub static FAR_TAIL_OF_CONNECTIONS: Metric = metric("p99.9", "us", Some(false), None);
pub static PROXY_PER_EXCHANGE: Metric = metric("proxy CPU", "us each", Some(false), Some(Must::Ratio(1.05)));
pub static MACHINE_PER_EXCHANGE: Metric = metric("system CPU", "us each", Some(false), None);
pub static PROXY_SHARE: Metric = metric("proxy CPU", "of one core", None, None);
/// From starting the program to the first answers through it, for both server names; read in steps of 5 ms.
pub static START: Metric = metric("start", "ms", Some(false), Some(Must::Value(1000.0)));
/// Processor time that went to other programs on the machine; the report warns about it instead of giving it a line.
pub static OTHERS: Metric = metric("other programs", "of one core", None, None);
/// Processors that proxy, load and backend have between them; told where it bounds the result.
pub static PROCESSORS: Metric = metric("processors", "for all", None, None);
pub static LOGGED: Metric = metric("log lines", "per connection", None, None);
pub static MEMORY: Metric = metric("private memory", "B/session", Some(false), Some(Must::Value(2500.0)));
pub static MEMORY_BEFORE: Metric = metric("private memory", "MB before", None, None);
pub static CALLS_EACH: Metric = metric("system calls", "each", Some(false), None);
pub static CALLS_PER_MEBIBYTE: Metric = metric("system calls", "per MiB", Some(false), None);

/// All of them. Those of connections that only lack a demand come after the ones that have it.
static METRICS: [&Metric; 21] = [
    &THROUGHPUT,
    &PROXY_PER_GIGABYTE,
    &MACHINE_PER_GIGABYTE,
    &EXCHANGES,
    &CONNECTIONS,
    &MEDIAN,
    &TAIL,
    &FAR_TAIL,
    &TAIL_OF_CONNECTIONS,
    &FAR_TAIL_OF_CONNECTIONS,
    &PROXY_PER_EXCHANGE,
    &MACHINE_PER_EXCHANGE,
    &PROXY_SHARE,
    &START,
    &OTHERS,
    &PROCESSORS,
    &LOGGED,
    &MEMORY,
    &MEMORY_BEFORE,
    &CALLS_EACH,
    &CALLS_PER_MEBIBYTE,
];

/// The metric that raw results call so.
pub fn named(name: &str, unit: &str) -> Option<&'static Metric> {
    METRICS.into_iter().find(|metric| metric.name == name && metric.unit == unit)
}
