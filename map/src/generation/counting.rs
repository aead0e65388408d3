//! What a generation decided, in numbers.

use super::Generation;
use crate::decisions::Decisions;
use crate::eligible::Exclusion;
use crate::inputs::{Health, MemberInput};
use crate::locality::Locality;
use crate::table::Table;
use crate::told::Told;
use godwit_core::certificate::Role;
use std::collections::{BTreeMap, BTreeSet};

impl Generation {
    /// What was decided, in numbers.
    pub(super) fn decide(&self, previous: Option<&Generation>) -> Decisions {
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
}
