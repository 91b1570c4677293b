//! The schemas in `docs/api` are those of the code, answers of a real daemon are of their form, and `docs/socket.md` has every
//! method. `SLUICE_WRITE_SCHEMAS=1 cargo test --test api_schemas` writes the files anew.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{env, fs};

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};
use sluice::api;
use sluice::state::Explanation;
use support::hello::client_hello;
use support::{Backend, DEADLINE, Daemon, connect, eventually, exchange, own_loopback};

struct Method {
    name: &'static str,
    params: Option<Schema>,
    result: Schema,
}

fn result<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>()
}

fn method<R: JsonSchema>(name: &'static str) -> Method {
    Method { name, params: None, result: result::<R>() }
}

fn with<P: JsonSchema>(method: Method) -> Method {
    let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    Method { params: Some(generator.into_root_schema_for::<P>()), ..method }
}

fn methods() -> Vec<Method> {
    vec![
        method::<api::StatusReport>("status"),
        with::<api::BackendsParams>(method::<Vec<api::BackendReport>>("backends")),
        with::<api::HistoryParams>(method::<api::HistoryReport>("history")),
        with::<api::SessionsParams>(method::<Vec<api::SessionReport>>("sessions")),
        with::<api::EventsParams>(method::<Vec<api::Event>>("events")),
        with::<api::ListenerParams>(method::<Vec<api::RefusedReport>>("refused")),
        with::<api::NamesParams>(method::<api::NamesReport>("names")),
        method::<api::ConfigReport>("config"),
        with::<api::RouteParams>(method::<Explanation>("route")),
        method::<api::ReloadReport>("reload"),
        with::<api::DrainParams>(method::<api::Changed>("drain")),
        with::<api::OrderParams>(method::<api::Changed>("disable")),
        with::<api::OrderParams>(method::<api::Changed>("enable")),
        with::<api::WeightParams>(method::<api::Changed>("weight")),
        with::<api::OrderParams>(method::<api::Changed>("reset")),
        with::<api::KillParams>(method::<api::Killed>("kill")),
        with::<api::AddParams>(method::<api::Added>("backend_add")),
        with::<api::RemoveParams>(method::<api::Removed>("backend_remove")),
        with::<api::BackendParams>(method::<api::ProbeReport>("probe")),
        method::<api::Upgraded>("upgrade"),
        with::<api::StopParams>(method::<api::Stopping>("stop")),
    ]
}

fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// What the files should hold.
fn files() -> BTreeMap<String, String> {
    let text = |schema: &Schema| format!("{:#}\n", schema.as_value());
    let mut files = BTreeMap::new();
    for method in methods() {
        files.insert(format!("{}.schema.json", method.name), text(&method.result));
        if let Some(params) = &method.params {
            files.insert(format!("{}.params.schema.json", method.name), text(params));
        }
    }
    files
}

#[test]
fn files_are_up_to_date() {
    let (folder, wanted) = (document("api"), files());
    if env::var_os("SLUICE_WRITE_SCHEMAS").is_some() {
        for (name, text) in &wanted {
            fs::write(folder.join(name), text).unwrap();
        }
    }
    let there: BTreeSet<String> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, wanted.keys().cloned().collect(), "docs/api has other files than there are methods");
    for (name, text) in wanted {
        let found = fs::read_to_string(folder.join(&name)).unwrap();
        assert!(found == text, "docs/api/{name} is not up to date; write it anew with SLUICE_WRITE_SCHEMAS=1");
    }
}

#[track_caller]
fn validate(schema: &Schema, what: &str, instance: &Value) {
    let validator = jsonschema::validator_for(schema.as_value()).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}\n{instance:#}");
}

const CONFIG: &str = r#"
[[listener]]
name = "tls"
bind = ["{ip}:443"]
pool = "a"
[pool.a]
[[pool.a.backend]]
name = "one"
address = "{ip}:1001"
[[pool.a.backend]]
name = "two"
address = "{ip}:1002"
[pool.a.health]
check = "tcp"
interval = "100ms"
[pool.b]
backends = ["{ip}:1001"]
"#;

/// A daemon that has something to tell about everything.
fn eventful() -> (Daemon, Backend, Vec<std::net::TcpStream>) {
    let address = own_loopback();
    let backend = Backend::echo((address, 1001));
    let daemon = Daemon::start_on(address, CONFIG, "", |command| command);
    let sessions = (0..3).map(|_| {
        let mut stream = connect(daemon.at(443));
        let hello = client_hello(Some("a.test"), &["h2"]);
        stream.write_all(&hello).unwrap();
        stream.read_exact(&mut vec![0; hello.len()]).unwrap();
        stream
    });
    let sessions = sessions.collect();
    exchange(daemon.at(443), b"GET / HTTP/1.0\r\n\r\n").unwrap();
    daemon.wait_for_records(1);
    (daemon, backend, sessions)
}

#[test]
fn answers_are_of_the_form_that_the_schemas_say() {
    let (daemon, _backend, _sessions) = eventful();
    let schemas: BTreeMap<&str, Schema> = methods().into_iter().map(|method| (method.name, method.result)).collect();
    let ask = |method: &str, params: Value| {
        let answer = daemon.ask(method, &params);
        assert!(answer["error"].is_null(), "{method} {params}: {answer}");
        validate(&schemas[method], method, &answer["result"]);
        answer["result"].clone()
    };
    ask("drain", json!({ "backend": "a/one", "for_ms": 60_000, "kill_after_ms": 60_000, "rate": 1.5 }));
    ask("weight", json!({ "backend": "a/one", "weight": 7 }));
    ask("weight", json!({ "backend": "a/one", "weight": 9, "for_ms": 60_000 }));
    ask("disable", json!({ "backend": "a/two" }));
    ask("backend_add", json!({ "pool": "a", "address": daemon.at(1003).to_string(), "name": "new" }));
    let backends = ask("backends", json!({}));
    assert!(backends[0]["override"]["words"].as_array().is_some_and(|words| words.len() == 2), "{backends:#}");
    assert!(backends[0]["drain"].is_object() && backends[0]["check"].is_object() && backends[2]["added"].is_object());
    eventually("an hour has begun", || {
        let history = daemon.ask("history", &json!({}))["result"].clone();
        (!history["backends"][0]["minutes"].as_array()?.is_empty()).then_some(())
    });
    ask("history", json!({}));
    assert_eq!(ask("sessions", json!({ "sort": "idle", "limit": 10 })).as_array().unwrap().len(), 3);
    assert!(ask("events", json!({})).as_array().unwrap().len() >= 3);
    assert!(!ask("refused", json!({})).as_array().unwrap().is_empty());
    assert!(ask("names", json!({ "limit": 5 }))["total"].as_u64() >= Some(1));
    ask("config", json!({}));
    ask("status", json!({}));
    ask("route", json!({ "listener": "tls", "sni": "a.test", "alpn": ["h2"], "from": "10.0.0.1", "tls": "1.2" }));
    ask("probe", json!({ "backend": "a/two" }));
    ask("enable", json!({ "backend": "a/one" }));
    ask("reset", json!({ "backend": "a/one" }));
    let id = ask("sessions", json!({}))[0]["session"].clone();
    ask("kill", json!({ "session": id }));
    ask("kill", json!({ "backend": "a", "rate": 1000.0 }));
    daemon.wait_for_records(4);
    ask("backend_remove", json!({ "backend": "a/new" }));
    ask("reload", json!({}));
    ask("status", json!({}));
    for (path, method) in [
        ("status", "status"),
        ("backends", "backends"),
        ("sessions", "sessions"),
        ("refused", "refused"),
        ("names", "names"),
        ("events", "events"),
    ] {
        validate(&schemas[method], path, &daemon.json(&format!("/v1/{path}")));
    }
    // Each line of a stream is one event.
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"{\"id\":5,\"method\":\"events\",\"params\":{\"follow\":true,\"limit\":1}}\n").unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["id"], 5);
    validate(&result::<api::Event>(), "an event of a stream", &line["event"]);
    ask("upgrade", json!({}));
    ask("stop", json!({ "grace_ms": 0 }));
}

#[test]
fn unknown_fields_are_ignored_and_wrong_types_are_not() {
    let (daemon, _backend, _sessions) = eventful();
    let good = json!({
        "pool": "a", "backend": "a/one", "listener": "tls", "address": daemon.at(1003).to_string(), "weight": 3,
    });
    for method in methods().into_iter().filter(|method| !["stop", "kill"].contains(&method.name)) {
        let Some(params) = method.params else { continue };
        let properties: Vec<String> = params.as_value()["properties"].as_object().unwrap().keys().cloned().collect();
        assert!(!properties.is_empty());
        let required = params.as_value()["required"].as_array().cloned().unwrap_or_default();
        let mut least = json!({ "something": { "new": [1, 2, 3] } });
        for key in required.iter().filter_map(Value::as_str) {
            least[key] = good[key].clone();
        }
        if method.name == "backend_remove" {
            least["backend"] = json!(format!("a/{}", daemon.at(1003)));
        }
        let answer = daemon.ask(method.name, &least);
        assert!(answer["error"].is_null(), "{} {least}: {answer}", method.name);
        for property in properties {
            let mut wrong = least.clone();
            wrong[&property] = json!({ "wrong": true });
            let answer = daemon.ask(method.name, &wrong);
            assert_eq!(answer["error"]["code"], "bad_params", "{} {wrong}: {answer}", method.name);
            if required.iter().any(|key| *key == *property) {
                least.as_object().unwrap().get(&property).expect("it is there");
                let mut missing = least.clone();
                missing.as_object_mut().unwrap().remove(&property);
                let answer = daemon.ask(method.name, &missing);
                assert_eq!(answer["error"]["code"], "bad_params", "{} {missing}: {answer}", method.name);
            }
        }
    }
}

#[test]
fn the_document_has_every_method_with_its_parameters_and_no_other() {
    let (daemon, _backend, _sessions) = eventful();
    let hint = daemon.ask("none", &json!({}))["error"]["hint"].as_str().unwrap().to_owned();
    let served: BTreeSet<&str> = hint.strip_prefix("there are: ").unwrap().split(", ").collect();
    let text = fs::read_to_string(document("socket.md")).unwrap();
    let (_, table) = text.split_once("| method | params | result |\n").unwrap();
    let rows: BTreeMap<&str, &str> = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with("| `"))
        .map(|line| line[3..].split_once("` | ").unwrap())
        .map(|(name, rest)| (name, rest.split_once('|').unwrap().0))
        .collect();
    assert_eq!(rows.keys().copied().collect::<BTreeSet<_>>(), served, "docs/socket.md and the daemon");
    assert_eq!(methods().iter().map(|method| method.name).collect::<BTreeSet<_>>(), served, "this test and the daemon");
    for method in methods() {
        let params = method.params.map(|schema| schema.as_value()["properties"].as_object().unwrap().clone());
        let wanted: BTreeSet<String> = params.into_iter().flatten().map(|(name, _)| name).collect();
        let said: BTreeSet<String> = rows[method.name].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        // `reset` is for good, though it shares its parameters with others.
        let wanted = if method.name == "reset" { BTreeSet::from(["backend".to_owned()]) } else { wanted };
        assert_eq!(said, wanted, "parameters of {}", method.name);
    }
}
