//! The keys that a reload leaves as they are, each once: a reload warns of them, `check` and `config diff` name them.

use serde::Serialize;
use toml::{Table, Value};

use super::Config;
use super::dump::table;

/// A key that a reload leaves as it is.
#[derive(Debug)]
pub struct FixedKey {
    /// Such as `global.workers`.
    pub path: &'static str,
    /// What brings another value into force.
    pub effect: &'static str,
    keep: fn(&mut Config, &Config),
}

static FIXED: &[FixedKey] = &[FixedKey {
    path: "global.workers",
    effect: "takes effect by `sluice upgrade` or a restart",
    keep: |config, running| config.global.workers = running.global.workers,
}];

impl FixedKey {
    /// The one with this path, if a reload leaves it as it is.
    pub fn find(path: &str) -> Option<&'static Self> {
        FIXED.iter().find(|key| key.path == path)
    }

    /// Its value in a dump, as it would be written.
    fn value(&self, dump: &Table) -> String {
        let (section, key) = self.path.split_once('.').unwrap_or_default();
        dump.get(section).and_then(|section| section.get(key)).map_or_else(String::new, Value::to_string)
    }
}

/// A difference that a reload leaves as it is.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FixedChange {
    /// Such as `global.workers`.
    pub key: &'static str,
    /// Value that is in force.
    pub running: String,
    /// Value of the file.
    pub file: String,
    /// What brings the file's into force.
    pub effect: &'static str,
}

/// What of `config` a reload would leave as it is in the running configuration, of which this is the dump.
pub fn fixed_changes(running: &Table, config: &Config) -> Vec<FixedChange> {
    let file = table(config);
    let change = |key: &FixedKey| FixedChange {
        key: key.path,
        running: key.value(running),
        file: key.value(&file),
        effect: key.effect,
    };
    FIXED.iter().map(change).filter(|change| change.running != change.file).collect()
}

impl Config {
    /// Keeps what a reload leaves as it is, so that this says what will be in force.
    pub fn keep_fixed(&mut self, running: &Self) {
        for key in FIXED {
            (key.keep)(self, running);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, check};

    fn config(global: &str) -> Config {
        let text = format!(
            "[global]\n{global}\n[[listener]]\nname = \"l\"\nbind = [\"127.0.0.1:443\"]\npool = \"p\"\n\
             [pool.p]\nbackends = [\"127.0.0.1:1\"]\n"
        );
        check(&Sources::from_text("test", &text)).0.expect("a good configuration")
    }

    #[test]
    fn a_difference_is_named_and_gone_once_it_is_kept() {
        let (running, mut new) = (config("workers = 2"), config("ready-delay = \"1s\""));
        let effect = "takes effect by `sluice upgrade` or a restart";
        let change = FixedChange { key: "global.workers", running: "2".into(), file: "\"auto\"".into(), effect };
        assert_eq!(fixed_changes(&table(&running), &new), [change]);
        new.keep_fixed(&running);
        assert_eq!(fixed_changes(&table(&running), &new), []);
        assert_ne!(new.global.ready_delay, running.global.ready_delay, "the rest is as the file says");
    }

    #[test]
    fn every_fixed_key_is_one_that_is_there() {
        let dump = table(&config(""));
        for key in FIXED {
            assert!(!key.value(&dump).is_empty(), "{}", key.path);
        }
    }
}
