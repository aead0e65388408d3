//! Clients of one run spread over several answers.
//!
//! A run of a table usually has one answer. Where nothing is known of its clients, or where one
//! answer would be too much for its replicas, the run has a *split*: shares, each with an answer
//! and a weight, of which a client gets one by rendezvous hashing of its /24 or /48. So a client
//! always gets the same, the loss of a share moves only the clients it had, and every redirector
//! decides alike. A scope in a split is never wider than the prefix that was hashed.
//!
//! Where one such prefix by itself asks for more than any replica has room for, its own clients are
//! divided, by address (IPv6: by /64; [`Grain::Address`]). A query that tells the prefix alone cannot be
//! divided like that: so each share's answer lists the replicas of the others, too, after its own, and
//! resolvers hand them out in turn.

use crate::locality::{CLIENT_V4_LEN, CLIENT_V6_LEN};
use std::net::IpAddr;

/// By what clients of a split are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grain {
    /// By client prefix.
    Prefix,
    /// Within a client prefix.
    Address,
}

impl Grain {
    /// How many leading bits of a client's address are hashed.
    pub(crate) fn len(self, client: IpAddr) -> u8 {
        match (self, client) {
            (Grain::Prefix, IpAddr::V4(_)) => CLIENT_V4_LEN,
            (Grain::Prefix, IpAddr::V6(_)) => CLIENT_V6_LEN,
            (Grain::Address, IpAddr::V4(_)) => 32,
            (Grain::Address, IpAddr::V6(_)) => 64,
        }
    }
}

/// Some of a split's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Share {
    /// What they are told: a number of the table's answers.
    pub(crate) answer: u32,
    /// How large it is beside the others; above 0.
    pub(crate) weight: u32,
    /// What makes it another than the others in hashing.
    pub(crate) seed: u64,
}

/// Shares, among which clients are divided by their weights. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Split {
    shares: Vec<Share>,
    grain: Grain,
    /// Whether all weigh the same: then scores compare as integers.
    even: bool,
}

impl Split {
    /// A split of `shares`; `None` when there is none with a weight.
    pub(crate) fn new(mut shares: Vec<Share>, grain: Grain) -> Option<Split> {
        shares.retain(|share| share.weight > 0);
        let first = shares.first()?.weight;
        let even = shares.iter().all(|share| share.weight == first);
        Some(Split { shares, grain, even })
    }

    /// The shares; at least one.
    pub(crate) fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The answer for a client, and the length of the prefix that has it with it.
    pub(crate) fn choose(&self, client: IpAddr) -> (u32, u8) {
        let len = self.grain.len(client);
        (self.drawn(client_number(client, len)), len)
    }

    fn drawn(&self, client: u64) -> u32 {
        let uniform = |share: &Share| score(share.seed, client);
        let best = if self.even {
            // Of equals the first, as everywhere.
            self.shares.iter().rev().max_by_key(|share| uniform(share))
        } else {
            // Weighted rendezvous: the largest ln(u)/w, u uniform in (0, 1), falls to each share
            // with a probability in proportion to its weight.
            let score = |share: &Share| {
                let uniform = (uniform(share) >> 11) as f64 / (1u64 << 53) as f64;
                uniform.max(f64::MIN_POSITIVE).ln() / f64::from(share.weight)
            };
            self.shares.iter().rev().max_by(|a, b| score(a).total_cmp(&score(b)))
        };
        best.map_or(0, |share| share.answer)
    }
}

/// The number by which the first `len` bits of a client's address are hashed; at most 64 count.
pub(crate) fn client_number(client: IpAddr, len: u8) -> u64 {
    match client {
        IpAddr::V4(address) => u64::from(u32::from(address)) >> (32 - len.min(32)),
        IpAddr::V6(address) => 1 << 63 | (u128::from(address) >> (128 - len.min(64))) as u64,
    }
}

/// How much `seed` wants `number`: uniform, and independent for each pair.
pub(crate) fn score(seed: u64, number: u64) -> u64 {
    mix(seed ^ mix(number))
}

/// The finaliser of SplitMix64: every output bit depends on every input bit.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A member for IPv4, one for IPv6, and the weight of both together.
pub(crate) type Pair = (Option<u32>, Option<u32>, u32);

/// Pairs members for IPv4 with members for IPv6 so that in each family every member has a part of all
/// weight in proportion to its own, those that serve both being paired with themselves as far as
/// that goes. Weights are whole: the parts are the product of both sums together, each of which is
/// at most 2^15. At most `v4.len() + v6.len()` pairs.
pub(crate) fn pairs(v4: &[(u32, u32)], v6: &[(u32, u32)]) -> Vec<Pair> {
    let sum = |list: &[(u32, u32)]| list.iter().map(|(_, weight)| weight).sum::<u32>();
    let (a, b) = (sum(v4), sum(v6));
    if a == 0 || b == 0 {
        let alone = v4.iter().map(|(member, weight)| (Some(*member), None, *weight));
        return alone.chain(v6.iter().map(|(member, weight)| (None, Some(*member), *weight))).collect();
    }
    let scaled = |list: &[(u32, u32)], by: u32| -> Vec<(u32, u32)> {
        list.iter().map(|(member, weight)| (*member, weight.saturating_mul(by))).collect()
    };
    let (mut rest_v4, mut rest_v6) = (scaled(v4, b), scaled(v6, a));
    let mut pairs = Vec::new();
    for (member, left) in &mut rest_v4 {
        if let Some((_, other)) = rest_v6.iter_mut().find(|(other, _)| other == member) {
            let weight = (*left).min(*other);
            *left -= weight;
            *other -= weight;
            pairs.push((Some(*member), Some(*member), weight));
        }
    }
    // What is left goes together in order: the sums are equal, so both lists end at once.
    let mut others = rest_v6.into_iter().filter(|(_, left)| *left > 0).peekable();
    for (member, mut left) in rest_v4 {
        while left > 0 {
            let Some((other, free)) = others.peek_mut() else { break };
            let weight = left.min(*free);
            pairs.push((Some(member), Some(*other), weight));
            left -= weight;
            *free -= weight;
            if *free == 0 {
                others.next();
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[u32]) -> Vec<u32> {
        let share =
            |(weight, answer): (&u32, u32)| Share { answer, weight: *weight, seed: mix(answer.into()) };
        let shares = weights.iter().zip(0..).map(share).collect();
        let split = Split::new(shares, Grain::Prefix).unwrap();
        let mut counts = vec![0; weights.len()];
        for client in 0..20_000 {
            counts[split.drawn(client) as usize] += 1;
        }
        counts
    }

    #[track_caller]
    fn check(weights: &[u32]) {
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts(weights).into_iter().zip(weights) {
            let expected = 20_000 * weight / total;
            assert!(count.abs_diff(expected) < 500, "{weights:?}: {count} of {expected}");
        }
    }

    #[test]
    fn clients_divide_by_weight() {
        check(&[1, 1, 1]);
        check(&[7, 2, 1]);
        check(&[1000, 1]);
        check(&[5, 0, 5]);
    }

    #[test]
    fn a_share_that_shrinks_loses_clients_and_moves_no_others() {
        let split = |weight| {
            let share = |answer| Share {
                answer,
                weight: if answer == 0 { weight } else { 10 },
                seed: mix(answer.into()),
            };
            Split::new((0..4).map(share).collect(), Grain::Prefix).unwrap()
        };
        let (before, after) = (split(10), split(5));
        for client in 0..5_000 {
            let (before, after) = (before.drawn(client), after.drawn(client));
            assert!(before == after || before == 0, "{client} moved from {before} to {after}");
        }
    }

    #[test]
    fn pairs_give_every_member_of_a_family_its_part() {
        for (v4, v6) in [
            (vec![(1, 1), (2, 1), (3, 1)], vec![(2, 1), (3, 1)]),
            (vec![(1, 1), (2, 1)], vec![(3, 1), (4, 1), (5, 1)]),
            (vec![(1, 5)], vec![(1, 7)]),
            (vec![(1, 10), (2, 30), (3, 1)], vec![(2, 9), (4, 1), (5, 90), (6, 3)]),
        ] {
            let pairs = pairs(&v4, &v6);
            assert!(pairs.len() <= v4.len() + v6.len(), "{pairs:?}");
            let of = |f: &dyn Fn(&Pair) -> bool| pairs.iter().filter(|p| f(p)).map(|p| p.2).sum::<u32>();
            let sum = |list: &[(u32, u32)]| list.iter().map(|(_, weight)| weight).sum::<u32>();
            assert!(v4.iter().all(|(m, w)| of(&|p| p.0 == Some(*m)) == w * sum(&v6)), "{pairs:?}");
            assert!(v6.iter().all(|(m, w)| of(&|p| p.1 == Some(*m)) == w * sum(&v4)), "{pairs:?}");
        }
        assert_eq!(pairs(&[(7, 2), (8, 3)], &[]), [(Some(7), None, 2), (Some(8), None, 3)]);
    }
}
