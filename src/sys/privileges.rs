//! Gives up what a process that only moves bytes does not need: capabilities, new privileges, most of the file system.
//! All of it is per thread and inherited, so it is done before other threads are started.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    path_beneath_rules,
};

/// What may be needed after the start: privileged ports of a reload.
const KEPT_FOR_BINDING: Capability = Capability::CAP_NET_BIND_SERVICE;
/// What the data path uses all the time, where it was given: pipes beyond `fs.pipe-user-pages-soft`.
const KEPT_IN_FORCE: Capability = Capability::CAP_SYS_RESOURCE;

/// Folders of the system that are read: libraries, authorities, names, settings of the kernel.
const SYSTEM: [&str; 9] = ["/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/proc", "/sys", "/run"];

/// Rights that landlock knows since Linux 5.19; later ones are not about files, or not needed.
const RIGHTS: ABI = ABI::V2;

/// No program that this process starts gets more rights than it has itself (`PR_SET_NO_NEW_PRIVS`, `prctl(2)`).
pub fn refuse_new_privileges() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs().map_err(io::Error::from)
}

/// Gives up the calling thread's capabilities, but for those above, as far as it has them.
pub fn give_up_capabilities() -> io::Result<()> {
    let keep = |set: CapSet, kept: &[Capability]| {
        let has = caps::read(None, set)?;
        caps::set(None, set, &has.into_iter().filter(|one| kept.contains(one)).collect::<CapsHashSet>())
    };
    let all = || {
        caps::clear(None, CapSet::Ambient)?;
        caps::clear(None, CapSet::Inheritable)?;
        keep(CapSet::Effective, &[KEPT_IN_FORCE])?;
        keep(CapSet::Permitted, &[KEPT_IN_FORCE, KEPT_FOR_BINDING])
    };
    all().map_err(io::Error::other)
}

/// While it lives, the calling thread may bind privileged ports, if it ever could.
#[derive(Debug)]
pub struct Binding(());

impl Binding {
    /// Raises the capability.
    pub fn begin() -> Self {
        let may = caps::has_cap(None, CapSet::Permitted, KEPT_FOR_BINDING).unwrap_or(false);
        if may {
            // Without it, binding says what is missing.
            let _ = caps::raise(None, CapSet::Effective, KEPT_FOR_BINDING);
        }
        Self(())
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // Fails only where there is nothing to lower.
        let _ = caps::drop(None, CapSet::Effective, KEPT_FOR_BINDING);
    }
}

/// While it lives, programs that the calling thread starts keep what this process has kept (ambient capabilities,
/// `capabilities(7)`).
#[derive(Debug)]
pub struct Passing(());

impl Passing {
    /// Raises them.
    pub fn begin() -> Self {
        for one in [KEPT_IN_FORCE, KEPT_FOR_BINDING] {
            if caps::has_cap(None, CapSet::Permitted, one).unwrap_or(false) {
                // Without it the program has less, and says what it cannot do.
                let _ = caps::raise(None, CapSet::Inheritable, one);
                let _ = caps::raise(None, CapSet::Ambient, one);
            }
        }
        Self(())
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // Fails only where there is nothing to lower.
        let _ = caps::clear(None, CapSet::Ambient);
        let _ = caps::clear(None, CapSet::Inheritable);
    }
}

/// What of the file system stays open.
#[derive(Debug, Default)]
pub struct Files {
    /// Files and folders that are read, besides the system's own.
    pub read: Vec<PathBuf>,
    /// Folders in which files are made, written, renamed and removed.
    pub written: Vec<PathBuf>,
}

/// Which of the capabilities that are of use here the calling thread may have.
pub fn capabilities() -> Vec<String> {
    let has = |one: &Capability| caps::has_cap(None, CapSet::Permitted, *one).unwrap_or(false);
    [KEPT_FOR_BINDING, KEPT_IN_FORCE].into_iter().filter(has).map(|one| one.to_string()).collect()
}

/// Whether the kernel can close the file system (`landlock(7)`).
pub fn knows_landlock() -> bool {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset.handle_access(AccessFs::from_all(ABI::V1)).and_then(landlock::Ruleset::create).is_ok()
}

/// How far the file system was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// All but what was asked for.
    Yes,
    /// The kernel does not know how (`landlock(7)`, Linux 5.13).
    Unsupported,
}

/// Closes the file system for the calling thread and those that it starts. Paths that are not there are left out.
///
/// # Errors
/// When the kernel knows landlock and refuses all the same.
pub fn close_file_system(files: &Files) -> io::Result<Closed> {
    let read = AccessFs::from_read(RIGHTS);
    let system = SYSTEM.iter().map(Path::new).chain(files.read.iter().map(PathBuf::as_path));
    let restrict = || -> Result<_, landlock::RulesetError> {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(RIGHTS))?
            .create()?
            .add_rules(path_beneath_rules(system, read))?
            .add_rules(path_beneath_rules(["/dev/null"], AccessFs::from_all(RIGHTS)))?
            .add_rules(path_beneath_rules(&files.written, AccessFs::from_all(RIGHTS)))?
            .restrict_self()
    };
    let status = restrict().map_err(io::Error::other)?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Ok(Closed::Unsupported);
    }
    OPEN.get_or_init(|| files.written.iter().filter_map(|folder| folder.canonicalize().ok()).collect());
    Ok(Closed::Yes)
}

/// Folders that stayed open for writing; unset while the file system is not closed.
static OPEN: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// Why a file cannot be written, or a socket not be made, in words: says so where its folder was closed at the start.
pub fn denied(path: &Path, cause: &io::Error) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_closed = |open: &Vec<PathBuf>| {
        folder.canonicalize().is_ok_and(|folder| !open.iter().any(|open| folder.starts_with(open)))
    };
    if cause.kind() == io::ErrorKind::PermissionDenied && OPEN.get().is_some_and(is_closed) {
        let folder = folder.display();
        return format!(
            "{cause}: the process gave up writing in {folder} when it started; a restart is needed for that"
        );
    }
    cause.to_string()
}
