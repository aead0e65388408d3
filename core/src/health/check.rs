//! What is checked, how, and how patiently: as a member says it of its own services.

use crate::name::{CheckName, SiteName};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// At most so many checks stand in one roster entry.
pub const CHECKS_MAX: usize = 8;
/// At most so many sites are named by one check.
pub const TARGET_SITES_MAX: usize = 16;
/// The longest path of an HTTP check, bytes.
pub const PATH_LEN_MAX: usize = 256;
/// The longest text that a body must contain, bytes.
pub const BODY_LEN_MAX: usize = 128;
/// At most so many ranges of status codes.
pub const STATUSES_MAX: usize = 8;
/// The longest certificate of an authority (DER), bytes.
pub const AUTHORITY_LEN_MAX: usize = 2048;

/// One check of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, unique for the member.
    pub name: CheckName,
    /// What is asked, and what is a right answer.
    pub probe: Probe,
    /// How often and how patiently.
    pub pace: Pace,
    /// The sites that depend on it, sorted, at most [`TARGET_SITES_MAX`]; none means all.
    pub sites: Vec<SiteName>,
}

/// What is asked of the member's public address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// The data path: the beginning of a file of a site that the member says it holds, through its
    /// HTTP port, as a client would fetch it. Right when it comes from this member, in the version
    /// that the member says it holds or a later one, with the bytes that the publisher signed.
    Site,
    /// A TCP connection to this port.
    Tcp {
        /// The port.
        port: u16,
    },
    /// An HTTP request.
    Http(Box<HttpProbe>),
}

/// An HTTP request and what is a right answer. Redirects are not followed: they are answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// Whether and how TLS is spoken.
    pub tls: Option<Tls>,
    /// The port.
    pub port: u16,
    /// The method.
    pub method: Method,
    /// The path, from its slash, with the query if any; at most [`PATH_LEN_MAX`] bytes.
    pub path: String,
    /// `Host`, and the name that the certificate must be for; not set: the address.
    pub host: Option<String>,
    /// The status codes that are right; none means 200 to 399.
    pub status: Vec<StatusRange>,
    /// What the body must contain within its first 64 KiB, at most [`BODY_LEN_MAX`] bytes.
    pub body: Option<String>,
}

/// Status codes from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StatusRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tls {
    /// Any certificate will do.
    Unverified,
    /// The certificate must lead to one of the vantage's own roots.
    Roots,
    /// The certificate must lead to this one: DER, at most [`AUTHORITY_LEN_MAX`] bytes.
    Authority(Vec<u8>),
}

/// The method of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// GET.
    #[default]
    Get,
    /// HEAD.
    Head,
    /// OPTIONS.
    Options,
}

impl Method {
    /// As it stands in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Options => "OPTIONS",
        }
    }
}

/// How often and how patiently a check is made, and how many vantages must say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Between two probes of one vantage while nothing changes, give or take a tenth; 1 s to 1 h.
    /// Default 4 s: with three vantages 0.75 requests a second.
    pub period: Duration,
    /// Between two probes when the last one contradicts what is held; 250 ms to the period.
    /// Default 500 ms.
    pub fast: Duration,
    /// After this long without a whole answer a probe has failed; 50 ms to the period or 30 s.
    /// Default 2 s: on a path of 300 ms the first packet may be
    /// lost, which is sent again after a second. With 1.5 s, every tenth probe failed there at 5 %
    /// loss (`sim`).
    pub timeout: Duration,
    /// So many failures in a row make it down; 1 to 16. Default 2: one lost packet is none.
    pub fall: u8,
    /// So many successes in a row make it up again; 1 to 16. Default 2.
    pub rise: u8,
    /// It stays down for so long at the least, and for twice as long with each time it comes back
    /// within ten times this; at most 10 min. Default 5 s.
    pub hold: Duration,
    /// So many vantages must say down; 0 (the default) is a majority of those chosen.
    pub down_quorum: u8,
    /// So many vantages must say up, after it was agreed to be down; 0 (the default) is a majority
    /// of those chosen.
    pub up_quorum: u8,
}

impl Default for Pace {
    fn default() -> Pace {
        let ms = Duration::from_millis;
        Pace {
            period: ms(4000),
            fast: ms(500),
            timeout: ms(2000),
            fall: 2,
            rise: 2,
            hold: ms(5000),
            down_quorum: 0,
            up_quorum: 0,
        }
    }
}

/// Why a check cannot be made: the field, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct BadCheck {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Check {
    /// Whether `site` depends on it.
    pub fn covers(&self, site: &SiteName) -> bool {
        self.sites.is_empty() || self.sites.binary_search(site).is_ok()
    }

    /// Whether it keeps within its bounds: for one's own and for others' alike.
    pub fn validate(&self) -> Result<(), BadCheck> {
        ensure(self.sites.len() <= TARGET_SITES_MAX, "sites", "are at most 16")?;
        ensure(self.sites.is_sorted_by(|a, b| a < b), "sites", "must be sorted and each named once")?;
        self.pace.validate()?;
        match &self.probe {
            Probe::Site => Ok(()),
            Probe::Tcp { port } => ensure(*port != 0, "port", "must not be 0"),
            Probe::Http(http) => http.validate(),
        }
    }
}

impl HttpProbe {
    /// Whether a status code is right.
    pub fn accepts(&self, status: u16) -> bool {
        match self.status.as_slice() {
            [] => (200..400).contains(&status),
            ranges => ranges.iter().any(|range| (range.first..=range.last).contains(&status)),
        }
    }

    fn validate(&self) -> Result<(), BadCheck> {
        ensure(self.port != 0, "port", "must not be 0")?;
        let path = self.path.as_bytes();
        ensure(
            path.first() == Some(&b'/') && path.len() <= PATH_LEN_MAX,
            "path",
            "begins with / and has at most 256 bytes",
        )?;
        // Nothing that could end the request line or a field: what is checked is decided here.
        ensure(
            path.iter().all(u8::is_ascii_graphic),
            "path",
            "has visible ASCII characters only: percent-encode the others",
        )?;
        let host = self.host.as_deref().unwrap_or("host").as_bytes();
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.:[]_".contains(byte);
        ensure(
            !host.is_empty() && host.len() <= 255 && host.iter().all(fits),
            "host",
            "is a host name or address, with a port if need be",
        )?;
        ensure(self.status.len() <= STATUSES_MAX, "status", "has at most 8 ranges")?;
        let sound =
            |range: &StatusRange| range.first <= range.last && range.first >= 100 && range.last <= 599;
        ensure(self.status.iter().all(sound), "status", "codes are from 100 to 599")?;
        ensure(
            self.body.as_ref().is_none_or(|body| (1..=BODY_LEN_MAX).contains(&body.len())),
            "body",
            "has 1 to 128 bytes",
        )?;
        match &self.tls {
            Some(Tls::Authority(der)) => ensure(
                (1..=AUTHORITY_LEN_MAX).contains(&der.len()),
                "ca",
                "certificate has at most 2,048 bytes (DER)",
            ),
            Some(Tls::Unverified | Tls::Roots) | None => Ok(()),
        }
    }
}

impl Pace {
    /// How long a service that gives no answer goes unnoticed by one vantage, at the most.
    pub fn detects_within(&self) -> Duration {
        let fall = u32::from(self.fall);
        self.period + self.period / 10 + self.fast * (fall - 1) + self.timeout * fall
    }

    fn validate(&self) -> Result<(), BadCheck> {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        ensure((s(1)..=s(3600)).contains(&self.period), "period", "is from 1 s to 1 h")?;
        ensure((ms(250)..=self.period).contains(&self.fast), "fast", "is from 250 ms to the period")?;
        let longest = self.period.min(s(30));
        ensure(
            (ms(50)..=longest).contains(&self.timeout),
            "timeout",
            "is from 50 ms to the period, and at most 30 s",
        )?;
        ensure((1..=16).contains(&self.fall), "fall", "is from 1 to 16")?;
        ensure((1..=16).contains(&self.rise), "rise", "is from 1 to 16")?;
        ensure(self.hold <= s(600), "hold", "is at most 10 min")
    }
}

fn ensure(holds: bool, field: &'static str, problem: &'static str) -> Result<(), BadCheck> {
    if holds { Ok(()) } else { Err(BadCheck { field, problem }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http() -> HttpProbe {
        HttpProbe {
            tls: None,
            port: 80,
            method: Method::Get,
            path: "/health".into(),
            host: Some("www.example.org".into()),
            status: Vec::new(),
            body: None,
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Check, &mut HttpProbe), field: Option<&str>) {
        let mut probe = http();
        let mut check =
            Check { name: "web".parse().unwrap(), probe: Probe::Site, pace: Pace::default(), sites: vec![] };
        change(&mut check, &mut probe);
        check.probe = Probe::Http(Box::new(probe));
        assert_eq!(check.validate().err().map(|bad| bad.field), field);
    }

    #[test]
    fn what_could_storm_or_smuggle_is_refused() {
        check(|_, _| {}, None);
        check(|c, _| c.pace.period = Duration::from_millis(10), Some("period"));
        check(|c, _| c.pace.fast = Duration::ZERO, Some("fast"));
        check(|c, _| c.pace.timeout = Duration::from_secs(31), Some("timeout"));
        check(|c, _| c.pace.fall = 0, Some("fall"));
        check(|_, h| h.path = "/a b HTTP/1.0\r\nX: y".into(), Some("path"));
        check(|_, h| h.path = "x".into(), Some("path"));
        check(|_, h| h.host = Some("a\r\nb".into()), Some("host"));
        check(|_, h| h.port = 0, Some("port"));
        check(|_, h| h.status = vec![StatusRange { first: 300, last: 200 }], Some("status"));
        check(|_, h| h.body = Some(String::new()), Some("body"));
        check(|_, h| h.tls = Some(Tls::Authority(vec![0; AUTHORITY_LEN_MAX + 1])), Some("ca"));
    }

    #[test]
    fn statuses_and_sites() {
        assert!(http().accepts(200) && http().accepts(301) && !http().accepts(404));
        let strict = HttpProbe { status: vec![StatusRange { first: 404, last: 404 }], ..http() };
        assert!(strict.accepts(404) && !strict.accepts(200));
        let mut check =
            Check { name: "api".parse().unwrap(), probe: Probe::Site, pace: Pace::default(), sites: vec![] };
        assert!(check.covers(&"www".parse().unwrap()));
        check.sites = vec!["docs".parse().unwrap()];
        assert!(!check.covers(&"www".parse().unwrap()));
        assert_eq!(Pace::default().detects_within(), Duration::from_millis(8900));
    }
}
