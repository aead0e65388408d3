//! The nodes of a region, as a name of their own.

use super::{Answer, Generation, Ranking};
use crate::decisions::Because;
use crate::eligible::{Eligible, Wanted, exclusion};
use crate::inputs::{Hosting, MemberInput, SiteInput};
use crate::knowledge::Candidate;
use crate::locality::{Family, Locality, client_prefix};
use crate::told::{Picks, Told};
use crate::why::{self, Why};
use godwit_core::content::VersionNumber;
use std::net::IpAddr;

/// The nodes of a region, as a name of their own.
pub(super) struct Region {
    /// All that are certified, the oldest first.
    pub(super) nodes: Vec<u32>,
    /// All of them, as something to serve.
    pub(super) hosting: Hosting,
    pub(super) eligible: Eligible,
}

impl Region {
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted { site: None, number: VersionNumber(0), hosting: &self.hosting }
    }
}

/// For whom an order that was found for one client holds.
fn region_scope(region: &Region, client: IpAddr) -> u8 {
    match (region.eligible.members.len() > 1, client) {
        (false, _) => 0,
        (true, IpAddr::V4(_)) => 32,
        (true, IpAddr::V6(_)) => 128,
    }
}

impl Generation {
    /// The certified nodes of a region (lower case); `None` when there is no such region.
    pub fn region(&self, name: &str) -> Option<impl Iterator<Item = &MemberInput>> {
        let region = self.by_region.get(name)?;
        Some(region.nodes.iter().map(|index| &self.inputs.members[*index as usize]))
    }

    /// Which nodes of a region (lower case) `client` is told of: those that may serve by the rules that
    /// hold for a site (in reach, ready, not drained, checks of everything passed, with the budget of
    /// monitors and all of them in the absence of such), in the order that the map has for it. `None`
    /// when there is no such region. Region names are asked for seldom, so there is no table: the order
    /// is found when it is asked for, and where there was a choice it is promised to nobody but the
    /// client (full scope).
    pub fn region_answer(&self, client: IpAddr, name: &str) -> Option<Answer<'_>> {
        let region = self.by_region.get(name)?;
        let (_, _, told) = self.region_order(region, client);
        Some(Answer { inputs: &self.inputs, told, scope: region_scope(region, client) })
    }

    fn region_order(&self, region: &Region, client: IpAddr) -> (Locality, Vec<Candidate>, Told) {
        let members = &region.eligible.members;
        let (locality, known) = self.knowledge.locate(client);
        let mut order = self.knowledge.order(&self.inputs, members, locality, &known);
        let is_ruled = matches!(locality, Locality::Rule(_));
        let mut ordered_as = locality;
        if !is_ruled && order.iter().all(|candidate| candidate.estimate.rtt_us.is_none()) {
            ordered_as = Locality::Unknown(client_prefix(client));
            order = self.knowledge.hashed(members, client_prefix(client));
        }
        let told = self.told_by(&order, locality);
        (ordered_as, order, told)
    }

    /// Why `client` is told what it is told of a region (lower case): every node of it, and every
    /// reason. `None` when there is no such region, or its name cannot be a site's.
    pub fn why_region(&self, client: IpAddr, name: &str) -> Option<Why> {
        let (name, region) = self.by_region.get_key_value(name)?;
        let site = SiteInput {
            site: name.as_str().parse().ok()?,
            number: VersionNumber(0),
            hosting: region.hosting.clone(),
        };
        let (ordered_as, order, told) = self.region_order(region, client);
        let because = match (ordered_as, told.first()) {
            (Locality::Rule(_), Some(_)) => Because::Rule,
            (Locality::Unknown(_), _) | (_, None) => Because::Hash,
            _ => Because::Nearest,
        };
        let mut order = order;
        order.sort_by_key(|candidate| told.place(candidate.member).unwrap_or(usize::MAX));
        let replicas = order.iter().map(|candidate| self.ranked(&site, candidate, told)).collect();
        let scope = region_scope(region, client);
        let eligible = &region.eligible;
        let excluded = region.nodes.iter().filter(|index| !eligible.members.contains(index)).map(|index| {
            let member = &self.inputs.members[*index as usize];
            (member, exclusion(member, region.wanted(), self.full[*index as usize]))
        });
        let ranking = Ranking { tier: eligible.tier, replicas, scope };
        Some(why::explain(why::Facts {
            region: Some(name),
            locality: ordered_as,
            spared: &eligible.spared,
            excluded: excluded.collect(),
            ..self.facts(client, &site, because, ranking)
        }))
    }

    /// What clients for whom this is the order are told when no table was compiled for them.
    fn told_by(&self, order: &[Candidate], locality: Locality) -> Told {
        let family = |family| {
            let shares = self.division.divide(&self.inputs, usize::MAX, order, locality, family);
            shares.first().map(|(members, _)| Picks::equals(members)).unwrap_or_default()
        };
        Told { v4: family(Family::V4), v6: family(Family::V6) }
    }
}
