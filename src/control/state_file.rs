//! The state file: operators' overrides, kept over a restart. Written as a whole or not at all: a new file beside it,
//! synced, then renamed over it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::state::{Overrides, Snapshot};

/// The file's form; other versions are refused.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    overrides: Vec<SavedOverrides>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedOverrides {
    /// `POOL/BACKEND`.
    backend: String,
    #[serde(flatten)]
    words: Overrides,
}

const VERSION: u32 = 2;

/// Applies what the file says to the backends that are there. A missing file says nothing.
///
/// # Errors
/// When the file cannot be read or is not of this form.
pub fn load(path: &Path, snapshot: &Snapshot) -> io::Result<usize> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let saved: Saved = serde_json::from_slice(&text)?;
    if saved.version != VERSION {
        return Err(io::Error::other(format!("version {} instead of {VERSION}", saved.version)));
    }
    let mut applied = 0;
    for saved in saved.overrides {
        if let Some(backend) = snapshot.backend_named(&saved.backend) {
            backend.change(|vitals| vitals.overrides = saved.words);
            applied += 1;
        } else {
            tracing::warn!(backend = saved.backend, "the state file has an override of a backend that is gone");
        }
    }
    Ok(applied)
}

/// Writes the overrides of all backends.
///
/// # Errors
/// When the file cannot be written; the old one is then still whole.
pub fn save(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let overrides = snapshot.backends().filter_map(|(_, backend)| {
        let words = backend.vitals().overrides;
        let backend = format!("{}/{}", backend.pool, backend.name);
        (!words.is_empty()).then_some(SavedOverrides { backend, words })
    });
    let saved = Saved { version: VERSION, overrides: overrides.collect() };
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    serde_json::to_writer_pretty(&mut file, &saved)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
