//! Fills in what is said of refused first bytes. No server names.

use std::sync::Arc;

use super::super::Control;
use crate::api::{RefusedRecord, RefusedReport};
use crate::state::RefusedHello;

/// The last refused first bytes of all listeners or one, the oldest first; `None` when that one does not exist.
pub fn refused(control: &Control, listener: Option<&str>) -> Option<Vec<RefusedReport>> {
    let snapshot = control.snapshot();
    if listener.is_some_and(|name| snapshot.listener_named(name).is_none()) {
        return None;
    }
    let chosen = snapshot.listeners.iter().filter(|one| listener.is_none_or(|name| *one.config.name == *name));
    let mut list: Vec<(&str, Arc<RefusedHello>)> = chosen
        .flat_map(|one| one.state.refused.list().into_iter().map(move |refused| (&*one.config.name, refused)))
        .collect();
    list.sort_by_key(|(_, refused)| refused.at);
    Some(list.iter().map(|(listener, refused)| report(listener, refused)).collect())
}

fn report(listener: &str, refused: &RefusedHello) -> RefusedReport {
    let records = refused.records.iter().map(|record| RefusedRecord {
        kind: record.kind,
        version: format!("{:#06x}", record.version),
        length: record.length,
    });
    RefusedReport {
        time: format!("{:.3}", refused.at),
        session: format!("{:016x}", refused.session),
        listener: listener.to_owned(),
        client: refused.client,
        end: refused.end.name().to_owned(),
        detail: refused.detail.to_string(),
        alert: refused.alert,
        bytes: refused.bytes as u64,
        segments: refused.reads.into(),
        segment_bytes: refused.read_sizes.iter().map(|size| (*size).into()).collect(),
        records: records.collect(),
        first_bytes: refused.first.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")),
    }
}
