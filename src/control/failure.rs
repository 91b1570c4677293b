//! Why a request was not carried out, for whoever asked: every dialect of the socket says it in its own way.

/// A refusal.
#[derive(Clone, Debug)]
pub struct Failure {
    /// One word, for programs.
    pub code: &'static str,
    /// What was tried on what, and why it was not done.
    pub message: String,
    /// What to do instead.
    pub hint: Option<String>,
}

impl Failure {
    /// A refusal without a hint.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// No backend has this name.
    pub fn no_such_backend(path: &str) -> Self {
        Self::new("no_such_backend", format!("no backend is called `{path}`")).hint("write POOL/BACKEND")
    }

    /// No pool has this name.
    pub fn no_such_pool(name: &str) -> Self {
        Self::new("no_such_pool", format!("no pool is called `{name}`"))
    }
}
