//! Who may try which replica, so that explorers fill nobody.
//!
//! Explorers come on top of what the plan gives a replica. Of prefixes that members name it is known what
//! they ask for and what lot they have drawn; of the others of a place it is the share that draws each lot,
//! and may be twice as much, since few are drawn ([`SPREAD`]). They are let in as long as that stays within
//! the dead band of the plan: so a small replica of a large network is not tried by all at once, and a
//! network that is nearly full goes on learning. Those that may gain the most come first. Once a replica was
//! tried it is known, and others have their turn.

use super::Division;
use crate::explore::{CANDIDATES_MAX, Trial};
use crate::inputs::Inputs;
use crate::locality::Locality;
use crate::spill::{BAND_TOP, band, scale};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Of those whom nobody names those that are drawn may ask for so many times what is expected.
const SPREAD: u64 = 2;

/// Clients that would try a replica.
pub(super) struct Wish {
    table: usize,
    locality: Locality,
    trial: Trial,
    /// What they may ask for, thousandths of a request per second.
    demand: u64,
}

/// Who may try what, where it is known what they ask for.
pub(super) type Explorers = BTreeMap<(usize, Locality, u32), bool>;

/// What clients of a locality that ask for `demand` would try in this epoch, given these replicas; `drawn`:
/// what those of them ask for that are known to have drawn a lot.
pub(super) fn wishes(
    inputs: &Inputs,
    (table, locality): (usize, Locality),
    trials: Vec<Trial>,
    demand: u64,
    drawn: impl Fn(Option<u8>) -> u64,
) -> Vec<Wish> {
    let Some(exploration) = inputs.exploration else { return Vec::new() };
    let lots = (0..CANDIDATES_MAX as u8).map(Some).chain([None]);
    let known: u64 = lots.map(&drawn).sum();
    let others = exploration.part(demand.saturating_sub(known)).saturating_mul(SPREAD);
    let wish =
        |(trial, lot)| Wish { table, locality, trial, demand: drawn(Some(lot)).saturating_add(others) };
    trials.into_iter().zip(0..).map(wish).collect()
}

impl Division {
    /// Lets in explorers as far as there is room.
    pub(super) fn let_in(&mut self, mut wishes: Vec<Wish>) {
        let mut rooms: Vec<Option<u64>> =
            (0..self.capacities.len()).map(|at| self.explorers_room(at)).collect();
        wishes
            .sort_by_key(|wish| (Reverse(wish.trial.gain_us), wish.table, wish.locality, wish.trial.member));
        for Wish { table, locality, trial, demand } in wishes {
            let room = rooms.get_mut(trial.member as usize).and_then(Option::as_mut);
            let fits = room.as_ref().is_none_or(|room| demand <= **room);
            if let Some(room) = room.filter(|_| fits) {
                *room -= demand;
            }
            self.explorers.insert((table, locality, trial.member), fits);
        }
    }

    /// What explorers may ask for at a member; `None`: anything.
    fn explorers_room(&self, member: usize) -> Option<u64> {
        let capacity = self.capacities[member]?;
        let fill = self.plan.fill.get(member).copied().unwrap_or(0);
        let load = self.plan.load.get(member).copied().unwrap_or(0);
        Some(scale(capacity, band(fill).min(BAND_TOP)).saturating_sub(load))
    }

    /// Whether clients of a locality that explore may try a member. Those of whom nobody knows what they ask
    /// for count with their place, and where nothing is known of that either, there must be much room.
    pub(crate) fn may_explore(&self, table: usize, locality: Locality, member: u32) -> bool {
        let of = |locality: Locality| self.explorers.get(&(table, locality, member)).copied();
        let of_place = || match locality {
            Locality::Prefix(prefix) => of(Locality::Place(*self.places.get(&prefix)?)),
            _ => None,
        };
        of(locality).or_else(of_place).unwrap_or_else(|| self.is_roomy(member))
    }
}
