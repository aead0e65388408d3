//! Why a client is told what it is told: the reasons of one decision, as fields.
//!
//! The values are those that the decision used, found by running the same functions again for one
//! client. The JSON form is public: `godwit why --json` prints it.

use crate::decisions::Because;
use crate::eligible::{Exclusion, Tier};
use crate::estimate::Source;
use crate::generation::{Generation, Ranking};
use crate::inputs::{CheckInput, Health, MemberInput, SiteInput};
use crate::locality::Locality;
use crate::observe::Measurement;
use crate::rules::Rule;
use godwit_core::content::VersionNumber;
use godwit_core::geo::Coordinates;
use godwit_core::key::MemberId;
use godwit_core::name::{MemberName, RegionName, SiteName, ZoneName};
use godwit_core::time::Time;
use ipnet::IpNet;
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The reasons of one decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    /// The zone.
    pub zone: ZoneName,
    /// The site that was asked for; of a region's name the region.
    pub site: SiteName,
    /// The home addresses, where the name is that of some: the client is told these, and its packets
    /// go to one of the replicas told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub home: Vec<IpAddr>,
    /// The region, where its name was asked for and not a site's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
    /// Its current version.
    pub current: VersionNumber,
    /// The client.
    pub client: IpAddr,
    /// The generation that decided.
    pub generation: u64,
    /// When its inputs were gathered.
    pub time: Time,
    /// What is known of the client.
    pub known: Known,
    /// Which rules gave way so that somebody was left.
    pub tier: Tier,
    /// The widest prefix around the client in which everybody is told the same.
    pub scope: IpNet,
    /// Why the first replica stands first.
    pub because: Because,
    /// Whether it does because it serves most of these clients already, and no other is materially
    /// better.
    pub kept: bool,
    /// Whether the client measures the first replica for others in this epoch.
    pub explored: bool,
    /// What the clients of this prefix or place ask for, of all sites together, thousandths of a
    /// request per second.
    pub demand_mrps: u64,
    /// Who serves most of them.
    pub incumbent: Option<MemberName>,
    /// Every member that has or had a chance: the ranked ones, best first, then the excluded ones.
    pub replicas: Vec<Reasons>,
}

impl Why {
    /// The replica that the client is told of first.
    pub fn first_told(&self) -> Option<&Reasons> {
        self.replicas.iter().find(|replica| replica.told)
    }
}

/// What is known of a client.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Known {
    /// The prefix that this holds for: observed, from the GeoIP database, or the one hashed.
    pub prefix: IpNet,
    /// How the client was recognised.
    pub by: KnownBy,
    /// The rule that holds for it, in words.
    pub rule: Option<String>,
    /// Where the GeoIP database has it, degrees.
    pub latitude: Option<f64>,
    /// Where the GeoIP database has it, degrees.
    pub longitude: Option<f64>,
    /// The member that stands for the client where nothing was observed.
    pub landmark: Option<MemberName>,
}

/// How a client was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnownBy {
    /// Round-trip times were observed from its prefix.
    Observation,
    /// A resolver of its prefix was probed, and nothing else was measured there.
    Resolver,
    /// It asks for so much that it is looked at by itself.
    Demand,
    /// Its place is in the GeoIP database.
    Geography,
    /// A rule lists regions for it.
    Rule,
    /// Not at all: its replica is chosen by hash of the prefix, and stays.
    Hash,
}

/// One member and every reason that counts for or against it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reasons {
    /// Its place in the ranking, from 1; `None` when it is excluded.
    pub rank: Option<usize>,
    /// Whether the client is told of it.
    pub told: bool,
    /// Its name.
    pub name: MemberName,
    /// Its key, in hexadecimal digits as elsewhere.
    #[serde(serialize_with = "digits")]
    pub member: MemberId,
    /// Where it is.
    pub region: RegionName,
    /// Where clients reach it over IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Where clients reach it over IPv6.
    pub v6: Option<Ipv6Addr>,
    /// Where it serves HTTP.
    pub http_port: Option<u16>,
    /// Estimated round-trip time to the client, µs.
    pub rtt_estimate_us: Option<u32>,
    /// Where the estimate comes from.
    pub source: Source,
    /// What it was measured on, if it was.
    pub measured: Option<Measurement>,
    /// Great-circle distance to the client, where known.
    pub distance_km: Option<u32>,
    /// What its peers make of it.
    pub health: Health,
    /// Whether it says that it can serve.
    pub ready: bool,
    /// What vantages agreed on about its services, as far as the site depends on them.
    pub checks: Vec<CheckInput>,
    /// Whether an operator drains it.
    pub draining: bool,
    /// How busy it is, thousandths of its capacity.
    pub load_permille: u16,
    /// What it can take, requests per second, where its operator has said so.
    pub capacity_rps: Option<u32>,
    /// What it gets of all demand, thousandths of its capacity.
    pub planned_permille: Option<u32>,
    /// What room for one more would cost there, in round-trip time, µs; 0 while there is some. It is
    /// added to the estimate.
    pub price_us: u32,
    /// Whether it serves although monitors object, since they have had their half.
    pub spared: bool,
    /// Which version it holds, and which is current.
    pub fresh: Fresh,
    /// The rule that excludes it.
    pub excluded_because: Option<Exclusion>,
}

/// The version a member holds against the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fresh {
    /// What it holds whole.
    pub held: Option<VersionNumber>,
    /// What is current.
    pub current: VersionNumber,
}

/// What [`explain`] puts together.
pub(crate) struct Facts<'a> {
    pub(crate) generation: &'a Generation,
    pub(crate) site: &'a SiteInput,
    pub(crate) region: Option<&'a RegionName>,
    pub(crate) client: IpAddr,
    pub(crate) locality: Locality,
    pub(crate) place: Option<(IpNet, Coordinates)>,
    pub(crate) rule: Option<(IpNet, &'a Rule)>,
    pub(crate) landmark: Option<MemberName>,
    pub(crate) because: Because,
    pub(crate) explored: bool,
    pub(crate) demand_mrps: u64,
    pub(crate) incumbent: Option<MemberName>,
    /// Whether round-trip times were observed from the client's prefix.
    pub(crate) observed: bool,
    /// Whether these are only of a resolver that was probed.
    pub(crate) probed: bool,
    pub(crate) spared: &'a [u32],
    pub(crate) excluded: Vec<(&'a MemberInput, Option<Exclusion>)>,
    pub(crate) ranking: Ranking,
}

fn digits<S: serde::Serializer>(member: &MemberId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(member)
}

pub(crate) fn explain(facts: Facts<'_>) -> Why {
    let Facts {
        generation,
        site,
        region,
        client,
        locality,
        place,
        rule,
        landmark,
        excluded,
        ranking,
        spared,
        ..
    } = facts;
    let division = generation.division();
    // For a region's name only checks of everything count.
    let covers = |check: &&CheckInput| region.map_or(check.covers(&site.site), |_| check.sites.is_empty());
    let reasons = |member: &MemberInput| Reasons {
        rank: None,
        told: false,
        name: member.name.clone(),
        member: member.id,
        region: member.region.clone(),
        v4: member.public_v4,
        v6: member.public_v6,
        http_port: member.http_port,
        rtt_estimate_us: None,
        source: Source::Unknown,
        measured: None,
        distance_km: None,
        health: member.state,
        ready: member.ready,
        checks: member.checks.iter().filter(|check| covers(check)).cloned().collect(),
        draining: member.draining,
        load_permille: member.load_permille,
        capacity_rps: member.capacity.rps,
        planned_permille: division.load_permille(generation.number_of(&member.id)),
        price_us: division.price(generation.number_of(&member.id)),
        spared: spared.contains(&generation.number_of(&member.id)),
        fresh: Fresh { held: member.holds(site.site.as_str()), current: site.number },
        excluded_because: None,
    };
    let ranked = ranking.replicas.iter().zip(1..).filter_map(|(ranked, rank)| {
        Some(Reasons {
            rank: Some(rank),
            told: ranked.told,
            rtt_estimate_us: ranked.rtt_estimate_us,
            source: ranked.source,
            measured: ranked.measured,
            distance_km: ranked.distance_km,
            ..reasons(generation.member(&ranked.member)?)
        })
    });
    let excluded = excluded
        .into_iter()
        // A redirector, or who runs other services, is no replica that was turned down: it never was one.
        .filter(|(_, because)| !matches!(because, Some(Exclusion::NotANode | Exclusion::NotItsService)))
        .map(|(member, excluded_because)| Reasons { excluded_because, ..reasons(member) });
    let (prefix, by) = match locality {
        Locality::Prefix(prefix) if facts.observed && facts.probed => (prefix, KnownBy::Resolver),
        Locality::Prefix(prefix) if facts.observed => (prefix, KnownBy::Observation),
        Locality::Prefix(prefix) => (prefix, KnownBy::Demand),
        Locality::Place(_) => (place.map_or(IpNet::from(client), |(prefix, _)| prefix), KnownBy::Geography),
        Locality::Rule(_) => (rule.map_or(IpNet::from(client), |(prefix, _)| prefix), KnownBy::Rule),
        Locality::Unknown(prefix) => (prefix, KnownBy::Hash),
    };
    let (latitude, longitude) = place.map(|(_, place)| (place.lat(), place.lon())).unzip();
    Why {
        zone: generation.zone().clone(),
        site: site.site.clone(),
        home: Vec::new(),
        region: region.cloned(),
        current: site.number,
        client,
        generation: generation.number(),
        time: generation.time(),
        known: Known {
            prefix,
            by,
            rule: rule.map(|(_, rule)| rule.to_string()),
            latitude,
            longitude,
            landmark,
        },
        tier: ranking.tier,
        scope: IpNet::new(client, ranking.scope).map_or(IpNet::from(client), |net| net.trunc()),
        because: facts.because,
        kept: facts.because == Because::Kept,
        explored: facts.explored,
        demand_mrps: facts.demand_mrps,
        incumbent: facts.incumbent,
        replicas: ranked.chain(excluded).collect(),
    }
}
