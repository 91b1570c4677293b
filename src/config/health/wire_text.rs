//! Names that a check sends to servers: bounded, and without bytes that would end them early on the wire.

use crate::config::problem::{Code, Problems};
use crate::config::section::Section;

/// Longest name. Chosen: host names have as much at most, user names of all servers less.
const MOST: usize = 255;

/// Reads the name under `key`; `None` when it is not written, or was reported.
pub(super) fn read(section: &Section<'_>, key: &str, problems: &mut Problems) -> Option<String> {
    let written = section.text(key, problems)?;
    let text = &written.value;
    if text.is_empty() || text.len() > MOST || text.chars().any(|c| c.is_control() || c == ' ') {
        let message = format!("`{key}` of {} is not a name that can be sent", section.title);
        let hint = format!("1 to {MOST} bytes without spaces and control characters");
        problems.add(Code::BadCheck, written.place, message).hint(hint);
        return None;
    }
    Some(written.value)
}
