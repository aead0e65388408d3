//! Who serves a locality: as planned, or else the replica of the least effective cost.

use super::Division;
use super::cost::{Cost, costs_of};
use super::weights::Weighted;
use crate::grounds::Favourites;
use crate::inputs::Inputs;
use crate::knowledge::Candidate;
use crate::locality::{Family, Locality};
use crate::split::Grain;

impl Division {
    /// What replicas cost the clients of a locality, in the order of `order`, less the lean.
    fn costs(&self, inputs: &Inputs, order: &[Candidate], locality: Locality, family: Family) -> Vec<Cost> {
        let lean = self.leans.get(&locality).copied();
        costs_of(inputs, order, family).into_iter().map(|cost| cost.leant(lean)).collect()
    }

    /// Who serves the clients of a locality, with weights, and for each the others that are
    /// materially as good: first the best.
    pub(crate) fn divide(
        &self,
        inputs: &Inputs,
        table: usize,
        order: &[Candidate],
        locality: Locality,
        family: Family,
    ) -> Vec<(Vec<u32>, u32)> {
        let costs = self.costs(inputs, order, locality, family);
        let planned = self.planned(table, locality, family);
        let price = |member: u32| self.price(member);
        let effective = |cost: &Cost| cost.cost_us.saturating_add(price(cost.member));
        let Some(best) = costs.iter().min_by_key(|cost| effective(cost)) else { return Vec::new() };
        // Where nothing is known of anybody, nobody is known to be as good.
        let blind = order.iter().all(|candidate| candidate.estimate.rtt_us.is_none());
        let least = effective(best);
        let suits = |(member, _): &(u32, u32)| {
            let cost = costs.iter().find(|cost| cost.member == *member);
            cost.is_some_and(|cost| !crate::estimate::materially_better(least, effective(cost)))
        };
        let of_place = || self.of_place(table, locality, family).filter(|shares| shares.iter().all(suits));
        let firsts = match planned.or_else(of_place) {
            Some(planned) => planned.clone(),
            None => vec![(best.member, 1)],
        };
        let equals = |first: u32| -> Vec<u32> {
            if let (Locality::Prefix(_), Some(_), true) = (locality, planned, firsts.len() > 1) {
                // They share one prefix: who cannot be told apart is told of all of them.
                return firsts.iter().map(|(other, _)| *other).filter(|other| *other != first).collect();
            }
            let others = costs.iter().filter(move |cost| cost.member != first);
            let others = others.filter(|cost| !crate::estimate::materially_better(least, effective(cost)));
            others.filter(|cost| !blind && self.is_roomy(cost.member)).map(|cost| cost.member).collect()
        };
        firsts
            .iter()
            .map(|(first, weight)| ([*first].into_iter().chain(equals(*first)).collect(), *weight))
            .collect()
    }

    /// What is planned for clients of whom it is known what they ask for.
    fn planned(&self, table: usize, locality: Locality, family: Family) -> Option<&Weighted> {
        self.tables.get(table)?.shares.get(&(locality, family))
    }

    /// A prefix of which nobody tells what it asks for goes with the others of its place, where these are
    /// divided: so its place is divided as planned.
    fn of_place(&self, table: usize, locality: Locality, family: Family) -> Option<&Weighted> {
        let Locality::Prefix(prefix) = locality else { return None };
        let place = Locality::Place(*self.places.get(&prefix)?);
        self.planned(table, place, family).filter(|shares| shares.len() > 1)
    }

    /// By what the clients of a locality are told apart where they are divided.
    pub(crate) fn grain(&self, table: usize, locality: Locality, family: Family) -> Grain {
        match (locality, self.planned(table, locality, family)) {
            (Locality::Prefix(_), Some(_)) => Grain::Address,
            _ => Grain::Prefix,
        }
    }

    /// Who of `order` has reasons to be told first to the clients of a locality.
    pub(crate) fn favourites(
        &self,
        inputs: &Inputs,
        order: &[Candidate],
        locality: Locality,
        family: Family,
    ) -> Favourites {
        let nearest = order.iter().find(|candidate| family.serves(inputs, candidate.member));
        let nearest = nearest.map(|nearest| nearest.member);
        let keeper = nearest.filter(|nearest| self.price(*nearest) == 0);
        let keeper = keeper.and_then(|_| self.leans.get(&locality).copied());
        Favourites { nearest, keeper }
    }
}
