//! Network namespaces of the tests' own, with cables between them and firewalls inside. They need root.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{process, thread};

use nix::sched::{CloneFlags, setns};

use super::servers::program;

/// The two ends of a cable; addresses in namespaces only.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// A network namespace with nothing but loopback. Removed when dropped, also after a panic.
pub struct Namespace {
    name: String,
}

impl Namespace {
    #[track_caller]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sluice-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let space = Self { name };
        ip(&["-n", &space.name, "link", "set", "lo", "up"]);
        space
    }

    /// Gives loopback one more address, [`NEAR`], from which connections to it come too.
    #[track_caller]
    pub fn add_near(&self) {
        ip(&["-n", &self.name, "address", "add", &format!("{NEAR}/32"), "dev", "lo"]);
    }

    /// Lays a cable to another namespace; this end is [`NEAR`], the other [`FAR`].
    #[track_caller]
    pub fn link(&self, other: &Self) {
        // Both ends are made inside, so that no other namespace ever sees them.
        ip(&["-n", &self.name, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &other.name]);
        for (space, address) in [(self, NEAR), (other, FAR)] {
            ip(&["-n", &space.name, "address", "add", &format!("{address}/24"), "dev", "cable"]);
            ip(&["-n", &space.name, "link", "set", "cable", "up"]);
        }
    }

    /// Has a firewall do so with what goes to `address`: `what` is a statement of nft, after a match if need be.
    #[track_caller]
    pub fn firewall(&self, address: SocketAddr, what: &str) {
        let chain =
            "add table inet t; add chain inet t in { type filter hook input priority 0; }; flush chain inet t in";
        let rule = format!("add rule inet t in ip daddr {} tcp dport {} {what}", address.ip(), address.port());
        self.nft(&format!("{chain}; {rule}"));
    }

    /// Opens the firewall again.
    #[track_caller]
    pub fn open(&self) {
        self.nft("delete table inet t");
    }

    #[track_caller]
    fn nft(&self, commands: &str) {
        let mut nft = program("/usr/sbin/ip");
        nft.args(["netns", "exec", &self.name, "/usr/sbin/nft", commands]);
        let output = nft.output().unwrap();
        assert!(output.status.success(), "nft {commands}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Pulls the cable out at this end.
    #[track_caller]
    pub fn unplug(&self) {
        ip(&["-n", &self.name, "link", "set", "cable", "down"]);
    }

    /// Does `work` on a thread inside; sockets, threads and processes that it makes stay there.
    #[track_caller]
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let space = File::open(format!("/run/netns/{}", self.name)).unwrap();
                setns(space, CloneFlags::CLONE_NEWNET).expect("enter a namespace");
                work()
            });
            thread.join()
        });
        inside.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = program("/usr/sbin/ip").args(["netns", "delete", &self.name]).status();
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = program("/usr/sbin/ip").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {said}Network namespaces need root.", arguments.join(" "));
}
