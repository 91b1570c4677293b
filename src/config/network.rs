//! Reads addresses and prefixes from a table.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::problem::{Code, Problems};
use super::section::{At, Section};

impl Section<'_> {
    /// An address without a port.
    pub fn address(&self, name: &str, problems: &mut Problems) -> Option<At<IpAddr>> {
        self.read(name, problems, |section, key, raw, problems| {
            let text = section.string(key.name, raw, problems)?;
            let parsed = text.parse().ok();
            if parsed.is_none() {
                let message = format!("`{text}` is not an address for `{}`", key.name);
                problems
                    .add(Code::BadAddress, section.place_of(raw), message)
                    .hint("such as \"10.0.0.11\" or \"2001:db8::1\"");
            }
            parsed
        })
    }

    /// `"off"`, an address, or a list of addresses; `"off"` is an empty list.
    pub fn sources(&self, name: &str, problems: &mut Problems) -> Option<At<Vec<IpAddr>>> {
        self.read(name, problems, |section, key, raw, problems| {
            let one = |raw: &Spanned<DeValue<'_>>, problems: &mut Problems| {
                let text = section.string(key.name, raw, problems)?;
                let place = section.place_of(raw);
                if text == "client" {
                    let message = format!("`{} = \"client\"` is not built yet", key.name);
                    problems.add(Code::NotBuilt, place, message).hint("this version has `off` and addresses");
                    return None;
                }
                let parsed = text.parse().ok();
                if parsed.is_none() {
                    let message = format!("`{text}` is not an address for `{}`", key.name);
                    problems
                        .add(Code::BadAddress, place, message)
                        .hint("\"off\", an address such as \"10.0.0.5\", or a list of addresses");
                }
                parsed
            };
            match raw.get_ref() {
                DeValue::Array(list) => Some(list.iter().filter_map(|element| one(element, problems)).collect()),
                other if other.as_str() == Some("off") => Some(Vec::new()),
                _ => Some(vec![one(raw, problems)?]),
            }
        })
    }

    /// An address with a port.
    pub fn socket_address(&self, name: &str, problems: &mut Problems) -> Option<At<SocketAddr>> {
        self.read(name, problems, |section, key, raw, problems| section.one_socket_address(key.name, raw, problems))
    }

    /// Several addresses with ports, those that are right.
    pub fn socket_addresses(&self, name: &str, problems: &mut Problems) -> Option<At<Vec<At<SocketAddr>>>> {
        self.list(name, problems, |section, key, raw, problems| {
            let value = section.one_socket_address(key, raw, problems)?;
            Some(At { value, place: section.place_of(raw) })
        })
    }

    /// Several prefixes with their texts, those that are right.
    pub fn prefixes(&self, name: &str, problems: &mut Problems) -> Option<At<Vec<(IpNet, String)>>> {
        self.list(name, problems, |section, key, raw, problems| {
            let text = section.string(key, raw, problems)?;
            let parsed = text.parse::<IpNet>().ok();
            if parsed.is_none() {
                let message = format!("`{text}` is not a prefix for `{key}`");
                let mut hint = "address/length, such as \"10.0.0.0/8\" or \"2001:db8::/32\"".to_owned();
                if let Ok(address) = text.parse::<IpAddr>() {
                    hint = format!("a single address is \"{}\"", IpNet::from(address.to_canonical()));
                }
                problems.add(Code::BadPrefix, section.place_of(raw), message).hint(hint);
            }
            if let Some(IpNet::V6(net)) = parsed
                && let Some(v4) = net.addr().to_ipv4_mapped()
                && net.prefix_len() >= 96
            {
                let message = format!("`{text}` in `{key}` can never match: such clients count as IPv4");
                let hint = format!("write \"{v4}/{}\"", net.prefix_len() - 96);
                problems.add(Code::BadPrefix, section.place_of(raw), message).hint(hint);
                return None;
            }
            parsed.map(|prefix| (prefix, text.to_owned()))
        })
    }

    fn one_socket_address(&self, key: &str, raw: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<SocketAddr> {
        let text = self.string(key, raw, problems)?;
        let parsed = text.parse::<SocketAddr>().ok();
        if parsed.is_none() {
            let place = self.place_of(raw);
            let message = format!("`{text}` is not an address with a port for `{key}`");
            problems.add(Code::BadAddress, place, message).hint("such as \"10.0.0.11:443\" or \"[2001:db8::1]:443\"");
        }
        parsed
    }
}
