//! Why a connection goes where it goes: the members in the order in which they would be tried, and for each that is
//! not the first, why. For dry runs; it changes nothing.

use super::{Ask, Balancer, Choice, Load, MAX_TRIES, MemberId, Tier, Turns, next_random};

/// What would become of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Members in the order in which they would be tried, were each to fail: at most [`MAX_TRIES`] with those that
    /// were tried before.
    pub order: Vec<Choice>,
    /// Every member but the first of the order, by its position in the pool.
    pub passed_over: Vec<(MemberId, PassedOver)>,
}

/// Why a member is not the first choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedOver {
    /// It has weight 0.
    WeightZero,
    /// It takes no new connections; the caller knows why.
    NotTaking,
    /// It was tried before.
    Tried,
    /// One of an earlier tier serves.
    LaterTier(Tier),
    /// It has as many connections as its share allows.
    AboveBound {
        /// Its connections.
        load: u32,
        /// The most that it may have.
        cap: u32,
    },
    /// It could take the connection, but another comes first.
    Later,
}

impl Balancer {
    /// Explains what [`next`](Self::next) would answer, and would answer again as each member fails.
    pub fn explain(&self, load: &impl Fn(MemberId) -> Option<Load>, ask: &Ask<'_>, turns: &Turns) -> Explained {
        let mut turns = turns.clone();
        let mut tried = ask.tried.clone();
        let mut random = ask.random;
        let mut order = Vec::new();
        while usize::from(tried.count()) < MAX_TRIES {
            let again = Ask { tried: &tried, random, ..*ask };
            let Some(choice) = self.next(load, &again, &mut turns) else { break };
            tried.insert(choice.member);
            order.push(choice);
            random = next_random(random);
        }
        let first = order.first().map(|choice| choice.member);
        let others = (0..self.members).filter(|member| Some(*member) != first);
        let passed_over = others.map(|member| (member, self.why_not(member, load, ask, first))).collect();
        Explained { order, passed_over }
    }

    fn why_not(
        &self,
        member: MemberId,
        load: &impl Fn(MemberId) -> Option<Load>,
        ask: &Ask<'_>,
        first: Option<MemberId>,
    ) -> PassedOver {
        let of = |member| self.tiers.iter().find_map(|tier| Some((tier, tier.weight(member)?)));
        let Some((tier, weight)) = of(member) else { return PassedOver::WeightZero };
        if ask.tried.contains(member) {
            return PassedOver::Tried;
        }
        let Some(load) = load(member) else { return PassedOver::NotTaking };
        if first.and_then(of).is_some_and(|(serving, _)| serving.tier() < tier.tier()) {
            return PassedOver::LaterTier(tier.tier());
        }
        match tier.bound(self.method, ask) {
            Some(bound) if !bound.admits(load.active, weight) => {
                PassedOver::AboveBound { load: load.active, cap: bound.cap(weight) }
            }
            _ => PassedOver::Later,
        }
    }
}
