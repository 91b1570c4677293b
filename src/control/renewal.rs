//! Puts in force what changes between reloads: where names lead, which share of a pool an agent or an operator asks for. As
//! a reload does it, without reading anything; changes that come together make one new set of pools.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Handle, reload};
use crate::state::{MOST_MEMBERS, Supplement};

/// How long changes are gathered.
pub const GATHER: Duration = Duration::from_millis(50);

/// Runs for ever; never while a reload runs.
pub async fn keep_up(control: Handle) {
    loop {
        control.renewal.notified().await;
        sleep(GATHER).await;
        renew(&control).await;
    }
}

/// Puts in force what has changed by now, once no reload runs.
pub async fn renew(control: &Handle) {
    let _turn = control.reloading.lock().await;
    if control.is_stopping() {
        return;
    }
    let old = control.snapshot();
    let resolution = control.names.borrow().resolution();
    let renewed = {
        let operators = control.operators.borrow();
        let supplement = Supplement { names: &resolution, operators: &operators };
        old.renewed(&supplement)
    };
    let outcome = match renewed {
        Ok(None) => return,
        Ok(Some(snapshot)) => reload::put_in_force(control, &old, Arc::new(snapshot)).await,
        Err(error) => Err(error.to_string()),
    };
    match outcome {
        Ok(removed) => {
            let snapshot = control.snapshot();
            for pool in snapshot.pools.iter().filter(|pool| pool.backends.len() >= MOST_MEMBERS) {
                tracing::warn!(pool = &*pool.config.name, MOST_MEMBERS, "names have no more members than this");
            }
            tracing::info!(backends = snapshot.backends().count(), removed, "pools renewed");
        }
        Err(error) => tracing::error!(error, "names, agents or operators changed the pools, but they cannot be used"),
    }
}
