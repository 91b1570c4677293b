//! What the control plane knows beside counts and sessions, on its way to the next process.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::kill::KillCopy;
use crate::control::names::NameCopy;
use crate::control::removals::RemovalCopy;
use crate::control::{Handle, overrides, state_file};
use crate::decide::health::{Ejection, Ejector, Ground};
use crate::state::{Heirs, Heritage, Identity, Snapshot, identity};

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Estate {
    heritage: Heritage,
    /// As in the state file, whose versions are its own.
    operators: String,
    names: Vec<NameCopy>,
    ejectors: Vec<(Identity, EjectorCopy)>,
    #[serde(default)]
    unfinished: Unfinished,
}

/// What was under way.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Unfinished {
    kills: Vec<KillCopy>,
    removals: Vec<RemovalCopy>,
}

impl Unfinished {
    /// Goes on with it.
    pub fn resume(self, control: &Handle, heirs: &Heirs) {
        self.kills.into_iter().for_each(|kill| kill.resume(control));
        self.removals.into_iter().for_each(|removal| removal.resume(control, heirs));
    }
}

/// What live traffic has shown of a backend.
#[derive(Debug, Serialize, Deserialize)]
struct EjectorCopy {
    failures: u32,
    refused: Vec<u64>,
    ejection: Option<EjectionCopy>,
    last: Option<(EjectionCopy, u64)>,
    refusals_mislead: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct EjectionCopy {
    until_ms: u64,
    in_a_row: u32,
    for_refused_hellos: bool,
}

impl From<Ejection> for EjectionCopy {
    fn from(ejection: Ejection) -> Self {
        let Ejection { until_ms, in_a_row, ground } = ejection;
        Self { until_ms, in_a_row, for_refused_hellos: ground == Ground::RefusedHellos }
    }
}

impl From<EjectionCopy> for Ejection {
    fn from(copy: EjectionCopy) -> Self {
        let ground = if copy.for_refused_hellos { Ground::RefusedHellos } else { Ground::Failures };
        Self { until_ms: copy.until_ms, in_a_row: copy.in_a_row, ground }
    }
}

impl From<&Ejector> for EjectorCopy {
    fn from(ejector: &Ejector) -> Self {
        Self {
            failures: ejector.failures,
            refused: ejector.refused.clone(),
            ejection: ejector.ejection.map(Into::into),
            last: ejector.last.map(|(ejection, at)| (ejection.into(), at)),
            refusals_mislead: ejector.refusals_mislead,
        }
    }
}

impl From<EjectorCopy> for Ejector {
    fn from(copy: EjectorCopy) -> Self {
        Self {
            failures: copy.failures,
            refused: copy.refused,
            ejection: copy.ejection.map(Into::into),
            last: copy.last.map(|(ejection, at)| (ejection.into(), at)),
            refusals_mislead: copy.refusals_mislead,
        }
    }
}

impl Estate {
    /// What there is now.
    ///
    /// # Errors
    /// When something cannot be written, which nothing that is kept is.
    pub fn of(control: &Handle) -> Result<Self, String> {
        let snapshot = control.snapshot();
        let operators = state_file::text(&snapshot, &control.operators.borrow()).map_err(|error| error.to_string())?;
        let probes = control.probes.borrow();
        let ejectors =
            probes.keepers().map(|keeper| (identity(&keeper.backend), EjectorCopy::from(&*keeper.ejector.borrow())));
        Ok(Self {
            heritage: Heritage::of(&control.shared, &snapshot),
            operators: String::from_utf8(operators).map_err(|error| error.to_string())?,
            names: control.names.borrow().copy(),
            ejectors: ejectors.collect(),
            unfinished: Unfinished {
                kills: control.kills.borrow().iter().map(KillCopy::of).collect(),
                removals: control.removals.borrow().iter().map(|removal| RemovalCopy::of(removal)).collect(),
            },
        })
    }

    /// The number of the generation that was in force.
    pub const fn generation(&self) -> u64 {
        self.heritage.generation
    }

    /// Takes up what decides which backends there are: names and what operators said.
    ///
    /// # Errors
    /// When the words are not understood.
    pub fn take_up_words(&self, control: &Handle, snapshot: &Snapshot) -> Result<(), String> {
        control.names.borrow_mut().begin_with(&self.names);
        let operators = state_file::parse(self.operators.as_bytes(), Timestamp::now());
        overrides::take_up(control, snapshot, operators.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Takes up what is known of backends and pools of `snapshot`, and returns what is still to be done. May be done again,
    /// with a later one.
    pub fn take_up(self, control: &Handle, snapshot: &Snapshot) -> Unfinished {
        self.heritage.take_up(&control.shared, snapshot);
        let mut ejectors: HashMap<Identity, EjectorCopy> = self.ejectors.into_iter().collect();
        for keeper in control.probes.borrow().keepers() {
            let ejector = ejectors.remove(&identity(&keeper.backend));
            keeper.resume(ejector.map(Into::into).unwrap_or_default());
        }
        self.unfinished
    }

    /// Where sessions find what they belong to.
    pub fn heirs(&self, snapshot: &Snapshot) -> Heirs {
        let removed = self.unfinished.removals.iter().flat_map(|removal| removal.backends.iter().cloned());
        self.heritage.heirs(snapshot, removed)
    }
}
