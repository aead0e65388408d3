//! The form of a zone's file.
//!
//! `[redirector]`, `[zone]` and `[dnssec]` are the same tables as in a member's configuration; the
//! others stand only here.
//! Everything that refers to something else keeps its place in the text, so that what refers to
//! nothing can be pointed at.

use super::problem::Problem;
use super::state::State;
use crate::{Config, DnssecConfig};
use godwit_core::name::{MemberName, RegionName, SiteName, ZoneName};
use godwit_dns_plugin::zone::config::ZoneConfig;
use godwit_probe::config::{CheckConfig, WhenAllDown};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::DeTable;

/// The longest zone file, bytes. Long lists of names and prefixes go into files of their own.
pub(crate) const FILE_LEN_MAX: u64 = 16 * 1024 * 1024;

/// A zone's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The zone's name.
    pub(crate) origin: ZoneName,
    /// How to listen and answer, as in a member's configuration.
    #[serde(default)]
    pub(crate) redirector: Config,
    /// Signing the zone's answers, as in a member's configuration.
    #[serde(default)]
    pub(crate) dnssec: DnssecConfig,
    /// What the zone holds beside services, as in a member's configuration.
    #[serde(default)]
    pub(crate) zone: ZoneConfig,
    /// Where services run.
    #[serde(default)]
    pub(crate) region: Vec<Region>,
    /// The zone's name servers: `<name>.node.<origin>`.
    #[serde(default)]
    pub(crate) name_server: Vec<NameServer>,
    /// What is served.
    #[serde(default)]
    pub(crate) service: Vec<Service>,
    /// Who goes where.
    #[serde(default)]
    pub(crate) clients: Clients,
    /// Regions and addresses that are not up: `drain` or `down`.
    #[serde(default)]
    pub(crate) state: BTreeMap<Spanned<String>, State>,
    /// A file with more of those, which is watched.
    pub(crate) state_file: Option<PathBuf>,
    /// Where monitors read metrics, as in a member's configuration.
    #[serde(default)]
    pub(crate) admin: Admin,
    /// How every address is checked, as `[[health.check]]` of a member's configuration.
    #[serde(default)]
    pub(crate) check: Vec<Spanned<CheckConfig>>,
}

/// What a static zone has of a member's table of the same name.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admin {
    /// Where `/metrics`, `/livez` and `/readyz` are; nowhere when it is not set.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// The control socket; beside the file, with the ending `sock`, when it is not set.
    pub(crate) socket: Option<PathBuf>,
}

/// A set of addresses that belong together: a data centre.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Region {
    pub(crate) name: Spanned<RegionName>,
    /// Where it is, `latitude,longitude` in degrees; for geography.
    pub(crate) place: Option<Spanned<String>>,
    /// Its addresses, IPv4 and IPv6, at most eight of each.
    #[serde(default)]
    pub(crate) addresses: Vec<Spanned<IpAddr>>,
    /// How many of them a client is told, in each family. Not set: all.
    pub(crate) answers: Option<Spanned<usize>>,
    /// Weights of its addresses; the others weigh 1.
    #[serde(default)]
    pub(crate) weights: BTreeMap<Spanned<String>, Spanned<u16>>,
    /// A weight for all of them together. Not set: 1.
    pub(crate) weight: Option<Spanned<u16>>,
}

/// A name server of the zone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameServer {
    pub(crate) name: Spanned<MemberName>,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

/// A service: names that answer alike.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    /// Its name, which is also the first of its names.
    pub(crate) name: Spanned<SiteName>,
    /// The regions it runs in. Not set: all.
    pub(crate) regions: Option<Vec<Spanned<RegionName>>>,
    /// Addresses by region, where they are not the region's own.
    #[serde(default)]
    pub(crate) addresses: BTreeMap<Spanned<RegionName>, Vec<Spanned<IpAddr>>>,
    /// More names that answer as it does: `@` for the zone itself, `*` and `*.apps` for wildcards.
    #[serde(default)]
    pub(crate) names: Vec<Spanned<String>>,
    /// A file with more of those, one in a line.
    pub(crate) names_file: Option<PathBuf>,
    /// What is answered when the checks of all its addresses fail: `static` or `closed`.
    #[serde(default)]
    pub(crate) when_all_down: WhenAllDown,
}

/// Who goes where.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Clients {
    /// A GeoIP database in MaxMind's format.
    pub(crate) geoip: Option<Spanned<PathBuf>>,
    /// Whether clients without a rule go to the region that is nearest by the database. Not set:
    /// when there is a database, and neither `default` nor rules by area.
    pub(crate) geography: Option<Spanned<bool>>,
    /// Regions for everybody without a rule, the best first. Not set: clients of whom nothing is
    /// known are divided evenly.
    pub(crate) default: Option<Vec<Spanned<RegionName>>>,
    /// By continent: `EU`.
    pub(crate) continent: Areas,
    /// By country, ISO 3166-1: `DE`.
    pub(crate) country: Areas,
    /// By part of a country, ISO 3166-2: `US-CA`.
    pub(crate) subdivision: Areas,
    /// By prefix: `192.0.2.0/24`.
    pub(crate) prefix: Areas,
    /// A file with prefixes: `PREFIX REGION [REGION…]` in each line.
    pub(crate) prefix_file: Option<PathBuf>,
}

/// Regions, the best first, by what they are for.
pub(crate) type Areas = BTreeMap<Spanned<String>, Vec<Spanned<RegionName>>>;

/// Reads a TOML file; gives its text too, for pointing at.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<(T, String), Problem> {
    let text = read_text(path, FILE_LEN_MAX)?;
    let file = toml::from_str(&text).map_err(|error| match error.span() {
        Some(span) => Problem::at(path, &text, span, one_line(error.message())),
        None => Problem::with(path, one_line(error.message())),
    })?;
    Ok((file, text))
}

/// Where the value of a key like `zone.record[2].data` stands in a text, or else what is around it.
pub(crate) fn find(text: &str, key: &str) -> Option<Range<usize>> {
    let table = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut table = Some(table.get_ref());
    for step in key.split('.') {
        let (name, places) = step.split_once('[').unwrap_or((step, ""));
        let mut value = table?.get(name)?;
        for place in places.split('[').filter(|place| !place.is_empty()) {
            let place: usize = place.trim_end_matches(']').parse().ok()?;
            value = value.get_ref().as_array()?.get(place)?;
        }
        found = Some(value.span());
        table = value.get_ref().as_table();
        if table.is_none() {
            break;
        }
    }
    found
}

/// Reads a text of at most `len_max` bytes.
pub(crate) fn read_text(path: &Path, len_max: u64) -> Result<String, Problem> {
    let unreadable = |error: std::io::Error| Problem::with(path, format!("cannot be read: {error}"));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(len_max + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > len_max {
        return Err(Problem::with(path, format!("has more than {len_max} bytes")));
    }
    Ok(text)
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
