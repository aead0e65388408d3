//! A generation: the immutable snapshot that answers.

mod counting;
mod homes;
mod ranking;
mod regions;
mod told;

pub use ranking::{Ranked, Ranking};
pub use told::{Answer, Choice, ChoiceKey, SiteRef};

use crate::asked::Asked;
use crate::decisions::Decisions;
use crate::division::Division;
use crate::eligible::{Eligible, Exclusion, Tier, eligible, exclusion, is_full};
use crate::geo::GeoDb;
use crate::inputs::{Hosting, Inputs, MemberInput, Service, SiteInput};
use crate::knowledge::Knowledge;
use crate::table::Table;
use godwit_core::certificate::Role;
use godwit_core::content::VersionNumber;
use godwit_core::key::MemberId;
use godwit_core::name::{MemberName, RegionName, SiteName, ZoneName};
use godwit_core::time::Time;
use homes::HomeName;
use regions::Region;
use std::collections::BTreeMap;
use std::fmt;

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
        let localities = asked.localities(&knowledge, inputs.exploration);
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
