//! Server name patterns of the configuration: exact, `*.` for one label, `**.` for one or more.
//! Names may hold letters outside ASCII; they are converted with IDNA (UTS 46) when the configuration is read.

use std::fmt;

use crate::decide::hello::{Refusal, ServerName};

/// A pattern, in lower-case A-labels without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This name.
    Exact(Box<str>),
    /// One label before this parent; never the parent itself.
    OneLabel(Box<str>),
    /// One or more labels before this parent; never the parent itself.
    AnyLabels(Box<str>),
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// A star elsewhere than in a leading `*.` or `**.`.
    Star,
    /// An address instead of a name: server names are never addresses (RFC 6066 3).
    Address,
    /// Not a host name; why.
    Name(String),
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Star => f.write_str("a star may only stand as a leading `*.` or `**.`"),
            Self::Address => f.write_str("a server name is never an address"),
            Self::Name(why) => f.write_str(why),
        }
    }
}

impl NamePattern {
    /// Reads a pattern as written in the configuration.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if let Some(parent) = text.strip_prefix("**.") {
            Ok(Self::AnyLabels(host_name(parent)?))
        } else if let Some(parent) = text.strip_prefix("*.") {
            Ok(Self::OneLabel(host_name(parent)?))
        } else {
            Ok(Self::Exact(host_name(text)?))
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::OneLabel(parent) => write!(f, "*.{parent}"),
            Self::AnyLabels(parent) => write!(f, "**.{parent}"),
        }
    }
}

fn host_name(text: &str) -> Result<Box<str>, PatternError> {
    if text.contains('*') {
        return Err(PatternError::Star);
    }
    let ascii = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii(text).map_err(|_| PatternError::Name("does not convert with IDNA".into()))?
    };
    match ServerName::from_wire(ascii.as_bytes()) {
        Ok(Some(name)) => Ok(name.into()),
        Ok(None) => Err(PatternError::Address),
        Err(Refusal::Name(why)) => Err(PatternError::Name(why.into())),
        Err(other) => Err(PatternError::Name(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_and_normalised() {
        for (text, want) in [
            ("Shop.Example.TEST.", Ok("shop.example.test")),
            ("*.Example.test", Ok("*.example.test")),
            ("**.example.test", Ok("**.example.test")),
            ("bücher.test", Ok("xn--bcher-kva.test")),
            ("*.bücher.test", Ok("*.xn--bcher-kva.test")),
            ("a.*.test", Err(PatternError::Star)),
            ("*", Err(PatternError::Star)),
            ("10.0.0.1", Err(PatternError::Address)),
            ("a b.test", Err(PatternError::Name("has a control character or a space".into()))),
            ("", Err(PatternError::Name("is empty".into()))),
        ] {
            assert_eq!(NamePattern::parse(text).map(|p| p.to_string()), want.map(str::to_owned), "{text}");
        }
    }
}
