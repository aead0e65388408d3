//! A small share of clients measures for the others.
//!
//! What was never measured is estimated, and an estimate that is too high hides the best replica
//! for ever. So in each *epoch* a share of all client blocks (IPv4 /20, IPv6 /40) is told one of the
//! most promising replicas that nothing was measured of, in place of the best known one. Which
//! blocks these are is a hash of block and epoch, so all redirectors agree, everybody has a turn,
//! and nobody has two in a row but by chance.
//!
//! What it may cost is bounded three ways: the share; the candidate, which must be healthy, have
//! capacity to spare, and not be expected further than [`COST_FACTOR`] times the best known one
//! and [`COST_US`]; and the end: a replica that cannot be materially better than the best measured
//! one, as far as light and triangles allow, is never tried. So exploring ends by itself until
//! something is forgotten, joins or moves.
//!
//! Only whole blocks are explored, and laid into the table as runs of their own: the scope of an
//! answer stays that of its run, and resolvers keep sharing answers within it. IPv6 places have
//! no blocks (there are too many to look at); their prefixes explore once they were observed, and
//! profit from their place's IPv4 clients before that.

use crate::estimate::materially_better;
use crate::inputs::{Health, Inputs};
use crate::knowledge::Candidate;
use crate::locality::{Family, Locality};
use crate::range::Ranges;
use crate::split::{mix, score};
use crate::told::{Picks, Told};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// At most so many candidates are tried in one epoch, each by a share of the blocks: with one, a
/// place was known after eight epochs instead of four in a prototype (20 replicas, 241 cities).
pub(crate) const CANDIDATES_MAX: usize = 3;
/// A candidate may be expected so many times as far as the best known replica…
const COST_FACTOR: u64 = 3;
/// …and this much more, µs: what a page load can bear once.
const COST_US: u64 = 50_000;
/// More than a third of all blocks for each of three candidates would leave nobody at the best.
pub const PERMILLE_MAX: u16 = 300;
/// A candidate is not busier than this, thousandths of its capacity.
const LOAD_MAX: u16 = 700;
/// Bits of an IPv4 block.
const BLOCK_V4_LEN: u8 = 20;
/// Bits of an IPv6 block.
const BLOCK_V6_LEN: u8 = 40;

/// Which clients explore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exploration {
    /// Number of the period: other blocks in each. All redirectors count alike, by the clock.
    pub epoch: u64,
    /// How many of a thousand blocks try each candidate in an epoch; three times as many, where
    /// there are three.
    pub permille: u16,
}

impl Exploration {
    /// The part of what the clients of many blocks ask for that tries each candidate.
    pub(crate) fn part(self, demand: u64) -> u64 {
        (u128::from(demand) * u128::from(self.permille.min(PERMILLE_MAX)) / 1000) as u64
    }

    /// The lot of the block that `prefix` (at most as wide as a block) is in; `None` when it does
    /// not explore in this epoch.
    pub(crate) fn lot(self, prefix: IpNet) -> Option<u8> {
        let block = match prefix {
            IpNet::V4(net) => u64::from(u32::from(net.network()) >> (32 - BLOCK_V4_LEN)),
            IpNet::V6(net) => 1 << 63 | (u128::from(net.network()) >> (128 - BLOCK_V6_LEN)) as u64,
        };
        self.lot_of(block)
    }

    /// Which candidate the block tries: the first, the second…
    fn lot_of(self, block: u64) -> Option<u8> {
        let share = (u64::from(self.permille.min(PERMILLE_MAX)) << 32) / 1000;
        let lot = (score(mix(self.epoch), block) >> 32).checked_div(share)?;
        u8::try_from(lot).ok().filter(|lot| usize::from(*lot) < CANDIDATES_MAX)
    }

    /// The lots of all IPv4 addresses.
    pub(crate) fn lots(self) -> Ranges<u32, Option<u8>> {
        let mut lots = Ranges::all(None);
        let blocks = if self.permille > 0 { 0..1u64 << BLOCK_V4_LEN } else { 0..0 };
        for block in blocks {
            lots.push((block << (32 - BLOCK_V4_LEN)) as u32, self.lot_of(block));
        }
        lots
    }
}

/// A replica that is worth trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    pub(crate) member: u32,
    /// By how much it may well be better than the best known one, µs.
    pub(crate) gain_us: u32,
}

/// Whether clients of a family explore here: there are too many blocks in an IPv6 place.
pub(crate) fn has_lots(locality: Locality, family: Family) -> bool {
    matches!(locality, Locality::Prefix(_)) || family == Family::V4
}

/// The replicas that are worth trying for a client, the most promising first, given its ranking.
pub(crate) fn candidates(inputs: &Inputs, order: &[Candidate]) -> Vec<Trial> {
    // What is beaten: the best that was measured, or what the client would be sent to.
    let known = order.iter().enumerate().filter(|(at, c)| *at == 0 || c.estimate.measured.is_some());
    let Some(best) = known.filter_map(|(_, c)| c.estimate.rtt_us).min() else { return Vec::new() };
    let bearable = u64::from(best) * COST_FACTOR + COST_US;
    let mut candidates: Vec<(u32, u32)> = order
        .iter()
        .skip(1)
        .filter(|c| c.estimate.measured.is_none() || c.estimate.deviation_us > 0)
        .filter(|c| is_fit(inputs, c.member))
        .filter_map(|c| {
            let rtt = c.estimate.rtt_us?;
            let worth = materially_better(c.estimate.floor_us, best) && u64::from(rtt) <= bearable;
            worth.then_some((c.estimate.hope_us, c.member))
        })
        .collect();
    candidates.sort_unstable();
    candidates.truncate(CANDIDATES_MAX);
    let trial = |(hope_us, member)| Trial { member, gain_us: best.saturating_sub(hope_us) };
    candidates.into_iter().map(trial).collect()
}

/// What those are told who try `member` in place of `usual`: nobody else, or they would not measure
/// it.
pub(crate) fn told(inputs: &Inputs, member: u32, usual: Told) -> Told {
    let only =
        |family: Family, usual| if family.serves(inputs, member) { Picks::of(Some(member)) } else { usual };
    Told { v4: only(Family::V4, usual.v4), v6: only(Family::V6, usual.v6) }
}

/// Nobody is sent to try a replica that is doubted, leaves or is busy.
fn is_fit(inputs: &Inputs, member: u32) -> bool {
    inputs.members.get(member as usize).is_some_and(|member| {
        member.state == Health::Alive && member.ready && !member.draining && member.load_permille <= LOAD_MAX
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First addresses and lots of the blocks that explore.
    fn blocks(epoch: u64, permille: u16) -> Vec<(u32, u8)> {
        let lots = Exploration { epoch, permille }.lots();
        // Neighbours with one lot are one run.
        let ends = lots.runs().skip(1).map(|(low, _)| u64::from(low)).chain([1 << 32]);
        let lots = lots.runs().zip(ends).filter_map(|((low, lot), end)| Some((low, end, lot?)));
        lots.flat_map(|(low, end, lot)| (low >> 12..(end >> 12) as u32).map(move |block| (block << 12, lot)))
            .collect()
    }

    #[test]
    fn each_candidate_has_its_share_and_others_try_in_the_next_epoch() {
        assert_eq!(blocks(1, 0).len(), 0);
        for lot in 0..CANDIDATES_MAX as u8 {
            let count = blocks(7, 20).iter().filter(|(_, drawn)| *drawn == lot).count();
            assert!(count.abs_diff((1 << 20) / 50) < 600, "{lot}: {count}");
        }
        let most = blocks(1, u16::MAX).len();
        assert!(most.abs_diff((1 << 20) * 9 / 10) < 4000, "a tenth never explores: {most}");
        let two = Exploration { epoch: 2, permille: 20 };
        let first = blocks(1, 20);
        let twice = first.iter().filter(|(low, _)| two.lot_of(u64::from(low >> 12)).is_some()).count();
        assert!(twice < first.len() / 12, "{twice} of {} explore again", first.len());
    }

    #[test]
    fn a_prefix_explores_with_its_block() {
        let (low, lot) = blocks(3, 20)[0];
        for address in [low, low + 256, low + 4095] {
            let prefix = IpNet::new(std::net::Ipv4Addr::from(address).into(), 24).unwrap().trunc();
            assert_eq!(Exploration { epoch: 3, permille: 20 }.lot(prefix), Some(lot));
        }
    }
}
