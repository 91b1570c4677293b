//! The check `tcp`: a connection is accepted within the time-out. It is closed in an orderly way, with FIN.

use super::{Failed, Passed, Talk};
use crate::config::Tcp;

/// Nothing to keep.
pub struct Dialogue;

impl Dialogue {
    #[expect(clippy::unnecessary_wraps, reason = "every kind may fail to get ready")]
    pub fn new(_settings: &Tcp) -> Result<Self, String> {
        Ok(Self)
    }

    pub async fn run(&self, talk: &mut Talk<'_>) -> Result<Passed, Failed> {
        talk.reach().await?;
        Ok(Passed::new("connected", format!("connected to {}", talk.target.address)))
    }
}
