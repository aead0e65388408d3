//! A generation: the immutable snapshot that answers.

mod homes;

use crate::asked::Asked;
use crate::decisions::{Because, Decisions};
use crate::division::Division;
use crate::eligible::{Eligible, Exclusion, Tier, Wanted, eligible, exclusion, is_full};
use crate::estimate::Source;
use crate::explore;
use crate::geo::GeoDb;
use crate::inputs::{Health, Hosting, Inputs, MemberInput, Service, SiteInput};
use crate::observe::Measurement;
use crate::table::{Candidate, Family, Knowledge, Locality, Picks, Table, Told, client_prefix};
use crate::why::{self, Why};
use godwit_core::certificate::Role;
use godwit_core::content::VersionNumber;
use godwit_core::key::MemberId;
use godwit_core::name::{MemberName, RegionName, SiteName, ZoneName};
use godwit_core::time::Time;
use homes::HomeName;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An immutable snapshot of the map. Made by [`Generation::compute`], shared behind
/// [`Shared`](crate::Shared).
pub struct Generation {
    inputs: Inputs,
    knowledge: Knowledge,
    /// Sorted by name.
    sites: Vec<Site>,
    /// Home addresses, sorted by name.
    homes: Vec<HomeName>,
    /// Each distinct set of replicas, compiled.
    tables: Vec<Table>,
    division: Division,
    decisions: Decisions,
    by_id: BTreeMap<MemberId, u32>,
    by_name: BTreeMap<MemberName, u32>,
    by_region: BTreeMap<RegionName, Region>,
    /// Redirectors with an address, by name.
    name_servers: Vec<u32>,
    /// Whether each member counts as full.
    full: Vec<bool>,
}

struct Site {
    input: SiteInput,
    tier: Tier,
    /// Members that serve although monitors object.
    spared: Vec<u32>,
    /// Index into the generation's tables.
    table: u32,
}

/// The nodes of a region, as a name of their own.
struct Region {
    /// All that are certified, the oldest first.
    nodes: Vec<u32>,
    /// All of them, as something to serve.
    hosting: Hosting,
    eligible: Eligible,
}

impl Region {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { site: None, number: VersionNumber(0), hosting: &self.hosting }
    }
}

/// A site of a generation. Means nothing to another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteRef {
    index: u32,
    table: u32,
}

impl SiteRef {
    /// The number of its table: sites with equal replicas share one, and what is chosen in it
    /// holds for all of them. Dense from 0.
    pub fn table(self) -> usize {
        self.table as usize
    }
}

/// Which of a table's answers a client is told; dense from 0, see [`Generation::choices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChoiceKey(u32);

impl ChoiceKey {
    /// Its number.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What was chosen for a client, before anybody looks what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which answer. Two clients with one key are told the same of every site of the table.
    pub key: ChoiceKey,
    /// The widest prefix length around the client within which everybody has this key.
    pub scope: u8,
}

/// What a client is told of a site.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    inputs: &'a Inputs,
    told: Told,
    /// The widest prefix length around the client within which everybody is told the same.
    pub scope: u8,
}

impl<'a> Answer<'a> {
    /// Whether there is nobody to name: the network has no node.
    pub fn is_empty(&self) -> bool {
        self.told.first().is_none()
    }

    /// The replicas for IPv4, the best first; those after it are materially as good.
    pub fn v4(&self) -> impl Iterator<Item = (&'a MemberInput, Ipv4Addr)> + use<'a> {
        let inputs = self.inputs;
        members(inputs, self.told.v4).filter_map(|member| Some((member, member.public_v4?)))
    }

    /// The replicas for IPv6, the best first; those after it are materially as good.
    pub fn v6(&self) -> impl Iterator<Item = (&'a MemberInput, Ipv6Addr)> + use<'a> {
        let inputs = self.inputs;
        members(inputs, self.told.v6).filter_map(|member| Some((member, member.public_v6?)))
    }
}

fn members(inputs: &Inputs, picks: Picks) -> impl Iterator<Item = &MemberInput> {
    let indexes: Vec<u32> = picks.iter().collect();
    indexes.into_iter().filter_map(|index| inputs.members.get(index as usize))
}

/// All replicas of a site for one client, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    /// Which rules gave way.
    pub tier: Tier,
    /// The replicas. The first is the one that [`Generation::answer`] names first.
    pub replicas: Vec<Ranked>,
    /// The widest prefix length around the client within which the answer is the same.
    pub scope: u8,
}

/// A replica in a [`Ranking`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// Who.
    pub member: MemberId,
    /// Its name.
    pub name: MemberName,
    /// Where it is.
    pub region: RegionName,
    /// Where clients reach it over IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Where clients reach it over IPv6.
    pub v6: Option<Ipv6Addr>,
    /// Where it serves HTTP.
    pub http_port: Option<u16>,
    /// The version of the site that it holds.
    pub held: Option<VersionNumber>,
    /// Estimated round-trip time to the client, µs.
    pub rtt_estimate_us: Option<u32>,
    /// Where the estimate comes from.
    pub source: Source,
    /// What it was measured on, if it was.
    pub measured: Option<Measurement>,
    /// Great-circle distance to the client, where known.
    pub distance_km: Option<u32>,
    /// Whether the client is told of it.
    pub told: bool,
}

/// The same in one order on every host, whatever the order of arrival.
fn in_order(inputs: &Inputs) -> Inputs {
    let mut inputs = inputs.clone();
    inputs.members.sort_by_key(|member| (member.id, member.serial));
    inputs.members.dedup_by_key(|member| member.id);
    inputs.members.iter_mut().for_each(|member| member.held.sort_unstable());
    inputs.sites.sort_by(|a, b| a.site.cmp(&b.site));
    inputs.homes.sort_by(|a, b| a.name.cmp(&b.name));
    inputs.observations.sort_unstable();
    inputs.probed.sort_unstable();
    inputs.demands.sort_by_key(|demand| demand.member);
    inputs.closed.sort_unstable();
    inputs
}

impl Generation {
    /// Computes a generation. It is a function of `inputs` and `geo` alone, so that redirectors that
    /// have heard the same tell the same, whatever they told before; `previous` is only compared with,
    /// for [`Decisions::changed`]. What steadies the choices is in the inputs: a locality keeps the
    /// replica that serves most of it unless another is better by more than 10 % and more than 2 ms,
    /// and what members tell of demand and load moves by steps.
    pub fn compute(inputs: &Inputs, geo: &GeoDb, previous: Option<&Generation>) -> Generation {
        let inputs = in_order(inputs);
        let asked = Asked::new(&inputs);
        let before = previous.map(|before| (&before.inputs, &before.knowledge));
        let knowledge = Knowledge::new(&inputs, geo, asked.heavy(), before);
        let full: Vec<bool> = inputs.members.iter().map(is_full).collect();
        let by_id: BTreeMap<MemberId, u32> = inputs.members.iter().zip(0..).map(|(m, i)| (m.id, i)).collect();
        let mut numbers: BTreeMap<Vec<u32>, u32> = BTreeMap::new();
        let mut sites: BTreeMap<SiteName, Site> = BTreeMap::new();
        for input in &inputs.sites {
            let Eligible { tier, members, spared } = eligible(&inputs, input, &full);
            // Sites with one set of replicas share a table.
            let next = numbers.len() as u32;
            let table = *numbers.entry(members).or_insert(next);
            sites.insert(input.site.clone(), Site { input: input.clone(), tier, spared, table });
        }
        let mut sets = vec![Vec::new(); numbers.len()];
        numbers.into_iter().for_each(|(members, number)| sets[number as usize] = members);
        let table_of = sites.iter().map(|(name, site)| (name.clone(), site.table)).collect();
        let localities = asked.localities(&knowledge);
        let division = Division::new(&inputs, &knowledge, &sets, &table_of, &localities);
        for site in sites.values_mut().filter(|site| site.tier == Tier::Healthy) {
            if sets[site.table as usize].iter().any(|member| division.is_beyond(*member)) {
                site.tier = Tier::Full;
            }
        }
        let compile = |(number, members)| Table::compile(&inputs, &knowledge, members, (&division, number));
        let tables = sets.into_iter().enumerate().map(compile).collect();
        let mut generation = Generation {
            knowledge,
            sites: sites.into_values().collect(),
            homes: Vec::new(),
            tables,
            division,
            decisions: Decisions::default(),
            by_id,
            full,
            by_name: BTreeMap::new(),
            by_region: BTreeMap::new(),
            name_servers: Vec::new(),
            inputs,
        };
        generation.index();
        generation.homes = generation.rank_homes(previous);
        generation.decisions = generation.decide(previous);
        generation
    }

    /// A generation without members or sites: what is served before anything is known.
    pub fn empty(zone: ZoneName) -> Generation {
        Generation::compute(&Inputs::new(zone), &GeoDb::empty(), None)
    }

    fn index(&mut self) {
        let mut certified: Vec<(u32, &MemberInput)> =
            (0..).zip(&self.inputs.members).filter(|(_, member)| member.certified).collect();
        // Names are unique under an authority; should two members bear one, the older has it.
        certified.sort_by_key(|(_, member)| member.serial);
        let mut by_region: BTreeMap<RegionName, Vec<u32>> = BTreeMap::new();
        for (index, member) in certified {
            self.by_name.entry(member.name.clone()).or_insert(index);
            if member.has_role(Role::Node) {
                by_region.entry(member.region.clone()).or_default().push(index);
            }
        }
        for (name, nodes) in by_region {
            let service = Service { regions: vec![name.clone()], members: Vec::new() };
            let mut region =
                Region { nodes, hosting: Hosting::Service(service), eligible: Eligible::nobody() };
            region.eligible = eligible(&self.inputs, region.wanted(), &self.full);
            self.by_region.insert(name, region);
        }
        let serves = |member: &MemberInput| {
            member.has_role(Role::Redirector) && (member.public_v4.is_some() || member.public_v6.is_some())
        };
        let named = self.by_name.values().copied();
        self.name_servers = named.filter(|index| serves(&self.inputs.members[*index as usize])).collect();
    }

    /// What was decided, in numbers.
    fn decide(&self, previous: Option<&Generation>) -> Decisions {
        let mut decisions = Decisions::default();
        self.tables.iter().for_each(|table| decisions.add(table.decisions()));
        let mut quarantined = BTreeSet::new();
        let mut spared = BTreeSet::new();
        for site in &self.sites {
            *decisions.sites_by_tier.entry(site.tier).or_default() += 1;
            spared.extend(site.spared.iter().copied());
            let members = (0..).zip(&self.inputs.members);
            let objected = members.filter(|(index, _)| {
                let exclusion = self.exclusion_of(site, *index);
                matches!(exclusion, Some(Exclusion::Unreachable | Exclusion::Failing))
            });
            quarantined.extend(objected.map(|(index, _)| index).filter(|index| !site.spared.contains(index)));
        }
        (decisions.quarantined, decisions.spared) = (quarantined.len() as u64, spared.len() as u64);
        let serving: BTreeSet<u32> = self.tables.iter().flat_map(Table::members).copied().collect();
        let capacity = |member: &u32| self.inputs.members[*member as usize].capacity.rps.map(u64::from);
        decisions.capacity_mrps = serving.iter().filter_map(capacity).sum::<u64>() * 1000;
        decisions.full = serving.iter().filter(|member| self.division.price(**member) > 0).count() as u64;
        decisions.overloaded =
            serving.iter().filter(|member| self.division.is_beyond(**member)).count() as u64;
        decisions.demand_mrps = self.inputs.demands.iter().map(|demand| demand.total_mrps).sum();
        let silent = |m: &&MemberInput| {
            let away = matches!(m.state, Health::Silent | Health::Unreachable | Health::Unknown);
            m.certified && m.has_role(Role::Node) && away
        };
        decisions.silent = self.inputs.members.iter().filter(silent).count() as u64;
        for (at, before) in previous.map(|previous| self.paired_tables(previous)).unwrap_or_default() {
            for locality in self.changed(at, before) {
                decisions.changed += 1;
                decisions.changed_mrps += self.division.asked(locality).0;
            }
        }
        decisions
    }

    /// The tables, and which of `previous` the first site of each had.
    fn paired_tables<'a>(
        &'a self,
        previous: &'a Generation,
    ) -> Vec<(&'a Table, (&'a Generation, &'a Table))> {
        let mut paired = BTreeMap::new();
        for site in &self.sites {
            if let Some(before) = previous.find(site.input.site.as_str()) {
                paired.entry(site.table).or_insert_with(|| (previous, previous.table(before)));
            }
        }
        paired.into_iter().map(|(table, before)| (&self.tables[table as usize], before)).collect()
    }

    /// The localities of a table that are told another first replica than before.
    fn changed(&self, table: &Table, (previous, before): (&Generation, &Table)) -> Vec<Locality> {
        let id = |generation: &Generation, told: Told| {
            Some(generation.inputs.members.get(told.first()? as usize)?.id)
        };
        let is_changed = |(locality, told): (Locality, Told)| {
            let before = id(previous, before.told_at(locality)?)?;
            (id(self, told)? != before).then_some(locality)
        };
        table.told().filter_map(is_changed).collect()
    }

    /// What was decided, in numbers.
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Its number; grows on one host.
    pub fn number(&self) -> u64 {
        self.inputs.number
    }

    /// The zone.
    pub fn zone(&self) -> &ZoneName {
        &self.inputs.zone
    }

    /// When its inputs were gathered.
    pub fn time(&self) -> Time {
        self.inputs.time
    }

    /// What it was computed from, for saving.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// All members, revoked ones too, sorted by key.
    pub fn members(&self) -> &[MemberInput] {
        &self.inputs.members
    }

    /// The member with this key.
    pub fn member(&self, id: &MemberId) -> Option<&MemberInput> {
        self.by_id.get(id).map(|index| &self.inputs.members[*index as usize])
    }

    /// The certified member of this name (lower case).
    pub fn member_named(&self, name: &str) -> Option<&MemberInput> {
        self.by_name.get(name).map(|index| &self.inputs.members[*index as usize])
    }

    /// The certified nodes of a region (lower case); `None` when there is no such region.
    pub fn region(&self, name: &str) -> Option<impl Iterator<Item = &MemberInput>> {
        let region = self.by_region.get(name)?;
        Some(region.nodes.iter().map(|index| &self.inputs.members[*index as usize]))
    }

    /// Which nodes of a region (lower case) `client` is told of: those that may serve by the rules that
    /// hold for a site (in reach, ready, not drained, checks of everything passed, with the budget of
    /// monitors and all of them in the absence of such), in the order that the map has for it. `None`
    /// when there is no such region. Region names are asked for seldom, so there is no table: the order
    /// is found when it is asked for, and where there was a choice it is promised to nobody but the
    /// client (full scope).
    pub fn region_answer(&self, client: IpAddr, name: &str) -> Option<Answer<'_>> {
        let region = self.by_region.get(name)?;
        let (_, _, told) = self.region_order(region, client);
        Some(Answer { inputs: &self.inputs, told, scope: region_scope(region, client) })
    }

    fn region_order(&self, region: &Region, client: IpAddr) -> (Locality, Vec<Candidate>, Told) {
        let members = &region.eligible.members;
        let (locality, known) = self.knowledge.locate(client);
        let mut order = self.knowledge.order(&self.inputs, members, locality, &known);
        let is_ruled = matches!(locality, Locality::Rule(_));
        let mut ordered_as = locality;
        if !is_ruled && order.iter().all(|candidate| candidate.estimate.rtt_us.is_none()) {
            ordered_as = Locality::Unknown(client_prefix(client));
            order = self.knowledge.hashed(members, client_prefix(client));
        }
        let told = self.told_by(&order, locality);
        (ordered_as, order, told)
    }

    /// Why `client` is told what it is told of a region (lower case): every node of it, and every
    /// reason. `None` when there is no such region, or its name cannot be a site's.
    pub fn why_region(&self, client: IpAddr, name: &str) -> Option<Why> {
        let (name, region) = self.by_region.get_key_value(name)?;
        let site = SiteInput {
            site: name.as_str().parse().ok()?,
            number: VersionNumber(0),
            hosting: region.hosting.clone(),
        };
        let (ordered_as, order, told) = self.region_order(region, client);
        let because = match (ordered_as, told.first()) {
            (Locality::Rule(_), Some(_)) => Because::Rule,
            (Locality::Unknown(_), _) | (_, None) => Because::Hash,
            _ => Because::Nearest,
        };
        let mut order = order;
        order.sort_by_key(|candidate| told.place(candidate.member).unwrap_or(usize::MAX));
        let replicas = order.iter().map(|candidate| self.ranked(&site, candidate, told)).collect();
        let scope = region_scope(region, client);
        let eligible = &region.eligible;
        let excluded = region.nodes.iter().filter(|index| !eligible.members.contains(index)).map(|index| {
            let member = &self.inputs.members[*index as usize];
            (member, exclusion(member, region.wanted(), self.full[*index as usize]))
        });
        let ranking = Ranking { tier: eligible.tier, replicas, scope };
        Some(why::explain(why::Facts {
            region: Some(name),
            locality: ordered_as,
            spared: &eligible.spared,
            excluded: excluded.collect(),
            ..self.facts(client, &site, because, ranking)
        }))
    }

    /// What is known of a client that is told this, and why. Who was spared and who was ruled out is for
    /// whoever asks to say.
    fn facts<'a>(
        &'a self,
        client: IpAddr,
        site: &'a SiteInput,
        because: Because,
        ranking: Ranking,
    ) -> why::Facts<'a> {
        let (locality, known) = self.knowledge.locate(client);
        let (demand_mrps, incumbent) = self.division.asked(locality);
        let name = |member: u32| self.inputs.members[member as usize].name.clone();
        why::Facts {
            generation: self,
            site,
            region: None,
            client,
            locality,
            place: self.knowledge.geo.lookup(client),
            rule: self.knowledge.geo.rule(client),
            landmark: self.knowledge.estimator.landmark(&known).map(name),
            because,
            explored: false,
            demand_mrps,
            incumbent: incumbent.map(name),
            observed: !known.observed.is_empty(),
            probed: known.observed.values().all(|measured| measured.probed),
            spared: &[],
            excluded: Vec::new(),
            ranking,
        }
    }

    /// The certified redirectors with an address, by name: the zone's name servers.
    pub fn name_servers(&self) -> impl Iterator<Item = &MemberInput> {
        self.name_servers.iter().map(|index| &self.inputs.members[*index as usize])
    }

    /// The sites and their current versions.
    pub fn sites(&self) -> impl Iterator<Item = &SiteInput> {
        self.sites.iter().map(|site| &site.input)
    }

    /// The current version of a site (lower case).
    pub fn site(&self, name: &str) -> Option<VersionNumber> {
        self.find(name).map(|site| site.input.number)
    }

    fn find(&self, name: &str) -> Option<&Site> {
        let at = self.sites.binary_search_by(|site| site.input.site.as_str().cmp(name)).ok()?;
        self.sites.get(at)
    }

    fn table(&self, site: &Site) -> &Table {
        &self.tables[site.table as usize]
    }

    /// The site of this name (lower case), for asking much about it.
    pub fn site_ref(&self, name: &str) -> Option<SiteRef> {
        let index = self.sites.binary_search_by(|site| site.input.site.as_str().cmp(name)).ok()?;
        Some(SiteRef { index: index as u32, table: self.sites[index].table })
    }

    /// The current version of a site. `None` for a site of another generation.
    pub fn site_at(&self, site: SiteRef) -> Option<&SiteInput> {
        self.sites.get(site.index as usize).map(|site| &site.input)
    }

    /// What clients around `client` are told of a site: answers with their weights, and the widest
    /// prefix length within which it is the same ones. Where clients are divided among several, a
    /// single client's [`Generation::choose`] has a narrower scope.
    pub fn spread(&self, site: SiteRef, client: IpAddr) -> (Vec<(ChoiceKey, u32)>, u8) {
        let Some(table) = self.tables.get(site.table()) else { return (Vec::new(), 0) };
        let (answers, scope) = table.spread(client);
        (answers.into_iter().map(|(answer, weight)| (ChoiceKey(answer), weight)).collect(), scope)
    }

    /// Which answer `client` gets of a site of this generation. One binary search; nothing is
    /// allocated. An IPv4 client is given as IPv4, never mapped into IPv6.
    pub fn choose(&self, site: SiteRef, client: IpAddr) -> Choice {
        let (key, scope) = self.tables.get(site.table()).map_or((0, 0), |table| table.choose(client));
        Choice { key: ChoiceKey(key), scope }
    }

    /// Why `client` is told what it is told of a site of this generation, and which rules gave way for
    /// the site: as quick as [`Generation::choose`], for counting. An IPv4 client is given as IPv4, never
    /// mapped into IPv6.
    pub fn because(&self, site: SiteRef, client: IpAddr) -> (Because, Tier) {
        let because = self.tables.get(site.table()).map_or(Because::Hash, |table| table.because(client));
        (because, self.sites.get(site.index as usize).map_or(Tier::Empty, |site| site.tier))
    }

    /// What those with this choice are told.
    pub fn told(&self, site: SiteRef, choice: Choice) -> Answer<'_> {
        let told = self.tables.get(site.table()).map(|table| table.answer(choice.key.0));
        Answer { inputs: &self.inputs, told: told.unwrap_or_default(), scope: choice.scope }
    }

    /// All keys that [`Generation::choose`] may give for a site, ascending without gaps.
    pub fn choices(&self, site: SiteRef) -> impl ExactSizeIterator<Item = ChoiceKey> + use<> {
        (0..self.tables.get(site.table()).map_or(0, Table::answers)).map(ChoiceKey)
    }

    /// What `client` is told of `site` (lower case); `None` when there is no such site. One binary
    /// search. An IPv4 client is given as IPv4, never mapped into IPv6.
    pub fn answer(&self, client: IpAddr, site: &str) -> Option<Answer<'_>> {
        let site = self.site_ref(site)?;
        Some(self.told(site, self.choose(site, client)))
    }

    /// All replicas of `site` for `client`, best first. The first is what the client is told.
    pub fn rank(&self, client: IpAddr, site: &SiteName) -> Option<Ranking> {
        let site = self.find(site.as_str())?;
        let (told, scope) = self.table(site).get(client);
        let (_, mut order) = self.order(site, client);
        let place = |member: u32| told.place(member).unwrap_or(usize::MAX);
        order.sort_by_key(|candidate| place(candidate.member));
        let replicas = order.iter().map(|candidate| self.ranked(&site.input, candidate, told)).collect();
        Some(Ranking { tier: site.tier, replicas, scope })
    }

    fn order(&self, site: &Site, client: IpAddr) -> (Locality, Vec<Candidate>) {
        let (locality, known) = self.knowledge.locate(client);
        let order = self.knowledge.order(&self.inputs, self.table(site).members(), locality, &known);
        let is_ruled = matches!(locality, Locality::Rule(_));
        if !is_ruled && order.iter().all(|candidate| candidate.estimate.rtt_us.is_none()) {
            let prefix = client_prefix(client);
            return (Locality::Unknown(prefix), self.knowledge.hashed(self.table(site).members(), prefix));
        }
        (locality, order)
    }

    fn ranked(&self, site: &SiteInput, candidate: &Candidate, told: Told) -> Ranked {
        let member = &self.inputs.members[candidate.member as usize];
        Ranked {
            member: member.id,
            name: member.name.clone(),
            region: member.region.clone(),
            v4: member.public_v4,
            v6: member.public_v6,
            http_port: member.http_port,
            held: member.holds(site.site.as_str()),
            rtt_estimate_us: candidate.estimate.rtt_us,
            source: candidate.estimate.source,
            measured: candidate.estimate.measured.map(Measurement::from),
            distance_km: candidate.estimate.distance_km,
            told: told.place(candidate.member).is_some(),
        }
    }

    /// Why `client` is told what it is told of `site`: every member, and every reason.
    pub fn why(&self, client: IpAddr, site: &SiteName) -> Option<Why> {
        let ranking = self.rank(client, site)?;
        let site = self.find(site.as_str())?;
        let (ordered_as, order) = self.order(site, client);
        let (told, _) = self.table(site).get(client);
        // Those of whom nothing is known are divided anew each time, and a rule is a rule.
        let chosen = !matches!(ordered_as, Locality::Unknown(_) | Locality::Rule(_));
        let explored = chosen
            && self.knowledge.explores(&self.inputs, client)
            && explore::candidates(&self.inputs, &order)
                .into_iter()
                .any(|member| Some(member) == told.first() && self.division.is_roomy(member));
        let family = if told.v4.iter().next().is_some() { Family::V4 } else { Family::V6 };
        let because = match (ordered_as, told.first()) {
            (Locality::Rule(_), _) => Because::Rule,
            (Locality::Unknown(_), _) | (_, None) => Because::Hash,
            (_, Some(_)) if explored => Because::Exploration,
            (_, Some(first)) => self.division.because(&self.inputs, &order, ordered_as, family, first),
        };
        let excluded =
            (0..).zip(&self.inputs.members).filter(|(index, _)| !self.table(site).members().contains(index));
        Some(why::explain(why::Facts {
            explored,
            spared: &site.spared,
            excluded: excluded.map(|(index, member)| (member, self.exclusion_of(site, index))).collect(),
            ..self.facts(client, &site.input, because, ranking)
        }))
    }

    /// What clients for whom this is the order are told when no table was compiled for them.
    fn told_by(&self, order: &[Candidate], locality: Locality) -> Told {
        let family = |family| {
            let shares = self.division.divide(&self.inputs, usize::MAX, order, locality, family);
            shares.first().map(|(members, _)| Picks::equals(members)).unwrap_or_default()
        };
        Told { v4: family(Family::V4), v6: family(Family::V6) }
    }

    /// The number of a member, or one that nobody has.
    pub(crate) fn number_of(&self, id: &MemberId) -> u32 {
        self.by_id.get(id).copied().unwrap_or(u32::MAX)
    }

    pub(crate) fn division(&self) -> &Division {
        &self.division
    }

    fn exclusion_of(&self, site: &Site, index: u32) -> Option<Exclusion> {
        exclusion(&self.inputs.members[index as usize], &site.input, self.full[index as usize])
    }

    /// How large it is, for metrics and logs.
    pub fn size(&self) -> Size {
        Size {
            members: self.inputs.members.len(),
            sites: self.sites.len(),
            tables: self.tables.len(),
            runs: self.tables.iter().map(Table::runs).sum(),
        }
    }
}

/// For whom an order that was found for one client holds.
fn region_scope(region: &Region, client: IpAddr) -> u8 {
    match (region.eligible.members.len() > 1, client) {
        (false, _) => 0,
        (true, IpAddr::V4(_)) => 32,
        (true, IpAddr::V6(_)) => 128,
    }
}

/// How large a generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Members, revoked ones too.
    pub members: usize,
    /// Sites.
    pub sites: usize,
    /// Distinct sets of replicas.
    pub tables: usize,
    /// Runs of addresses in all tables.
    pub runs: usize,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({} of {}, {:?})", self.number(), self.zone(), self.size())
    }
}
