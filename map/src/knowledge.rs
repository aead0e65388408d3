//! What is known of clients: where they are, what was measured of them, and in which order that puts
//! the replicas of a set. Shared by all tables of a generation.

use crate::estimate::{Client, Estimate, Estimator, Source};
use crate::geo::{GeoDb, Place};
use crate::inputs::Inputs;
use crate::locality::{Locality, client_prefix};
use crate::observe::Observed;
use crate::range::Ranges;
use crate::rules;
use crate::split::score;
use godwit_core::key::MemberId;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// What is known of clients, shared by all tables of a generation.
#[derive(Debug)]
pub(crate) struct Knowledge {
    pub(crate) geo: GeoDb,
    pub(crate) estimator: Estimator,
    pub(crate) observed: Observed,
    /// The lots of those that explore, drawn when first needed and kept for the epoch: there are a
    /// million.
    pub(crate) lots: Arc<OnceLock<Ranges<u32, Option<u8>>>>,
    /// One number for each member, for hashing.
    seeds: Vec<u64>,
}

/// One replica in a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) member: u32,
    pub(crate) estimate: Estimate,
}

impl Knowledge {
    /// `heavy`: prefixes that are to be localities of their own even if nothing was measured of them;
    /// `before`: what was known at the last generation, and its inputs.
    pub(crate) fn new(
        inputs: &Inputs,
        geo: &GeoDb,
        heavy: &[IpNet],
        before: Option<(&Inputs, &Knowledge)>,
    ) -> Knowledge {
        let estimator = Estimator::new(inputs);
        let mut observed = Observed::new(inputs, geo, &estimator);
        observed.set_apart(heavy);
        let seed = |id: &MemberId| id.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let seeds = inputs.members.iter().map(|member| seed(&member.id)).collect();
        let same = before.filter(|(before, _)| before.exploration == inputs.exploration);
        let lots = same.map(|(_, before)| before.lots.clone()).unwrap_or_default();
        Knowledge { geo: geo.clone(), estimator, observed, lots, seeds }
    }

    /// To which locality an address belongs, and what is known of it.
    pub(crate) fn locate(&self, address: IpAddr) -> (Locality, Client) {
        let prefix = client_prefix(address);
        if self.observed.knows(&prefix) {
            return (Locality::Prefix(prefix), self.observed_client(prefix));
        }
        match self.geo.whereabouts(address) {
            Some(Place::Point(point)) => {
                (Locality::Place(point.coordinates), self.observed.at(point.coordinates))
            }
            Some(Place::Rule(rule)) => (Locality::Rule(*rule), Client::default()),
            None => (Locality::Unknown(prefix), Client::default()),
        }
    }

    /// To which locality those belong that are like the clients of this prefix, but of other prefixes.
    pub(crate) fn around(&self, prefix: IpNet) -> Locality {
        match self.geo.whereabouts(prefix.addr()) {
            Some(Place::Point(point)) => Locality::Place(point.coordinates),
            Some(Place::Rule(rule)) => Locality::Rule(*rule),
            None => Locality::Unknown(prefix),
        }
    }

    pub(crate) fn observed_client(&self, prefix: IpNet) -> Client {
        self.observed.of(&prefix, self.geo.lookup(prefix.addr()).map(|(_, place)| place))
    }

    /// The members of a set, best first for a client: by estimated round-trip time, then those of
    /// which nothing can be said.
    pub(crate) fn order(
        &self,
        inputs: &Inputs,
        members: &[u32],
        locality: Locality,
        client: &Client,
    ) -> Vec<Candidate> {
        if let Locality::Unknown(prefix) = locality {
            return self.hashed(members, prefix);
        }
        if let Locality::Rule(_) = locality {
            let estimate = Estimate { source: Source::Rule, ..Estimate::UNKNOWN };
            let members = self.ruled(inputs, members, locality).into_iter();
            return members.map(|(_, member)| Candidate { member, estimate }).collect();
        }
        let outlook = self.estimator.outlook(client);
        let estimate = |member: &u32| Candidate { member: *member, estimate: outlook.estimate(*member) };
        let mut candidates: Vec<Candidate> = members.iter().map(estimate).collect();
        let tie = |member: u32| std::cmp::Reverse(self.score(member, locality.number()));
        candidates.sort_by_key(|c| (c.estimate.rtt_us.unwrap_or(u32::MAX), tie(c.member)));
        candidates
    }

    /// The members of a set, best first for the clients of a locality.
    pub(crate) fn order_at(&self, inputs: &Inputs, members: &[u32], locality: Locality) -> Vec<Candidate> {
        let client = match locality {
            Locality::Place(place) => self.observed.at(place),
            Locality::Prefix(prefix) => self.observed_client(prefix),
            Locality::Rule(_) | Locality::Unknown(_) => Client::default(),
        };
        self.order(inputs, members, locality, &client)
    }

    /// The members of a set in the order of the rule for a locality.
    pub(crate) fn ruled(&self, inputs: &Inputs, members: &[u32], locality: Locality) -> Vec<(usize, u32)> {
        let Locality::Rule(rule) = locality else { return Vec::new() };
        let Some(rule) = self.geo.numbered(rule) else { return Vec::new() };
        rules::order(inputs, members, rule, self.geo.default_rule())
    }

    /// Rendezvous hashing: the members by falling score, so that the loss of one moves only the
    /// clients it had. All weigh the same as long as members do not tell a capacity.
    pub(crate) fn hashed(&self, members: &[u32], prefix: IpNet) -> Vec<Candidate> {
        let mut members = members.to_vec();
        let number = Locality::Unknown(prefix).number();
        members.sort_by_key(|member| (std::cmp::Reverse(self.score(*member, number)), *member));
        members.into_iter().map(|member| Candidate { member, estimate: Estimate::UNKNOWN }).collect()
    }

    pub(crate) fn seed(&self, member: u32) -> u64 {
        self.seeds.get(member as usize).copied().unwrap_or(0)
    }

    fn score(&self, member: u32, number: u64) -> u64 {
        score(self.seed(member), number)
    }
}
