//! All replicas of a site for one client, and why it is told what it is told.

use super::{Generation, Site};
use crate::decisions::Because;
use crate::eligible::Tier;
use crate::estimate::Source;
use crate::inputs::SiteInput;
use crate::knowledge::Candidate;
use crate::locality::{Locality, client_prefix};
use crate::observe::Measurement;
use crate::told::Told;
use crate::why::{self, Why};
use godwit_core::content::VersionNumber;
use godwit_core::key::MemberId;
use godwit_core::name::{MemberName, RegionName, SiteName};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// All replicas of a site for one client, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    /// Which rules gave way.
    pub tier: Tier,
    /// The replicas. The first is the one that [`Generation::answer`] names first.
    pub replicas: Vec<Ranked>,
    /// The widest prefix length around the client within which the answer is the same.
    pub scope: u8,
}

/// A replica in a [`Ranking`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// Who.
    pub member: MemberId,
    /// Its name.
    pub name: MemberName,
    /// Where it is.
    pub region: RegionName,
    /// Where clients reach it over IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Where clients reach it over IPv6.
    pub v6: Option<Ipv6Addr>,
    /// Where it serves HTTP.
    pub http_port: Option<u16>,
    /// The version of the site that it holds.
    pub held: Option<VersionNumber>,
    /// Estimated round-trip time to the client, µs.
    pub rtt_estimate_us: Option<u32>,
    /// Where the estimate comes from.
    pub source: Source,
    /// What it was measured on, if it was.
    pub measured: Option<Measurement>,
    /// Great-circle distance to the client, where known.
    pub distance_km: Option<u32>,
    /// Whether the client is told of it.
    pub told: bool,
}

impl Generation {
    /// All replicas of `site` for `client`, best first. The first is what the client is told.
    pub fn rank(&self, client: IpAddr, site: &SiteName) -> Option<Ranking> {
        let site = self.find(site.as_str())?;
        let (told, scope) = self.table(site).get(client);
        let (_, mut order) = self.order(site, client);
        let place = |member: u32| told.place(member).unwrap_or(usize::MAX);
        order.sort_by_key(|candidate| place(candidate.member));
        let replicas = order.iter().map(|candidate| self.ranked(&site.input, candidate, told)).collect();
        Some(Ranking { tier: site.tier, replicas, scope })
    }

    fn order(&self, site: &Site, client: IpAddr) -> (Locality, Vec<Candidate>) {
        let (locality, known) = self.knowledge.locate(client);
        let order = self.knowledge.order(&self.inputs, self.table(site).members(), locality, &known);
        let is_ruled = matches!(locality, Locality::Rule(_));
        if !is_ruled && order.iter().all(|candidate| candidate.estimate.rtt_us.is_none()) {
            let prefix = client_prefix(client);
            return (Locality::Unknown(prefix), self.knowledge.hashed(self.table(site).members(), prefix));
        }
        (locality, order)
    }

    pub(super) fn ranked(&self, site: &SiteInput, candidate: &Candidate, told: Told) -> Ranked {
        let member = &self.inputs.members[candidate.member as usize];
        Ranked {
            member: member.id,
            name: member.name.clone(),
            region: member.region.clone(),
            v4: member.public_v4,
            v6: member.public_v6,
            http_port: member.http_port,
            held: member.holds(site.site.as_str()),
            rtt_estimate_us: candidate.estimate.rtt_us,
            source: candidate.estimate.source,
            measured: candidate.estimate.measured.map(Measurement::from),
            distance_km: candidate.estimate.distance_km,
            told: told.place(candidate.member).is_some(),
        }
    }

    /// Why `client` is told what it is told of `site`: every member, and every reason.
    pub fn why(&self, client: IpAddr, site: &SiteName) -> Option<Why> {
        let ranking = self.rank(client, site)?;
        let (because, _) = self.because(self.site_ref(site.as_str())?, client);
        let site = self.find(site.as_str())?;
        let excluded =
            (0..).zip(&self.inputs.members).filter(|(index, _)| !self.table(site).members().contains(index));
        Some(why::explain(why::Facts {
            explored: because == Because::Exploration,
            spared: &site.spared,
            excluded: excluded.map(|(index, member)| (member, self.exclusion_of(site, index))).collect(),
            ..self.facts(client, &site.input, because, ranking)
        }))
    }

    /// What is known of a client that is told this, and why. Who was spared and who was ruled out is for
    /// whoever asks to say.
    pub(super) fn facts<'a>(
        &'a self,
        client: IpAddr,
        site: &'a SiteInput,
        because: Because,
        ranking: Ranking,
    ) -> why::Facts<'a> {
        let (locality, known) = self.knowledge.locate(client);
        let (demand_mrps, incumbent) = self.division.asked(locality);
        let name = |member: u32| self.inputs.members[member as usize].name.clone();
        why::Facts {
            generation: self,
            site,
            region: None,
            client,
            locality,
            place: self.knowledge.geo.lookup(client),
            rule: self.knowledge.geo.rule(client),
            landmark: self.knowledge.estimator.landmark(&known).map(name),
            because,
            explored: false,
            demand_mrps,
            incumbent: incumbent.map(name),
            observed: !known.observed.is_empty(),
            probed: known.observed.values().all(|measured| measured.probed),
            spared: &[],
            excluded: Vec::new(),
            ranking,
        }
    }
}
