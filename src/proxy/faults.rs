//! What becomes of a panic in the daemon. One in a session's task ends that session; one anywhere else ends the process,
//! for the service manager to start it anew: half of a worker, or a process without its checks, would be worse.

use std::backtrace::Backtrace;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{process, thread};

/// How the threads of workers are called; their number follows.
pub const WORKER_THREAD: &str = "worker-";

/// Panics whose way is shown.
const MOST_BACKTRACES: u32 = 10;
static SHOWN: AtomicU32 = AtomicU32::new(0);
/// How long the log may take to write what the process ends of.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Has every panic logged with its place, and the process aborted for one on a thread that is no worker.
pub fn watch() {
    set_hook(Box::new(|panic| {
        report(panic);
        if !thread::current().name().is_some_and(|name| name.starts_with(WORKER_THREAD)) {
            abort();
        }
    }));
}

fn report(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let payload = panic.payload();
    let words = payload.downcast_ref::<&str>().copied();
    let words = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words");
    let current = thread::current();
    // The way there is dear, and the same again and again.
    let is_new = SHOWN.fetch_add(1, Ordering::Relaxed) < MOST_BACKTRACES;
    let backtrace = is_new.then(|| Backtrace::force_capture().to_string());
    // Also where it does not depend on the log, which may be what has the fault. Nobody may read it: a second panic in
    // here would end the process.
    let _ = writeln!(io::stderr(), "sluice: a fault at {place}: {words}");
    tracing::error!(place, panic = words, thread = current.name(), backtrace, "a fault of sluice: please report it");
}

fn abort() -> ! {
    // The log is written by another thread.
    thread::sleep(LAST_WORDS);
    process::abort()
}

/// Aborts the process when it is dropped by a panic: nothing goes on without what holds it.
#[derive(Debug)]
pub struct Essential;

impl Drop for Essential {
    fn drop(&mut self) {
        if thread::panicking() {
            abort();
        }
    }
}

/// Runs a task whose panic ends the process.
pub async fn essential(task: impl Future<Output = ()>) {
    let _essential = Essential;
    task.await;
}

/// What `step` returns, or `None` when it panicked; whatever it has changed by then is the caller's affair.
pub fn contained<T>(step: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(step)).ok()
}

/// In builds with debug assertions, panics where `SLUICE_TEST_FAULT` is `AT:NAME` for this place and server name: tests see
/// what becomes of it.
///
/// # Panics
/// That is what it is for.
pub fn provoke(at: &str, name: impl FnOnce() -> Option<String>) {
    #[cfg(debug_assertions)]
    {
        static WANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        let Some(wanted) = WANTED.get_or_init(|| std::env::var("SLUICE_TEST_FAULT").ok()) else { return };
        assert!(name().is_none_or(|name| *wanted != format!("{at}:{name}")), "a fault that a test wants {at}");
    }
    #[cfg(not(debug_assertions))]
    let _ = (at, name);
}
