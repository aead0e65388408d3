//! What clients are told, as quickly as it can be found.

use super::Generation;
use crate::decisions::Because;
use crate::eligible::Tier;
use crate::inputs::{Inputs, MemberInput, SiteInput};
use crate::table::Table;
use crate::told::{Picks, Told};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A site of a generation. Means nothing to another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteRef {
    index: u32,
    table: u32,
}

impl SiteRef {
    /// The number of its table: sites with equal replicas share one, and what is chosen in it
    /// holds for all of them. Dense from 0.
    pub fn table(self) -> usize {
        self.table as usize
    }
}

/// Which of a table's answers a client is told; dense from 0, see [`Generation::choices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChoiceKey(u32);

impl ChoiceKey {
    /// Its number.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What was chosen for a client, before anybody looks what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which answer. Two clients with one key are told the same of every site of the table.
    pub key: ChoiceKey,
    /// The widest prefix length around the client within which everybody has this key.
    pub scope: u8,
}

/// What a client is told of a site.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub(super) inputs: &'a Inputs,
    pub(super) told: Told,
    /// The widest prefix length around the client within which everybody is told the same.
    pub scope: u8,
}

impl<'a> Answer<'a> {
    /// Whether there is nobody to name: the network has no node.
    pub fn is_empty(&self) -> bool {
        self.told.first().is_none()
    }

    /// The replicas for IPv4, the best first; those after it are materially as good.
    pub fn v4(&self) -> impl Iterator<Item = (&'a MemberInput, Ipv4Addr)> + use<'a> {
        let inputs = self.inputs;
        members(inputs, self.told.v4).filter_map(|member| Some((member, member.public_v4?)))
    }

    /// The replicas for IPv6, the best first; those after it are materially as good.
    pub fn v6(&self) -> impl Iterator<Item = (&'a MemberInput, Ipv6Addr)> + use<'a> {
        let inputs = self.inputs;
        members(inputs, self.told.v6).filter_map(|member| Some((member, member.public_v6?)))
    }
}

fn members(inputs: &Inputs, picks: Picks) -> impl Iterator<Item = &MemberInput> {
    let indexes: Vec<u32> = picks.iter().collect();
    indexes.into_iter().filter_map(|index| inputs.members.get(index as usize))
}

impl Generation {
    /// The site of this name (lower case), for asking much about it.
    pub fn site_ref(&self, name: &str) -> Option<SiteRef> {
        let index = self.sites.binary_search_by(|site| site.input.site.as_str().cmp(name)).ok()?;
        Some(SiteRef { index: index as u32, table: self.sites[index].table })
    }

    /// The current version of a site. `None` for a site of another generation.
    pub fn site_at(&self, site: SiteRef) -> Option<&SiteInput> {
        self.sites.get(site.index as usize).map(|site| &site.input)
    }

    /// What clients around `client` are told of a site: answers with their weights, and the widest
    /// prefix length within which it is the same ones. Where clients are divided among several, a
    /// single client's [`Generation::choose`] has a narrower scope.
    pub fn spread(&self, site: SiteRef, client: IpAddr) -> (Vec<(ChoiceKey, u32)>, u8) {
        let Some(table) = self.tables.get(site.table()) else { return (Vec::new(), 0) };
        let (answers, scope) = table.spread(client);
        (answers.into_iter().map(|(answer, weight)| (ChoiceKey(answer), weight)).collect(), scope)
    }

    /// Which answer `client` gets of a site of this generation. One binary search; nothing is
    /// allocated. An IPv4 client is given as IPv4, never mapped into IPv6.
    pub fn choose(&self, site: SiteRef, client: IpAddr) -> Choice {
        let (key, scope) = self.tables.get(site.table()).map_or((0, 0), |table| table.choose(client));
        Choice { key: ChoiceKey(key), scope }
    }

    /// Why `client` is told what it is told of a site of this generation, and which rules gave way for
    /// the site: as quick as [`Generation::choose`], for counting. An IPv4 client is given as IPv4, never
    /// mapped into IPv6.
    pub fn because(&self, site: SiteRef, client: IpAddr) -> (Because, Tier) {
        let because = self.tables.get(site.table()).map_or(Because::Hash, |table| table.because(client));
        (because, self.sites.get(site.index as usize).map_or(Tier::Empty, |site| site.tier))
    }

    /// What those with this choice are told.
    pub fn told(&self, site: SiteRef, choice: Choice) -> Answer<'_> {
        let told = self.tables.get(site.table()).map(|table| table.answer(choice.key.0));
        Answer { inputs: &self.inputs, told: told.unwrap_or_default(), scope: choice.scope }
    }

    /// All keys that [`Generation::choose`] may give for a site, ascending without gaps.
    pub fn choices(&self, site: SiteRef) -> impl ExactSizeIterator<Item = ChoiceKey> + use<> {
        (0..self.tables.get(site.table()).map_or(0, Table::answers)).map(ChoiceKey)
    }

    /// What `client` is told of `site` (lower case); `None` when there is no such site. One binary
    /// search. An IPv4 client is given as IPv4, never mapped into IPv6.
    pub fn answer(&self, client: IpAddr, site: &str) -> Option<Answer<'_>> {
        let site = self.site_ref(site)?;
        Some(self.told(site, self.choose(site, client)))
    }
}
