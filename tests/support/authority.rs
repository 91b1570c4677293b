//! A certificate authority of a test's own: certificates with any names and dates, believed by whoever has its file.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use super::servers::Certificate;

const DAY: u64 = 86_400;

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: Certificate,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let file = Certificate::of(&certificate.pem(), &key.serialize_pem());
        Self { issuer: Issuer::new(params, key), file }
    }

    /// The file that believes it.
    pub fn path(&self) -> PathBuf {
        self.file.path()
    }

    /// A certificate for `name`, a host or an address, that was valid yesterday and is for `days` and an hour from now on.
    pub fn issue(&self, name: &str, days: i64) -> Certificate {
        self.issue_between(name, -2, days)
    }

    /// A certificate for `name` that is valid between two days, counted from an hour from now.
    pub fn issue_between(&self, name: &str, from: i64, to: i64) -> Certificate {
        let day = |days: i64| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            let seconds = now + 3600 + (days + 10_000) as u64 * DAY - 10_000 * DAY;
            date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
        };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (day(from), day(to));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certificate::of(&certificate.pem(), &key.serialize_pem())
    }
}
