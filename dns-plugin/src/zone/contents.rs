//! The checked contents: what stands at each name.

use super::config::{CustomRecord, Service, ZoneConfig};
use super::owner::{Owner, Path, has_below};
use super::rdata;
use super::service::Checked;
use godwit_core::name::SiteName;
use hickory_server::proto::rr::rdata::CNAME;
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// At most so many names stand in the configuration: a hundred times the largest zones written by
/// hand; more are sites, which the network publishes.
const NAMES_MAX: usize = 100_000;
/// At most so many records at one name: more do not fit a message.
const RECORDS_AT_NAME_MAX: usize = 64;
/// A chain of CNAMEs is followed so far (RFC 1034, 3.6.2: they should not be chained at all).
pub(crate) const CHAIN_MAX: usize = 8;

/// What is wrong with a zone's contents, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ZoneError {
    /// The key in the configuration: names joined by dots, places in lists as `[n]` from 0, for
    /// example `zone.record[2].data`.
    pub key: String,
    /// What is wrong with its value.
    pub problem: String,
}

fn wrong(key: impl Into<String>, problem: impl Into<String>) -> ZoneError {
    ZoneError { key: key.into(), problem: problem.into() }
}

/// What stands at one name beside the map. Most names are aliases and nothing else, and there may be
/// many: so the rest is elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The site that answers here.
    pub(crate) site: Option<Arc<str>>,
    own: Option<Box<Own>>,
    /// What brought it first.
    place: Place,
}

/// What the configuration has at a name.
#[derive(Clone, Debug, Default)]
struct Own {
    /// Their owner is the configured one; a wildcard's is the asterisk.
    records: Vec<Record>,
    bindings: Vec<Binding>,
}

/// A place in the configuration; in words its key.
#[derive(Clone, Copy, Debug)]
enum Place {
    Alias(u32),
    Record(u32),
    Binding(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Alias(at) => write!(f, "zone.alias[{at}]"),
            Place::Record(at) => write!(f, "zone.record[{at}]"),
            Place::Binding(at) => write!(f, "zone.binding[{at}]"),
        }
    }
}

impl Node {
    pub(crate) fn records(&self) -> &[Record] {
        self.own.as_ref().map_or(&[], |own| &own.records)
    }

    pub(crate) fn bindings(&self) -> &[Binding] {
        self.own.as_ref().map_or(&[], |own| &own.bindings)
    }

    pub(crate) fn cname(&self) -> Option<(&Record, &Name)> {
        self.records().iter().find_map(|record| match &record.data {
            RData::CNAME(CNAME(target)) => Some((record, target)),
            _ => None,
        })
    }

    fn own(&mut self) -> &mut Own {
        self.own.get_or_insert_default()
    }
}

/// A service binding that leads to a site's name.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) kind: RecordType,
    pub(crate) site: Arc<str>,
    pub(crate) target: Name,
    pub(crate) service: Checked,
}

/// The zone's contents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    pub(crate) nodes: BTreeMap<Owner, Node>,
    pub(crate) apex: Option<Arc<str>>,
    pub(crate) why: bool,
    https: Option<Checked>,
    sites: BTreeMap<String, Option<Checked>>,
}

impl Contents {
    /// Checks a configuration for the zone `origin`. `static_ttl` is what a record without a TTL
    /// gets, seconds.
    pub(crate) fn check(config: &ZoneConfig, origin: &Name, static_ttl: u32) -> Result<Contents, ZoneError> {
        let mut build = Build { origin, static_ttl, site: None, contents: Contents::default() };
        build.contents.why = config.why;
        build.contents.apex = config.apex.as_deref().map(|site| site_name("zone.apex", site)).transpose()?;
        build.contents.https =
            config.https.as_ref().map(|https| build.service("zone.https", https)).transpose()?;
        for (site, special) in &config.sites {
            let key = format!("zone.sites.{site}");
            site_name(&key, site)?;
            let service = |https| build.service(&format!("{key}.https"), https);
            let https = special.https.as_ref().map(service).transpose()?;
            build.contents.sites.insert(site.clone(), https);
        }
        for (at, alias) in config.alias.iter().enumerate() {
            build.alias(Place::Alias(at as u32), &alias.name, &alias.site)?;
        }
        for (at, record) in config.record.iter().enumerate() {
            build.record(Place::Record(at as u32), record)?;
        }
        for (at, binding) in config.binding.iter().enumerate() {
            build.binding(Place::Binding(at as u32), binding)?;
        }
        build.finish()
    }

    /// The HTTPS record of a site.
    pub(crate) fn https(&self, site: &str) -> Option<&Checked> {
        self.sites.get(site).map_or(self.https.as_ref(), Option::as_ref)
    }

    /// Whether the name at `key`, or a name below it, is here.
    pub(crate) fn has_at_or_below(&self, key: &[u8]) -> bool {
        self.nodes.contains_key(key) || has_below(&self.nodes, key)
    }

    /// The first name that clashes with the sites of `sites`: it answers A, AAAA or CNAME by itself.
    pub(crate) fn clash<'a>(&self, sites: impl IntoIterator<Item = &'a str>) -> Option<ZoneError> {
        sites.into_iter().find_map(|site| {
            let mut path = Path::root();
            path.push(site.as_bytes())?;
            let node = self.nodes.get(path.key(1))?;
            let clashing = |record: &&Record| {
                matches!(record.record_type(), RecordType::A | RecordType::AAAA | RecordType::CNAME)
            };
            let clashes = node.site.is_some() || node.records().iter().any(|record| clashing(&record));
            clashes.then(|| {
                wrong(node.place.to_string(), format!("there is a site {site}, which this would hide"))
            })
        })
    }
}

struct Build<'a> {
    origin: &'a Name,
    static_ttl: u32,
    /// The site that was named last.
    site: Option<Arc<str>>,
    contents: Contents,
}

impl Build<'_> {
    fn service(&self, key: &str, service: &Service) -> Result<Checked, ZoneError> {
        Checked::new(service, self.origin).map_err(|(at, problem)| wrong(format!("{key}.{at}"), problem))
    }

    /// The name as a whole one in the zone, and where it stands.
    fn name(&self, key: &str, text: &str) -> Result<(Name, Path), ZoneError> {
        let key = format!("{key}.name");
        let name = match text {
            "@" => self.origin.clone(),
            _ => {
                let name = Name::from_ascii(text)
                    .map_err(|error| wrong(&*key, format!("{text:?} is no name: {error}")))?;
                match name.is_fqdn() {
                    true => name,
                    false => name
                        .append_domain(self.origin)
                        .map_err(|error| wrong(&*key, format!("{text:?} in the zone is no name: {error}")))?,
                }
            }
        };
        if !self.origin.zone_of(&name) {
            return Err(wrong(key, format!("{name} is not in the zone {}", self.origin)));
        }
        let labels = self.origin.iter().count();
        let path = Path::of(&name, labels).ok_or_else(|| wrong(&*key, format!("{name} is too long")))?;
        // RFC 4592, 2.1.1: an asterisk counts only as the whole leftmost label.
        let star_inside = (0..path.labels()).any(|at| {
            let label = path.label(at).unwrap_or_default();
            label.contains('*') && (label != "*" || at + 1 != path.labels())
        });
        if star_inside {
            return Err(wrong(key, format!("{text:?}: an asterisk stands alone and leftmost")));
        }
        if matches!(path.label(0), Some("node" | "region")) {
            return Err(wrong(key, format!("{name} belongs to the members' and regions' names")));
        }
        Ok((name, path))
    }

    fn node(&mut self, place: Place, path: &Path) -> Result<&mut Node, ZoneError> {
        let owner = path.owner();
        if self.contents.nodes.len() >= NAMES_MAX
            && !self.contents.nodes.contains_key(path.key(path.labels()))
        {
            return Err(wrong(place.to_string(), format!("there are more than {NAMES_MAX} names")));
        }
        Ok(self.contents.nodes.entry(owner).or_insert(Node { site: None, own: None, place }))
    }

    fn alias(&mut self, place: Place, name: &str, site: &str) -> Result<(), ZoneError> {
        let key = &place.to_string();
        let site = self.site(&format!("{key}.site"), site)?;
        let (_, path) = self.name(key, name)?;
        if path.labels() == 0 {
            return Err(wrong(format!("{key}.name"), "for the zone's own name there is zone.apex"));
        }
        let node = self.node(place, &path)?;
        if let Some(before) = &node.site {
            return Err(wrong(format!("{key}.name"), format!("it is an alias of {before} already")));
        }
        node.site = Some(site);
        Ok(())
    }

    fn record(&mut self, place: Place, record: &CustomRecord) -> Result<(), ZoneError> {
        let key = &place.to_string();
        let (name, path) = self.name(key, &record.name)?;
        let kind = rdata::kind(&record.kind).map_err(|problem| wrong(format!("{key}.type"), problem))?;
        refuse(kind).map_err(|problem| wrong(format!("{key}.type"), problem))?;
        let data = rdata::parse(kind, &record.data, self.origin)
            .map_err(|problem| wrong(format!("{key}.data"), problem))?;
        // RFC 2181, 8: a TTL has 31 bits.
        let ttl = record.ttl.unwrap_or(self.static_ttl);
        if ttl > i32::MAX as u32 {
            return Err(wrong(format!("{key}.ttl"), "a TTL is below 2^31 seconds"));
        }
        let made = Record::from_rdata(name, ttl, data);
        let node = self.node(place, &path)?;
        if node.records().iter().any(|there| there.data == made.data) {
            return Err(wrong(key, "the same record stands here already"));
        }
        // RFC 2181, 5.2: the TTLs of a set are one.
        if let Some(there) = node.records().iter().find(|there| there.record_type() == kind)
            && there.ttl != ttl
        {
            let problem =
                format!("the other {kind} records here have the TTL {}, and a set has one", there.ttl);
            return Err(wrong(format!("{key}.ttl"), problem));
        }
        if node.records().len() >= RECORDS_AT_NAME_MAX {
            return Err(wrong(
                key,
                format!("there are more than {RECORDS_AT_NAME_MAX} records at this name"),
            ));
        }
        node.own().records.push(made);
        check_node(
            key,
            path.labels() == 0,
            self.contents.apex.is_some(),
            &self.contents.nodes[path.key(path.labels())],
        )
    }

    fn binding(&mut self, place: Place, binding: &super::config::Binding) -> Result<(), ZoneError> {
        let key = &place.to_string();
        let kind = match binding.kind.to_ascii_uppercase().as_str() {
            "SVCB" => RecordType::SVCB,
            "HTTPS" => RecordType::HTTPS,
            other => return Err(wrong(format!("{key}.type"), format!("{other} is not SVCB or HTTPS"))),
        };
        let service = self.service(&format!("{key}.service"), &binding.service)?;
        let (target, target_path) = self.name(&format!("{key}.site"), &binding.site)?;
        // An alias leads to its site; any other name is one.
        let site =
            match self.contents.nodes.get(target_path.key(target_path.labels())).and_then(|n| n.site.clone())
            {
                Some(site) => site,
                None => self.site(&format!("{key}.site"), &binding.site)?,
            };
        let (_, path) = self.name(key, &binding.name)?;
        let node = self.node(place, &path)?;
        node.own().bindings.push(Binding { kind, site, target, service });
        check_node(
            key,
            path.labels() == 0,
            self.contents.apex.is_some(),
            &self.contents.nodes[path.key(path.labels())],
        )
    }

    /// A site's name, one in memory however many aliases it has.
    fn site(&mut self, key: &str, text: &str) -> Result<Arc<str>, ZoneError> {
        if let Some(same) = self.site.as_ref().filter(|site| ***site == *text) {
            return Ok(same.clone());
        }
        let site = site_name(key, text)?;
        self.site = Some(site.clone());
        Ok(site)
    }

    fn finish(mut self) -> Result<Contents, ZoneError> {
        for (owner, node) in &self.contents.nodes {
            if let Some((_, target)) = node.cname() {
                self.check_chain(node, target, owner)?;
            }
        }
        // Made anew from what is in order, the tree has full nodes: those that names were put into one by one
        // are half empty.
        self.contents.nodes = std::mem::take(&mut self.contents.nodes).into_iter().collect();
        Ok(self.contents)
    }

    /// A chain that comes back to itself has no answer.
    fn check_chain(&self, node: &Node, target: &Name, from: &Owner) -> Result<(), ZoneError> {
        let labels = self.origin.iter().count();
        let mut target = target;
        for _ in 0..CHAIN_MAX {
            if !self.origin.zone_of(target) {
                return Ok(());
            }
            let Some(path) = Path::of(target, labels) else { return Ok(()) };
            let next = self.contents.nodes.get(path.key(path.labels()));
            match next.and_then(Node::cname) {
                Some(_) if path.owner() == *from => break,
                Some((_, next)) => target = next,
                None => return Ok(()),
            }
        }
        let problem = format!("the CNAMEs go in a circle, or through more than {CHAIN_MAX} names");
        Err(wrong(node.place.to_string(), problem))
    }
}

/// RFC 1034, 3.6.2: beside a CNAME there is nothing.
fn check_node(key: &str, apex: bool, apex_service: bool, node: &Node) -> Result<(), ZoneError> {
    let has = |kind: RecordType| node.records().iter().any(|record| record.record_type() == kind);
    let is_site = node.site.is_some() || apex && apex_service;
    if has(RecordType::CNAME) && (apex || is_site || node.records().len() > 1 || !node.bindings().is_empty())
    {
        let problem = match apex {
            true => "the zone's own name cannot be a CNAME: set zone.apex to a site",
            false => "beside a CNAME nothing else may stand at a name",
        };
        return Err(wrong(key, problem));
    }
    if is_site && (has(RecordType::A) || has(RecordType::AAAA)) {
        return Err(wrong(key, "the addresses of this name come from the site that it stands for"));
    }
    let twice = node.bindings().iter().enumerate().any(|(at, binding)| {
        has(binding.kind) || node.bindings()[..at].iter().any(|other| other.kind == binding.kind)
    });
    if twice {
        return Err(wrong(key, "there is a record of this type here already"));
    }
    Ok(())
}

/// Types that are not for a person to set here.
fn refuse(kind: RecordType) -> Result<(), &'static str> {
    match kind {
        RecordType::SOA => Err("the zone has its SOA from the redirector"),
        RecordType::NS | RecordType::DS => {
            Err("names cannot be delegated to other servers from within this zone; use a zone beside it")
        }
        RecordType::DNAME => Err("DNAME is not supported; write an alias or a CNAME for each name"),
        RecordType::RRSIG
        | RecordType::NSEC
        | RecordType::NSEC3
        | RecordType::NSEC3PARAM
        | RecordType::DNSKEY
        | RecordType::CDS
        | RecordType::CDNSKEY => Err("records of DNSSEC are made by the redirector"),
        // RFC 6895, 3.1: types of questions and of messages, not of data.
        other if (128..=255).contains(&u16::from(other)) || matches!(u16::from(other), 0 | 41) => {
            Err("that is no type of data")
        }
        _ => Ok(()),
    }
}

fn site_name(key: &str, text: &str) -> Result<Arc<str>, ZoneError> {
    let site: SiteName = text.parse().map_err(|error| wrong(key, format!("{text:?} is no site: {error}")))?;
    Ok(site.as_str().into())
}
