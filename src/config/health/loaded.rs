//! A file that a check needs, read together with the configuration: whatever can fail comes before a reload takes effect,
//! and two checks are equal only when their files have the same contents. Contents are never shown: they may be secret.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::problem::{Code, Problems};
use crate::config::section::{At, Section};

/// Largest file that is read. Chosen: the bundles of certificate authorities that systems ship have a quarter of it.
const MOST: u64 = 1024 * 1024;

/// A path and what the file has.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Loaded {
    /// As written.
    pub path: PathBuf,
    /// Its contents.
    pub contents: Arc<[u8]>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loaded({}, {} bytes)", self.path.display(), self.contents.len())
    }
}

impl Loaded {
    /// Reads the file that the key `name` names; `None` when the key is not written, or the file was reported.
    pub(super) fn read(section: &Section<'_>, name: &str, problems: &mut Problems) -> Option<Self> {
        if !section.has(name) {
            return None;
        }
        let path = section.text(name, problems)?;
        Self::read_path(section, name, &path, problems)
    }

    /// Reads the file at `path`, the value of the key `name`.
    pub(super) fn read_path(
        section: &Section<'_>,
        name: &str,
        path: &At<String>,
        problems: &mut Problems,
    ) -> Option<Self> {
        match contents(Path::new(&path.value)) {
            Ok(contents) => Some(Self { path: PathBuf::from(&path.value), contents: contents.into() }),
            Err(error) => {
                let message = format!("cannot read `{name}` of {}, {}: {error}", section.title, path.value);
                problems.add(Code::Unusable, path.place.clone(), message);
                None
            }
        }
    }
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe or a device could keep the reader for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut contents = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > MOST { Err(io::Error::other("over 1 MiB")) } else { Ok(contents) }
}
