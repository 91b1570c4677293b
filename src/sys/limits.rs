//! Limits of the process and the machine: descriptors, CPUs, kernel settings.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// Raises the soft limit of descriptors to the hard one and returns it.
pub fn raise_descriptor_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return hard;
    }
    soft
}

/// Soft and hard limit of descriptors.
pub fn descriptor_limits() -> Option<(u64, u64)> {
    getrlimit(Resource::RLIMIT_NOFILE).ok()
}

/// Gives memory that was freed back to the system (`malloc_trim(3)`): after a burst the allocator would keep it.
#[allow(unsafe_code)]
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and locks the allocator itself.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// The CPUs that this process may run on.
pub fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

/// Has the calling thread run on these CPUs only. Returns whether it worked.
pub fn run_on(cpus: &[usize]) -> bool {
    let mut set = CpuSet::new();
    cpus.iter().all(|cpu| set.set(*cpu).is_ok()) && sched_setaffinity(Pid::from_raw(0), &set).is_ok()
}

/// A kernel setting below `/proc/sys`, such as `net/core/somaxconn`, trimmed.
pub fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|text| text.trim().to_owned())
}
