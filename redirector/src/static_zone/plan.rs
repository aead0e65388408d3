//! The file checked, and turned into what the map takes.

use super::checks::{self, CheckPlan};
use super::durable::{self, Turn};
use super::file::{self, Areas, File, Region, find};
use super::lists::{parse_prefix, read_names, read_prefixes};
use super::problem::Problem;
use super::state::{State, States};
use crate::{Config, DnssecConfig};
use godwit_core::certificate::{Role, Serial};
use godwit_core::content::{ObjectId, VersionNumber};
use godwit_core::demand::Capacity;
use godwit_core::geo::Coordinates;
use godwit_core::health::Check;
use godwit_core::key::PublicKey;
use godwit_core::name::{MemberName, RegionName, SiteName, ZoneName};
use godwit_dns_plugin::zone::config::{Alias, ZoneConfig};
use godwit_dns_plugin::{Zone, ZoneError};
use godwit_map::rules::{Area, RulesError, TOLD_MAX};
use godwit_map::{GeoDb, Health, Hosting, Inputs, MemberInput, Rules, Service, SiteInput};
use godwit_probe::config::{CheckConfig, WhenAllDown};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The largest weight of an address, and of a region: their product fits a member's.
const WEIGHT_MAX: u16 = 100;

/// A zone's file, checked.
pub struct Plan {
    path: PathBuf,
    pub(crate) redirector: Config,
    pub(crate) dnssec: DnssecConfig,
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) control: ControlSocket,
    inputs: Inputs,
    /// Taken when the GeoIP database is made of them: a long list is not kept.
    rules: Option<Rules>,
    geoip: Option<PathBuf>,
    states: States,
    state_file: Option<PathBuf>,
    checks: Vec<Check>,
    check_plan: CheckPlan,
    /// Taken when the zone is made of it.
    zone: Option<ZoneParts>,
}

/// Where a static zone is controlled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSocket {
    /// A unix socket.
    pub path: PathBuf,
    /// Whether the zone's file names it; otherwise it is beside the file, where that is possible.
    pub named: bool,
}

impl ControlSocket {
    /// Where the redirector that serves the zone of this file listens. Reads of the file only that, so
    /// that one that has become wrong otherwise does not keep anybody from asking who serves the zone as
    /// it was.
    pub fn find(path: &Path) -> Result<ControlSocket, Problem> {
        let text = file::read_text(path, file::FILE_LEN_MAX)?;
        let socket = toml::from_str::<toml::Table>(&text).ok().and_then(|table| {
            let socket = table.get("admin")?.get("socket")?;
            socket.as_str().map(PathBuf::from)
        });
        Ok(ControlSocket::of(path, socket.as_deref()))
    }

    fn of(path: &Path, socket: Option<&Path>) -> ControlSocket {
        match socket {
            Some(socket) => ControlSocket { path: beside(path, socket), named: true },
            None => ControlSocket { path: path.with_extension("sock"), named: false },
        }
    }
}

/// A path that is relative to the folder of a file.
fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().map_or_else(|| path.to_owned(), |folder| folder.join(path))
}

/// What the zone holds beside the map, and where that stands.
struct ZoneParts {
    config: ZoneConfig,
    /// The file's own aliases; those after them are names of services.
    own_aliases: usize,
    /// Lists of names, and of each name which list and line.
    lists: Vec<PathBuf>,
    places: Vec<(usize, usize)>,
    text: String,
    revision: u32,
}

impl Plan {
    /// Reads a zone's file and the lists that it names.
    pub fn read(path: &Path) -> Result<Plan, Problem> {
        let (file, text) = file::read::<File>(path)?;
        let reader = Reader { path, text: &text };
        let regions = reader.regions(&file.region)?;
        let mut inputs = Inputs { number: 1, ..Inputs::new(file.origin.clone()) };
        for region in &file.region {
            let place = reader.place(region)?;
            let name = region.name.get_ref();
            reader.members(&mut inputs.members, &file.origin, None, name, place, &region.addresses)?;
        }
        let zone = reader.services(&file, &regions, &mut inputs)?;
        reader.weights(&file, &mut inputs)?;
        reader.name_servers(&file, &mut inputs)?;
        let rules = reader.rules(&file, &regions)?;
        let geoip = file.clients.geoip.as_ref().map(|file| reader.beside(file.get_ref()));
        let states = file.state.iter().map(|(name, state)| (name.get_ref().clone(), *state)).collect();
        let dnssec =
            DnssecConfig { keys: file.dnssec.keys.as_ref().map(|keys| reader.beside(keys)), ..file.dnssec };
        let ttl_max = file.redirector.ttl_secs.max(file.redirector.ttl_static_secs);
        dnssec
            .check(ttl_max)
            .map_err(|(key, problem)| Problem::with(path, format!("dnssec.{key}: {problem}")))?;
        let mut redirector = file.redirector.clone();
        redirector.paths_mut().for_each(|path| *path = reader.beside(path));
        let checks = reader.checks(&file)?;
        let check_plan = CheckPlan::new(path, &checks, &inputs)?;
        inputs.closed = file
            .service
            .iter()
            .filter(|service| service.when_all_down == WhenAllDown::Closed)
            .map(|service| service.name.get_ref().clone())
            .collect();
        inputs.closed.sort();
        let plan = Plan {
            checks,
            check_plan,
            path: path.to_owned(),
            redirector,
            dnssec,
            metrics_listen: file.admin.metrics_listen,
            control: ControlSocket::of(path, file.admin.socket.as_deref()),
            inputs,
            rules: Some(rules),
            geoip,
            states: States(states),
            state_file: file.state_file.map(|file| reader.beside(&file)),
            zone: Some(zone),
        };
        for name in file.state.keys() {
            plan.check_target(name.get_ref()).map_err(|problem| reader.problem(name, problem))?;
        }
        Ok(plan)
    }

    /// What is checked.
    pub(crate) fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Which addresses are checked, and how.
    pub(crate) fn check_plan(&self) -> &CheckPlan {
        &self.check_plan
    }

    /// The inputs of the map with everything up.
    pub(crate) fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Makes the zone of what it holds beside the map; for once.
    pub(crate) fn take_zone(&mut self) -> Result<Zone, Problem> {
        let options = self.redirector.options();
        let Some(parts) = self.zone.take() else { return Ok(Zone::new(&self.inputs.zone, options)) };
        let zone = Zone::configured(&self.inputs.zone, options, &parts.config, parts.revision);
        let sites = self.inputs.sites.iter().map(|site| site.site.as_str());
        match zone.and_then(|zone| zone.clash(sites).map_or(Ok(zone), Err)) {
            Ok(zone) => Ok(zone),
            Err(error) => Err(parts.problem(&self.path, &error)),
        }
    }

    /// Reads the GeoIP database and compiles the rules with it; for once.
    pub(crate) fn take_geo(&mut self) -> Result<GeoDb, Problem> {
        let rules = self.rules.take().unwrap_or_default();
        GeoDb::by_rules(rules, self.geoip.as_deref()).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            // Which of them is meant the error says in words only.
            let database = self.geoip.as_deref().map(|path| format!(" (clients.geoip: {})", path.display()));
            let text = format!("{error}{}{}", cause.unwrap_or_default(), database.unwrap_or_default());
            Problem::with(&self.path, text)
        })
    }

    /// The file that holds states, if there may be one.
    pub(crate) fn state_file(&self) -> Option<&Path> {
        self.state_file.as_deref()
    }

    /// The states of the zone's file and of the state file. A state file that is not there says
    /// nothing.
    pub(crate) fn states(&self) -> Result<States, Problem> {
        let mut states = self.states.clone();
        if let Some(path) = self.state_file.as_deref().filter(|path| path.exists()) {
            let (more, text) = file::read::<BTreeMap<Spanned<String>, State>>(path)?;
            for (name, state) in more {
                let problem = |problem| Problem::at(path, &text, name.span(), problem);
                self.check_target(name.get_ref()).map_err(problem)?;
                states.0.insert(name.into_inner(), state);
            }
        }
        Ok(states)
    }

    /// Writes into the state file that a region or an address is in this state from now on; on the disk
    /// when this returns. Whoever serves the zone sees it within a second.
    pub fn set_state(&self, name: &str, state: State) -> Result<(), Problem> {
        let missing = "has no `state_file`: nothing can be drained but by editing it";
        let path = self.state_file.as_deref().ok_or_else(|| Problem::with(&self.path, missing))?;
        self.check_target(name).map_err(|problem| Problem::with(&self.path, problem))?;
        let turn = Turn::take(path)?;
        let mut states: BTreeMap<String, State> = match path.exists() {
            true => file::read(path)?.0,
            false => BTreeMap::new(),
        };
        match (state, self.states.0.get(name).copied().unwrap_or_default()) {
            (State::Up, State::Up) => states.remove(name),
            _ => states.insert(name.to_owned(), state),
        };
        let text = toml::to_string(&states).map_err(|error| Problem::with(path, error))?;
        durable::replace(&turn, path, &text)
    }

    /// Whether a state can be of this: a region or an address.
    pub(crate) fn check_target(&self, name: &str) -> Result<(), String> {
        let of = |member: &MemberInput| {
            let is = |address: Option<IpAddr>| address.is_some_and(|address| address.to_string() == name);
            member.region.as_str() == name
                || is(member.public_v4.map(Into::into))
                || is(member.public_v6.map(Into::into))
        };
        match self.inputs.members.iter().any(of) {
            true => Ok(()),
            false => Err(format!("{name:?} is neither a region nor an address of this zone")),
        }
    }
}

impl ZoneParts {
    fn problem(&self, path: &Path, error: &ZoneError) -> Problem {
        let alias = error.key.strip_prefix("zone.alias[").and_then(|rest| rest.split(']').next());
        let place = alias.and_then(|number| number.parse::<usize>().ok()?.checked_sub(self.own_aliases));
        let place = place.and_then(|number| self.places.get(number));
        match place {
            Some((0, start)) => Problem::at(path, &self.text, *start..*start, &error.problem),
            Some((list, line)) => Problem::in_line(&self.lists[list - 1], *line, 1, &error.problem),
            None => match find(&self.text, &error.key) {
                Some(span) => Problem::at(path, &self.text, span, error),
                None => Problem::with(path, error),
            },
        }
    }
}

/// Turns parts of a file's text into values, and problems into places in it.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn problem<T>(&self, value: &Spanned<T>, text: impl Display) -> Problem {
        Problem::at(self.path, self.text, value.span(), text)
    }

    /// A path that is relative to the file's folder.
    fn beside(&self, path: &Path) -> PathBuf {
        beside(self.path, path)
    }

    fn checks(&self, file: &File) -> Result<Vec<Check>, Problem> {
        let mut checks: Vec<Check> = Vec::new();
        for spanned in &file.check {
            let config = spanned.get_ref();
            let tls_ca = config.tls_ca.as_ref().map(|path| self.beside(path));
            let config = CheckConfig { tls_ca, ..config.clone() };
            let check = config.check(checks::pace()).map_err(|problem| self.problem(spanned, problem))?;
            if checks.iter().any(|other| other.name == check.name) {
                return Err(self.problem(spanned, format!("there are two checks named {}", check.name)));
            }
            let known = |site: &&SiteName| file.service.iter().any(|service| service.name.get_ref() == *site);
            if let Some(site) = check.sites.iter().find(|site| !known(site)) {
                return Err(self.problem(spanned, format!("there is no service {site}")));
            }
            checks.push(check);
        }
        Ok(checks)
    }

    fn regions(&self, regions: &[Region]) -> Result<BTreeSet<RegionName>, Problem> {
        let mut names = BTreeSet::new();
        for region in regions {
            if !names.insert(region.name.get_ref().clone()) {
                return Err(self.problem(&region.name, "there are two regions of this name"));
            }
        }
        match regions.is_empty() {
            true => Err(Problem::with(self.path, "there is no [[region]]: nobody could be led anywhere")),
            false => Ok(names),
        }
    }

    fn place(&self, region: &Region) -> Result<Option<Coordinates>, Problem> {
        let Some(place) = &region.place else { return Ok(None) };
        place.get_ref().parse().map(Some).map_err(|error| self.problem(place, error))
    }

    /// A member for each address: so each can be drained alone.
    fn members(
        &self,
        members: &mut Vec<MemberInput>,
        zone: &ZoneName,
        service: Option<&SiteName>,
        region: &RegionName,
        place: Option<Coordinates>,
        addresses: &[Spanned<IpAddr>],
    ) -> Result<Vec<MemberName>, Problem> {
        let start = members.len();
        for (address, n) in addresses.iter().zip(1..) {
            let ip = *address.get_ref();
            let same = addresses.iter().filter(|other| other.get_ref().is_ipv4() == ip.is_ipv4());
            if same.count() > TOLD_MAX {
                let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                let text = format!(
                    "{region} has more than {TOLD_MAX} {family} addresses, which is what fits a reply"
                );
                return Err(self.problem(address, text));
            }
            let name = match service {
                Some(service) => format!("{service}-{region}-{n}"),
                None => format!("{region}-{n}"),
            };
            let name = name.parse::<MemberName>().map_err(|error| self.problem(address, error))?;
            let mut member = member(zone, name, region.clone(), Role::Node, members.len());
            member.place = place;
            match ip {
                IpAddr::V4(ip) => member.public_v4 = Some(ip),
                IpAddr::V6(ip) => member.public_v6 = Some(ip),
            }
            members.push(member);
        }
        Ok(members[start..].iter().map(|member| member.name.clone()).collect())
    }

    fn name_servers(&self, file: &File, inputs: &mut Inputs) -> Result<(), Problem> {
        for server in &file.name_server {
            let name = server.name.get_ref();
            if inputs.members.iter().any(|member| member.name == *name) {
                return Err(self.problem(&server.name, "there are two of this name"));
            }
            if server.v4.is_none() && server.v6.is_none() {
                return Err(self.problem(&server.name, "a name server needs `v4` or `v6`"));
            }
            let region = file.region.first().map(|region| region.name.get_ref().clone());
            let Some(region) = region else { return Ok(()) };
            let mut member =
                member(&file.origin, name.clone(), region, Role::Redirector, inputs.members.len());
            (member.public_v4, member.public_v6) = (server.v4, server.v6);
            inputs.members.push(member);
        }
        Ok(())
    }

    fn services(
        &self,
        file: &File,
        regions: &BTreeSet<RegionName>,
        inputs: &mut Inputs,
    ) -> Result<ZoneParts, Problem> {
        let mut zone = ZoneParts {
            config: file.zone.clone(),
            own_aliases: file.zone.alias.len(),
            lists: Vec::new(),
            places: Vec::new(),
            text: self.text.to_owned(),
            revision: modified(self.path),
        };
        let own: Vec<(RegionName, MemberName)> =
            inputs.members.iter().map(|member| (member.region.clone(), member.name.clone())).collect();
        for service in &file.service {
            let listed = match &service.regions {
                Some(listed) => self.known(listed, regions)?,
                None => regions.iter().cloned().collect(),
            };
            let mut runs_on: Vec<MemberName> = own
                .iter()
                .filter(|(region, _)| {
                    listed.contains(region) && service.addresses.keys().all(|other| other.get_ref() != region)
                })
                .map(|(_, member)| member.clone())
                .collect();
            for (region, addresses) in &service.addresses {
                self.known(std::slice::from_ref(region), regions)?;
                let place = file.region.iter().find(|other| other.name.get_ref() == region.get_ref());
                let place = place.map(|region| self.place(region)).transpose()?.flatten();
                let (zone, name) = (&file.origin, Some(service.name.get_ref()));
                let members = &mut inputs.members;
                runs_on.extend(self.members(members, zone, name, region.get_ref(), place, addresses)?);
            }
            if runs_on.is_empty() {
                return Err(self.problem(&service.name, "none of its regions has an address"));
            }
            let site = service.name.get_ref();
            if inputs.sites.iter().any(|other| other.site == *site) {
                return Err(self.problem(&service.name, "there are two services of this name"));
            }
            let hosting = Hosting::Service(Service { regions: Vec::new(), members: runs_on });
            inputs.sites.push(SiteInput { site: site.clone(), number: VersionNumber(1), hosting });
            self.names(service, &mut zone)?;
        }
        Ok(zone)
    }

    /// The names of a service become aliases of its site.
    fn names(&self, service: &file::Service, zone: &mut ZoneParts) -> Result<(), Problem> {
        let ZoneParts { config, lists, places, .. } = zone;
        let site = service.name.get_ref().as_str();
        let mut add = |name: &str, list: usize, place: usize| match (name, &config.apex) {
            ("@", Some(apex)) => Err(format!("the zone itself answers as {apex} already")),
            ("@", None) => {
                config.apex = Some(site.to_owned());
                Ok(())
            }
            _ => {
                config.alias.push(Alias { name: name.to_owned(), site: site.to_owned() });
                places.push((list, place));
                Ok(())
            }
        };
        for name in &service.names {
            add(name.get_ref(), 0, name.span().start).map_err(|problem| self.problem(name, problem))?;
        }
        let Some(list) = &service.names_file else { return Ok(()) };
        lists.push(self.beside(list));
        read_names(&self.beside(list), |name, line| add(name, lists.len(), line))
    }

    /// Regions that there are.
    fn known(
        &self,
        listed: &[Spanned<RegionName>],
        regions: &BTreeSet<RegionName>,
    ) -> Result<Vec<RegionName>, Problem> {
        for region in listed {
            if !regions.contains(region.get_ref()) {
                return Err(self.problem(region, format!("there is no region {}", region.get_ref())));
            }
        }
        Ok(listed.iter().map(|region| region.get_ref().clone()).collect())
    }

    fn rules(&self, file: &File, regions: &BTreeSet<RegionName>) -> Result<Rules, Problem> {
        let clients = &file.clients;
        let mut rules = Rules::new();
        type Kind = fn(String) -> Area;
        let kinds: [(&Areas, Kind); 3] = [
            (&clients.continent, Area::Continent),
            (&clients.country, Area::Country),
            (&clients.subdivision, Area::Subdivision),
        ];
        for (areas, kind) in kinds {
            for (code, listed) in areas {
                let area = kind(self.code(code, kind)?);
                rules
                    .send_area(area, self.known(listed, regions)?)
                    .map_err(|error| self.problem(code, error))?;
            }
        }
        for (prefix, listed) in &clients.prefix {
            let net = parse_prefix(prefix.get_ref()).map_err(|problem| self.problem(prefix, problem))?;
            rules
                .send_prefix(net, &self.known(listed, regions)?)
                .map_err(|error| self.problem(prefix, error))?;
        }
        if let Some(path) = &clients.prefix_file {
            read_prefixes(&self.beside(path), |net, listed| {
                let listed: Vec<RegionName> = listed
                    .iter()
                    .map(|name| {
                        regions.get(*name).cloned().ok_or_else(|| format!("there is no region {name}"))
                    })
                    .collect::<Result<_, _>>()?;
                rules.send_prefix(net, &listed).map_err(|error: RulesError| error.to_string())
            })?;
        }
        if let Some(default) = &clients.default {
            let listed = self.known(default, regions)?;
            rules.send_others(listed).map_err(|error| Problem::with(self.path, error))?;
        }
        for region in &file.region {
            let Some(answers) = &region.answers else { continue };
            if !(1..=TOLD_MAX).contains(answers.get_ref()) {
                return Err(self.problem(answers, format!("a client is told 1 to {TOLD_MAX} addresses")));
            }
            rules.tell_at_most(region.name.get_ref().clone(), *answers.get_ref());
        }
        self.geography(file, &mut rules)?;
        Ok(rules)
    }

    /// Gives addresses their weights, once any has one: they are beside each other, so all are in parts
    /// of one.
    fn weights(&self, file: &File, inputs: &mut Inputs) -> Result<(), Problem> {
        let right = |weight: &Spanned<u16>| match (1..=WEIGHT_MAX).contains(weight.get_ref()) {
            true => Ok(*weight.get_ref()),
            false => Err(self.problem(weight, format!("a weight is 1 to {WEIGHT_MAX}"))),
        };
        if file.region.iter().all(|region| region.weights.is_empty() && region.weight.is_none()) {
            return Ok(());
        }
        for region in &file.region {
            let of_region = region.weight.as_ref().map_or(Ok(1), right)?;
            let is_here = |member: &MemberInput| member.region == *region.name.get_ref();
            for member in inputs.members.iter_mut().filter(|member| is_here(member)) {
                member.capacity.weight_percent = Some(of_region);
            }
            for (address, weight) in &region.weights {
                let weight = right(weight)?;
                let ip: IpAddr = address.get_ref().parse().map_err(|error| self.problem(address, error))?;
                let has = |member: &&mut MemberInput| {
                    member.public_v4.map(IpAddr::V4) == Some(ip)
                        || member.public_v6.map(IpAddr::V6) == Some(ip)
                };
                let mut found = false;
                for member in inputs.members.iter_mut().filter(|member| is_here(member)).filter(has) {
                    member.capacity.weight_percent = Some(of_region * weight);
                    found = true;
                }
                if !found {
                    return Err(
                        self.problem(address, format!("{ip} is no address of {}", region.name.get_ref()))
                    );
                }
            }
        }
        Ok(())
    }

    fn geography(&self, file: &File, rules: &mut Rules) -> Result<(), Problem> {
        let clients = &file.clients;
        let implied = clients.geoip.is_some() && clients.default.is_none() && !rules.need_geoip();
        let on = clients.geography.as_ref().map_or(implied, |on| *on.get_ref());
        rules.set_geography(on);
        let Some(geoip) = &clients.geoip else {
            return match rules.need_geoip() {
                true => Err(Problem::with(self.path, "rules by area and geography need `clients.geoip`")),
                false => Ok(()),
            };
        };
        if !rules.need_geoip() {
            return Err(
                self.problem(geoip, "nothing needs a database: set `geography = true`, or rules by area")
            );
        }
        match file.region.iter().find(|region| on && region.place.is_none()) {
            Some(region) => Err(self.problem(&region.name, "geography needs the `place` of every region")),
            None => Ok(()),
        }
    }

    /// A code in capital letters, as databases have it.
    fn code(&self, code: &Spanned<String>, kind: fn(String) -> Area) -> Result<String, Problem> {
        let text = code.get_ref().to_ascii_uppercase();
        let letters =
            |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_uppercase());
        let part =
            |text: &str| (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
        let (right, example) = match kind(String::new()) {
            Area::Continent(_) => (
                ["AF", "AN", "AS", "EU", "NA", "OC", "SA"].contains(&text.as_str()),
                "AF, AN, AS, EU, NA, OC or SA",
            ),
            Area::Country(_) => (letters(&text, 2), "two letters as in ISO 3166-1, like DE"),
            Area::Subdivision(_) => (
                text.split_once('-').is_some_and(|(country, rest)| letters(country, 2) && part(rest)),
                "as in ISO 3166-2, like US-CA",
            ),
        };
        match right {
            true => Ok(text),
            false => Err(self.problem(code, format!("{:?} is not {example}", code.get_ref()))),
        }
    }
}

/// A healthy member without addresses. Its key is the same each time the file is read, so that clients
/// stay where they are.
fn member(zone: &ZoneName, name: MemberName, region: RegionName, role: Role, number: usize) -> MemberInput {
    let key = ObjectId::of(format!("static member {zone} {name}").as_bytes());
    MemberInput {
        id: PublicKey::from_bytes(*key.as_bytes()),
        serial: Serial(number as u64 + 1),
        name,
        region,
        place: None,
        roles: vec![role],
        state: Health::Alive,
        draining: false,
        ready: true,
        load_permille: 0,
        capacity: Capacity::default(),
        public_v4: None,
        public_v6: None,
        http_port: None,
        held: Vec::new(),
        peer_rtts: Vec::new(),
        certified: true,
        checks: Vec::new(),
    }
}

/// When a file was written, seconds since the Unix epoch, for the zone's serial; 0 where that is not
/// known.
fn modified(path: &Path) -> u32 {
    let time = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let age = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    age.map_or(0, |age| age.as_secs() as u32)
}
