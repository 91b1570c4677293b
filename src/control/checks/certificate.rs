//! Certificates of backends: what is told of them, why one is not believed, and when somebody should be warned that one
//! will expire. Whether to believe one is decided by webpki, not here.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, Error};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Failed;
use super::evidence::harmless;
use crate::state::CertificateFacts;

/// A warning is due below this time to the expiry. Chosen: half of what is left when certificates of 90 days are renewed
/// as their issuers advise, so that a warning means that a renewal failed.
const WARN_BELOW: i64 = 14 * DAY;
const DAY: i64 = 86_400;

/// What a certificate says of itself; `None` when it cannot be read.
pub fn facts(certificate: &CertificateDer<'_>) -> Option<CertificateFacts> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(CertificateFacts {
        // "No well-defined expiration" is the last second of the year 9999 (RFC 5280 4.1.2.5), a day later than time goes here.
        not_after: Timestamp::from_second(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX),
        subject: harmless(&parsed.subject().to_string()),
        issuer: harmless(&parsed.issuer().to_string()),
    })
}

/// A certificate in half a sentence.
pub fn words(facts: &CertificateFacts, now: Timestamp) -> String {
    let CertificateFacts { subject, issuer, not_after } = facts;
    let days = (not_after.as_second() - now.as_second()).div_euclid(DAY);
    let when = match days {
        ..=-1 => format!("expired on {not_after}"),
        1 => "expires in 1 day".to_owned(),
        _ => format!("expires in {days} days"),
    };
    format!("certificate {subject} of issuer {issuer} {when}")
}

/// The failure that an error of a handshake is.
pub fn failure(error: &Error, certificate: Option<&CertificateFacts>) -> Failed {
    let shown = certificate.map(|facts| words(facts, Timestamp::now())).unwrap_or_default();
    let with = |what: String| if shown.is_empty() { what } else { format!("{what}: {shown}") };
    match error {
        Error::AlertReceived(alert) => Failed::new("alert", format!("answered with {}", alert_words(*alert))),
        Error::InvalidCertificate(why) => {
            let (reason, what) = match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    ("certificate_expired", "certificate has expired".to_owned())
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    ("certificate_not_yet", "certificate is not valid yet".to_owned())
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    ("certificate_name", harmless(&why.to_string()))
                }
                CertificateError::UnknownIssuer => ("certificate_issuer", "certificate's issuer is unknown".to_owned()),
                other => ("certificate_bad", harmless(&other.to_string())),
            };
            Failed::new(reason, with(what))
        }
        Error::InvalidMessage(why) => Failed::new("not_tls", format!("answer is not TLS: {why:?}")),
        other => Failed::new("handshake", format!("handshake failed: {}", harmless(&other.to_string()))),
    }
}

/// An alert with its number and name.
pub fn alert_words(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::Unknown(number) => format!("TLS alert {number}"),
        known => format!("TLS alert {} ({known:?})", u8::from(known)),
    }
}

/// Says when to warn of a certificate: once a day while it is about to expire, and when another one is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExpiryWatch {
    last: Option<(Timestamp, Timestamp)>,
}

impl ExpiryWatch {
    /// The days that are left, if a warning is due.
    pub fn due(&mut self, not_after: Timestamp, now: Timestamp) -> Option<i64> {
        let left = not_after.as_second() - now.as_second();
        if left >= WARN_BELOW {
            self.last = None;
            return None;
        }
        let is_told =
            |(told_of, at): (Timestamp, Timestamp)| told_of == not_after && now.as_second() - at.as_second() < DAY;
        if self.last.is_some_and(is_told) {
            return None;
        }
        self.last = Some((not_after, now));
        Some(left.div_euclid(DAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: i64) -> Timestamp {
        Timestamp::from_second(days * DAY).expect("within range")
    }

    #[test]
    fn certificates_of_hostile_peers_are_told_of_harmlessly() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("a\x1b[2J\n\u{202e}{}", "b".repeat(5000)));
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        let made = params.self_signed(&key).expect("a certificate");
        let facts = facts(made.der()).expect("facts");
        assert_eq!(facts.not_after, Timestamp::MAX);
        let shown = words(&facts, at(20_000));
        assert!(shown.starts_with(r"certificate CN=a\u{1b}[2J\n\u{202e}bbb"), "{shown}");
        assert!(shown.len() < 600 && shown.chars().all(|c| c.is_ascii() && !c.is_ascii_control()), "{shown}");
        for cut in 0..made.der().len() {
            assert_eq!(super::facts(&made.der()[..cut].to_vec().into()), None, "{cut}");
        }
    }

    #[test]
    fn days_are_counted_as_people_count_them() {
        for (left, expected) in
            [(0, "expires in 0 days"), (1, "expires in 1 day"), (2, "expires in 2 days"), (-1, "expired on 1970")]
        {
            let facts = CertificateFacts { not_after: at(100 + left), subject: "CN=a".into(), issuer: "CN=b".into() };
            let shown = words(&facts, at(100));
            assert!(shown.contains(&format!("certificate CN=a of issuer CN=b {expected}")), "{shown}");
        }
    }

    #[test]
    fn expiry_is_warned_of_once_a_day_and_for_each_certificate() {
        let mut watch = ExpiryWatch::default();
        assert_eq!(watch.due(at(114), at(100)), None, "14 days are enough");
        assert_eq!(watch.due(at(113), at(100)), Some(13));
        let later = Timestamp::from_second(101 * DAY - 1).expect("within range");
        assert_eq!(watch.due(at(113), later), None, "said today");
        assert_eq!(watch.due(at(112), later), Some(11), "another certificate");
        assert_eq!(watch.due(at(112), at(102)), Some(10), "the next day");
        assert_eq!(watch.due(at(200), at(102)), None, "renewed");
        assert_eq!(watch.due(at(112), at(102)), Some(10), "and back");
        assert_eq!(watch.due(at(99), at(100)), Some(-1), "expired");
    }
}
