//! Metrics of named backends. The label is the name of the configuration, never one that a client sent.

use std::fmt;

use super::{Writer, flag};
use crate::decide::names::LookupResult;
use crate::state::Shared;

/// Writes the families of names.
pub fn names(shared: &Shared, out: &mut Writer<'_>) -> fmt::Result {
    let all = shared.names.list();
    let rows = all.iter().flat_map(|report| {
        LookupResult::ALL.into_iter().map(|result| {
            let count = report.lookups.get(result.name()).copied().unwrap_or(0);
            ([("name", report.name.as_str()), ("result", result.name())], count)
        })
    });
    out.counters("name_lookups", "Answers for named backends, by what became of them", rows)?;
    let rows = all.iter().map(|report| ([("name", report.name.as_str())], report.addresses.len() as f64));
    out.gauges("name_addresses", "Addresses in the last good set of the name", rows)?;
    let rows = all.iter().map(|report| ([("name", report.name.as_str())], flag(report.stale_since.is_some())));
    out.gauges("name_stale", "Whether the set, or a part of it, is older than it should be", rows)
}
