//! Who serves whom when capacities count: demand by locality, divided by `spill`, for all tables at
//! once, since a member's capacity is one, however many sites it serves.
//!
//! What comes of it for a table ([`Division::divide`]): for a locality whose demand is known, its
//! replica, or several with weights; for all others the replica of the least *effective cost*: the
//! estimated round-trip time, plus the price of room there, less a lean on the incumbent (it keeps
//! its clients unless another is materially better). Without capacities all prices are zero.
//!
//! Clients of whom nothing is known have no cost anywhere. They take what room the others leave, in
//! proportion to capacity and the operator's weights.
//!
//! Everything here follows from the inputs: what was told before by this host plays no part.

mod asking;
mod choice;
mod cost;
mod exploring;
mod plan;
mod sites;
mod weights;

use crate::asked::{Localities, Rates, incumbent};
use crate::inputs::{Inputs, MemberInput};
use crate::knowledge::Knowledge;
use crate::locality::{Family, Locality};
use crate::spill::Plan;
use exploring::Explorers;
use godwit_core::geo::Coordinates;
use godwit_core::name::SiteName;
use ipnet::IpNet;
use std::collections::BTreeMap;
pub(crate) use weights::{PARTS, Weighted};
use weights::{base_weights, normal, serving};

/// A replica that is filled further than this, of its limit, is told to nobody as the second best:
/// some clients take any address they are told.
const SECOND_PERMILLE: u64 = 750;

/// Who serves whom, for all tables of a generation.
#[derive(Debug, Default)]
pub(crate) struct Division {
    /// By member. Empty where nobody has a capacity.
    plan: Plan,
    capacities: Vec<Option<u64>>,
    tables: Vec<Divided>,
    /// Who serves most of each locality, over both families.
    leans: BTreeMap<Locality, u32>,
    /// Prefixes of which something was measured, and where they are.
    places: BTreeMap<IpNet, Coordinates>,
    /// What each locality asks for, all sites together.
    demand: BTreeMap<Locality, u64>,
    explorers: Explorers,
}

/// What is planned for one table.
#[derive(Debug, Default)]
struct Divided {
    shares: BTreeMap<(Locality, Family), Weighted>,
    unknown: BTreeMap<Family, Weighted>,
}

impl Division {
    /// Divides what `asked` holds among the members of `tables`; `table_of` says which sites stand in
    /// which table.
    pub(crate) fn new(
        inputs: &Inputs,
        knowledge: &Knowledge,
        tables: &[Vec<u32>],
        table_of: &BTreeMap<SiteName, u32>,
        asked: &Localities,
    ) -> Division {
        let milli = |member: &MemberInput| member.capacity.rps.map(|rps| u64::from(rps) * 1000);
        let mut both: BTreeMap<Locality, Rates> = BTreeMap::new();
        for ((locality, _), rates) in &asked.known {
            let sum = both.entry(*locality).or_default();
            rates.iter().for_each(|(member, rate)| *sum.entry(*member).or_default() += rate);
        }
        let mut division = Division {
            capacities: inputs.members.iter().map(milli).collect(),
            tables: tables.iter().map(|_| Divided::default()).collect(),
            leans: both.iter().filter_map(|(at, rates)| Some((*at, incumbent(rates)?))).collect(),
            demand: both.iter().map(|(at, rates)| (*at, rates.values().sum())).collect(),
            plan: Plan::default(),
            places: knowledge.observed.placed().collect(),
            explorers: Explorers::new(),
        };
        // Who serves most of a place keeps also those of it of whom nobody tells who serves them.
        let places: BTreeMap<Coordinates, u32> =
            asked.places.iter().filter_map(|(place, rates)| Some((*place, incumbent(rates)?))).collect();
        for (place, member) in &places {
            division.leans.entry(Locality::Place(*place)).or_insert(*member);
        }
        for (prefix, place) in &division.places {
            let Some(member) = places.get(place) else { continue };
            let locality = Locality::Prefix(*prefix);
            if !both.contains_key(&locality) {
                division.leans.insert(locality, *member);
            }
        }
        for (table, members) in tables.iter().enumerate() {
            for family in [Family::V4, Family::V6] {
                let weights = base_weights(inputs, &serving(inputs, members, family));
                division.tables[table].unknown.insert(family, normal(&weights));
            }
        }
        if division.capacities.iter().any(Option::is_some) {
            let shares = sites::shares_of_tables(inputs, tables.len(), table_of);
            division.plan(inputs, knowledge, tables, asked, &shares);
        }
        division
    }

    /// Members and their weights for clients of whom nothing is known.
    pub(crate) fn unknown(&self, table: usize, family: Family) -> Weighted {
        self.tables.get(table).and_then(|table| table.unknown.get(&family)).cloned().unwrap_or_default()
    }

    /// What room for one more client would cost at a member, µs; 0 while there is some.
    pub(crate) fn price(&self, member: u32) -> u32 {
        self.plan.prices.get(member as usize).copied().unwrap_or(0)
    }

    /// What a member gets of the demand, thousandths of its capacity; `None` where it has none.
    pub(crate) fn load_permille(&self, member: u32) -> Option<u32> {
        let capacity = (*self.capacities.get(member as usize)?)?;
        let load = self.plan.load.get(member as usize).copied().unwrap_or(0);
        u32::try_from(u128::from(load) * 1000 / u128::from(capacity.max(1))).ok()
    }

    /// Whether a member gets more than it can take, because nobody has room.
    pub(crate) fn is_beyond(&self, member: u32) -> bool {
        self.plan.fill.get(member as usize).is_some_and(|fill| *fill > 1000)
    }

    /// Whether there is so much room at a member that it may be told to those who do not need it.
    pub(crate) fn is_roomy(&self, member: u32) -> bool {
        let limit = self.plan.fill.get(member as usize).copied().unwrap_or(u64::MAX);
        let load = self.load_permille(member).map_or(0, u64::from);
        self.price(member) == 0 && load * 1000 <= limit.saturating_mul(SECOND_PERMILLE)
    }

    /// What a locality asks for, thousandths of a request per second, and who serves most of it.
    pub(crate) fn asked(&self, locality: Locality) -> (u64, Option<u32>) {
        (self.demand.get(&locality).copied().unwrap_or(0), self.leans.get(&locality).copied())
    }
}
