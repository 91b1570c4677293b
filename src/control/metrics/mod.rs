//! `/metrics`: the counters of `state` as OpenMetrics or as Prometheus' text. The format, its types and its escaping are the
//! client library's; names and labels are the contract. Never a label with a server name or a client's address.

mod backends;
mod format;
mod listeners;
mod names;
mod pools;
mod process;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

pub use format::Format;

use crate::state::{Buckets, Shared};

/// Writes all metrics.
pub fn encode(shared: &Arc<Shared>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("sluice");
    registry.register_collector(Box::new(All(Arc::clone(shared))));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(match format {
        Format::OpenMetrics => out,
        Format::Text => format::as_text(&out),
    })
}

#[derive(Debug)]
struct All(Arc<Shared>);

impl Collector for All {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        process::process(&self.0, &mut out)?;
        let Some(snapshot) = self.0.snapshot() else { return Ok(()) };
        listeners::listeners(&snapshot, &mut out)?;
        pools::pools(&snapshot, &mut out)?;
        backends::backends(&snapshot, &mut out)?;
        names::names(&self.0, &mut out)?;
        process::data_path(&self.0, &mut out)
    }
}

type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

/// For families of one row.
const NONE: Labels<'static, 0> = [];

/// Writes families: a name, a help text, and rows of labels and values.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counters<'l, T: EncodeCounterValue, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, T)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, rows, |row, value| {
            row.encode_counter::<NoLabelSet, T, u64>(&value, None)
        })
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, f64)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, rows, |row, value| row.encode_gauge(&value))
    }

    fn histograms<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, Buckets)>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, rows, |row, Buckets { sum, count, counts }| {
            row.encode_histogram::<NoLabelSet>(sum, count, &counts, None)
        })
    }

    fn family<'l, T, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: impl IntoIterator<Item = (Labels<'l, N>, T)>,
        write: impl Fn(&mut MetricEncoder<'_>, T) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            if N == 0 {
                write(&mut family, value)?;
            } else {
                write(&mut family.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn seconds(time: jiff::Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}
