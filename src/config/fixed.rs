//! Keys that the running daemon says a reload leaves as they are: `check` and `config diff` name those that differ.

use std::collections::BTreeMap;

use serde::Serialize;
use toml::{Table, Value};

use super::Config;
use super::dump::table;

/// A difference that a reload leaves as it is.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FixedChange {
    /// Such as `global.status-socket`.
    pub key: String,
    /// Value that is in force.
    pub running: String,
    /// Value of the file.
    pub file: String,
    /// What brings the file's into force.
    pub effect: String,
}

/// What of `config` a reload would leave as it is in the running configuration, of which this is the dump. `fixed` are
/// the keys, each with what brings another value into force.
pub fn fixed_changes(running: &Table, fixed: &BTreeMap<String, String>, config: &Config) -> Vec<FixedChange> {
    let file = table(config);
    let change = |(key, effect): (&String, &String)| FixedChange {
        key: key.clone(),
        running: value(running, key),
        file: value(&file, key),
        effect: effect.clone(),
    };
    fixed.iter().map(change).filter(|change| change.running != change.file).collect()
}

/// Its value in a dump, as it would be written.
fn value(dump: &Table, path: &str) -> String {
    let (section, key) = path.split_once('.').unwrap_or_default();
    dump.get(section).and_then(|section| section.get(key)).map_or_else(String::new, Value::to_string)
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
    fn only_a_difference_of_a_fixed_key_is_named() {
        let (running, new) = (config("workers = 2"), config("ready-delay = \"1s\""));
        let fixed: BTreeMap<String, String> = [("global.workers".to_owned(), "not now".to_owned())].into();
        let change = FixedChange {
            key: "global.workers".into(),
            running: "2".into(),
            file: "\"auto\"".into(),
            effect: "not now".into(),
        };
        assert_eq!(fixed_changes(&table(&running), &fixed, &new), [change]);
        assert_eq!(fixed_changes(&table(&running), &fixed, &running), []);
        assert_eq!(fixed_changes(&table(&running), &BTreeMap::new(), &new), []);
    }
}
