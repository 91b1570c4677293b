//! Finds peers that are gone without a word: keepalive while a session is silent, and data that nobody acknowledges.
//! Nothing of it costs a short session a system call: options are set once a session is old enough for them to matter.

use std::time::Duration;

use tokio::net::TcpStream;

use super::Side;
use crate::proxy::view::Leg;
use crate::sys::socket;

/// Age at which keepalive is turned on, unless it is to probe earlier; short sessions do not pay for it.
const KEEPALIVE_AFTER_MS: u64 = 30_000;

/// How both legs are watched.
#[derive(Clone, Copy, Debug)]
pub struct Legs {
    /// The client's.
    pub client: Leg,
    /// The backend's.
    pub backend: Leg,
}

/// Unit of the plan, in milliseconds: eighths of a second since the session began fit four bytes for seventeen years.
const UNIT_MS: u64 = 125;
const NEVER: u32 = u32::MAX;

/// When to look next, in units since the session began; `0`: nothing is planned yet.
#[derive(Debug, Default)]
pub struct Watch {
    keepalive: u32,
    ack_check: u32,
}

impl Watch {
    /// Its plan, for another process.
    pub const fn plan(&self) -> [u32; 2] {
        [self.keepalive, self.ack_check]
    }

    /// Goes on with the plan of another process.
    pub const fn planned([keepalive, ack_check]: [u32; 2]) -> Self {
        Self { keepalive, ack_check }
    }

    /// When the next look is due; `u64::MAX`: never.
    pub fn next_ms(&self, started_ms: u64) -> u64 {
        match self.keepalive.min(self.ack_check) {
            NEVER => u64::MAX,
            units => started_ms + u64::from(units) * UNIT_MS,
        }
    }

    /// Looks, if it is time. `moved`: whether bytes were delivered just now. Returns the side that is gone.
    pub fn look(
        &mut self,
        client: &TcpStream,
        backend: &TcpStream,
        legs: Legs,
        age_ms: u64,
        moved: bool,
    ) -> Option<Side> {
        if self.keepalive == 0 {
            let wanted = [legs.client.keepalive, legs.backend.keepalive].into_iter().flatten().map(millis).min();
            self.keepalive = units(KEEPALIVE_AFTER_MS.min(wanted.unwrap_or(KEEPALIVE_AFTER_MS)));
            self.ack_check = self.keepalive;
        }
        if is_due(self.keepalive, age_ms) {
            self.keepalive = NEVER;
            // Without it a dead peer is found by the idle time-out instead.
            if legs.client.keepalive != Some(socket::INHERITED_KEEPALIVE) {
                let _ = socket::keep_alive(client, legs.client.keepalive);
            }
            if legs.backend.keepalive.is_some() {
                let _ = socket::keep_alive(backend, legs.backend.keepalive);
            }
        }
        self.look_for_acknowledgements(client, backend, legs, age_ms, moved)
    }

    /// The kernel knows how long a peer has been silent although it was asked again. `TCP_USER_TIMEOUT` would do the rest
    /// by itself, but it also resets a reader that answers and only does not read (`tcp_probe_timer` in the kernel), and
    /// would cost every session a call.
    fn look_for_acknowledgements(
        &mut self,
        client: &TcpStream,
        backend: &TcpStream,
        legs: Legs,
        age_ms: u64,
        moved: bool,
    ) -> Option<Side> {
        let limits = [(Side::Client, client, legs.client), (Side::Backend, backend, legs.backend)];
        let shortest = limits.iter().filter_map(|(_, _, leg)| leg.user_timeout).map(millis).min()?;
        if moved {
            self.ack_check = self.ack_check.min(units(age_ms + shortest));
        }
        if !is_due(self.ack_check, age_ms) {
            return None;
        }
        let mut next = NEVER;
        for (side, socket, leg) in limits {
            let Some(limit) = leg.user_timeout else { continue };
            let outstanding = socket::unsent(socket) > 0;
            // Idle, the kernel asks at `keepalive`, and then the same patience begins.
            let (patience, pause) = match (outstanding, leg.keepalive) {
                // In small steps from here on, so that the limit is kept within a quarter.
                (true, _) => (limit, limit / 4),
                (false, Some(keepalive)) if self.keepalive == NEVER => (keepalive + limit, keepalive + limit),
                (false, _) => continue,
            };
            if socket::unanswered(socket).is_some_and(|asked| {
                // One probe may just be on its way; of a window that stays closed the next comes minutes later.
                let again = asked.retransmits > 0 || asked.probes > u8::from(outstanding);
                again && asked.silent >= patience
            }) {
                return Some(side);
            }
            next = next.min(units(age_ms + millis(pause)));
        }
        self.ack_check = next;
        None
    }
}

/// Rounded up: never early.
fn units(age_ms: u64) -> u32 {
    u32::try_from(age_ms.div_ceil(UNIT_MS)).unwrap_or(NEVER - 1).max(1)
}

fn is_due(units: u32, age_ms: u64) -> bool {
    units != NEVER && age_ms >= u64::from(units) * UNIT_MS
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
