//! How this member's services are to be checked by others, and what follows from it.

use crate::config::BadValue;
use godwit_core::health::{Check, Pace, Probe};
use godwit_core::name::CheckName;
use godwit_probe::config::{CheckConfig, WhenAllDown};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The name of the check of the data path, which needs no configuration.
pub const SITE_CHECK: &str = "site";

/// How this member's services are checked by other members. Three of them do, chosen by who is
/// there; they learn from this member how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// Whether this member checks others when it is chosen to. Turning it off leaves them with
    /// fewer vantages.
    pub vantage: bool,
    /// Whether the data path is checked: others fetch the beginning of a file of a site from this
    /// member's public address, and compare version and bytes with what the publisher signed. Only
    /// for members with the role `node`.
    pub site: bool,
    /// Between two probes of one vantage, milliseconds, 1,000 to 3,600,000.
    pub period_ms: u32,
    /// Between two probes when the last one contradicts what is held, milliseconds, 250 to the
    /// period.
    pub fast_ms: u32,
    /// After so long without a whole answer a probe has failed, milliseconds, 50 to the period and
    /// at most 30,000.
    pub timeout_ms: u32,
    /// So many failures in a row make a service down for a vantage, 1 to 16.
    pub fall: u8,
    /// So many successes in a row make it up again, 1 to 16.
    pub rise: u8,
    /// It stays down for so long at the least, milliseconds, at most 600,000. Doubles with each
    /// return within ten times this, up to 32 times.
    pub hold_ms: u32,
    /// So many of the three vantages must say down; 0: a majority.
    pub down_quorum: u8,
    /// So many must say up again; 0: a majority.
    pub up_quorum: u8,
    /// Further checks of this member, at most 7.
    pub check: Vec<CheckConfig>,
}

impl Default for HealthConfig {
    fn default() -> HealthConfig {
        let pace = Pace::default();
        let ms = |duration: Duration| duration.as_millis() as u32;
        HealthConfig {
            vantage: true,
            site: true,
            period_ms: ms(pace.period),
            fast_ms: ms(pace.fast),
            timeout_ms: ms(pace.timeout),
            fall: pace.fall,
            rise: pace.rise,
            hold_ms: ms(pace.hold),
            down_quorum: pace.down_quorum,
            up_quorum: pace.up_quorum,
            check: Vec::new(),
        }
    }
}

/// How one service is answered for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceConfig {
    /// What is answered when the checks of all its members fail: `static`, as if the checks were
    /// wrong, or `closed`, SERVFAIL. Set it alike on all redirectors.
    pub when_all_down: WhenAllDown,
}

impl HealthConfig {
    /// The checks, without reading files: an authority stands as an empty certificate.
    fn drafts(&self, node: bool) -> Result<Vec<Check>, BadValue> {
        let site = (self.site && node).then(|| -> Result<Check, BadValue> {
            let name = SITE_CHECK.parse().map_err(|_| bad("health.site", "has no name"))?;
            Ok(Check { name, probe: Probe::Site, pace: self.pace(), sites: Vec::new() })
        });
        let mut checks = site.transpose()?.into_iter().collect::<Vec<_>>();
        for config in &self.check {
            checks.push(config.draft(self.pace()).map_err(|problem| bad("health.check", problem))?);
        }
        Ok(checks)
    }

    fn pace(&self) -> Pace {
        let ms = |ms: u32| Duration::from_millis(ms.into());
        Pace {
            period: ms(self.period_ms),
            fast: ms(self.fast_ms),
            timeout: ms(self.timeout_ms),
            fall: self.fall,
            rise: self.rise,
            hold: ms(self.hold_ms),
            down_quorum: self.down_quorum,
            up_quorum: self.up_quorum,
        }
    }

    /// Says what cannot work.
    pub(crate) fn check(&self) -> Result<(), BadValue> {
        // Before the checks, so that what is wrong is said of the right section.
        self.pace_holds()?;
        let checks = self.drafts(true)?;
        if checks.len() > godwit_core::health::CHECKS_MAX {
            return Err(bad("health.check", "has more than 7 checks"));
        }
        let mut names: Vec<&CheckName> = checks.iter().map(|check| &check.name).collect();
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(bad(
                "health.check",
                format!("{} is named twice (\"site\" is the data path)", pair[0]),
            ));
        }
        Ok(())
    }

    fn pace_holds(&self) -> Result<(), BadValue> {
        let (name, sites) = (SITE_CHECK.parse(), Vec::new());
        let Ok(name) = name else { return Ok(()) };
        let check = Check { name, probe: Probe::Site, pace: self.pace(), sites };
        check.validate().map_err(|problem| {
            let key = match problem.field {
                "period" => "health.period_ms",
                "fast" => "health.fast_ms",
                "timeout" => "health.timeout_ms",
                "fall" => "health.fall",
                "rise" => "health.rise",
                _ => "health.hold_ms",
            };
            bad(key, problem.problem)
        })
    }

    /// The checks that this member asks for; reads the files of authorities.
    pub(crate) fn checks(&self, node: bool) -> Result<Vec<Check>, BadValue> {
        let mut checks = self.drafts(node)?;
        for check in &mut checks {
            if let Some(config) = self.check.iter().find(|config| config.name == check.name) {
                *check = config.check(self.pace()).map_err(|problem| bad("health.check", problem))?;
            }
        }
        Ok(checks)
    }
}

fn bad(key: &'static str, problem: impl Into<String>) -> BadValue {
    BadValue { key, problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_core::health::Tls;

    fn config(json: &str) -> HealthConfig {
        serde_json::from_str(json).unwrap()
    }

    #[track_caller]
    fn check(json: &str, key: &str, part: &str) {
        let bad = config(json).check().unwrap_err();
        assert!(bad.key == key && bad.problem.contains(part), "{bad:?}");
    }

    #[test]
    fn a_node_asks_for_a_check_of_its_data_path_without_being_told_to() {
        let checks = HealthConfig::default().checks(true).unwrap();
        assert_eq!((checks.len(), &checks[0].probe, checks[0].pace), (1, &Probe::Site, Pace::default()));
        assert!(HealthConfig::default().checks(false).unwrap().is_empty());
    }

    #[test]
    fn checks_are_made_of_what_is_written() {
        let config = config(
            r#"{"site": false, "fall": 3, "check": [
                {"name": "api", "kind": "https", "path": "/up", "host": "api.example.org", "status": ["200-204", "418"],
                 "sites": ["www", "docs"], "timeout_ms": 800},
                {"name": "mail", "kind": "tcp", "port": 25, "fall": 1}]}"#,
        );
        assert_eq!(config.check(), Ok(()));
        let checks = config.checks(true).unwrap();
        let Probe::Http(http) = &checks[0].probe else { panic!() };
        assert_eq!((http.port, http.tls.as_ref(), http.accepts(418)), (443, Some(&Tls::Roots), true));
        assert_eq!((checks[0].pace.fall, checks[0].pace.timeout), (3, Duration::from_millis(800)));
        assert_eq!(checks[0].sites.len(), 2);
        assert_eq!((&checks[1].probe, checks[1].pace.fall), (&Probe::Tcp { port: 25 }, 1));
    }

    #[test]
    fn what_cannot_work_is_said_with_its_key() {
        check(r#"{"period_ms": 10}"#, "health.period_ms", "1 s");
        check(r#"{"fall": 0}"#, "health.fall", "1 to 16");
        check(r#"{"check": [{"name": "x", "kind": "tcp"}]}"#, "health.check", "needs a port");
        check(r#"{"check": [{"name": "site", "kind": "http"}]}"#, "health.check", "twice");
        check(r#"{"check": [{"name": "x", "kind": "http", "status": ["ok"]}]}"#, "health.check", "status");
        check(r#"{"check": [{"name": "x", "kind": "http", "path": "up"}]}"#, "health.check", "begins with /");
        check(r#"{"check": [{"name": "x", "kind": "http", "tls_ca": "/a"}]}"#, "health.check", "https");
        let missing = config(r#"{"check": [{"name": "x", "kind": "https", "tls_ca": "/nowhere/ca.pem"}]}"#);
        assert_eq!(missing.check(), Ok(()));
        assert!(missing.checks(true).unwrap_err().problem.contains("/nowhere/ca.pem"));
    }
}
