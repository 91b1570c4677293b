//! Which rule takes a connection: (hello, source) against the rules of one listener. Third stop of the spine.
//! The most specific server name wins; among equals the first whose other conditions hold. It does not choose backends.

mod pattern;

use std::collections::HashMap;
use std::net::IpAddr;

pub use pattern::{NamePattern, PatternError};

use super::hello::{AlpnList, FirstBytes, TlsVersion};
use super::prefix::PrefixMap;

/// Position of a rule in the listener's list.
pub type RuleId = u32;

/// Conditions of one rule; an empty list does not restrict.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// Names, any of which must match; empty: any name or none.
    pub names: Vec<NamePattern>,
    /// Application protocols, any of which must be offered.
    pub alpn: Vec<Box<[u8]>>,
    /// Source prefixes, one of which must contain the client.
    pub from: Option<PrefixMap<()>>,
    /// The highest offered version must be at least this.
    pub tls_min: Option<TlsVersion>,
    /// Protocols other than TLS that the rule is for; empty: it is for TLS, or for what nobody looks at.
    pub first_bytes: Vec<FirstBytes>,
}

/// What is known of a connection when it is routed.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Server name in lower case without a trailing dot.
    pub sni: Option<&'a str>,
    /// Offered application protocols.
    pub alpn: AlpnList<'a>,
    /// Highest offered version; `None` without TLS.
    pub version: Option<TlsVersion>,
    /// The client.
    pub source: IpAddr,
}

/// Why no rule took a connection: the nearest miss, for the alert and the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Miss {
    /// No rule names the server, and none takes any name.
    Name,
    /// A rule names it, but not for this source.
    Source,
    /// A rule names it, but none of the offered protocols.
    Alpn,
    /// A rule names it, but wants a newer version.
    Version,
}

impl Miss {
    /// The miss in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Name => "no route for this server name",
            Self::Source => "no route for this server name from this source",
            Self::Alpn => "no route for this server name with these application protocols",
            Self::Version => "no route for this server name with this TLS version",
        }
    }

    /// The alert that tells the client (RFC 6066 3, RFC 7301 3.2, RFC 8446 6.2).
    pub const fn alert(self) -> u8 {
        match self {
            Self::Name | Self::Source => 112,
            Self::Alpn => 120,
            Self::Version => 70,
        }
    }
}

/// The rules of one listener, indexed by name.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Vec<RuleId>>,
    one_label: HashMap<Box<str>, Vec<RuleId>>,
    any_labels: HashMap<Box<str>, Vec<RuleId>>,
    unnamed: Vec<RuleId>,
    first_bytes: Vec<RuleId>,
    rules: Vec<Conditions>,
}

impl RouteTable {
    /// Indexes rules in the order of the configuration.
    pub fn new(rules: Vec<Conditions>) -> Self {
        let mut table = Self::default();
        for (id, rule) in (0..).zip(&rules) {
            if !rule.first_bytes.is_empty() {
                table.first_bytes.push(id);
            } else if rule.names.is_empty() {
                table.unnamed.push(id);
            }
            for name in &rule.names {
                let (map, key) = match name {
                    NamePattern::Exact(name) => (&mut table.exact, name),
                    NamePattern::OneLabel(parent) => (&mut table.one_label, parent),
                    NamePattern::AnyLabels(parent) => (&mut table.any_labels, parent),
                };
                map.entry(key.clone()).or_default().push(id);
            }
        }
        table.rules = rules;
        table
    }

    /// The rule that takes the connection, or the nearest miss.
    pub fn find(&self, question: &Question<'_>) -> Result<RuleId, Miss> {
        let mut nearest = Miss::Name;
        for candidates in self.by_specificity(question.sni) {
            for id in candidates {
                match self.rules[*id as usize].miss(question) {
                    None => return Ok(*id),
                    Some(miss) => nearest = nearest.max(miss),
                }
            }
        }
        Err(nearest)
    }

    /// The first rule for a protocol other than TLS that takes the source.
    pub fn find_first_bytes(&self, spoken: FirstBytes, source: IpAddr) -> Option<RuleId> {
        let takes = |rule: &Conditions| rule.first_bytes.contains(&spoken) && rule.takes_source(source);
        self.first_bytes.iter().copied().find(|id| takes(&self.rules[*id as usize]))
    }

    /// Whether any rule is for protocols other than TLS.
    pub fn wants_first_bytes(&self) -> bool {
        !self.first_bytes.is_empty()
    }

    /// Lists of rules whose name matches, from the most specific to rules without a name.
    fn by_specificity<'a>(&'a self, sni: Option<&'a str>) -> impl Iterator<Item = &'a [RuleId]> {
        let exact = sni.and_then(|name| self.exact.get(name));
        let parent = sni.and_then(|name| Some(name.split_once('.')?.1));
        let one_label = parent.and_then(|parent| self.one_label.get(parent));
        let parents = std::iter::successors(parent.filter(|_| !self.any_labels.is_empty()), |name| {
            name.split_once('.').map(|(_, parent)| parent)
        });
        let any_labels = parents.filter_map(|parent| self.any_labels.get(parent));
        exact
            .into_iter()
            .chain(one_label)
            .chain(any_labels)
            .map(Vec::as_slice)
            .chain(std::iter::once(self.unnamed.as_slice()))
    }
}

impl Conditions {
    /// The first condition other than the name that does not hold.
    fn miss(&self, question: &Question<'_>) -> Option<Miss> {
        if !self.takes_source(question.source) {
            return Some(Miss::Source);
        }
        let wanted = |offered: &[u8]| self.alpn.iter().any(|name| **name == *offered);
        if !self.alpn.is_empty() && !question.alpn.iter().any(wanted) {
            return Some(Miss::Alpn);
        }
        (self.tls_min > question.version && self.tls_min.is_some()).then_some(Miss::Version)
    }

    /// Whether `from` lets the source in.
    pub fn takes_source(&self, source: IpAddr) -> bool {
        self.from.as_ref().is_none_or(|from| from.longest(source).is_some())
    }

    /// Whether every connection that `later` takes would already be taken by this rule, given that one of
    /// `later`'s names is also this rule's name.
    pub fn covers_conditions_of(&self, later: &Self) -> bool {
        let alpn = self.alpn.is_empty() || !later.alpn.is_empty() && later.alpn.iter().all(|a| self.alpn.contains(a));
        let version = self.tls_min.is_none() || self.tls_min <= later.tls_min;
        let spoken = self.first_bytes.is_empty() == later.first_bytes.is_empty()
            && later.first_bytes.iter().all(|spoken| self.first_bytes.contains(spoken));
        alpn && version && spoken && self.from.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(names: &[&str]) -> Conditions {
        let names = names.iter().map(|name| NamePattern::parse(name).expect("pattern")).collect();
        Conditions { names, ..Conditions::default() }
    }

    fn ask(sni: Option<&str>) -> Question<'_> {
        let source = IpAddr::from([192, 0, 2, 1]);
        Question { sni, alpn: AlpnList::default(), version: Some(TlsVersion(0x0304)), source }
    }

    #[test]
    fn the_most_specific_name_wins() {
        let table = RouteTable::new(vec![
            rule(&["**.example.test"]),
            rule(&["*.example.test"]),
            rule(&["shop.example.test"]),
            rule(&["**.deep.example.test"]),
            rule(&[]),
        ]);
        for (sni, want) in [
            (Some("shop.example.test"), 2),
            (Some("other.example.test"), 1),
            (Some("a.b.example.test"), 0),
            (Some("a.deep.example.test"), 3),
            (Some("example.test"), 4),
            (Some("deep.example.test"), 1),
            (Some("elsewhere"), 4),
            (None, 4),
        ] {
            assert_eq!(table.find(&ask(sni)), Ok(want), "{sni:?}");
        }
    }

    #[test]
    fn conditions_fall_through_to_the_next_rule() {
        let mut h2 = rule(&["a.test"]);
        h2.alpn = vec![(*b"h2").into()];
        let mut near = rule(&["a.test"]);
        near.from = Some(PrefixMap::default());
        near.from.as_mut().expect("just set").insert("10.0.0.0/8".parse().expect("prefix"), ());
        let mut modern = rule(&["a.test"]);
        modern.tls_min = Some(TlsVersion(0x0304));
        let table = RouteTable::new(vec![h2, near, modern]);

        let offered = AlpnList::encode([&b"http/1.1"[..], b"h2"].into_iter());
        let with_h2 = Question { alpn: AlpnList::from_encoded(&offered), ..ask(Some("a.test")) };
        assert_eq!(table.find(&with_h2), Ok(0));
        assert_eq!(table.find(&Question { source: IpAddr::from([10, 1, 1, 1]), ..ask(Some("a.test")) }), Ok(1));
        assert_eq!(table.find(&ask(Some("a.test"))), Ok(2));
        let old = Question { version: Some(TlsVersion(0x0303)), ..ask(Some("a.test")) };
        assert_eq!(table.find(&old), Err(Miss::Version));
        assert_eq!(table.find(&ask(Some("b.test"))), Err(Miss::Name));
    }

    #[test]
    fn rules_for_other_protocols_take_no_tls_and_the_other_way_round() {
        let mut web = rule(&[]);
        web.first_bytes = vec![FirstBytes::Http, FirstBytes::Ssh];
        let mut near = rule(&[]);
        near.first_bytes = vec![FirstBytes::Ldap];
        near.from = Some(PrefixMap::default());
        near.from.as_mut().expect("just set").insert("10.0.0.0/8".parse().expect("prefix"), ());
        let table = RouteTable::new(vec![web.clone(), rule(&["a.test"]), near]);
        let (here, there) = (IpAddr::from([10, 1, 1, 1]), IpAddr::from([192, 0, 2, 1]));
        assert_eq!(table.find(&ask(None)), Err(Miss::Name));
        assert_eq!(table.find_first_bytes(FirstBytes::Ssh, there), Some(0));
        assert_eq!(table.find_first_bytes(FirstBytes::Ldap, here), Some(2));
        assert_eq!(table.find_first_bytes(FirstBytes::Ldap, there), None);
        assert_eq!(table.find_first_bytes(FirstBytes::Unknown, there), None);
        assert!(table.wants_first_bytes() && !RouteTable::new(vec![rule(&[])]).wants_first_bytes());
        assert!(!web.covers_conditions_of(&rule(&[])) && !rule(&[]).covers_conditions_of(&web));
    }
}
