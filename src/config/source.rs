//! Configuration files in memory, and places in them.

use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

/// Most bytes of one configuration file (chosen: 10 000 routes take about 1 MiB).
const MAX_FILE: u64 = 16 << 20;

/// A range of bytes in one source file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Position of the file in [`Sources`].
    pub file: usize,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Place {
    /// A place from a range of the TOML parser.
    pub const fn new(file: usize, range: &Range<usize>) -> Self {
        Self { file, start: range.start, end: range.end }
    }
}

/// The files of one configuration, in the order in which they are merged.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

#[derive(Clone, Debug)]
struct SourceFile {
    name: String,
    text: String,
    /// Where each line begins: every route is asked for its line, and there may be ten thousand.
    line_starts: Vec<usize>,
}

impl SourceFile {
    fn new(name: String, text: String) -> Self {
        let ends = text.match_indices('\n').map(|(position, _)| position + 1);
        let line_starts = std::iter::once(0).chain(ends).collect();
        Self { name, text, line_starts }
    }
}

/// A file or folder that could not be read.
#[derive(Debug)]
pub struct SourceError {
    /// What was asked for.
    pub path: PathBuf,
    /// What happened.
    pub cause: io::Error,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read configuration {}: {}", self.path.display(), self.cause)
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

impl Sources {
    /// Reads files, and of folders all `*.toml` in byte order.
    pub fn read(paths: &[PathBuf]) -> Result<Self, SourceError> {
        let mut sources = Self::default();
        for path in paths {
            let failed = |cause| SourceError { path: path.clone(), cause };
            if path.is_dir() {
                let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
                let mut inside: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
                // Hidden files are editors' locks and backups, as for a shell's `*.toml`.
                let hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
                inside.retain(|path| path.extension().is_some_and(|extension| extension == "toml") && !hidden(path));
                inside.sort();
                if inside.is_empty() {
                    return Err(failed(io::Error::new(io::ErrorKind::NotFound, "no *.toml in this folder")));
                }
                for file in inside {
                    sources.read_file(&file)?;
                }
            } else {
                sources.read_file(path)?;
            }
        }
        Ok(sources)
    }

    /// One source that is not a file.
    pub fn from_text(name: &str, text: &str) -> Self {
        Self { files: vec![SourceFile::new(name.to_owned(), text.to_owned())] }
    }

    fn read_file(&mut self, path: &Path) -> Result<(), SourceError> {
        let failed = |cause| SourceError { path: path.to_owned(), cause };
        let mut bytes = Vec::new();
        fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_FILE} bytes"))));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let line =
                error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|byte| **byte == b'\n').count();
            failed(io::Error::new(io::ErrorKind::InvalidData, format!("line {} is not UTF-8", line + 1)))
        })?;
        self.files.push(SourceFile::new(path.display().to_string(), text));
        Ok(())
    }

    /// Refuses files that anybody may write or replace: whoever can change the configuration of a process that runs as root
    /// can do what it can.
    ///
    /// # Errors
    /// For the first such file.
    pub fn refuse_open_to_all(&self) -> Result<(), SourceError> {
        for path in self.files.iter().map(|file| Path::new(&file.name)) {
            let failed = |cause| SourceError { path: path.to_owned(), cause };
            let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let folder_mode = fs::metadata(folder).map_err(failed)?.permissions().mode();
            // In a folder with the sticky bit only owners replace files.
            let replaceable = folder_mode & 0o002 != 0 && folder_mode & 0o1000 == 0;
            if mode & 0o002 != 0 || replaceable {
                let what = if replaceable { "its folder" } else { "it" };
                let why =
                    format!("anybody may write {what}, and this process is root; chmod o-w, or run it as its own user");
                return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, why)));
            }
        }
        Ok(())
    }

    /// Texts with their positions.
    pub fn texts(&self) -> impl Iterator<Item = (usize, &str)> {
        self.files.iter().map(|file| file.text.as_str()).enumerate()
    }

    /// Name of a file.
    pub fn name(&self, file: usize) -> &str {
        self.files.get(file).map_or("", |file| &file.name)
    }

    /// Text of a file.
    pub fn text(&self, file: usize) -> &str {
        self.files.get(file).map_or("", |file| &file.text)
    }

    /// Line and column of a place, both from 1; columns count characters.
    pub fn line_and_column(&self, place: &Place) -> (usize, usize) {
        let Some(file) = self.files.get(place.file) else { return (1, 1) };
        let at = file.text.floor_char_boundary(place.start.min(file.text.len()));
        let line = file.line_starts.partition_point(|start| *start <= at);
        (line, file.text[file.line_starts[line - 1]..at].chars().count() + 1)
    }

    /// `file:line` of a place.
    pub fn origin(&self, place: &Place) -> String {
        format!("{}:{}", self.name(place.file), self.line_and_column(place).0)
    }
}
