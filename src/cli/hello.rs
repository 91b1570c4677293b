//! `sluice hello`: decodes what a client sent first, with the same code as the data plane, and says what becomes of it.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::hello_words as words;
use super::output::{Exit, data, json as print_json, message};
use super::route::{explained, words as route_words};
use super::{ConfigArgs, Globals};
use crate::decide::hello::postgres::{HEAD, Opening, opening};
use crate::decide::hello::proxy;
use crate::decide::hello::{
    Arrival, ClientHello, FirstBytes, HelloFacts, Joiner, Limits, MAX_HELLO, Recognised, Record, Refusal, Step, joined,
    recognise, records,
};
use crate::state::RouteQuery;

/// Most bytes that are read: more than any hello may have.
const MOST_BYTES: u64 = 4 << 20;

/// Application protocols that are listed for people.
const MOST_PROTOCOLS: usize = 16;

/// Arguments of `hello`.
#[derive(Args, Debug)]
pub struct HelloArgs {
    /// The capture; `-` is standard input.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Say where this listener would send it: of the daemon, or of a configuration.
    #[arg(long)]
    listener: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs `hello`. Exits with 0 for a hello that goes through, with 6 for one that is refused or not whole.
pub fn hello(globals: &Globals, args: &HelloArgs) -> Exit {
    let bytes = match read(args) {
        Ok(bytes) => bytes,
        Err(error) => {
            message(&format!("cannot read {}: {error}", args.file.display()));
            return Exit::Failed;
        }
    };
    let mut decoded = Decoded::of(&bytes);
    if let (Some(listener), Some(query)) = (&args.listener, &mut decoded.query) {
        query.listener.clone_from(listener);
        match explained(globals, &args.config, query) {
            Ok(route) => decoded.report["route"] = route,
            Err(exit) => return exit,
        }
    }
    if globals.json {
        print_json(&decoded.report);
    } else {
        data(&text(&decoded.report));
    }
    // A listener has the last word, where one was asked: it may refuse a valid hello, and want what is not TLS.
    let goes_through = match decoded.report.get("route") {
        Some(route) => route["refused"].is_null(),
        None => decoded.report["verdict"]["outcome"] == "valid",
    };
    if goes_through { Exit::Ok } else { Exit::Refused }
}

fn read(args: &HelloArgs) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if args.file.as_os_str() == "-" {
        io::stdin().lock().take(MOST_BYTES).read_to_end(&mut bytes)?;
    } else {
        File::open(&args.file)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

struct Decoded {
    report: Value,
    /// What a listener would be asked: of a hello that is whole and valid, or of what speaks instead.
    query: Option<RouteQuery>,
}

impl Decoded {
    fn of(all: &[u8]) -> Self {
        let mut report = json!({ "bytes": all.len() });
        let bytes = match strip(all, &mut report) {
            Ok(rest) => rest,
            Err(why) => {
                report["verdict"] =
                    json!({ "outcome": "refused", "why": why, "end": "proxy_header_bad", "alert": null });
                return Self { report, query: None };
            }
        };
        let list: Vec<Record<'_>> = records(bytes).take_while(|record| matches!(record.kind, 20..=23)).collect();
        report["records"] = list.iter().map(record).collect();
        let mut joiner = Joiner::new(Limits { handshake_bytes: MAX_HELLO });
        match joiner.push(bytes) {
            Ok(Step::NeedMore) => {
                report["verdict"] = json!({
                    "outcome": "incomplete",
                    "why": format!("{} so far: sluice waits until hello-timeout", joiner.progress()),
                    "end": "hello_timeout",
                    "alert": null,
                });
                Self { report, query: None }
            }
            Err(refusal) => {
                let spoken = match recognise(bytes) {
                    Recognised::Certain(spoken) if FirstBytes::ROUTABLE.contains(&spoken) => Some(spoken),
                    _ => None,
                };
                let query = spoken.map(|_| RouteQuery { first_bytes: spoken, ..with_source(&report) });
                Self { query, ..Self::refused(report, refusal) }
            }
            Ok(Step::Complete) => {
                let message = joined(bytes);
                match ClientHello::parse(&message) {
                    Err(refusal) => Self::refused(report, refusal),
                    Ok(hello) => Self::valid(report, &hello, &message, joiner.records(), bytes.len()),
                }
            }
        }
    }

    fn refused(mut report: Value, refusal: Refusal) -> Self {
        let alert = refusal.alert();
        report["verdict"] = json!({
            "outcome": "refused",
            "why": refusal.to_string(),
            "end": refusal.close_reason().name(),
            "alert": alert.map(|number| json!({ "number": number, "name": words::alert(number) })),
        });
        Self { report, query: None }
    }

    fn valid(mut report: Value, hello: &ClientHello<'_>, message: &[u8], records: u32, bytes: usize) -> Self {
        let arrival = Arrival::of(message.len(), records, 1);
        let facts = HelloFacts::of(hello, arrival);
        let names: Vec<String> = hello.alpn.iter().map(|name| name.escape_ascii().to_string()).collect();
        report["verdict"] = json!({
            "outcome": "valid",
            "why": "complete, every length exact: forwarded as it came",
            "end": null,
            "alert": null,
        });
        report["handshake_bytes"] = message.len().into();
        report["bytes_behind"] = bytes.saturating_sub(arrival.bytes as usize).into();
        report["hello"] = json!({
            "sni": facts.sni,
            "sni_as_sent": hello.server_name_wire.map(|name| name.escape_ascii().to_string()),
            "alpn": names,
            "tls": facts.version.to_string(),
            "legacy_version": format!("{:#06x}", hello.legacy_version),
            "session_id_bytes": message.get(38),
            "ja4": facts.ja4.to_string(),
            "ech": facts.ech,
            "pq": facts.post_quantum,
            "cipher_suites": numbered(hello.cipher_suites, words::cipher),
            "signature_algorithms": numbered(hello.signature_algorithms, words::signature),
            "extensions": hello.extensions().map(|(kind, data)| extension(kind, data)).collect::<Vec<_>>(),
        });
        let mut query = with_source(&report);
        query.hello_bytes = Some(message.len());
        query.sni = facts.sni.map(Into::into);
        query.alpn = hello.alpn.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        query.tls = hello.version;
        Self { report, query: Some(query) }
    }
}

/// A query from the source that a PROXY header named, or from this machine.
fn with_source(report: &Value) -> RouteQuery {
    let source = report["proxy_header"]["source"].as_str().and_then(|text| text.parse::<SocketAddr>().ok());
    let query = RouteQuery::new("");
    RouteQuery { from: source.map_or(query.from, |source| source.ip()), ..query }
}

/// Takes off what may come before the hello: a PROXY header, PostgreSQL's requests.
fn strip<'a>(mut bytes: &'a [u8], report: &mut Value) -> Result<&'a [u8], String> {
    match proxy::parse(bytes) {
        Ok(Some(header)) => {
            let addresses = header.addresses;
            report["proxy_header"] = json!({
                "version": header.version.name(),
                "bytes": header.length,
                "source": addresses.map(|found| found.source),
                "destination": addresses.map(|found| found.destination),
            });
            bytes = &bytes[header.length..];
        }
        Err(proxy::HeaderError::Missing) | Ok(None) => {}
        Err(error) => return Err(error.to_string()),
    }
    let mut requests = Vec::new();
    while let Opening::Request(request) = opening(bytes) {
        requests.push(request.name());
        bytes = &bytes[HEAD..];
    }
    if !requests.is_empty() {
        report["postgres"] = json!(requests);
    }
    Ok(bytes)
}

fn record(record: &Record<'_>) -> Value {
    json!({
        "type": record.kind,
        "name": words::record(record.kind),
        "version": format!("{:#06x}", record.version),
        "length": record.length,
        "there": record.payload.len(),
    })
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

fn numbered(bytes: &[u8], name: fn(u16) -> &'static str) -> Vec<Value> {
    pairs(bytes).map(|number| json!({ "id": format!("{number:#06x}"), "name": name(number) })).collect()
}

fn extension(kind: u16, data: &[u8]) -> Value {
    let groups = |bytes: &[u8]| pairs(bytes).map(words::group).collect::<Vec<_>>().join(" ");
    let says = match kind {
        10 => Some(groups(data.get(2..).unwrap_or_default())),
        43 => Some(
            pairs(data.get(1..).unwrap_or_default()).map(|one| format!("{one:#06x}")).collect::<Vec<_>>().join(" "),
        ),
        51 => Some(shares(data.get(2..).unwrap_or_default())),
        _ => None,
    };
    json!({ "id": kind, "name": words::extension(kind), "bytes": data.len(), "says": says })
}

/// The key shares with their sizes; their lengths are known to nest.
fn shares(mut rest: &[u8]) -> String {
    let mut text = String::new();
    while let [group_high, group_low, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let group = words::group(u16::from_be_bytes([*group_high, *group_low]));
        let space = if text.is_empty() { "" } else { " " };
        // Writing into a string cannot fail.
        let _ = write!(text, "{space}{group}:{length}");
        rest = after.get(length..).unwrap_or_default();
    }
    text
}

/// The report for people: a word and what it says on each line.
fn text(report: &Value) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: String| {
        // As above.
        let _ = writeln!(out, "{label:<14}{text}");
    };
    let plain = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    line("bytes", plain(&report["bytes"]));
    if let Some(header) = report.get("proxy_header") {
        let [version, bytes, source] = ["version", "bytes", "source"].map(|key| plain(&header[key]));
        line("PROXY header", format!("{version}, {bytes} bytes, from {source}"));
    }
    for request in report["postgres"].as_array().into_iter().flatten() {
        line("PostgreSQL", plain(request));
    }
    for record in report["records"].as_array().into_iter().flatten() {
        let [name, version, length] = ["name", "version", "length"].map(|key| plain(&record[key]));
        let cut =
            if record["there"] == record["length"] { String::new() } else { format!(", {} there", record["there"]) };
        line("record", format!("{name}, version {version}, {length} bytes{cut}"));
    }
    let verdict = &report["verdict"];
    let mut said = format!("{}: {}", plain(&verdict["outcome"]), plain(&verdict["why"]));
    if let Some(number) = verdict["alert"]["number"].as_u64() {
        let _ = write!(said, " (alert {number} {})", plain(&verdict["alert"]["name"]));
    }
    line("verdict", said);
    if let Some(hello) = report.get("hello") {
        for (label, key) in [("sni", "sni"), ("sni as sent", "sni_as_sent"), ("tls", "tls"), ("ja4", "ja4")] {
            line(label, plain(&hello[key]));
        }
        let alpn: Vec<String> = hello["alpn"].as_array().into_iter().flatten().map(plain).collect();
        let more = if alpn.len() > MOST_PROTOCOLS {
            format!(" and {} more", alpn.len() - MOST_PROTOCOLS)
        } else {
            String::new()
        };
        let shown = alpn[..alpn.len().min(MOST_PROTOCOLS)].join(",");
        line("alpn", if alpn.is_empty() { "-".to_owned() } else { shown + &more });
        line("ech", plain(&hello["ech"]));
        line("post-quantum", plain(&hello["pq"]));
        line("handshake", format!("{} bytes, {} behind it", report["handshake_bytes"], report["bytes_behind"]));
        line(
            "legacy",
            format!("{}, session id of {} bytes", plain(&hello["legacy_version"]), hello["session_id_bytes"]),
        );
        for entry in hello["extensions"].as_array().into_iter().flatten() {
            let says = entry["says"].as_str().map_or_else(String::new, |says| format!(": {says}"));
            line("extension", format!("{} {}, {} bytes{says}", entry["id"], plain(&entry["name"]), entry["bytes"]));
        }
        for (label, key) in [("cipher", "cipher_suites"), ("signature", "signature_algorithms")] {
            for entry in hello[key].as_array().into_iter().flatten() {
                line(label, format!("{} {}", plain(&entry["id"]), plain(&entry["name"])));
            }
        }
    }
    if let Some(route) = report.get("route") {
        out.push('\n');
        out.push_str(&route_words(route));
    }
    out
}
