//! `check = "http"`: the request, and what is expected of its answer. `https` takes the same keys.

use super::CheckKind;
use super::kind::KindTable;
use crate::config::keys::{Key, Kind, built};
use crate::config::problem::{Code, Problems};
use crate::config::section::{At, Section};

/// Names of the keys, for `https`.
pub(super) const NAMES: &[&str] = &["path", "host", "status", "text"];

pub(super) const TABLE: KindTable = KindTable {
    word: "http",
    own: KEYS,
    takes: &[],
    read: |section, problems| Http::read(section, problems).map(CheckKind::Http),
};

const KEYS: &[Key] = &[
    built("path", Kind::Text, "\"/\"", "Path, with query, of the GET request."),
    built(
        "host",
        Kind::Text,
        "",
        "Host of the request. Without it: the server name of https, or the address with its port.",
    ),
    built(
        "status",
        Kind::Texts,
        "[\"200-399\"]",
        "Status codes of a backend that is well: codes and ranges. Redirects are not followed.",
    ),
    built("text", Kind::Text, "", "Text that the first 16 KiB of the answer's body must have."),
];

/// Settings of `http`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Http {
    /// Path with query, beginning with a slash.
    pub path: String,
    /// Host; `None`: the server name, or the address.
    pub host: Option<String>,
    /// First and last code of each range.
    pub status: Vec<(u16, u16)>,
    /// What the body must have.
    pub text: Option<String>,
}

impl Http {
    pub(super) fn read(section: &Section<'_>, problems: &mut Problems) -> Option<Self> {
        let path = section.text("path", problems);
        if let Some(path) = path.as_ref().filter(|path| !is_target(&path.value)) {
            let message = format!("`{}` is not a path for `path`", path.value);
            let hint = "it begins with a slash and has neither spaces nor characters outside ASCII";
            problems.add(Code::BadCheck, path.place.clone(), message).hint(hint);
        }
        let host = section.text("host", problems);
        let bad = |host: &&At<String>| host.value.is_empty() || !host.value.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(host) = host.as_ref().filter(bad) {
            let message = format!("`{}` is not a host for `host`", host.value);
            problems.add(Code::BadCheck, host.place.clone(), message).hint("such as \"shop.example.com\"");
        }
        let status = read_status(section, problems);
        let text = section.text("text", problems);
        if let Some(text) = text.as_ref().filter(|text| text.value.is_empty()) {
            problems.add(Code::BadCheck, text.place.clone(), format!("`text` of {} is empty", section.title));
        }
        Some(Self {
            path: path?.value,
            host: host.map(|host| host.value),
            status: status?,
            text: text.map(|text| text.value),
        })
    }

    pub(super) fn dump(&self, table: &mut toml::Table) {
        let mut set = |key: &str, value: toml::Value| table.insert(key.to_owned(), value);
        set("path", self.path.as_str().into());
        if let Some(host) = &self.host {
            set("host", host.as_str().into());
        }
        let status = self
            .status
            .iter()
            .map(|(low, high)| toml::Value::from(if low == high { low.to_string() } else { format!("{low}-{high}") }));
        set("status", toml::Value::Array(status.collect()));
        if let Some(text) = &self.text {
            set("text", text.as_str().into());
        }
    }
}

/// Whether a text can stand in a request line as it is (RFC 9112 3.2.1).
fn is_target(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

fn read_status(section: &Section<'_>, problems: &mut Problems) -> Option<Vec<(u16, u16)>> {
    let written = section.texts("status", problems)?;
    if section.is_empty_list("status") {
        let message = format!("`status` of {} is empty: no answer would do", section.title);
        problems.add(Code::BadCheck, written.place, message);
        return None;
    }
    let mut ranges = Vec::new();
    for text in written.value {
        let (low, high) = text.value.split_once('-').unwrap_or((&text.value, &text.value));
        let code = |text: &str| text.parse().ok().filter(|code| text.len() == 3 && (100..=599).contains(code));
        match (code(low), code(high)) {
            (Some(low), Some(high)) if low <= high => ranges.push((low, high)),
            _ => {
                let message = format!("`{}` is not a status code for `status`", text.value);
                problems.add(Code::BadCheck, text.place, message).hint("such as \"200\" or \"200-399\"");
            }
        }
    }
    Some(ranges)
}
