//! Which sessions the control plane means when it has some ended.

use std::collections::HashSet;
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
}
