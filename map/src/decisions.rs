//! Why clients are told what they are told, in numbers: what a generation decided for how many
//! localities, for metrics. `why` tells the same for one client.

use crate::eligible::Tier;
use crate::estimate::Source;
use serde::Serialize;
use std::collections::BTreeMap;

/// Why a replica is told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// It is the nearest.
    Nearest,
    /// It serves them already, and no other is materially better.
    Kept,
    /// The nearest has no room for them.
    Overflow,
    /// The client measures it for others in this epoch.
    Exploration,
    /// A rule says so.
    Rule,
    /// Nothing is known of them: they were divided by hash.
    Hash,
}

/// What a generation decided. Localities are places and prefixes; each counts once for each distinct
/// set of replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decisions {
    /// Localities by where the estimate of the first replica comes from.
    pub by_source: BTreeMap<Source, u64>,
    /// Localities by why the first replica is the first.
    pub by_reason: BTreeMap<Because, u64>,
    /// Localities that are divided among several replicas.
    pub divided: u64,
    /// Places where nothing is known of any replica, so that clients are divided by hash.
    pub hashed: u64,
    /// Localities that are told another first replica than in the generation before.
    pub changed: u64,
    /// What all these ask for, thousandths of a request per second.
    pub changed_mrps: u64,
    /// Sites by which rules gave way.
    pub sites_by_tier: BTreeMap<Tier, u64>,
    /// Members that some site does without because of what monitors say.
    pub quarantined: u64,
    /// Members that some site is served by although monitors object: the budget is spent.
    pub spared: u64,
    /// What clients ask for, thousandths of a request per second.
    pub demand_mrps: u64,
    /// The capacity of all nodes that have one and serve some site, thousandths of a request per
    /// second.
    pub capacity_mrps: u64,
    /// Members without room: their clients overflow to others.
    pub full: u64,
    /// Members that get more than they can take, since nobody has room.
    pub overloaded: u64,
    /// Certified nodes whose word is lacking: out of reach, or not heard of yet.
    pub silent: u64,
}

impl Decisions {
    pub(crate) fn count(&mut self, source: Option<Source>, because: Because, divided: bool) {
        *self.by_source.entry(source.unwrap_or(Source::Unknown)).or_default() += 1;
        *self.by_reason.entry(because).or_default() += 1;
        self.divided += u64::from(divided);
    }

    /// Adds what was decided for another set of replicas.
    pub(crate) fn add(&mut self, other: &Decisions) {
        for (source, count) in &other.by_source {
            *self.by_source.entry(*source).or_default() += count;
        }
        for (because, count) in &other.by_reason {
            *self.by_reason.entry(*because).or_default() += count;
        }
        self.divided += other.divided;
        self.hashed += other.hashed;
    }

    /// How many localities there are.
    pub fn localities(&self) -> u64 {
        self.hashed + self.by_reason.values().sum::<u64>()
    }
}
