//! nginx and HAProxy with a configuration of the test's own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::Signal;

use super::{Process, program, wait_until_listening};
use crate::support::TempDir;

/// One process with one configuration file; `{dir}` in it stands for a folder of its own.
pub struct Configured {
    _process: Process,
    dir: TempDir,
}

impl Configured {
    /// nginx; `blocks` are what stands beside `events`, such as `stream`. Returns when all `addresses` listen.
    #[track_caller]
    pub fn nginx(blocks: &str, addresses: &[SocketAddr]) -> Self {
        // One process, so that one pid is the whole server.
        let config = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
            daemon off; master_process off; pid {{dir}}/pid; error_log stderr info;
            events {{ worker_connections 512; }}
            {blocks}"
        );
        Self::start("/usr/sbin/nginx", &["-e", "stderr", "-p", "{dir}", "-c", "{dir}/config"], &config, addresses)
    }

    /// HAProxy; `sections` follow `global` and `defaults`.
    #[track_caller]
    pub fn haproxy(sections: &str, addresses: &[SocketAddr]) -> Self {
        let config = format!(
            "global
                log stderr format raw local0 info
                nbthread 1
            defaults
                log global
                timeout connect 5s
                timeout client 15s
                timeout server 15s
                default-server inter 100ms
            {sections}"
        );
        Self::start("/usr/sbin/haproxy", &["-db", "-f", "{dir}/config"], &config, addresses)
    }

    #[track_caller]
    fn start(path: &str, arguments: &[&str], config: &str, addresses: &[SocketAddr]) -> Self {
        let dir = TempDir::new();
        let root = dir.path().display().to_string();
        fs::write(dir.path().join("config"), format!("{}\n", config.replace("{dir}", &root))).unwrap();
        let said = dir.path().join("said");
        let mut command = program(path);
        command.args(arguments.iter().map(|argument| argument.replace("{dir}", &root)));
        command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let mut process = Process::spawn(&mut command, Signal::SIGTERM);
        for address in addresses {
            wait_until_listening(&mut process, *address, &said);
        }
        Self { _process: process, dir }
    }

    /// What it logged so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("said")).unwrap_or_default()
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- said by a server ---\n{}", self.said());
        }
    }
}
