//! What a replica costs clients: the estimated round-trip time, less a lean on who serves them today.

use crate::inputs::Inputs;
use crate::knowledge::Candidate;
use crate::locality::Family;

/// A replica that nothing is known of costs this much: more than any that something is known of.
const NOWHERE_US: u32 = 2_000_000;

/// A replica for clients of one family: its cost, the lean taken into account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) member: u32,
    /// Estimated round-trip time, µs, at least that of those ranked before it; less the lean.
    pub(crate) cost_us: u32,
    /// By so much it and the best differ from one moment to the next, µs: no reason to move anybody.
    pub(super) noise_us: u32,
}

/// What replicas cost, in the order of `order`.
pub(super) fn costs_of(inputs: &Inputs, order: &[Candidate], family: Family) -> Vec<Cost> {
    let best = order.first().map_or(0, |best| best.estimate.deviation_us);
    let mut least = 0;
    let serving = order.iter().filter(|candidate| family.serves(inputs, candidate.member));
    serving
        .map(|candidate| {
            // Beyond the short list estimates are hopes: they are not better than the list.
            least = candidate.estimate.rtt_us.unwrap_or(NOWHERE_US).clamp(least, NOWHERE_US.max(least));
            let noise_us = f64::from(best).hypot(f64::from(candidate.estimate.deviation_us)) as u32;
            Cost { member: candidate.member, cost_us: least, noise_us }
        })
        .collect()
}

impl Cost {
    /// Less, if it is the incumbent's.
    pub(super) fn leant(self, incumbent: Option<u32>) -> Cost {
        if incumbent != Some(self.member) {
            return self;
        }
        // Nobody is moved for a difference that moments make.
        let cost_us = leant(self.cost_us).min(self.cost_us.saturating_sub(self.noise_us));
        Cost { cost_us, ..self }
    }
}

/// The highest cost at which a replica that takes over is not materially better than one of cost
/// `rtt`, and a little less, so that of equals the incumbent stays.
fn leant(rtt: u32) -> u32 {
    let tenth = (u64::from(rtt) * 10).div_ceil(11) as u32;
    tenth.min(rtt.saturating_sub(2000)).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::materially_better;

    #[test]
    fn the_lean_lets_go_exactly_for_what_is_materially_better() {
        for rtt in [2_002, 5_000, 21_999, 22_000, 22_001, 150_000] {
            for other in (0..rtt + 10).step_by(7).chain(leant(rtt).saturating_sub(2)..leant(rtt) + 3) {
                assert_eq!(other <= leant(rtt), materially_better(other, rtt), "{other} and {rtt}");
            }
        }
    }

    #[test]
    fn noise_moves_nobody() {
        let cost = Cost { member: 1, cost_us: 100_000, noise_us: 30_000 };
        assert_eq!(cost.leant(Some(1)).cost_us, 70_000);
        assert_eq!(cost.leant(Some(2)), cost);
        assert_eq!(cost.leant(None), cost);
    }
}
