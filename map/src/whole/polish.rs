//! Better places for whole prefixes, when everybody has one.
//!
//! What is put where it fits is not yet where it is best: one prefix stands far off because there was no
//! room when its turn came, another sits where it could as well be elsewhere. So each prefix that wishes
//! to be nearer is looked at again, those first for whom it matters most. It *moves* where there is room;
//! else something smaller goes from there, to where the wish comes from (an *exchange*) or to a third
//! replica (a *chain*), if both together gain. What can be divided makes way by as much as is needed.
//!
//! Every step lessens the sum of all costs, and none fills a replica beyond its limit, or further than it
//! was. Costs lean on who serves whom today, so nobody moves for little. [`LOOKS_MAX`] bounds the work.

use super::Rounding;
use crate::spill::NEVER;
use std::cmp::Reverse;

/// So many ways to make room for a wish are looked at, at most, in one generation: a tenth of a second.
const LOOKS_MAX: usize = 50_000_000;
/// So many rounds at most: most that can be gained is gained in the first three.
const ROUNDS_MAX: usize = 8;

/// An item that would rather be elsewhere.
#[derive(Clone, Copy)]
struct Wish {
    /// What it would gain, cost times demand.
    gain: i128,
    item: usize,
    from: usize,
    to: usize,
}

/// What makes way for a wish.
#[derive(Clone, Copy)]
struct Way {
    /// What both together gain.
    gain: i128,
    item: usize,
    amount: u64,
    to: usize,
}

impl Rounding<'_> {
    /// Moves prefixes to better places until there are none, or enough was done.
    pub(super) fn polish(&mut self) {
        let mut looks = LOOKS_MAX;
        for _ in 0..ROUNDS_MAX {
            let before = looks;
            let mut wishes = self.wishes();
            wishes.sort_by_key(|wish| (Reverse(wish.gain), wish.item, wish.to));
            let mut held: Vec<Vec<usize>> = (0..self.bounds.len()).map(|at| self.here(at)).collect();
            let mut fulfilled = false;
            for wish in wishes {
                if looks == 0 {
                    return;
                }
                // Something may have come between.
                if self.held(wish.item, wish.from) > 0 && self.fulfil(wish, &mut held, &mut looks) {
                    fulfilled = true;
                }
            }
            if !fulfilled || looks == before {
                return;
            }
        }
    }

    fn here(&self, replica: usize) -> Vec<usize> {
        (0..self.items.len()).filter(|item| self.held(*item, replica) > 0).collect()
    }

    /// Of each whole item that is not where it costs the least, where it would rather be.
    fn wishes(&self) -> Vec<Wish> {
        let mut wishes = Vec::new();
        for (item, known) in self.items.iter().enumerate().filter(|(_, known)| known.whole) {
            let mut places = self.plan.shares[item].keys().map(|from| *from as usize);
            // What is divided has found its places.
            let (Some(from), None) = (places.next(), places.next()) else { continue };
            for to in (0..known.costs.len()).filter(|to| known.costs[*to] < known.costs[from]) {
                let nearer = i128::from(known.costs[from] - known.costs[to]);
                wishes.push(Wish { gain: nearer * i128::from(known.demand), item, from, to });
            }
        }
        wishes
    }

    fn fulfil(&mut self, wish: Wish, held: &mut [Vec<usize>], looks: &mut usize) -> bool {
        let demand = self.items[wish.item].demand;
        let room = self.room(wish.to);
        let way = if demand <= room {
            None
        } else {
            match self.way(wish, demand - room, &held[wish.to], looks) {
                Some(way) => Some(way),
                None => return false,
            }
        };
        if let Some(Way { item, amount, to, .. }) = way {
            self.take(item, wish.to, amount);
            self.put(item, to, amount);
            held[to].push(item);
        }
        self.take(wish.item, wish.from, demand);
        self.put(wish.item, wish.to, demand);
        held[wish.to].push(wish.item);
        true
    }

    /// Who makes way for so much at the least cost, if that is less than what the wish gains.
    fn way(&self, wish: Wish, needed: u64, there: &[usize], looks: &mut usize) -> Option<Way> {
        let freed = self.items[wish.item].demand;
        let room = |at: usize| match at == wish.from {
            // What leaves, too; and nobody ends fuller than it was.
            true => self.bounds[at].max(self.plan.load[at]) - self.plan.load[at] + freed,
            false => self.room(at),
        };
        let rooms: Vec<u64> = (0..self.bounds.len()).map(room).collect();
        let mut best: Option<Way> = None;
        for item in there.iter().copied().filter(|item| *item != wish.item) {
            *looks = looks.saturating_sub(rooms.len());
            let held = self.held(item, wish.to);
            let amount = if self.items[item].whole { held } else { needed };
            if held < needed {
                continue;
            }
            let costs = &self.items[item].costs;
            for to in (0..rooms.len()).filter(|to| *to != wish.to && amount <= rooms[*to]) {
                if costs[to] == NEVER {
                    continue;
                }
                let further = i128::from(costs[to]) - i128::from(costs[wish.to]);
                let gain = wish.gain - further * i128::from(amount);
                if gain > 0 && best.is_none_or(|best| gain > best.gain) {
                    best = Some(Way { gain, item, amount, to });
                }
            }
        }
        best
    }
}
