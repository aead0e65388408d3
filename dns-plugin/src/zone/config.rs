//! The zone's contents as a person writes them: the `[zone]` tables of a configuration file.
//!
//! The same tables stand in a member's configuration and in a static zone file. Everything has a
//! default; a zone without any of it answers from the map alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the zone holds beside the sites that the network publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ZoneConfig {
    /// The site that the zone's own name answers as: its A, AAAA and HTTPS. Not set: none.
    pub apex: Option<String>,
    /// Whether `why.<site>.<zone>` answers TXT with the reasons of the choice. Default true. Reasons
    /// name replicas, estimated times and the client's prefix, no wider than /24 and /56.
    pub why: bool,
    /// What is added to the zone's serial. Not set: the modification time of the file when it has
    /// zone contents, seconds since the Unix epoch, so that secondaries see an edit; set it to the
    /// same number on every redirector when the serials have to be equal.
    pub serial: Option<u32>,
    /// HTTPS records (RFC 9460) of every site and alias. Not set: none.
    pub https: Option<Service>,
    /// HTTPS records of single sites, by the site's name: in place of the ones for every site.
    pub sites: BTreeMap<String, SiteConfig>,
    /// Names that answer as a site; `*.apps` answers for every name below `apps` that is not there.
    pub alias: Vec<Alias>,
    /// SVCB and HTTPS records at other names, with the addresses of a site as hints.
    pub binding: Vec<Binding>,
    /// Records of any type at any name.
    pub record: Vec<CustomRecord>,
}

impl Default for ZoneConfig {
    fn default() -> ZoneConfig {
        ZoneConfig {
            apex: None,
            why: true,
            serial: None,
            https: None,
            sites: BTreeMap::new(),
            alias: Vec::new(),
            binding: Vec::new(),
            record: Vec::new(),
        }
    }
}

/// What is special about one site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SiteConfig {
    /// Its HTTPS record. Not set: none, whatever the default for all sites is.
    pub https: Option<Service>,
}

/// A service binding (RFC 9460).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// AliasMode: the name that clients are to ask for instead, and nothing else is told. Not set:
    /// ServiceMode.
    pub alias: Option<String>,
    /// The protocols that are spoken, best first. Default `["h2", "http/1.1"]`.
    pub alpn: Vec<String>,
    /// Whether the protocol that clients assume without a list (HTTP/1.1) is not spoken.
    pub no_default_alpn: bool,
    /// Another port than the one of the scheme. Not set: that one.
    pub port: Option<u16>,
    /// The ECHConfigList, base64: encrypted Client Hello. Not set: none.
    pub ech: Option<String>,
    /// Parameters without which the record is of no use; each has to be set here.
    pub mandatory: Vec<String>,
    /// Whether the addresses that the map chooses for the client are told as hints. Default true.
    pub hints: bool,
}

impl Default for Service {
    fn default() -> Service {
        Service {
            alias: None,
            alpn: vec!["h2".into(), "http/1.1".into()],
            no_default_alpn: false,
            port: None,
            ech: None,
            mandatory: Vec::new(),
            hints: true,
        }
    }
}

/// A name that answers as a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// The name before the zone; `*` or `*.apps` for a wildcard (RFC 4592).
    pub name: String,
    /// The site.
    pub site: String,
}

/// A service binding at a name that is no site: `_8443._https.www`, `_dns.resolver`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The name before the zone.
    pub name: String,
    /// The site or alias that it leads to: the record's TargetName, and the source of its hints.
    pub site: String,
    /// `SVCB` (the default) or `HTTPS`.
    #[serde(default = "svcb", rename = "type")]
    pub kind: String,
    /// Its parameters.
    #[serde(default)]
    pub service: Service,
}

fn svcb() -> String {
    "SVCB".into()
}

/// A record as in a zone file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomRecord {
    /// The name before the zone, `@` for the zone itself, `*` or `*.apps` for a wildcard, or a whole
    /// name in the zone with a dot at its end.
    pub name: String,
    /// Its type: `TXT`, `MX`, `CAA`, `SRV`, `CNAME`, … or `TYPE65280`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds that it may be kept. Not set: as long as what rarely changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Its data in presentation form, as in a zone file, or `\# LENGTH HEX` (RFC 3597). Names in it
    /// without a dot at their end are in the zone.
    pub data: String,
}

impl ZoneConfig {
    /// Whether it holds nothing beyond the defaults.
    pub fn is_default(&self) -> bool {
        *self == ZoneConfig::default()
    }
}
