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

/// Rules by the name of their listener, as [`Route::identity`](crate::config::Route::identity) has them, and
/// [`DEFAULT_ROUTE`] for a listener's own pool.
pub type Rules = HashMap<Arc<str>, HashSet<u64>>;

/// Stands for a listener's own pool among rules.
pub const DEFAULT_ROUTE: u64 = 1;
