//! Named values and how HAProxy writes them: CSV, `typed`, `json`. Here is the table of columns of `show stat`, in
//! HAProxy's order; nothing is filled in here.

use serde_json::{Value, json};

/// A value of a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cell {
    /// Nothing is known, or it makes no sense here.
    #[default]
    Empty,
    /// A number.
    Number(i64),
    /// A text of one line.
    Text(String),
}

/// What a field is called and what kind of value it has.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Origin, nature and scope, a letter each (management guide, "Typed output format").
    pub tags: &'static str,
    /// Its type in typed output.
    pub kind: &'static str,
}

/// A field.
pub const fn field(name: &'static str, tags: &'static str, kind: &'static str) -> Field {
    Field { name, tags, kind }
}

/// Columns of `show stat`, as far as HAProxy 2.6 has them for every proxy; a column's position is its number.
pub const COLUMNS: [Field; 103] = [
    field("pxname", "KNS", "str"),
    field("svname", "KNS", "str"),
    field("qcur", "MGP", "u32"),
    field("qmax", "MMP", "u32"),
    field("scur", "MGP", "u32"),
    field("smax", "MMP", "u32"),
    field("slim", "CLP", "u32"),
    field("stot", "MCP", "u64"),
    field("bin", "MCP", "u64"),
    field("bout", "MCP", "u64"),
    field("dreq", "MCP", "u64"),
    field("dresp", "MCP", "u64"),
    field("ereq", "MCP", "u64"),
    field("econ", "MCP", "u64"),
    field("eresp", "MCP", "u64"),
    field("wretr", "MCP", "u64"),
    field("wredis", "MCP", "u64"),
    field("status", "SGP", "str"),
    field("weight", "MaP", "u32"),
    field("act", "SGP", "u32"),
    field("bck", "SGP", "u32"),
    field("chkfail", "MCP", "u64"),
    field("chkdown", "MCP", "u64"),
    field("lastchg", "MAP", "u32"),
    field("downtime", "MCP", "u32"),
    field("qlimit", "CLP", "u32"),
    field("pid", "KGP", "u32"),
    field("iid", "KGS", "u32"),
    field("sid", "KGS", "u32"),
    field("throttle", "MaP", "u32"),
    field("lbtot", "MCP", "u64"),
    field("tracked", "KNS", "str"),
    field("type", "CGS", "u32"),
    field("rate", "MRP", "u32"),
    field("rate_lim", "CLP", "u32"),
    field("rate_max", "MMP", "u32"),
    field("check_status", "MOP", "str"),
    field("check_code", "MOP", "u32"),
    field("check_duration", "MDP", "u64"),
    field("hrsp_1xx", "MCP", "u64"),
    field("hrsp_2xx", "MCP", "u64"),
    field("hrsp_3xx", "MCP", "u64"),
    field("hrsp_4xx", "MCP", "u64"),
    field("hrsp_5xx", "MCP", "u64"),
    field("hrsp_other", "MCP", "u64"),
    field("hanafail", "MOP", "str"),
    field("req_rate", "MRP", "u32"),
    field("req_rate_max", "MMP", "u32"),
    field("req_tot", "MCP", "u64"),
    field("cli_abrt", "MCP", "u64"),
    field("srv_abrt", "MCP", "u64"),
    field("comp_in", "MCP", "u64"),
    field("comp_out", "MCP", "u64"),
    field("comp_byp", "MCP", "u64"),
    field("comp_rsp", "MCP", "u64"),
    field("lastsess", "MAP", "s32"),
    field("last_chk", "MOP", "str"),
    field("last_agt", "MOP", "str"),
    field("qtime", "MaP", "u32"),
    field("ctime", "MaP", "u32"),
    field("rtime", "MaP", "u32"),
    field("ttime", "MaP", "u32"),
    field("agent_status", "MOP", "str"),
    field("agent_code", "MOP", "u32"),
    field("agent_duration", "MDP", "u64"),
    field("check_desc", "MOP", "str"),
    field("agent_desc", "MOP", "str"),
    field("check_rise", "CGS", "u32"),
    field("check_fall", "CGS", "u32"),
    field("check_health", "CGS", "u32"),
    field("agent_rise", "CGS", "u32"),
    field("agent_fall", "CGS", "u32"),
    field("agent_health", "CGS", "u32"),
    field("addr", "CGS", "str"),
    field("cookie", "KNS", "str"),
    field("mode", "CGS", "str"),
    field("algo", "CGS", "str"),
    field("conn_rate", "MRP", "u32"),
    field("conn_rate_max", "MMP", "u32"),
    field("conn_tot", "MCP", "u64"),
    field("intercepted", "MCP", "u64"),
    field("dcon", "MCP", "u64"),
    field("dses", "MCP", "u64"),
    field("wrew", "MCP", "u64"),
    field("connect", "MCP", "u64"),
    field("reuse", "MCP", "u64"),
    field("cache_lookups", "MCP", "u64"),
    field("cache_hits", "MCP", "u64"),
    field("srv_icur", "MGP", "u32"),
    field("src_ilim", "CLP", "u32"),
    field("qtime_max", "MMP", "u32"),
    field("ctime_max", "MMP", "u32"),
    field("rtime_max", "MMP", "u32"),
    field("ttime_max", "MMP", "u32"),
    field("eint", "MCP", "u64"),
    field("idle_conn_cur", "MGP", "u32"),
    field("safe_conn_cur", "MGP", "u32"),
    field("used_conn_cur", "MGP", "u32"),
    field("need_conn_est", "MGP", "u32"),
    field("uweight", "MaP", "u32"),
    field("agg_server_status", "MGP", "u32"),
    field("agg_server_check_status", "MGP", "u32"),
    field("agg_check_status", "MGP", "u32"),
];

/// The position of a column; to be evaluated while compiling.
pub const fn column(name: &str) -> usize {
    let mut at = 0;
    while at < COLUMNS.len() {
        if is_same(COLUMNS[at].name.as_bytes(), name.as_bytes()) {
            return at;
        }
        at += 1;
    }
    panic!("no such column")
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

impl Field {
    /// Whether it only ever grows.
    pub fn is_counter(self) -> bool {
        self.tags.starts_with("MC")
    }

    /// One line of typed output. `owner` and `position` come before the name.
    pub fn typed(self, owner: &str, position: usize, cell: &Cell) -> String {
        format!("{owner}{position}.{}.1:{}:{}:{}\n", self.name, self.tags, self.kind, cell.text())
    }

    /// The same in JSON.
    pub fn json(self, position: usize, cell: &Cell) -> Value {
        let mut letters = self.tags.chars();
        let mut word = |words: &[(char, &'static str)]| {
            let letter = letters.next();
            words.iter().find(|(own, _)| Some(*own) == letter).map_or("Unknown", |(_, word)| word)
        };
        let value = match cell {
            Cell::Number(number) => json!(number),
            Cell::Empty | Cell::Text(_) => json!(cell.text()),
        };
        json!({
            "field": { "pos": position, "name": self.name },
            "processNum": 1,
            "tags": { "origin": word(&ORIGINS), "nature": word(&NATURES), "scope": word(&SCOPES) },
            "value": { "type": self.kind, "value": value },
        })
    }
}

const ORIGINS: [(char, &str); 5] = [('M', "Metric"), ('S', "Status"), ('K', "Key"), ('C', "Config"), ('P', "Product")];
const NATURES: [(char, &str); 10] = [
    ('G', "Gauge"),
    ('L', "Limit"),
    ('M', "Max"),
    ('R', "Rate"),
    ('C', "Counter"),
    ('D', "Duration"),
    ('A', "Age"),
    ('N', "Name"),
    ('O', "Output"),
    ('a', "Avg"),
];
const SCOPES: [(char, &str); 2] = [('P', "Process"), ('S', "Service")];

impl Cell {
    /// As it is written; a text of others cannot break the line.
    pub fn text(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.replace(char::is_control, " "),
        }
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(number as i64)
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Number(number as i64)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Empty, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_haproxy_writes_them() {
        let scur = COLUMNS[column("scur")];
        assert_eq!(scur.typed("F.2.0.", 4, &Cell::from(7_u32)), "F.2.0.4.scur.1:MGP:u32:7\n");
        let status = COLUMNS[column("status")].json(17, &Cell::from("UP"));
        assert_eq!(status["tags"], json!({ "origin": "Status", "nature": "Gauge", "scope": "Process" }));
        assert_eq!(status["value"], json!({ "type": "str", "value": "UP" }));
        assert_eq!(Cell::from("two\nlines").text(), "two lines");
    }

    #[test]
    fn every_tag_has_its_word() {
        for (position, column) in COLUMNS.iter().enumerate() {
            let json = column.json(position, &Cell::Empty);
            let unknown = json["tags"].as_object().is_none_or(|tags| tags.values().any(|word| word == "Unknown"));
            assert!(!unknown, "{}", column.name);
            assert!(["str", "u32", "s32", "u64"].contains(&column.kind), "{}", column.name);
        }
    }
}
