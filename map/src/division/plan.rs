//! How the plan is made: what is asked for becomes items, `spill` divides them, and those of whom nothing is
//! known take what room is left.

use super::Division;
use super::asking::{Asking, Origin, background};
use super::cost::{Cost, costs_of};
use super::exploring::wishes;
use super::sites::rates_of;
use super::weights::{base_weights, in_parts, serving};
use crate::asked::{Localities, Rates};
use crate::explore;
use crate::inputs::Inputs;
use crate::knowledge::Knowledge;
use crate::locality::{Family, Locality};
use crate::spill::{Item, assign, pour, scale};
use std::collections::BTreeMap;

impl Division {
    /// Divides what is known clients ask for, and what others do; `shares` as from
    /// [`super::sites::shares_of_tables`].
    pub(super) fn plan(
        &mut self,
        inputs: &Inputs,
        knowledge: &Knowledge,
        tables: &[Vec<u32>],
        asked: &Localities,
        shares: &[Vec<u64>],
    ) {
        let mut asking: Vec<Asking> = Vec::new();
        let mut unknown: BTreeMap<(usize, Family), u64> = BTreeMap::new();
        let mut explorers = Vec::new();
        for (table, members) in tables.iter().enumerate() {
            for ((locality, family), rates) in &asked.known {
                let mut kept = rates_of(rates, &shares[table]);
                let demand = kept.values().sum();
                kept.retain(|member, _| !asked.clipped.contains(member));
                if demand == 0 {
                    continue;
                }
                if matches!(locality, Locality::Rule(_)) {
                    // Its operator has said where they go.
                    continue;
                }
                let order = knowledge.order_at(inputs, members, *locality);
                if order.iter().all(|candidate| candidate.estimate.rtt_us.is_none()) {
                    *unknown.entry((table, *family)).or_default() += demand;
                    continue;
                }
                if inputs.exploration.is_some() && explore::has_lots(*locality, *family) {
                    let drawn = |lot| {
                        let rates = asked.lots.get(&(*locality, *family, lot));
                        rates.map_or(0, |rates| rates_of(rates, &shares[table]).values().sum())
                    };
                    let trials = explore::candidates(inputs, &order);
                    explorers.extend(wishes(inputs, (table, *locality), trials, demand, drawn));
                }
                let costs = costs_of(inputs, &order, *family);
                asking.push(Asking { origin: Origin::Known(table, *locality, *family), demand, costs, kept });
            }
            for (family, rates) in &asked.unknown {
                let demand: u64 = rates_of(rates, &shares[table]).values().sum();
                *unknown.entry((table, *family)).or_default() += demand;
            }
        }
        let background = background(&mut asking);
        for ((table, family), demand) in unknown.into_iter().filter(|(_, demand)| *demand > 0) {
            let anywhere = serving(inputs, &tables[table], family).into_iter();
            let costs = anywhere.map(|member| Cost { member, cost_us: 0, noise_us: 0 }).collect();
            let origin = Origin::Unknown(table, family);
            asking.push(Asking { origin, demand, costs, kept: Rates::new() });
        }
        let count = inputs.members.len();
        let items: Vec<(Origin, Item)> = asking
            .iter()
            .flat_map(|asking| asking.items(count).into_iter().map(|item| (asking.origin, item)))
            .collect();
        let background = |member: usize| background.get(&(member as u32)).copied().unwrap_or(0);
        let rooms: Vec<Option<u64>> = self
            .capacities
            .iter()
            .enumerate()
            .map(|(member, capacity)| {
                capacity.map(|capacity| capacity.saturating_sub(background(member)).max(1))
            })
            .collect();
        let (origins, items): (Vec<Origin>, Vec<Item>) = items.into_iter().unzip();
        self.plan = assign(&rooms, &items);
        // Items of one origin stand together.
        let mut at = 0;
        while let Some(origin) = origins.get(at) {
            let count = origins[at..].iter().take_while(|other| *other == origin).count();
            if let Origin::Known(table, locality, family) = origin {
                let mut share = Rates::new();
                for (member, amount) in self.plan.shares[at..at + count].iter().flatten() {
                    *share.entry(*member).or_default() += amount;
                }
                self.tables[*table].shares.insert((*locality, *family), in_parts(&share));
            }
            at += count;
        }
        self.pour_unknown(inputs, tables, &rooms, &origins, &items);
        for (member, load) in self.plan.load.iter_mut().enumerate() {
            *load += background(member);
        }
        self.let_in(explorers);
    }

    /// Divides those of whom nothing is known anew: the plan has found room for them all, but with no
    /// cost anywhere it did not care where.
    fn pour_unknown(
        &mut self,
        inputs: &Inputs,
        tables: &[Vec<u32>],
        rooms: &[Option<u64>],
        origins: &[Origin],
        items: &[Item],
    ) {
        for (origin, share) in origins.iter().zip(&self.plan.shares) {
            if let Origin::Unknown(..) = origin {
                share.iter().for_each(|(member, amount)| self.plan.load[*member as usize] -= amount);
            }
        }
        for (origin, item) in origins.iter().zip(items) {
            let Origin::Unknown(table, family) = origin else { continue };
            let weights = base_weights(inputs, &serving(inputs, &tables[*table], *family));
            let room = |member: u32| {
                let member = member as usize;
                let limit = |room: u64| scale(room, self.plan.fill[member]);
                rooms[member].map(|room| limit(room).saturating_sub(self.plan.load[member]))
            };
            let within: Vec<(u64, Option<u64>)> =
                weights.iter().map(|(member, weight)| (*weight, room(*member))).collect();
            let poured = pour(item.demand, &within);
            let free: Vec<(u64, Option<u64>)> = weights.iter().map(|(_, weight)| (*weight, None)).collect();
            // Only when room does bind are the weights others than the operator's.
            if poured != pour(item.demand, &free) {
                let share = weights.iter().zip(&poured).map(|((member, _), amount)| (*member, *amount));
                self.tables[*table].unknown.insert(*family, in_parts(&share.collect()));
            }
            for ((member, _), amount) in weights.iter().zip(poured) {
                self.plan.load[*member as usize] += amount;
            }
        }
    }
}
