//! Reads `[pool.NAME.health]`: the keys that every check has here, those of one kind in the file of that kind. Adding a
//! kind is a file and a line in `kinds!`. It reads the files that checks need, so that a reload sees when they changed.

mod agent;
mod encryption;
mod exec;
mod expect;
mod http;
mod https;
mod keys;
mod kind;
mod ldap;
mod loaded;
mod mysql;
mod postgres;
mod redis;
mod smtp;
mod tcp;
mod tls;
mod tls_hello;
mod wire_text;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::format_duration;
use super::problem::{Code, Problems};
use super::section::{At, Section};
use super::source::Place;
use crate::decide::health::Thresholds;

pub use agent::Agent;
pub use encryption::Encryption;
pub use exec::Exec;
pub use expect::{Expect, Step};
pub use http::Http;
pub use https::Https;
pub use keys::HEALTH;
pub use kind::CheckKind;
pub use ldap::Ldap;
pub use loaded::Loaded;
pub use mysql::MySql;
pub use postgres::Postgres;
pub use redis::Redis;
pub use smtp::Smtp;
pub use tcp::Tcp;
pub use tls::{ClientCertificate, Tls, Trust, Verify};
pub use tls_hello::TlsHello;

/// `[pool.NAME.health]`. Two that are equal say the same of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// What is done.
    pub kind: CheckKind,
    /// Time between checks while the backend is up and nothing changes.
    pub interval: Duration,
    /// The same while the state changes, or after live traffic failed; never above `interval`.
    pub fast_interval: Duration,
    /// The same while the backend is down.
    pub down_interval: Duration,
    /// Time for one check, all phases together.
    pub timeout: Duration,
    /// Results in a row that change the state.
    pub thresholds: Thresholds,
    /// Address to check instead of the backend's.
    pub address: Option<IpAddr>,
    /// Port to check instead of the backend's.
    pub port: Option<u16>,
}

/// Reads the check of a pool; `None`: live traffic alone decides.
pub fn read_health(pool: &Section<'_>, problems: &mut Problems) -> Option<HealthCheck> {
    if !pool.has("health") {
        warn_of_none(pool, pool.place.clone(), problems);
        return None;
    }
    let table = pool.table("health", problems)?;
    let title = format!("[{}.health]", pool.title.trim_matches(['[', ']']));
    let section = Section::open(&HEALTH, &title, &table.place, table.value, problems);
    let check = section.word("check", problems);
    let [interval, fast, down, timeout] = ["interval", "fast-interval", "down-interval", "timeout"].map(|key| {
        let time = section.duration(key, problems)?;
        Some(At { value: time.value?, place: time.place })
    });
    let rise = section.integer("rise", problems);
    let fall = section.integer("fall", problems);
    let address = section.address("address", problems).map(|address| address.value);
    let port = section.integer("port", problems).map(|port| port.value as u16);
    let word = check?.value;
    if word == "off" {
        warn_of_none(pool, table.place.clone(), problems);
        return None;
    }
    kind::warn_of_other_kinds(&section, word, problems);
    let kind = kind::read(&section, word, problems);
    let (interval, fast) = (interval?, fast?);
    if section.has("fast-interval") && fast.value > interval.value {
        let shown = format_duration(interval.value);
        let message = format!("`fast-interval` of {title} has no effect: it is above interval, which is {shown}");
        problems.add(Code::NoEffect, fast.place, message);
    }
    Some(HealthCheck {
        kind: kind?,
        interval: interval.value,
        fast_interval: fast.value.min(interval.value),
        down_interval: down?.value,
        timeout: timeout?.value,
        thresholds: Thresholds { rise: rise?.value as u32, fall: fall?.value as u32 },
        address,
        port,
    })
}

fn warn_of_none(pool: &Section<'_>, place: Place, problems: &mut Problems) {
    let message = format!("{} has no health check: live traffic alone decides", pool.title);
    let hint = if pool.has("health") {
        "set check = \"tcp\"".to_owned()
    } else {
        format!("add [{}.health] with check = \"tcp\"", pool.title.trim_matches(['[', ']']))
    };
    problems.add(Code::NoHealthCheck, place, message).hint(hint);
}

/// Keys whose values are paths of files.
const FILES: [&str; 4] = ["ca", "certificate", "key", "password-file"];

impl HealthCheck {
    /// The files that it reads.
    pub fn files(&self) -> Vec<PathBuf> {
        let table = self.dump();
        let paths = FILES.iter().filter_map(|key| table.get(*key)?.as_str());
        // The one word among them.
        paths.filter(|path| *path != "system").map(PathBuf::from).collect()
    }

    /// The check as TOML, as the dump shows it; files by their paths.
    pub(super) fn dump(&self) -> toml::Table {
        let mut table = toml::Table::new();
        let mut set = |key: &str, value: toml::Value| table.insert(key.to_owned(), value);
        set("check", self.kind.word().into());
        for (key, time) in [
            ("interval", self.interval),
            ("fast-interval", self.fast_interval),
            ("down-interval", self.down_interval),
            ("timeout", self.timeout),
        ] {
            set(key, format_duration(time).into());
        }
        set("rise", i64::from(self.thresholds.rise).into());
        set("fall", i64::from(self.thresholds.fall).into());
        if let Some(address) = self.address {
            set("address", address.to_string().into());
        }
        if let Some(port) = self.port {
            set("port", i64::from(port).into());
        }
        self.kind.dump(&mut table);
        table
    }
}
