//! How a check is written in a configuration, and what follows from it: the same for a member's
//! `[[health.check]]` and a static zone's `[[check]]`.

use crate::tls;
use godwit_core::health::{Check, HttpProbe, Method, Pace, Probe, StatusRange, Tls};
use godwit_core::name::{CheckName, SiteName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// One service that is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckConfig {
    /// Its name: letters, digits, hyphens.
    #[schemars(with = "String")]
    pub name: CheckName,
    /// What is asked.
    pub kind: CheckKind,
    /// The port. Default: 80 for `http`, 443 for `https`; `tcp` needs one.
    #[serde(default)]
    pub port: Option<u16>,
    /// `GET`, `HEAD` or `OPTIONS`.
    #[serde(default)]
    #[schemars(with = "String")]
    pub method: Method,
    /// The path, from its slash. Default `/`.
    #[serde(default = "root")]
    pub path: String,
    /// `Host`, and the name that the certificate must be for. Default: the address.
    #[serde(default)]
    pub host: Option<String>,
    /// The status codes that are right, each `"204"` or `"200-299"`, at most 8. Default: 200 to 399.
    #[serde(default)]
    pub status: Vec<String>,
    /// What the first 64 KiB of the body must contain, at most 128 bytes.
    #[serde(default)]
    pub body: Option<String>,
    /// Whether the certificate must hold (`https`). Default true.
    #[serde(default = "yes")]
    pub tls_verify: bool,
    /// The authority that the certificate must lead to, PEM or DER, at most 2 KiB as DER; it is sent
    /// to other vantages. Default: the vantage's own roots.
    #[serde(default)]
    pub tls_ca: Option<PathBuf>,
    /// The sites or services that depend on it. Default: all.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub sites: Vec<SiteName>,
    /// In place of `health.period_ms`.
    #[serde(default)]
    pub period_ms: Option<u32>,
    /// In place of `health.timeout_ms`.
    #[serde(default)]
    pub timeout_ms: Option<u32>,
    /// In place of `health.fall`.
    #[serde(default)]
    pub fall: Option<u8>,
    /// In place of `health.rise`.
    #[serde(default)]
    pub rise: Option<u8>,
}

/// What is asked of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// A TCP connection.
    Tcp,
    /// A request over HTTP.
    Http,
    /// A request over HTTP within TLS.
    Https,
}

/// What is answered when all checks fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAllDown {
    /// As if the checks were wrong, which they more often are.
    #[default]
    Static,
    /// Nothing: SERVFAIL, so that resolvers ask another name server or serve what they have.
    Closed,
}

fn root() -> String {
    "/".into()
}

fn yes() -> bool {
    true
}

impl CheckConfig {
    /// The check, without reading files: [`CheckConfig::check`] does.
    pub fn draft(&self, pace: Pace) -> Result<Check, String> {
        let ms = |ms: u32| Duration::from_millis(ms.into());
        let period = self.period_ms.map_or(pace.period, ms);
        let pace = Pace {
            period,
            fast: pace.fast.min(period),
            timeout: self.timeout_ms.map_or(pace.timeout, ms),
            fall: self.fall.unwrap_or(pace.fall),
            rise: self.rise.unwrap_or(pace.rise),
            ..pace
        };
        let wrong = |problem: &str| format!("{}: {problem}", self.name);
        let tls = match (self.kind, self.tls_verify) {
            (CheckKind::Https, true) => Some(Tls::Roots),
            (CheckKind::Https, false) => Some(Tls::Unverified),
            (CheckKind::Http | CheckKind::Tcp, _) => None,
        };
        if self.tls_ca.is_some() && !matches!(tls, Some(Tls::Roots)) {
            return Err(wrong("tls_ca needs the kind https, and tls_verify"));
        }
        let port = match (self.port, self.kind) {
            (Some(port), _) => port,
            (None, CheckKind::Http) => 80,
            (None, CheckKind::Https) => 443,
            (None, CheckKind::Tcp) => return Err(wrong("a check of the kind tcp needs a port")),
        };
        let probe = match self.kind {
            CheckKind::Tcp => Probe::Tcp { port },
            CheckKind::Http | CheckKind::Https => Probe::Http(Box::new(HttpProbe {
                tls,
                port,
                method: self.method,
                path: self.path.clone(),
                host: self.host.clone(),
                status: self.status.iter().map(|text| range(text)).collect::<Option<_>>().ok_or_else(
                    || wrong("status is a list of codes like \"204\" and ranges like \"200-299\""),
                )?,
                body: self.body.clone(),
            })),
        };
        let mut sites = self.sites.clone();
        sites.sort();
        sites.dedup();
        let check = Check { name: self.name.clone(), probe, pace, sites };
        check.validate().map_err(|problem| format!("{}: {problem}", self.name))?;
        Ok(check)
    }

    /// The check; reads the file of its authority.
    pub fn check(&self, pace: Pace) -> Result<Check, String> {
        let mut check = self.draft(pace)?;
        if let (Some(path), Probe::Http(http)) = (&self.tls_ca, &mut check.probe) {
            let authority =
                tls::read_authority(path).map_err(|problem| format!("{}: tls_ca: {problem}", self.name))?;
            http.tls = Some(Tls::Authority(authority));
            check.validate().map_err(|problem| format!("{}: {problem}", self.name))?;
        }
        Ok(check)
    }
}

fn range(text: &str) -> Option<StatusRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(StatusRange { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? })
}
