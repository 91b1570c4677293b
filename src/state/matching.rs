//! Which sessions the control plane means when it has some ended.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::backend::Backend;

/// Which sessions are meant.
#[derive(Clone, Debug)]
pub enum Matching {
    /// All of them.
    All,
    /// Those of one backend.
    Backend(Arc<Backend>),
    /// Those with these ids.
    Ids(Arc<HashSet<u64>>),
    /// Those of these rules, by listener.
    Routes(Arc<Rules>),
}

/// Rules by the name of their listener, as [`Route::identity`](crate::config::Route::identity) has them; a listener's own
/// pool is one without conditions.
pub type Rules = HashMap<Arc<str>, HashSet<u64>>;

/// Those of `old` that are not among `new`.
pub fn removed_rules(mut old: Rules, new: &Rules) -> Rules {
    for (listener, rules) in &mut old {
        rules.retain(|rule| !new.get(listener).is_some_and(|new| new.contains(rule)));
    }
    old.retain(|_, rules| !rules.is_empty());
    old
}
