//! The compiled form: for one set of replicas, every address to its answer.
//!
//! An *answer* is what a client is told: for each address family, the best replica and those that
//! are materially as good (at most [`PICKS_MAX`](crate::told::PICKS_MAX) together, the best first). Clients of one place
//! that nothing was observed of share an answer; an observed prefix has its own. Where nothing is
//! known at all, clients are divided among the replicas by their /24 or /48 (see `split`), and a scope
//! is never wider than that prefix. So are those of a place whose demand is too much for one replica
//! (see `division`), and, by single address, those of a prefix that no replica has room for.
//!
//! A run's value is a number: of an answer, or with [`SPLIT`] set of a split. Answers are numbered
//! densely, so that whoever encodes them beforehand keeps an array ([`Table::choose`]).

mod compile;

use crate::decisions::{Because, Decisions};
use crate::grounds::{Ground, Grounds};
use crate::index::Indexed;
use crate::locality::Locality;
use crate::split::Split;
use crate::told::Told;
use std::net::IpAddr;

/// Marks a value that is not an answer's number but a split's.
const SPLIT: u32 = 1 << 31;

/// One set of replicas, compiled.
#[derive(Debug)]
pub(crate) struct Table {
    members: Vec<u32>,
    answers: Vec<Told>,
    splits: Vec<Split>,
    v4: Indexed<u32, u32>,
    v6: Indexed<u128, u32>,
    /// The value of each locality. Sorted.
    told: Vec<(Locality, u32)>,
    grounds: Grounds,
    decisions: Decisions,
}

impl Table {
    pub(crate) fn members(&self) -> &[u32] {
        &self.members
    }

    /// How many runs it has, IPv4 and IPv6 together.
    pub(crate) fn runs(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// The answers of a run, each with its weight, and the widest prefix around `client` inside it.
    /// Where there are several, every client of the run has one of them.
    pub(crate) fn spread(&self, client: IpAddr) -> (Vec<(u32, u32)>, u8) {
        let (value, scope) = match client {
            IpAddr::V4(address) => self.v4.get(address.into()),
            IpAddr::V6(address) => self.v6.get(address.into()),
        };
        let split = if value & SPLIT == 0 { None } else { self.splits.get((value ^ SPLIT) as usize) };
        match split {
            Some(split) => (split.shares().iter().map(|share| (share.answer, share.weight)).collect(), scope),
            None => (vec![(value, 1)], scope),
        }
    }

    /// The number of a client's answer, and the widest prefix in which all have the same.
    pub(crate) fn choose(&self, client: IpAddr) -> (u32, u8) {
        let (value, scope) = match client {
            IpAddr::V4(address) => self.v4.get(address.into()),
            IpAddr::V6(address) => self.v6.get(address.into()),
        };
        let (number, len) = self.resolve(value, client);
        (number, scope.max(len))
    }

    /// Why a client is told its answer.
    pub(crate) fn because(&self, client: IpAddr) -> Because {
        let ((value, _), (ground, _)) = match client {
            IpAddr::V4(address) => (self.v4.get(address.into()), self.grounds.v4.get(address.into())),
            IpAddr::V6(address) => (self.v6.get(address.into()), self.grounds.v6.get(address.into())),
        };
        let told = self.answer(self.resolve(value, client).0);
        let ground = self.grounds.grounds.get(ground as usize).copied().unwrap_or(Ground::Hash);
        ground.because(value, &told)
    }

    /// The answer of this number.
    pub(crate) fn answer(&self, number: u32) -> Told {
        self.answers.get(number as usize).copied().unwrap_or_default()
    }

    /// How many answers there are.
    pub(crate) fn answers(&self) -> u32 {
        self.answers.len() as u32
    }

    /// What a client is told, and the widest prefix in which all are told the same.
    pub(crate) fn get(&self, client: IpAddr) -> (Told, u8) {
        let (number, scope) = self.choose(client);
        (self.answer(number), scope)
    }

    /// The localities that have one answer, and what it is.
    pub(crate) fn told(&self) -> impl Iterator<Item = (Locality, Told)> + '_ {
        let plain = self.told.iter().filter(|(_, value)| value & SPLIT == 0);
        plain.map(|(locality, value)| (*locality, self.answer(*value)))
    }

    /// What a locality is told, if all its clients are told the same.
    pub(crate) fn told_at(&self, locality: Locality) -> Option<Told> {
        let at = self.told.binary_search_by_key(&locality, |(locality, _)| *locality).ok()?;
        let (_, value) = self.told[at];
        (value & SPLIT == 0).then(|| self.answer(value))
    }

    /// Why its localities are told what they are.
    pub(crate) fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// The answer of a client of a run with this value, and how long the prefix is that has it.
    fn resolve(&self, value: u32, client: IpAddr) -> (u32, u8) {
        if value & SPLIT == 0 {
            return (value, 0);
        }
        self.splits.get((value ^ SPLIT) as usize).map_or((value, 0), |split| split.choose(client))
    }
}
