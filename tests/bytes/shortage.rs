//! Takes the kernel's pipes away from a daemon, half of the time. For `tests/bytes.rs`.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Uid, pipe2};

use crate::support::through;

/// The same command as a user whom the kernel gives no more pipes than anybody else (`pipe(7)`).
pub fn without_privilege(command: &mut Command) -> &mut Command {
    if Uid::effective().is_root() {
        through(command, "setpriv", &["--bounding-set=-sys_resource,-sys_admin"])
    } else {
        command
    }
}

/// Takes this user's whole budget of pages for pipes, again and again.
pub fn take_pipes_away(over: &AtomicBool) {
    let read =
        |name: &str| fs::read_to_string(format!("/proc/sys/fs/{name}")).unwrap().trim().parse::<usize>().unwrap();
    let (budget, most) = (read("pipe-user-pages-soft"), read("pipe-max-size"));
    assert!(budget > 0, "no budget, no shortage: set fs.pipe-user-pages-soft");
    while !over.load(Ordering::SeqCst) {
        // Without privilege the last one fails, as the daemon's will.
        let hoard: Vec<_> = (0..=budget.div_ceil(most / 4096))
            .map_while(|_| {
                let pipe = pipe2(OFlag::O_CLOEXEC).ok()?;
                fcntl(&pipe.0, FcntlArg::F_SETPIPE_SZ(most as i32)).ok().map(|_| pipe)
            })
            .collect();
        // Not to wait for something: the rhythm of the shortage.
        thread::sleep(Duration::from_millis(100));
        drop(hoard);
        thread::sleep(Duration::from_millis(100));
    }
}
