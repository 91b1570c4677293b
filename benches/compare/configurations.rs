//! The configuration of each proxy: the same routing by server name, the same backends, as many workers, one log line for every session.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::Outcome;
use crate::options::Options;
use crate::wire::SERVER_NAMES;

/// Sessions that every proxy must be able to hold.
const MOST_SESSIONS: usize = 9000;
/// Names of the pools, in the order of the server names.
const POOLS: [&str; 2] = ["alpha", "beta"];

/// Routes, backends and workers.
pub struct Layout {
    /// For each server name, its backends: many addresses of the same server.
    backends: [Vec<SocketAddr>; 2],
    /// Names that nobody asks for, with the pool they would lead to.
    further_names: Vec<(String, usize)>,
    /// Workers, threads or processes, as the program calls them.
    pub workers: usize,
}

impl Layout {
    /// `backends` in all and `routes` in all, at least one for each server name.
    pub fn new(ports: [u16; 2], backends: usize, routes: usize, workers: usize) -> Self {
        let address = |number: usize| Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + number as u32);
        let of_pool = |port: u16| (0..backends / 2).map(|number| SocketAddr::from((address(number), port))).collect();
        let further_names =
            (SERVER_NAMES.len()..routes).map(|number| (format!("name-{number}.compare.example"), number % 2)).collect();
        Self { backends: ports.map(of_pool), further_names, workers }
    }

    /// Every name with the number of its pool; those that are asked for stand in the middle of the others.
    fn names(&self) -> Vec<(&str, usize)> {
        let mut names: Vec<(&str, usize)> =
            self.further_names.iter().map(|(name, pool)| (name.as_str(), *pool)).collect();
        let middle = names.len() / 2;
        for (pool, name) in SERVER_NAMES.iter().enumerate() {
            names.insert(middle, (name, pool));
        }
        names
    }
}

/// sluice: one route for every name.
pub fn sluice(layout: &Layout, port: u16, socket: &Path, log: Option<&Path>, options: &Options) -> String {
    let mut text = format!(
        "[global]\nworkers = {}\nstatus-socket = \"{}\"\n\n[log]\nsessions = \"end\"\n",
        layout.workers,
        socket.display()
    );
    if let Some(log) = log {
        text += &format!("target = \"{}\"\n", log.display());
    }
    if !options.sluice_relay.is_empty() {
        text += &format!("\n[global.relay]\n{}\n", options.sluice_relay.join("\n"));
    }
    text += &format!("\n[[listener]]\nname = \"compare\"\nbind = [\"0.0.0.0:{port}\"]\nprotocol = \"tls\"\n");
    for (name, pool) in layout.names() {
        text += &format!("\n[[listener.route]]\nsni = [\"{name}\"]\npool = \"{}\"\n", POOLS[pool]);
    }
    for (pool, backends) in POOLS.iter().zip(&layout.backends) {
        let list: Vec<String> = backends.iter().map(|backend| format!("\"{backend}\"")).collect();
        text += &format!("\n[pool.{pool}]\nbalance = \"round-robin\"\nbackends = [{}]\n", list.join(", "));
        for line in &options.sluice_pool {
            text += &format!("{line}\n");
        }
    }
    text
}

/// `HAProxy`: splicing forced both ways, 256 KiB pipes; many names are looked up in a map, a few by rules.
pub fn haproxy(layout: &Layout, port: u16, map: &Path) -> Outcome<String> {
    let mut text = format!(
        "global
    nbthread {}
    maxconn {MOST_SESSIONS}
    maxpipes 600
    tune.pipesize 262144
    log stdout format raw local0
defaults
    mode tcp
    log global
    option tcplog
    option splice-request
    option splice-response
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend compare
    bind 0.0.0.0:{port}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
",
        layout.workers
    );
    if layout.further_names.is_empty() {
        for (name, pool) in layout.names() {
            writeln!(text, "    use_backend {} if {{ req.ssl_sni -i {name} }}", POOLS[pool])?;
        }
    } else {
        let lines: String = layout.names().iter().map(|(name, pool)| format!("{name} {}\n", POOLS[*pool])).collect();
        fs::write(map, lines)?;
        writeln!(text, "    use_backend %[req.ssl_sni,lower,map_str({})]", map.display())?;
    }
    for (pool, backends) in POOLS.iter().zip(&layout.backends) {
        writeln!(text, "backend {pool}\n    balance roundrobin")?;
        for (number, backend) in backends.iter().enumerate() {
            writeln!(text, "    server {pool}{number} {backend}")?;
        }
    }
    Ok(text)
}

/// nginx: preread of the name, a map; without a master if one process is enough, else each with a listening socket of its own.
pub fn nginx(layout: &Layout, port: u16, pid: &Path, log: &Path, buffer: &str) -> String {
    let module = ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"];
    let load = module.iter().find(|path| Path::new(path).is_file()).map(|path| format!("load_module {path};\n"));
    let mut text = load.unwrap_or_default();
    text += &format!(
        "daemon off;
master_process {};
worker_processes {};
pid {};
events {{ worker_connections {}; use epoll; }}
stream {{
    map_hash_max_size 65536;
    map_hash_bucket_size 128;
    map $ssl_preread_server_name $pool {{
",
        if layout.workers > 1 { "on" } else { "off" },
        layout.workers,
        pid.display(),
        MOST_SESSIONS * 2
    );
    for (name, pool) in layout.names() {
        text += &format!("        {name} {};\n", POOLS[pool]);
    }
    text += "    }\n";
    for (pool, backends) in POOLS.iter().zip(&layout.backends) {
        let list: String = backends.iter().map(|backend| format!("        server {backend};\n")).collect();
        text += &format!("    upstream {pool} {{\n{list}    }}\n");
    }
    text += "    log_format sessions '$remote_addr:$remote_port [$time_local] $ssl_preread_server_name $pool $upstream_addr ";
    text += "$status $bytes_sent $bytes_received $session_time $upstream_connect_time';\n";
    text += &format!("    access_log {} sessions;\n", log.display());
    let own_sockets = if layout.workers > 1 { " reuseport" } else { "" };
    text += &format!("    server {{\n        listen 0.0.0.0:{port} backlog=4096{own_sockets};\n");
    text += "        ssl_preread on;\n        proxy_pass $pool;\n";
    text += &format!("        proxy_buffer_size {buffer};\n        proxy_timeout 1h;\n    }}\n}}\n");
    text
}
