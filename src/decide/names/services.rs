//! SRV records (RFC 2782) as branches: hosts with port, tier and weight.

use std::sync::Arc;

use crate::decide::balance::Tier;

/// Most records of one answer that are used: those of the lowest priority, the heaviest first. Each costs two questions.
/// Chosen: 64 hosts with an address of each family still ask less than a zone of that size takes to write.
pub const MOST_SERVICES: usize = 64;
// Every priority is a tier of its own, before that of the configuration's backups.
const _: () = assert!(MOST_SERVICES < Tier::COUNT);
/// The largest weight of ours.
const HEAVIEST: u64 = 1000;

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Lower is used first.
    pub priority: u16,
    /// Share among those of the same priority; 0 is "hardly any", not "none".
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host; `.` says that there is no such service here.
    pub host: Arc<str>,
}

/// One host of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The host.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
    /// When its addresses are used.
    pub tier: Tier,
    /// Weight of each of its addresses, 1 to 1000; `None` where the answer gives none.
    pub weight: Option<u32>,
}

impl Branch {
    /// The only branch of a host that is named itself.
    pub const fn of_host(host: Arc<str>, port: u16) -> Self {
        Self { host, port, tier: Tier::FIRST, weight: None }
    }
}

/// Branches of an answer, and how many records are left out. Each priority is a tier, the lowest the first.
/// Records of one priority without any weight (all 0) have none; otherwise weights stand as they are, unless one is
/// over 1000 or 0: then they are scaled until the largest is about 1000, and at least 1.
pub fn branches(mut services: Vec<Service>) -> (Vec<Branch>, usize) {
    services.retain(|service| &*service.host != "." && service.port != 0);
    services.sort_by(|a, b| {
        let key = |service: &Service| (service.priority, std::cmp::Reverse(service.weight));
        key(a).cmp(&key(b)).then_with(|| (&a.host, a.port).cmp(&(&b.host, b.port)))
    });
    services.dedup_by(|a, b| a.priority == b.priority && a.host == b.host && a.port == b.port);
    let left_out = services.len().saturating_sub(MOST_SERVICES);
    services.truncate(MOST_SERVICES);
    let mut branches = Vec::with_capacity(services.len());
    for (position, same) in services.chunk_by(|a, b| a.priority == b.priority).enumerate() {
        let tier = Tier::at(position);
        let scale = Scale::of(same);
        branches.extend(same.iter().map(|service| Branch {
            host: Arc::clone(&service.host),
            port: service.port,
            tier,
            weight: scale.weight(service.weight),
        }));
    }
    (branches, left_out)
}

/// How weights of one priority become ours.
enum Scale {
    /// All are 0.
    None,
    /// As they are.
    Kept,
    /// Multiplied by a whole number, which keeps their ratios exact and leaves 0 hardly any.
    Up(u64),
    /// Divided, so that this one is the heaviest.
    Down(u64),
}

impl Scale {
    fn of(same: &[Service]) -> Self {
        let largest = same.iter().map(|service| u64::from(service.weight)).max().unwrap_or(0);
        let has_zero = same.iter().any(|service| service.weight == 0);
        match largest {
            0 => Self::None,
            over if over > HEAVIEST => Self::Down(over),
            _ if has_zero => Self::Up(HEAVIEST / largest),
            _ => Self::Kept,
        }
    }

    fn weight(&self, weight: u16) -> Option<u32> {
        let weight = u64::from(weight);
        let scaled = match self {
            Self::None => return None,
            Self::Kept => weight,
            Self::Up(factor) => weight * factor,
            Self::Down(largest) => (weight * HEAVIEST + largest / 2) / largest,
        };
        Some(scaled.max(1) as u32)
    }
}
