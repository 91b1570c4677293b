//! The JSON schema of the configuration, generated from the tables of keys (JSON Schema 2020-12).

use serde_json::{Map, Value, json};

use super::keys::{
    BACKEND, GLOBAL, HASH, HEALTH, Key, Kind, LISTENER, LOG, PASSIVE, POOL, RELAY, ROUTE, SectionKeys, Status,
};

/// The schema as a JSON document.
pub fn schema() -> Value {
    let listener = with(LISTENER.schema(&["name", "bind"]), "route", list_of(&ROUTE.schema(&[])));
    let pool = with(POOL.schema(&[]), "backend", list_of(&BACKEND.schema(&["address"])));
    let pool = with(pool, "hash", HASH.schema(&[]));
    let pool = with(pool, "health", HEALTH.schema(&[]));
    let pool = with(pool, "passive", PASSIVE.schema(&[]));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sluice configuration",
        "type": "object",
        "additionalProperties": false,
        "required": ["listener"],
        "properties": {
            "global": with(GLOBAL.schema(&[]), "relay", RELAY.schema(&[])),
            "log": LOG.schema(&[]),
            "listener": list_of(&listener),
            "pool": { "type": "object", "additionalProperties": pool },
        },
    })
}

fn list_of(items: &Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn with(mut schema: Value, property: &str, value: Value) -> Value {
    schema["properties"][property] = value;
    schema
}

impl SectionKeys {
    fn schema(&self, required: &[&str]) -> Value {
        let built = self.keys.iter().filter(|key| key.status == Status::Built);
        let properties: Map<String, Value> = built.map(|key| (key.name.to_owned(), key.schema())).collect();
        json!({
            "description": self.heading,
            "type": "object",
            "additionalProperties": false,
            "properties": properties,
            "required": required,
        })
    }
}

impl Key {
    fn schema(&self) -> Value {
        let mut schema = self.kind.schema();
        schema["description"] = self.doc.into();
        let default = (!self.default.is_empty()).then(|| format!("v = {}", self.default));
        if let Some(table) = default.and_then(|text| text.parse::<toml::Table>().ok()) {
            schema["default"] = json!(table["v"]);
        }
        schema
    }
}

const DURATION: &str = "^[0-9]+(ms|s|m|h|d)$";

impl Kind {
    fn schema(self) -> Value {
        match self {
            Self::Text | Self::SocketAddress | Self::Address | Self::Backend => json!({ "type": "string" }),
            Self::Name => json!({ "type": "string", "pattern": "^[A-Za-z0-9_.:\\[\\]-]{1,64}$" }),
            Self::Integer(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
            Self::AutoOr(low, high) => {
                json!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": low, "maximum": high }] })
            }
            Self::Share => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
            Self::FactorOrOff(low, high) => {
                json!({ "anyOf": [{ "const": "off" }, { "type": "number", "minimum": low, "maximum": high }] })
            }
            Self::Flag => json!({ "type": "boolean" }),
            Self::Duration(..) => json!({ "type": "string", "pattern": DURATION }),
            Self::DurationOrOff(..) => {
                json!({ "anyOf": [{ "const": "off" }, { "type": "string", "pattern": DURATION }] })
            }
            Self::Size(low, high) => json!({ "anyOf": [
                { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$" },
                { "type": "integer", "minimum": low, "maximum": high },
            ] }),
            Self::Word(words) => json!({ "enum": words }),
            Self::Sources => json!({ "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" } },
            ] }),
            Self::Words(words) => json!({ "type": "array", "items": { "enum": words } }),
            Self::SocketAddresses | Self::Backends | Self::Prefixes | Self::Texts => {
                json!({ "type": "array", "items": { "type": "string" } })
            }
            Self::Tables => json!({ "type": "object" }),
            Self::List(keys) => list_of(&keys.schema(&[])),
        }
    }
}
